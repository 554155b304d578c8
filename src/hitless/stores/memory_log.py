"""The store's semantics in their shortest form: a dictionary, a list of events, and leases, without I/O.

It is both the in-memory store's log and the model that the SQLite store is compared with. One thread at a time.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec

from hitless.ports import CompactedError, Compare, Delete, Entry, Listing, Put, WatchBatch, WatchEvent
from hitless.stores import rules

_epochs = itertools.count(1)


class _Lease(msgspec.Struct):
    ttl_seconds: float
    deadline: float


class MemoryLog:
    """One history, shared by any number of `MemoryStore` clients.

    `now` is the clock of leases in seconds; `changed` is called after every change that a watcher may want to see.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic, history_events: int = rules.HISTORY_EVENTS) -> None:
        self._now = now
        self._history_events = history_events
        self._listeners: list[Callable[[], None]] = []
        self._lease_ids = itertools.count(1)  # goes on over re-creations: a lease of an old history is none of the new
        self._begin()

    def _begin(self) -> None:
        self.epoch = f"memory-{next(_epochs)}"
        self.revision = 0
        self.compacted = 0
        self._entries: dict[str, Entry] = {}
        self._events: list[WatchEvent] = []
        self._leases: dict[int, _Lease] = {}

    def recreate(self) -> None:
        """A fault: someone wipes the store. Everything is gone and another history begins."""
        self._begin()
        self._announce()

    def listen(self, changed: Callable[[], None]) -> None:
        """Call `changed` after every change, until `unlisten`."""
        self._listeners.append(changed)

    def unlisten(self, changed: Callable[[], None]) -> None:
        self._listeners.remove(changed)

    def get(self, key: str) -> Entry | None:
        rules.check_key(key)
        self.sweep()
        return self._entries.get(key)

    def list(self, prefix: str) -> Listing:
        rules.check_prefix(prefix)
        self.sweep()
        found = sorted((e for e in self._entries.values() if e.key.startswith(prefix)), key=lambda e: e.key)
        return Listing(self.revision, tuple(found))

    def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        rules.check_commit(compares, writes)
        self.sweep()
        for compare in compares:
            entry = self._entries.get(compare.key)
            if compare.mod_revision != (entry.mod_revision if entry else 0):
                return None
        for write in writes:
            if isinstance(write, Put) and write.lease and write.lease not in self._leases:
                raise rules.lease_gone(write.lease)
        self._write(writes)
        return self.revision

    def events(self, prefix: str, after: int, revisions: int = rules.WATCH_REVISIONS) -> WatchBatch | None:
        """What happened after a revision, so many revisions at once; None if nothing. Raises CompactedError."""
        rules.check_prefix(prefix)
        self.sweep()
        if after < self.compacted:
            raise CompactedError(self.compacted)
        upto = min(self.revision, after + revisions)
        if upto <= after:
            return None
        events = (e for e in self._events if after < e.revision <= upto and e.key.startswith(prefix))
        return WatchBatch(upto, tuple(events))

    def grant(self, ttl_seconds: float) -> int:
        rules.check_ttl(ttl_seconds)
        lease = next(self._lease_ids)
        self._leases[lease] = _Lease(ttl_seconds, self._now() + ttl_seconds)
        self._announce()  # a watcher that sleeps until the next deadline has to know of a nearer one
        return lease

    def keep_alive(self, lease: int) -> None:
        self.sweep()
        held = self._leases.get(lease)
        if held is None:
            raise rules.lease_gone(lease)
        held.deadline = self._now() + held.ttl_seconds

    def revoke(self, lease: int) -> None:
        self.sweep()
        if self._leases.pop(lease, None) is not None:
            self._write([Delete(key) for key in sorted(self._bound(lease))])

    def compact(self, revision: int) -> None:
        self.sweep()
        if revision > self.revision:
            raise rules.future_revision(revision, self.revision)
        self._compact(revision)

    def next_deadline(self) -> float | None:
        """When the next lease ends, on this log's clock."""
        return min((lease.deadline for lease in self._leases.values()), default=None)

    def seconds_to_next_deadline(self) -> float | None:
        deadline = self.next_deadline()
        return None if deadline is None else max(0.0, deadline - self._now())

    def sweep(self) -> None:
        """End the leases whose time is up: one revision for each that held keys, in the order of their deadlines."""
        now = self._now()
        due = sorted((lease.deadline, number) for number, lease in self._leases.items() if lease.deadline <= now)
        for _, number in due:
            del self._leases[number]
            self._write([Delete(key) for key in sorted(self._bound(number))])

    def _bound(self, lease: int) -> Iterator[str]:
        return (entry.key for entry in self._entries.values() if entry.lease == lease)

    def _write(self, writes: Sequence[Put | Delete]) -> None:
        """Apply writes as the next revision; deletions of absent keys alone make none."""
        revision = self.revision + 1
        events = []
        for write in writes:
            before = self._entries.pop(write.key, None)
            if isinstance(write, Put):
                created = before.create_revision if before else revision
                entry = Entry(write.key, bytes(write.value), created, revision, write.lease)
                self._entries[write.key] = entry
                events.append(WatchEvent(write.key, revision, entry))
            elif before is not None:
                events.append(WatchEvent(write.key, revision, None))
        if not events:
            return
        self.revision = revision
        self._events += events
        if len(self._events) > self._history_events + rules.history_slack(self._history_events):
            self._compact(self._events[-self._history_events - 1].revision)
        self._announce()

    def _compact(self, revision: int) -> None:
        if revision > self.compacted:
            self.compacted = revision
            self._events = [event for event in self._events if event.revision > revision]

    def _announce(self) -> None:
        for changed in tuple(self._listeners):
            changed()
