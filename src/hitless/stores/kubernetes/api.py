"""Requests to one API server: how they are repeated, and what their failures are.

A request that surely was not looked at is repeated (no connection, 429, 503 from the server itself), one that changes
nothing when done twice is repeated after any failure, and any other never: its caller is told that the outcome is
unknown. Everything together has the time of one call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from hitless.ports import StoreError, StoreUnavailableError
from hitless.stores import rules
from hitless.stores.kubernetes import errors, options
from hitless.stores.kubernetes.clock import ServerClock
from hitless.stores.kubernetes.errors import RefusedError
from hitless.stores.kubernetes.options import KubernetesOptions

if TYPE_CHECKING:
    from httpx2 import AsyncClient

FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0

FIELD_MANAGER = "hitless"

APPLY = "application/apply-patch+yaml"
"""Server-side apply; JSON is YAML."""

_UNSENT = ("ConnectError", "ConnectTimeout", "PoolTimeout")
"""httpx's errors from before a request was sent."""


class Api:
    """Requests of one event loop. Nothing is read or connected before the first. Raises StoreError and its kinds."""

    def __init__(self, given: KubernetesOptions) -> None:
        options.check(given)
        self.options = given
        self.clock = ServerClock()
        self._client: AsyncClient | None = None
        self._closed = False
        self.namespace = given.namespace
        self.place = ""

    async def get(self, path: str, params: Mapping[str, str] | None = None) -> bytes:
        return await self.request("GET", path, params=params, repeatable=True)

    async def find(self, path: str) -> bytes | None:
        """One object, None where there is none. An unknown resource is an error and no absence."""
        try:
            return await self.request("GET", path, repeatable=True, refusals=(404,))
        except RefusedError as refused:
            if refused.status.reason != "NotFound":
                raise errors.meaning(refused.status, self.place) from None
            return None

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: object = None,
        kind: str = "application/json",
        repeatable: bool = False,
        refusals: tuple[int, ...] = (),
    ) -> bytes:
        """One call. Raises RefusedError for the HTTP statuses in `refusals`, and StoreError for all other failures."""
        client = self.connected()
        content = None if body is None else msgspec.json.encode(body)
        deadline = time.monotonic() + self.options.request_timeout_seconds
        pause_seconds = FIRST_PAUSE_SECONDS
        while True:
            remaining_seconds = deadline - time.monotonic()
            try:
                async with asyncio.timeout(max(remaining_seconds, 0.001)):
                    return await self._once(client, method, path, params, content, kind)
            except RefusedError as refused:
                if refused.status.code in refusals:
                    raise
                error = errors.meaning(refused.status, self.place)
                again = errors.is_passing(refused.status) or (repeatable and refused.status.code >= 500)
                pause_seconds = max(pause_seconds, (refused.status.details or errors.Details()).retryAfterSeconds)
            except TimeoutError:
                raise errors.timed_out(self.place, self.options.request_timeout_seconds) from None
            except _Broken as broken:
                if self._closed:
                    raise rules.closed() from None
                error, again = errors.unreachable(self.place, broken.why), repeatable or broken.unsent
            if not again or time.monotonic() + pause_seconds >= deadline:
                raise error
            await asyncio.sleep(pause_seconds)
            pause_seconds = min(2 * pause_seconds, LONGEST_PAUSE_SECONDS)

    async def _once(
        self,
        client: AsyncClient,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        content: bytes | None,
        kind: str,
    ) -> bytes:
        with _breaking():
            headers = {"Content-Type": kind} if content is not None else {}
            response = await client.request(method, path, params=params, content=content, headers=headers)
        self.clock.hear(response.headers.get("Date", ""))
        if response.status_code >= 300:
            raise RefusedError(errors.status_of(response.status_code, response.content))
        return response.content

    @asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of an answer that goes on. Raises RefusedError, and StoreUnavailableError where it breaks."""
        from httpx2 import Timeout

        seconds = self.options.request_timeout_seconds
        silence = Timeout(seconds, connect=seconds / 2, read=self.options.watch_silence_seconds)
        client = self.connected()
        try:
            with _breaking():
                async with asyncio.timeout(seconds):
                    request = client.build_request("GET", path, params=params, timeout=silence)
                    response = await client.send(request, stream=True)
        except TimeoutError:
            raise errors.timed_out(self.place, seconds) from None
        except _Broken as broken:
            raise errors.unreachable(self.place, broken.why) from None
        try:
            self.clock.hear(response.headers.get("Date", ""))
            if response.status_code >= 300:
                raise RefusedError(errors.status_of(response.status_code, await response.aread()))
            async with aclosing(self._lines(response.aiter_bytes())) as lines:
                yield lines
        finally:
            await response.aclose()

    async def _lines(self, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes]:
        """Split at line feeds only. httpx' own splitting also cuts at U+0085, which JSON may hold unescaped."""
        rest = b""
        try:
            with _breaking():
                async for chunk in chunks:
                    *lines, rest = (rest + chunk).split(b"\n")
                    for line in lines:
                        yield line
        except _Broken as broken:
            raise errors.unreachable(self.place, broken.why) from None

    def connected(self) -> AsyncClient:
        """The connection pool. Raises StoreError (`store-bad-options`, `store-closed`)."""
        if self._closed:
            raise rules.closed()
        if self._client is None:
            self._client = self._connect()
        return self._client

    def _connect(self) -> AsyncClient:
        try:
            from httpx2 import Timeout
            from lightkube.config.client_adapter import AsyncClient, ConnectionParams
            from lightkube.config.kubeconfig import KubeConfig
            from lightkube.core.exceptions import ConfigError
        except ImportError:
            raise StoreError(
                "store-library-missing",
                "the kubernetes store needs a library that is not installed; pip install 'hitless[kubernetes]'",
            ) from None
        given = self.options
        try:
            found = KubeConfig.from_file(given.kubeconfig) if given.kubeconfig else KubeConfig.from_env()
            config = found.get(given.context or None)
            server = config.cluster.server if config else None
            if config is None or server is None:
                raise ConfigError("it names no cluster")  # noqa: TRY301 - told apart from the others just below
            self.namespace = given.namespace or config.namespace
            self.place = server
            # The environment's proxies are not asked: they would see, and could hold back, what nodes say.
            # A connection gets half the time, so that there is some left to try another one.
            timeout = Timeout(given.request_timeout_seconds, connect=given.request_timeout_seconds / 2)
            return AsyncClient(config, ConnectionParams(timeout=timeout, trust_env=False))
        except Exception as error:  # noqa: BLE001 - whatever is wrong with it, it is the configuration that is wrong
            # Only what is known to say no more than a name is repeated: a parser's complaint would quote the file.
            why = str(error) if isinstance(error, ConfigError | OSError) else type(error).__name__
            where = given.kubeconfig or "the service account, $KUBECONFIG or ~/.kube/config"
            raise options.bad(f"there is no usable access in {where} ({why}); correct it") from None

    # --- where things are

    def records(self, name: str = "") -> str:
        return self._path("apis/hitless.dev/v1alpha1", "hitlessrecords", name)

    def nodes(self, name: str = "") -> str:
        return self._path("apis/hitless.dev/v1alpha1", "hitlessnodes", name)

    def leases(self, name: str = "") -> str:
        return self._path("apis/coordination.k8s.io/v1", "leases", name)

    def _path(self, group: str, resource: str, name: str) -> str:
        self.connected()  # which may be what tells the namespace
        return f"{group}/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    async def close(self) -> None:
        self._closed = True
        if self._client is not None:
            await self._client.aclose()


class _Broken(Exception):  # noqa: N818 - a state of the connection, turned into an error above
    def __init__(self, why: str, *, unsent: bool) -> None:
        super().__init__(why)
        self.why, self.unsent = why, unsent


class _breaking:  # noqa: N801 - used as a statement
    """Turns httpx' errors into one that tells whether the request was sent."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: Any) -> None:
        from httpx2 import HTTPError

        if isinstance(error, HTTPError):
            unsent = type(error).__name__ in _UNSENT
            raise _Broken(str(error) or type(error).__name__, unsent=unsent) from None
        if isinstance(error, RuntimeError) and "closed" in str(error):
            raise _Broken("closed", unsent=True) from None  # `close` came in between
        if error is not None and type(error).__name__ == "ConfigError":
            # The exec plugin, or a token file that is gone: found only when a request is made.
            raise StoreUnavailableError("store-auth", f"no credentials ({error}); correct the kubeconfig") from None
