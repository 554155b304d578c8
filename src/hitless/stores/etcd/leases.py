"""Leases: keys that vanish when nobody says any more that they should stay.

All three calls may be repeated without harm. For granting that takes a trick: the lease's number is chosen here, so
that a grant that did happen, although its answer was lost, is recognised when it is asked for again.
"""

from __future__ import annotations

import math
import secrets

import grpc.aio

from hitless.ports import LeaseExpiredError, StoreError
from hitless.stores import rules
from hitless.stores.etcd.client import Client
from hitless.stores.etcd.connection import GRANT, KEEP_ALIVE, REVOKE, Connection
from hitless.stores.etcd.wire import rpc_pb2 as rpc


async def grant(client: Client, ttl_seconds: float) -> int:
    """A lease of so many seconds, rounded up; etcd makes it at least one and a half election timeouts (2 s)."""
    rules.check_ttl(ttl_seconds)
    if ttl_seconds >= 2**62:
        raise StoreError("store-bad-ttl", f"etcd grants no lease of {ttl_seconds} seconds; give fewer")
    request = rpc.LeaseGrantRequest(TTL=math.ceil(ttl_seconds), ID=secrets.randbits(62) + 1)
    n_asked = 0

    async def ask(connection: Connection, seconds: float) -> int:
        nonlocal n_asked
        n_asked += 1
        try:
            return (await connection.ask(GRANT, request, seconds)).ID
        except grpc.aio.AioRpcError as error:
            if n_asked > 1 and "lease already exists" in (error.details() or ""):
                return request.ID
            raise

    return await client.anywhere(ask)


async def keep_alive(client: Client, lease: int) -> None:
    """Extend a lease. Raises LeaseExpiredError."""

    async def ask(connection: Connection, seconds: float) -> int:
        # The call is a stream, made for clients that keep thousands of leases; one question and one answer will do.
        stream = connection.stream(KEEP_ALIVE, seconds)
        try:
            await stream.write(rpc.LeaseKeepAliveRequest(ID=lease))
            response = await stream.read()
            if isinstance(response, rpc.LeaseKeepAliveResponse):
                return response.TTL
            raise TimeoutError  # it ended without an answer
        finally:
            stream.cancel()

    if await client.anywhere(ask) <= 0:
        raise rules.lease_gone(lease)


async def revoke(client: Client, lease: int) -> None:
    """End a lease and remove its keys; one that is gone already is no error."""
    try:
        await client.call(REVOKE, rpc.LeaseRevokeRequest(ID=lease))
    except LeaseExpiredError:
        return
