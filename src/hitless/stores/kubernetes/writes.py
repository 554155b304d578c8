"""Commits: what Kubernetes can do of them, and what it cannot.

One object is changed atomically, and only from exactly the revision that was read: a commit that writes one key, with
no guard or one on that key, is as good as etcd's. Several objects are never changed together. So a commit of several
writes is made one by one in the order in which they are given, after all guards have been looked at, and each guarded
key again under its guard. Readers may see it half done, and where it stops half-way it stays so: that is an error of
its own (`store-commit-partial`), never None, which says that nothing happened. A caller that writes first what must not
be missing, and repeats what did not end, gets to the end.

A guard on a key that is not written cannot hold until the write. A commit with such a guard is refused, as a guard
that mostly holds is worse than none.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from contextlib import suppress

from hitless.ports import Compare, Delete, Entry, Put, StoreError, StoreUnavailableError
from hitless.stores import rules
from hitless.stores.kubernetes import record
from hitless.stores.kubernetes.api import Api
from hitless.stores.kubernetes.errors import RefusedError
from hitless.stores.kubernetes.leases import Leases
from hitless.stores.kubernetes.log import WRITE, History, KubernetesLog, Snapshot
from hitless.stores.kubernetes.record import Record

MAX_ATTEMPTS = 30
"""Of an unguarded write that others overtake each time."""

MAX_READS_AT_ONCE = 16
"""Guards are looked at side by side; a client may not have a server's every slot."""

MAX_REMEMBERED = 64
"""Objects this client wrote and will likely write again, such as its progress: no reading before the next write."""


class _GuardError(Exception):
    """A guard does not hold."""


class Writer:
    """Reads for writing, commits, and the end of leases. Raises StoreError and its kinds."""

    def __init__(self, log: KubernetesLog, leases: Leases) -> None:
        self._log = log
        self._api: Api = log.api
        self._leases = leases
        self._written: dict[str, Record] = {}

    async def present(self, history: History, key: str) -> tuple[Record | None, Entry | None]:
        """The object of a key, and what it says; a key whose lease has ended is deleted first."""
        while True:
            found = await self._log.read(history, key)
            entry = None if found is None else record.entry_of(found, history.epoch)
            if found is None or entry is None or not entry.lease or await self._leases.is_alive(entry.lease):
                return found, entry
            await self._erase(history, found, entry)

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        """See `ports.Store.commit`, and above for what is less here."""
        rules.check_commit(compares, writes)
        history = await self._log.known()
        if not writes:
            return await self._compare(history, compares)
        guards = {compare.key: compare.mod_revision for compare in compares}
        unwritten = sorted(guards.keys() - {write.key for write in writes})
        if unwritten:
            raise StoreError(
                "store-guard-unsupported",
                f"a guard on {unwritten[0]!r} without a write to it cannot be kept: Kubernetes changes one object at "
                "a time; write the guarded key in the same commit, or use the etcd store",
            )
        await self._log.confirm(history)
        if len({(compare.key, compare.mod_revision) for compare in compares}) > len(guards):
            return None  # two revisions are asked of one key
        leases = {write.lease for write in writes if isinstance(write, Put) and write.lease}
        # A single write without a lease looks at its guard itself, at the cost of one request less.
        if (len(writes) > 1 or leases) and not await self._hold(history, guards):
            return None
        for lease in sorted(leases):
            # One that ends after this takes the key with it: whoever reads the key finds the lease gone.
            if not await self._leases.is_alive(lease):
                raise rules.lease_gone(lease)
        return await self._write_all(history, guards, writes)

    async def _compare(self, history: History, compares: Sequence[Compare]) -> int | None:
        """A commit without writes: all guards at one moment."""
        if not compares:
            return await self._log.revision(history)
        found = await self.living(history, await self._log.snapshot(history))
        for compare in compares:
            entry = found.entries[compare.key][0] if compare.key in found.entries else None
            if compare.mod_revision != (entry.mod_revision if entry else 0):
                return None
        return found.revision

    async def _hold(self, history: History, guards: Mapping[str, int]) -> bool:
        slots = asyncio.Semaphore(MAX_READS_AT_ONCE)

        async def holds(key: str, mod_revision: int) -> bool:
            async with slots:
                entry = (await self.present(history, key))[1]
            return mod_revision == (entry.mod_revision if entry else 0)

        return all(await asyncio.gather(*(holds(key, revision) for key, revision in guards.items())))

    async def _write_all(
        self, history: History, guards: Mapping[str, int], writes: Sequence[Put | Delete]
    ) -> int | None:
        last = 0
        for n_done, write in enumerate(writes):
            try:
                last = await self._write(history, write, guards.get(write.key)) or last
            except _GuardError:
                if not last:
                    return None
                raise _partial(n_done, len(writes), f"{write.key!r} was changed by somebody else") from None
            except StoreError as error:
                if not last:
                    raise
                raise _partial(n_done, len(writes), str(error)) from error
        return last or await self._log.revision(history)

    async def _write(self, history: History, write: Put | Delete, guard: int | None) -> int:
        """One write; its revision, 0 where there was nothing to delete. Raises _GuardError."""
        for _ in range(MAX_ATTEMPTS):
            found = self._written.pop(write.key, None) if guard is None and isinstance(write, Put) else None
            entry = None if found is None else record.entry_of(found, history.epoch)
            if found is None:
                found, entry = await self.present(history, write.key)
            if guard is not None and guard != (entry.mod_revision if entry else 0):
                raise _GuardError
            if isinstance(write, Delete):
                revision = 0 if found is None or entry is None else await self._erase(history, found, entry)
                if revision is not None:
                    return revision
            else:
                revision = await self._put(history, write, found)
                if revision:
                    return revision
            # Somebody was faster. Where all write the same key, a pause that differs lets one after the other through.
            await asyncio.sleep(random.uniform(0.0, 0.02))  # noqa: S311 - nobody gains by guessing it
        raise StoreUnavailableError(
            "store-contended",
            f"{write.key!r} was changed by others before each of {MAX_ATTEMPTS} attempts to write it; try again later",
        )

    async def _put(self, history: History, put: Put, over: Record | None) -> int | None:
        """The revision; None where the object is no longer what it was."""
        body = record.put_body(put.key, put.value, put.lease, history.epoch, over)
        written = await self._send(put.key, body, creating=over is None)
        if written is None:
            return None
        history.saw(written.revision)
        if len(self._written) >= MAX_REMEMBERED:
            self._written.pop(next(iter(self._written)))
        self._written[put.key] = written
        return written.revision

    async def _erase(self, history: History, found: Record, entry: Entry) -> int | None:
        """Delete what a record says, then its object; the revision, or None where it is no longer what it was."""
        self._written.pop(entry.key, None)
        written = await self._send(entry.key, record.deleted_body(entry, history.epoch, found), creating=False)
        if written is None:
            return None
        history.saw(written.revision)
        await self._remove(written)
        return written.revision

    async def _send(self, key: str, body: object, *, creating: bool) -> Record | None:
        path = self._api.records() if creating else self._api.records(record.name_of(key))
        try:
            raw = await self._api.request(
                "POST" if creating else "PUT", path, params=WRITE, body=body,
                refusals=(409,) if creating else (404, 409),
            )
        except RefusedError:
            return None
        written = record.decode(raw)
        if written is None:
            raise StoreError("store-corrupt", f"the API server's answer to a write of {key!r} is no record")
        return written

    # --- leases that end

    async def end_lease(self, lease: int) -> None:
        """Delete the keys of a lease that is gone, in their order."""
        history = await self._log.known()
        found = await self._log.snapshot(history, lease)
        for _, (entry, each) in sorted(found.entries.items()):
            await self._erase(history, each, entry)

    async def living(self, history: History, found: Snapshot) -> Snapshot:
        """What of a snapshot still holds: the keys of ended leases are deleted, and left out."""
        if not any(entry.lease for entry, _ in found.entries.values()):
            return found
        living = await self._leases.living()
        kept = {}
        for key, (entry, each) in found.entries.items():
            if not entry.lease or entry.lease in living:
                kept[key] = entry, each
            else:
                await self._erase_if_allowed(history, each, entry)
        return Snapshot(found.revision, kept)

    async def sweep(self) -> int:
        """End every lease whose time is up, and remove what deletions have left; how many leases live on."""
        history = await self._log.known()
        # The records first: a lease is granted before a key is bound to it, so none of theirs can be too new.
        found = await self._log.marked(history)
        living = await self._leases.living()
        for each in found:
            entry = record.entry_of(each, history.epoch)
            if entry is None:
                await self._remove(each)
            elif entry.lease and entry.lease not in living:
                await self._erase_if_allowed(history, each, entry)
        return len(living)

    async def _erase_if_allowed(self, history: History, found: Record, entry: Entry) -> None:
        """An account that may only read leaves it to others, and shows what would be."""
        try:
            await self._erase(history, found, entry)
        except StoreError as error:
            if error.code != "store-forbidden":
                raise

    async def _remove(self, found: Record) -> None:
        """The object of a key that is gone. Whatever fails is no harm: it is written over, or swept."""
        meta = found.metadata
        body = {"preconditions": {"uid": meta.uid, "resourceVersion": meta.resourceVersion}}
        with suppress(RefusedError, StoreError):
            await self._api.request("DELETE", self._api.records(meta.name), body=body, refusals=(404, 409))


def _partial(n_done: int, n_all: int, why: str) -> StoreUnavailableError:
    return StoreUnavailableError(
        "store-commit-partial",
        f"{n_done} of {n_all} writes of a commit were made, and then it stopped: {why}; look at the store and repeat",
    )
