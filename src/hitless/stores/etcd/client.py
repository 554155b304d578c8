"""Finds a member that answers, and asks no more often than is safe.

A call goes to the endpoint that worked last. One that fails is passed over for some seconds; where all fail they are
asked again, with growing pauses, until the call's time is up. What may be asked again elsewhere is decided by what is
known: a request that surely did not take effect always, one that changes nothing when done twice (`repeatable`) too,
and any other one never: its caller is told that the outcome is unknown.

Before a new connection is used, it is *greeted*: logged in where there is a user, and whatever the caller wants to
make sure of (`log` looks whether this is still the history it knows), so that no write reaches a stranger first.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from typing import TypeVar

import grpc.aio

from hitless.stores import rules
from hitless.stores.etcd import errors
from hitless.stores.etcd.connection import AUTHENTICATE, Connection, Metadata, Method, Q, R
from hitless.stores.etcd.options import EtcdOptions, read_password, read_tls, targets
from hitless.stores.etcd.wire import rpc_pb2 as rpc

T = TypeVar("T")
Greeting = Callable[[Connection, float], Awaitable[None]]

PASSED_OVER_SECONDS = 5.0
"""An endpoint that failed is tried again after so long, or at once where all others fail too."""

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 0.8
"""Between two rounds over all endpoints; an election takes one to two seconds with etcd's defaults."""


class Endpoint:
    """A member's address and what is known of it."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.failed_at: float | None = None
        self.connection: Connection | None = None
        self.lock = asyncio.Lock()


class Client:
    """Calls to a cluster. One event loop's. Raises what `errors` makes of a failure."""

    def __init__(self, options: EtcdOptions, greeting: Greeting) -> None:
        found, self._secure = targets(options)
        # Each node in an order of its own: in the order of a common configuration, all would crowd the first member.
        shuffled = secrets.SystemRandom().sample(found, len(found))
        self._endpoints = [Endpoint(target) for target in shuffled]
        self._options = options
        self._greeting = greeting
        self._token = ""
        self._login = asyncio.Lock()
        self._retired: list[Connection] = []
        self._closed = False

    async def call(self, method: Method[Q, R], request: Q, *, repeatable: bool = True) -> R:
        """One request, one response, from whichever member."""

        async def ask(connection: Connection, seconds: float) -> R:
            return await connection.ask(method, request, seconds)

        return await self.anywhere(ask, repeatable=repeatable)

    async def anywhere(self, action: Callable[[Connection, float], Awaitable[T]], *, repeatable: bool = True) -> T:
        """Do something with a connection that works; the action gets the seconds it may take.

        It fails as gRPC does, by AioRpcError, or by TimeoutError. Raises StoreError.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._options.request_timeout_seconds
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            order = self._order(loop.time())
            for n, endpoint in enumerate(order):
                remaining_seconds = max(0.01, deadline - loop.time())
                # A member that is silent must not use up the time in which another one would answer.
                share = len(order) - n if repeatable else 1
                try:
                    return await self._attempt(endpoint, action, remaining_seconds / share, repeatable)
                except errors.UnansweredError as unanswered:
                    failure = unanswered.error
                if loop.time() >= deadline:
                    raise failure
            if loop.time() + pause_seconds >= deadline:
                raise failure
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(pause_seconds * 2, LONGEST_PAUSE_SECONDS)

    async def close(self) -> None:
        """End all connections; calls that are under way raise StoreError (`store-closed`)."""
        self._closed = True
        connections = [*self._retired, *(e.connection for e in self._endpoints if e.connection)]
        self._retired.clear()
        for connection in connections:
            await connection.close()

    def _order(self, now: float) -> list[Endpoint]:
        """Those that did not fail of late, the last one that worked first; then the others, longest failed first."""
        return sorted(
            self._endpoints,
            key=lambda e: e.failed_at if e.failed_at is not None and now - e.failed_at < PASSED_OVER_SECONDS else 0.0,
        )

    def _failed(self, endpoint: Endpoint) -> None:
        """Pass an endpoint over for a while; it also goes to the end of the order."""
        endpoint.failed_at = asyncio.get_running_loop().time()
        self._endpoints.remove(endpoint)
        self._endpoints.append(endpoint)

    async def _attempt(
        self, endpoint: Endpoint, action: Callable[[Connection, float], Awaitable[T]], seconds: float, repeatable: bool
    ) -> T:
        """One endpoint. Raises UnansweredError where another one may be asked, StoreError where that is no use."""
        connection = await self._connected(endpoint, seconds)
        refused: Metadata | None = None
        while True:
            try:
                if refused is not None:
                    await self._log_in(connection, seconds, refused)
                return await self._guarded(connection, action, seconds)
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                verdict = _judge(error, endpoint.target)
                if verdict.stale_token and refused is None and self._options.user:
                    refused = connection.metadata
                    continue
                if verdict.elsewhere:
                    self._failed(endpoint)
                    if repeatable or verdict.harmless:
                        raise errors.UnansweredError(verdict.error) from error
                raise verdict.error from error

    async def _guarded(
        self, connection: Connection, action: Callable[[Connection, float], Awaitable[T]], seconds: float
    ) -> T:
        """The action, with the cancellation that closing a channel causes told from a real one."""
        if self._closed:
            raise rules.closed()
        try:
            with connection.used():
                return await action(connection, seconds)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self.is_closed() and task is not None and not task.cancelling():
                raise rules.closed() from None
            raise
        except grpc.aio.UsageError:  # what a channel says that was closed before the call
            if self.is_closed():
                raise rules.closed() from None
            raise

    def is_closed(self) -> bool:
        return self._closed

    # --- connecting

    async def _connected(self, endpoint: Endpoint, seconds: float) -> Connection:
        """A connection that has been greeted."""
        if self._closed:
            raise rules.closed()
        if endpoint.connection is not None and endpoint.connection.is_ready():
            return endpoint.connection
        async with endpoint.lock:
            if endpoint.connection is not None and endpoint.connection.is_ready():
                return endpoint.connection
            if endpoint.connection is not None:
                self._retired.append(endpoint.connection)
                endpoint.connection = None
            await self._bury()
            connection = Connection(endpoint.target, read_tls(self._options) if self._secure else None)
            try:
                await self._greet(connection, min(seconds, self._options.connect_timeout_seconds))
            except (grpc.aio.AioRpcError, TimeoutError) as error:
                await connection.close()
                verdict = _judge(error, endpoint.target)
                if not verdict.elsewhere:
                    raise verdict.error from error
                self._failed(endpoint)
                raise errors.UnansweredError(verdict.error) from error
            except BaseException:
                await connection.close()
                raise
            endpoint.connection = connection
            endpoint.failed_at = None
            return connection

    async def _bury(self) -> None:
        """Close retired connections that nobody uses any more."""
        for connection in [c for c in self._retired if c.idle]:
            self._retired.remove(connection)
            await connection.close()

    async def _greet(self, connection: Connection, seconds: float) -> None:
        self._identify(connection)
        if self._options.user and not self._token:
            await self._log_in(connection, seconds, connection.metadata)
        try:
            await self._guarded(connection, self._greeting, seconds)
        except grpc.aio.AioRpcError as error:
            if not (_judge(error, connection.target).stale_token and self._options.user):
                raise
            await self._log_in(connection, seconds, connection.metadata)
            await self._guarded(connection, self._greeting, seconds)

    async def _log_in(self, connection: Connection, seconds: float, refused: Metadata) -> None:
        """Get a token, unless another call has got a newer one than was `refused`."""
        async with self._login:
            self._identify(connection)
            if not self._token or connection.metadata == refused:
                request = rpc.AuthenticateRequest(name=self._options.user, password=read_password(self._options))
                connection.metadata = _HAS_LEADER
                try:
                    response = await connection.ask(AUTHENTICATE, request, seconds)
                except grpc.aio.AioRpcError as error:
                    # A cluster without authentication lets everybody in, users included.
                    if "authentication is not enabled" not in (error.details() or ""):
                        raise
                    self._token = ""
                else:
                    self._token = response.token
            for endpoint in self._endpoints:
                if endpoint.connection is not None:
                    self._identify(endpoint.connection)
            self._identify(connection)

    def _identify(self, connection: Connection) -> None:
        connection.metadata = (*_HAS_LEADER, ("token", self._token)) if self._token else _HAS_LEADER


_HAS_LEADER = (("hasleader", "true"),)
"""Asks a member that has lost its leader to say so at once, and to end its watches, instead of keeping us waiting
(etcd's api/v3rpc/rpctypes/metadatafields.go)."""


def _judge(error: grpc.aio.AioRpcError | TimeoutError, target: str) -> errors.Verdict:
    return errors.judge(error, target) if isinstance(error, grpc.aio.AioRpcError) else errors.late(target)


