"""One gRPC channel to one endpoint, and the calls of etcd's API as typed values.

A channel that breaks is not waited for: it is retired and a new one made, which connects at once where gRPC's own
would sit out a growing pause, and reads the certificates anew. A retired channel closes when its last call has ended,
because closing it earlier would cancel calls that belong to others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Generic, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from hitless.stores.etcd.options import Tls
from hitless.stores.etcd.wire import rpc_pb2 as rpc

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)
Metadata = tuple[tuple[str, str], ...]

CHANNEL_ARGUMENTS: Sequence[tuple[str, int]] = (
    ("grpc.enable_retries", 0),  # whether to repeat a call is decided in `client`, where it is known what it does
    ("grpc.use_local_subchannel_pool", 1),  # a new channel is a new connection, without an old one's pauses
    ("grpc.enable_http_proxy", 0),  # an http_proxy in the environment is not meant for the control plane
    ("grpc.keepalive_time_ms", 10_000),  # etcd closes connections that ping more often than each 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),  # of pings that are sent for other reasons; a minute by default
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.max_receive_message_length", -1),  # a listing is as large as it is
    ("grpc.max_send_message_length", -1),  # the server has a limit and says so
)


class Method(Generic[Q, R]):
    """A call of etcd's API: `path` is `/package.Service/Name`."""

    def __init__(self, path: str, request: type[Q], response: type[R]) -> None:
        self.path = "/etcdserverpb." + path
        self.request = request
        self.response = response


RANGE = Method("KV/Range", rpc.RangeRequest, rpc.RangeResponse)
TXN = Method("KV/Txn", rpc.TxnRequest, rpc.TxnResponse)
COMPACT = Method("KV/Compact", rpc.CompactionRequest, rpc.CompactionResponse)
WATCH = Method("Watch/Watch", rpc.WatchRequest, rpc.WatchResponse)
GRANT = Method("Lease/LeaseGrant", rpc.LeaseGrantRequest, rpc.LeaseGrantResponse)
REVOKE = Method("Lease/LeaseRevoke", rpc.LeaseRevokeRequest, rpc.LeaseRevokeResponse)
KEEP_ALIVE = Method("Lease/LeaseKeepAlive", rpc.LeaseKeepAliveRequest, rpc.LeaseKeepAliveResponse)
AUTHENTICATE = Method("Auth/Authenticate", rpc.AuthenticateRequest, rpc.AuthenticateResponse)


class Connection:
    """A channel to `target` (`host:port`); it connects at the first call."""

    def __init__(self, target: str, tls: Tls | None) -> None:
        self.target = target
        self.metadata: Metadata = ()
        if tls is None:
            self._channel = grpc.aio.insecure_channel(target, options=CHANNEL_ARGUMENTS)
        else:
            credentials = grpc.ssl_channel_credentials(tls.ca, tls.key, tls.cert)
            self._channel = grpc.aio.secure_channel(target, credentials, options=CHANNEL_ARGUMENTS)
        self._calls: dict[str, Any] = {}
        self._users = 0

    def is_ready(self) -> bool:
        return self._channel.get_state() is grpc.ChannelConnectivity.READY

    async def ask(self, method: Method[Q, R], request: Q, timeout_seconds: float) -> R:
        """One request, one response. Raises grpc.aio.AioRpcError."""
        call = self._calls.get(method.path)
        if call is None:
            call = self._channel.unary_unary(
                method.path,
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            self._calls[method.path] = call
        response: R = await call(request, timeout=timeout_seconds, metadata=self.metadata)
        return response

    def stream(self, method: Method[Q, R], timeout_seconds: float | None = None) -> grpc.aio.StreamStreamCall[Q, R]:
        """Requests and responses until one side ends it."""
        call: Any = self._channel.stream_stream(
            method.path,
            request_serializer=method.request.SerializeToString,
            response_deserializer=method.response.FromString,
        )
        made: grpc.aio.StreamStreamCall[Q, R] = call(timeout=timeout_seconds, metadata=self.metadata)
        return made

    @contextmanager
    def used(self) -> Iterator[None]:
        """While in here, retiring the connection does not close it."""
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1

    @property
    def idle(self) -> bool:
        return self._users == 0

    async def close(self) -> None:
        """Close now; calls that are under way are cancelled."""
        await self._channel.close()
