"""A store in one process, with the faults of a network as switches.

Several `MemoryStore` clients on one `MemoryLog` are several connections to one store. Each can be cut off, made to lose
the reply of a commit that did happen, or have its watch delivery held back; all of it happens exactly when it is told,
so a test that uses it has no luck in it.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Callable, Sequence
from typing import TypeVar

from hitless.ports import (
    Compare,
    Delete,
    Entry,
    Listing,
    Put,
    StoreUnavailableError,
    WatchBatch,
)
from hitless.stores import rules
from hitless.stores.memory_log import MemoryLog
from hitless.stores.watch import Watch

T = TypeVar("T")


class MemoryStore:
    """One client of a log. Without a log it has one of its own."""

    def __init__(self, log: MemoryLog | None = None) -> None:
        self.log = log if log is not None else MemoryLog()
        self._epoch: str | None = None
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._timer: asyncio.TimerHandle | None = None
        self._closed = False
        self._partitioned = False
        self._lost_replies = 0
        self._broken_watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._held_at: int | None = None
        self._revisions_per_batch = rules.WATCH_REVISIONS
        self.log.listen(self._wake)

    # --- faults

    def partition(self) -> None:
        """Cut this client off: calls raise StoreUnavailableError, watches fall silent as on a dead connection."""
        self._partitioned = True

    def heal(self) -> None:
        """Undo `partition`; watches deliver what they missed."""
        self._partitioned = False
        self._wake()

    def lose_replies(self, calls: int = 1) -> None:
        """The next so many calls take effect and then fail with StoreUnavailableError, as when a reply is lost."""
        self._lost_replies = calls

    def hold(self, after: int | None = None) -> None:
        """Deliver no event later than this revision (default: the present one) to watches until `release`."""
        self._held_at = self.log.revision if after is None else after

    def release(self, upto: int | None = None) -> None:
        """Deliver what was held, coalesced into one batch; `upto` releases only up to that revision."""
        self._held_at = upto
        self._wake()

    def batch(self, revisions: int = rules.WATCH_REVISIONS) -> None:
        """At most so many revisions in a batch; 1 delivers each alone, where normally they coalesce."""
        self._revisions_per_batch = revisions

    def break_watches(self) -> None:
        """Every watch there is raises StoreUnavailableError once, as when its connection is reset."""
        self._broken_watches.update(self._watches)
        self._wake()

    # --- the port

    async def epoch(self) -> str:
        def read() -> str:
            self._epoch = self.log.epoch
            return self._epoch

        return await self._call(read, pinned=False)

    async def get(self, key: str) -> Entry | None:
        return await self._call(lambda: self.log.get(key))

    async def list(self, prefix: str) -> Listing:
        return await self._call(lambda: self.log.list(prefix))

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        return await self._call(lambda: self.log.commit(compares, writes))

    def watch(self, prefix: str, after: int) -> Watch:
        """See `ports.Store.watch`. Asking again after an error goes on from the last batch handed over."""
        watch = Watch(self._fetch, prefix, after, self._epoch)
        self._watches.add(watch)
        return watch

    async def grant(self, ttl_seconds: float) -> int:
        return await self._call(lambda: self.log.grant(ttl_seconds))

    async def keep_alive(self, lease: int) -> None:
        await self._call(lambda: self.log.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda: self.log.revoke(lease))

    async def compact(self, revision: int) -> None:
        await self._call(lambda: self.log.compact(revision))

    async def close(self) -> None:
        """Stop; pending watches raise StoreError (`store-closed`). The log and its leases live on."""
        if not self._closed:
            self._closed = True
            self.log.unlisten(self._wake)
            if self._timer is not None:
                self._timer.cancel()
            for watch in tuple(self._watches):
                watch.wake()

    # --- inside

    async def _call(self, action: Callable[[], T], *, pinned: bool = True) -> T:
        await asyncio.sleep(0)  # a real store lets others run here; a program that cannot bear that should find out
        self._check(self._epoch if pinned else None)
        result = action()
        if self._lost_replies:
            self._lost_replies -= 1
            raise _unreachable()
        return result

    def _check(self, epoch: str | None) -> None:
        if self._closed:
            raise rules.closed()
        if self._partitioned:
            raise _unreachable()
        if self._epoch is None:
            self._epoch = self.log.epoch
        if epoch is not None and epoch != self.log.epoch:
            raise rules.replaced()

    async def _fetch(self, watch: Watch) -> WatchBatch | None:
        await asyncio.sleep(0)
        if watch in self._broken_watches:
            self._broken_watches.discard(watch)
            raise _unreachable()
        if self._partitioned and not self._closed:
            return None
        watch.epoch = watch.epoch or self._epoch or self.log.epoch
        self._check(watch.epoch)
        revisions = self._revisions_per_batch
        if self._held_at is not None:
            revisions = min(revisions, self._held_at - watch.after)
        batch = self.log.events(watch.prefix, watch.after, revisions)
        self._arm()
        return batch

    def _wake(self) -> None:
        for watch in tuple(self._watches):
            watch.wake()

    def _arm(self) -> None:
        """Wake the watches when the next lease ends: nobody else may be there to notice."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        remaining_seconds = self.log.seconds_to_next_deadline()
        if remaining_seconds is not None:
            # A little late on purpose: a timer that fires a hair early would find nothing due and be set again.
            self._timer = asyncio.get_running_loop().call_later(remaining_seconds + 0.001, self._wake)


def _unreachable() -> StoreUnavailableError:
    return StoreUnavailableError(
        "store-unreachable", "the store did not answer; what was asked may or may not have happened; try again later"
    )
