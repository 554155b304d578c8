"""Leases as Kubernetes has them: objects of `coordination.k8s.io` that say when they were renewed last.

Nothing in Kubernetes ends a Lease. Whoever reads one that was renewed too long ago, by the API server's clock, removes
it, on the condition that it has not been renewed since. The removal is the end: until it has succeeded the lease can
be renewed, and after it nobody can. So all agree on when a lease ended, whatever their clocks say.
"""

from __future__ import annotations

import math
import secrets
from typing import Any

import msgspec

from hitless.ports import StoreError
from hitless.stores import rules
from hitless.stores.kubernetes.api import Api
from hitless.stores.kubernetes.clock import GRANULARITY_SECONDS, micro_time, parse_time
from hitless.stores.kubernetes.errors import RefusedError
from hitless.stores.kubernetes.log import WRITE
from hitless.stores.kubernetes.record import Meta, Objects

LONGEST_SECONDS = 2**31 - 1
"""`leaseDurationSeconds` has 32 bits."""

SURPRISE_SECONDS = 2.0
"""A request that took longer, by the server's clock, was made with a clock that was behind."""

OURS = {"app.kubernetes.io/managed-by": "hitless"}


class LeaseSpec(msgspec.Struct, frozen=True):
    leaseDurationSeconds: int = 0  # noqa: N815 - the wire's name
    renewTime: str = ""  # noqa: N815 - the wire's name


class Lease(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: LeaseSpec = LeaseSpec()


class Leases:
    """The leases of a namespace. Raises StoreError and its kinds."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._held: dict[int, Lease] = {}  # as this client wrote them last: renewing needs no reading then

    async def grant(self, ttl_seconds: float) -> int:
        """A lease of so many seconds, rounded up."""
        rules.check_ttl(ttl_seconds)
        if ttl_seconds > LONGEST_SECONDS:
            raise StoreError("store-bad-ttl", f"Kubernetes has no lease of {ttl_seconds} seconds; give fewer")
        lease = secrets.randbits(62) + 1
        body = self._body(lease, math.ceil(ttl_seconds))
        try:
            raw = await self._api.request(
                "POST", self._api.leases(), params=WRITE, body=body, repeatable=True, refusals=(409,)
            )
            self._keep(lease, raw)
        except RefusedError:
            pass  # nobody else can have drawn this number: it is ours, from an attempt whose answer was lost
        return lease

    async def keep_alive(self, lease: int) -> None:
        """Renew. Raises LeaseExpiredError."""
        n_late = 0
        while True:
            held = self._held.pop(lease, None) or await self._find(lease)
            if held is None or (self._is_over(held) and await self.end(held)):
                raise rules.lease_gone(lease)
            body = self._body(lease, held.spec.leaseDurationSeconds, held)
            asked = self._api.clock.now()
            try:
                raw = await self._api.request(
                    "PUT", self._api.leases(name_of(lease)), params=WRITE, body=body, repeatable=True,
                    refusals=(404, 409),
                )
            except RefusedError:
                continue  # it is not as it was: look
            self._keep(lease, raw)
            # A machine that was suspended thinks that it is earlier than it is. The answer tells: once more, then.
            if self._api.clock.now() - asked <= SURPRISE_SECONDS or n_late:
                return
            n_late += 1

    async def is_alive(self, lease: int) -> bool:
        """Whether a lease lives; one whose time is up is ended by the question."""
        found = await self._find(lease)
        return found is not None and not (self._is_over(found) and await self._end_if_allowed(found))

    async def living(self) -> frozenset[int]:
        """All leases that live; those whose time is up are ended by the question."""
        living = set()
        params = {"limit": "500", "labelSelector": ",".join(f"{key}={value}" for key, value in OURS.items())}
        while True:
            try:
                raw = await self._api.request(
                    "GET", self._api.leases(), params=params, repeatable=True, refusals=(410,)
                )
            except RefusedError:  # the server has forgotten what it was listing
                params.pop("continue", None)
                continue
            page = msgspec.json.decode(raw, type=Objects)
            for lease in filter(None, map(_decode, page.items)):
                if not (self._is_over(lease) and await self._end_if_allowed(lease)):
                    living.add(number_of(lease.metadata.name))
            if not page.metadata.continue_:
                return frozenset(living)
            params["continue"] = page.metadata.continue_

    async def _end_if_allowed(self, lease: Lease) -> bool:
        """An account that may only read has to trust the clock."""
        try:
            return await self.end(lease)
        except StoreError as error:
            if error.code != "store-forbidden":
                raise
            return True

    async def remove(self, lease: int) -> None:
        """End a lease, whether its time is up or not. One that is gone is no error."""
        self._held.pop(lease, None)
        try:
            await self._api.request("DELETE", self._api.leases(name_of(lease)), repeatable=True, refusals=(404,))
        except RefusedError:
            return

    async def end(self, lease: Lease) -> bool:
        """End a lease whose time is up, unless it was renewed in between; whether it has ended."""
        meta = lease.metadata
        body = {"preconditions": {"uid": meta.uid, "resourceVersion": meta.resourceVersion}}
        try:
            await self._api.request(
                "DELETE", self._api.leases(meta.name), body=body, repeatable=True, refusals=(404, 409)
            )
        except RefusedError as refused:
            return refused.status.code == 404
        return True

    async def _find(self, lease: int) -> Lease | None:
        raw = await self._api.find(self._api.leases(name_of(lease)))
        return None if raw is None else _decode(raw)

    def _is_over(self, lease: Lease) -> bool:
        end = parse_time(lease.spec.renewTime) + lease.spec.leaseDurationSeconds + GRANULARITY_SECONDS
        return self._api.clock.now() >= end

    def _keep(self, lease: int, raw: bytes) -> None:
        found = _decode(raw)
        if found is not None:
            self._held[lease] = found

    def _body(self, lease: int, duration_seconds: int, over: Lease | None = None) -> dict[str, Any]:
        metadata: dict[str, Any] = {"name": name_of(lease), "labels": OURS}
        if over is not None:
            metadata |= {"uid": over.metadata.uid, "resourceVersion": over.metadata.resourceVersion}
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": metadata,
            "spec": {
                "holderIdentity": "hitless",
                "leaseDurationSeconds": duration_seconds,
                "renewTime": micro_time(self._api.clock.now()),
            },
        }


def name_of(lease: int) -> str:
    return f"hitless-{lease:016x}"


def number_of(name: str) -> int:
    """0, which is no lease, for a name that is not ours."""
    try:
        return int(name.removeprefix("hitless-"), 16)
    except ValueError:
        return 0


def _decode(raw: bytes | msgspec.Raw) -> Lease | None:
    try:
        return msgspec.json.decode(raw, type=Lease)
    except msgspec.MsgspecError:
        return None
