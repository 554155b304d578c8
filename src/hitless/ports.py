"""Every seam of the program in one file: what the shell needs from the world, as protocols.

Implementations live in `drivers/` (Dataplane) and `stores/` (Store); fakes ship beside them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from typing import Protocol

import msgspec

from hitless.core.model.flow import BridgeState, Connection, Flow
from hitless.core.model.sa import ObservedPolicy, ObservedSa, XfrmState
from hitless.core.plan.flows import Bundle
from hitless.core.plan.ops import Outcome, Wave


class Dataplane(Protocol):
    """A kernel's security state. Three verbs; it does not log and does not decide."""

    def observe(self) -> XfrmState:
        """All SAs and policies of the namespace, ours and others', from one dump each."""
        ...

    def apply(self, wave: Wave) -> tuple[Outcome, ...]:
        """Carry out a wave in order; one outcome per operation, in the same order. Never raises for a refusal."""
        ...

    def owns(self, thing: ObservedSa | ObservedPolicy) -> bool:
        """Whether this program created the object, judged from the object alone."""
        ...


class Change(msgspec.Struct, frozen=True):
    """Something happened to a security object: `what` is e.g. `sa-deleted`, `sa-expired-soft`, `policy-added`."""

    what: str
    dst: str = ""
    spi: int = 0
    reqid: int = 0
    pid: int = 0


class Monitor(Protocol):
    """The kernel's own announcements (multicast groups SA, policy, expire)."""

    def fileno(self) -> int: ...

    def read(self) -> tuple[Change, ...]:
        """Everything announced so far, without waiting. `Change("overrun")` where the kernel dropped some."""
        ...

    def close(self) -> None: ...


class SwitchError(Exception):
    """A switch that did not do what was asked. `code` is stable, the message says what to do next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class SwitchUnavailableError(SwitchError):
    """Open vSwitch does not answer now: it is down or restarting. Forwarding may have stopped; try again."""


class BundleRefusedError(SwitchError):
    """A bundle was refused and nothing of it is in force. The message names the flow and the switch's reason."""


class Switch(Protocol):
    """One Open vSwitch bridge. It does not log and does not decide. Every method raises SwitchError."""

    def observe(self) -> BridgeState:
        """Flows, ports and remembered values, from one dump."""
        ...

    def apply(self, bundle: Bundle) -> None:
        """Carry out all of it as one ordered, atomic bundle, or nothing. Raises BundleRefusedError."""
        ...

    def owns(self, flow: Flow) -> bool:
        """Whether this program made the flow, judged from the flow alone."""
        ...

    def canary(self) -> bool:
        """Whether our canary flow is there: it goes when ovs-vswitchd restarts. Much cheaper than a dump."""
        ...

    def barrier(self) -> None:
        """Return when no cached verdict from before the last bundle is in use (docs/adr/0022)."""
        ...

    def remember(self, values: Mapping[str, str]) -> None:
        """Write `external_ids` of the bridge; an empty value removes its key."""
        ...

    def set_tags(self, tags: Mapping[str, int]) -> None:
        """Make these interfaces access ports of these VLANs."""
        ...

    def set_fail_secure(self) -> None:
        """Keep flows when no controller answers, and no implicit NORMAL flow after a restart."""
        ...

    def set_restore_wait(self, wait: bool) -> None:
        """`other_config:flow-restore-wait` of the switch: while true it forwards nothing new."""
        ...

    def connections(self, zones: Collection[int]) -> tuple[Connection, ...]:
        """What is tracked in these zones."""
        ...

    def cut(self, connections: Sequence[Connection]) -> None:
        """Forget these connections; ones that are gone already are no error."""
        ...


# --- the store ------------------------------------------------------------------------------------------


class Entry(msgspec.Struct, frozen=True):
    """A key's current value. Revisions are the store's total order; `lease` 0 means none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


class Listing(msgspec.Struct, frozen=True):
    """All entries under a prefix, sorted by key, as of `revision`."""

    revision: int
    entries: tuple[Entry, ...]


class WatchEvent(msgspec.Struct, frozen=True):
    """A put (`entry` set) or a deletion (`entry` None) of `key` at `revision`."""

    key: str
    revision: int
    entry: Entry | None


class WatchBatch(msgspec.Struct, frozen=True):
    """Events in revision order; every event with a revision up to `revision` has now been delivered.

    A revision is never split over two batches. `events` may be empty (progress).
    """

    revision: int
    events: tuple[WatchEvent, ...]


class Compare(msgspec.Struct, frozen=True):
    """A guard: the key's `mod_revision` is exactly this; 0 means that the key does not exist."""

    key: str
    mod_revision: int


class Put(msgspec.Struct, frozen=True):
    """Write a value, bound to a lease where `lease` is not 0."""

    key: str
    value: bytes
    lease: int = 0


class Delete(msgspec.Struct, frozen=True):
    """Remove a key; removing one that is absent is no error."""

    key: str


class StoreError(Exception):
    """A store that did not do what was asked. `code` is stable, the message says what to do next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class StoreUnavailableError(StoreError):
    """The store cannot be reached now; nothing is known about what it holds. Try again later."""


class CompactedError(StoreError):
    """A watch asked for history that is gone: list again and watch from there."""

    def __init__(self, revision: int) -> None:
        super().__init__("store-compacted", f"history before revision {revision} is gone; list again")
        self.revision = revision


class LeaseExpiredError(StoreError):
    """The lease is gone, and the keys bound to it with it."""


class Store(Protocol):
    """Where nodes meet: revisions, compare-and-swap, watch from a revision, leases, compaction (etcd's model)."""

    async def epoch(self) -> str:
        """Identity of this history. Another value means another log: its revisions compare with nothing earlier."""
        ...

    async def get(self, key: str) -> Entry | None: ...

    async def list(self, prefix: str) -> Listing: ...

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        """Apply all writes in one revision if all guards hold; that revision, or None if one did not hold."""
        ...

    def watch(self, prefix: str, after: int) -> AsyncIterator[WatchBatch]:
        """Everything under a prefix after revision `after`, as it happens. Raises CompactedError."""
        ...

    async def grant(self, ttl_seconds: float) -> int: ...

    async def keep_alive(self, lease: int) -> None:
        """Extend a lease by its own time. Raises LeaseExpiredError."""
        ...

    async def revoke(self, lease: int) -> None: ...

    async def compact(self, revision: int) -> None: ...

    async def close(self) -> None: ...


class Clock(Protocol):
    """Time as an argument: `monotonic` for decisions (seconds), `wall` only for people (seconds since 1970)."""

    def monotonic(self) -> float: ...

    def wall(self) -> float: ...


class Entropy(Protocol):
    """Randomness as an argument."""

    def token(self, n_bytes: int) -> bytes: ...
