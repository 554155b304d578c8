"""What a node writes into the store about itself: its id, its record, and the generations of its keys.

All by compare-and-swap, so that any number of nodes may do the same at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hitless.core.ipsec import derive, keyring
from hitless.core.ipsec.identity import NODE_ID_MASK, node_id_candidate
from hitless.core.model import layout
from hitless.core.model.key import MasterKey
from hitless.core.model.layout import Layout
from hitless.core.model.node import KeyRecord, Live, NodeRecord, Progress, Tombstone
from hitless.ports import Compare, Delete, Entry, LeaseExpiredError, Put, Store

HEARTBEAT_SECONDS = 15.0
"""A heartbeat's lease. It is renewed every third of that."""
_PROBE_LIMIT = 4096  # a free id is found in a few probes below half a million nodes; more means a damaged store


class RegistryError(Exception):
    """The store holds something that this node cannot join beside."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{message} [{code}]")
        self.code = code


class Registry:
    """One node's writes to one cluster's records."""

    def __init__(self, store: Store, cluster: str, name: str, *, leased_record: bool = False) -> None:
        """`leased_record` is a historic mistake, for replays: the node's record ends with its heartbeat."""
        self._leased_record = leased_record
        self._store, self._layout, self._name, self._cluster = store, Layout(cluster), name, cluster

    async def claim_node_id(self, remembered: int | None) -> int:
        """The node's 20-bit id: the remembered one, else the first free one on its probing path."""
        for probe in range(_PROBE_LIMIT):
            candidate = remembered if remembered and probe == 0 else node_id_candidate(self._name, probe)
            if await self._claim(min(candidate, NODE_ID_MASK)):
                return candidate
        raise RegistryError("node-id-space", f"no free node id in {_PROBE_LIMIT} tries; is the store damaged?")

    async def _claim(self, node_id: int) -> bool:
        key = self._layout.node_id(node_id)
        while True:
            entry = await self._store.get(key)
            if entry is not None:
                return entry.value == self._name.encode()
            if await self._store.commit([Compare(key, 0)], [Put(key, self._name.encode())]) is not None:
                return True

    async def node_record(self) -> NodeRecord | None:
        """What the store holds of this node now."""
        entry = await self._store.get(self._layout.node(self._name))
        return None if entry is None else msgspec.json.decode(entry.value, type=NodeRecord)

    async def write_node(self, record: NodeRecord) -> bool:
        """Write the node record unless it stands there already; whether it was written.

        Raises RegistryError `node-removed` after `hitless node remove`, `name-taken` where another machine runs
        under this name: its record is then newer than anything this node wrote.
        """
        key, value = self._layout.node(record.name), layout.encode(record)
        while True:
            entry = await self._store.get(key)
            if entry is not None and entry.value == value:
                return False
            self._check_name(record, entry)
            await self._check_tombstone()
            guard = Compare(key, entry.mod_revision if entry else 0)
            if await self._store.commit([guard], [Put(key, value)]) is not None:
                return True

    def _check_name(self, record: NodeRecord, entry: Entry | None) -> None:
        there = None if entry is None else msgspec.json.decode(entry.value, type=NodeRecord)
        if there is None or there.incarnation == record.incarnation:
            return
        if there.incarnation.counter >= record.incarnation.counter:
            raise RegistryError(
                "name-taken",
                f"another agent has registered as {record.name} (incarnation {there.incarnation.counter}, addresses "
                f"{', '.join(there.addresses)}); give one of the two machines another name",
            )

    async def is_removed(self) -> bool:
        """Whether a tombstone stands: for the name, whatever the incarnation, or a reboot would take the node back."""
        return await self._store.get(self._layout.tombstone(self._name)) is not None

    async def check_not_alive(self) -> None:
        """Raises RegistryError `name-taken` while another agent of this name keeps its heartbeat."""
        entry = await self._store.get(self._layout.live(self._name))
        if entry is not None:
            raise RegistryError(
                "name-taken",
                f"another agent is alive as {self._name}; give this machine another name, or, if its state directory "
                f"was lost, wait until the old heartbeat has run out ({HEARTBEAT_SECONDS:g} s)",
            )

    async def beat(self, record: NodeRecord, lease: int) -> int:
        """Show that this node lives; the lease to go on with. Nothing hangs on it but what people see."""
        if lease:
            try:
                await self._store.keep_alive(lease)
            except LeaseExpiredError:
                lease = 0
            else:
                return lease
        lease = await self._store.grant(HEARTBEAT_SECONDS)
        writes = [Put(self._layout.live(self._name), layout.encode(Live(record.name, record.incarnation)), lease)]
        if self._leased_record:
            writes.append(Put(self._layout.node(self._name), layout.encode(record), lease))
        await self._store.commit([], writes)
        return lease

    async def _check_tombstone(self) -> None:
        if await self.is_removed():
            raise RegistryError(
                "node-removed",
                f"{self._name} was removed from the cluster and stays blocked; to take it back: "
                f"hitless node restore {self._name}",
            )

    async def restore(self) -> bool:
        """Take this node's tombstone away; whether there was one."""
        key = self._layout.tombstone(self._name)
        entry = await self._store.get(key)
        if entry is None:
            return False
        return await self._store.commit([Compare(key, entry.mod_revision)], [Delete(key)]) is not None

    async def bury(self, wall: float = 0.0) -> None:
        """Write this node's tombstone and take its records away, in one step; `wall` is now, for people.

        Raises RegistryError `node-unknown`.
        """
        key = self._layout.node(self._name)
        while True:
            entry = await self._store.get(key)
            if entry is None:
                raise RegistryError("node-unknown", f"no node {self._name} is registered in cluster {self._cluster}")
            record = msgspec.json.decode(entry.value, type=NodeRecord)
            tombstone = Tombstone(record.name, record.node_id, record.incarnation, wall)
            writes: list[Put | Delete] = [
                Put(self._layout.tombstone(self._name), layout.encode(tombstone)),
                Delete(key),
                Delete(self._layout.progress(self._name)),
            ]
            if await self._store.commit([Compare(key, entry.mod_revision)], writes) is not None:
                return

    async def publish(self, progress: Progress) -> int:
        """Write the progress record; the revision it got. Only this node ever writes it, so nothing is compared."""
        revision = await self._store.commit([], [Put(self._layout.progress(self._name), layout.encode(progress))])
        assert revision is not None  # noqa: S101 - nothing was compared
        return revision

    async def register_keys(
        self, keys: Sequence[MasterKey], held: frozenset[int], remembered: Mapping[str, KeyRecord]
    ) -> tuple[dict[int, MasterKey], dict[str, KeyRecord]]:
        """The keys of a file by generation, and their records by fingerprint; those that are new are registered.

        A key that this node remembers, and the store does not, gets the generation it had. All are judged before the
        first is written, so that a file is taken whole or refused whole. Raises KeyRefusedError.
        """
        prints = [derive.fingerprint(key, self._cluster) for key in keys]
        while True:
            records, progress = await self._listing()
            known = dict(records)
            for record in remembered.values():
                known.setdefault(record.generation, record)
            for key, fingerprint in zip(keys, prints, strict=True):
                live = keyring.live(known, progress, held)
                record = keyring.resolve(key, fingerprint, known, live)
                known[record.generation] = record
            by_print = {record.fingerprint: record for _, record in sorted(known.items())}
            filed = {by_print[each].generation: key for key, each in zip(keys, prints, strict=True)}
            keyring.check_forward(filed, held)
            fresh = [known[each] for each in {*filed, *(held & known.keys())} if each not in records]
            if not fresh or await self._create(fresh):
                return filed, {known[each].fingerprint: known[each] for each in {*filed, *(held & known.keys())}}

    async def _listing(self) -> tuple[dict[int, KeyRecord], Mapping[str, Progress]]:
        keys = await self._store.list(f"{self._layout.root}keys/")
        said = await self._store.list(f"{self._layout.root}progress/")
        records = [msgspec.json.decode(entry.value, type=KeyRecord) for entry in keys.entries]
        progress = [msgspec.json.decode(entry.value, type=Progress) for entry in said.entries]
        return {each.generation: each for each in records}, {each.name: each for each in progress}

    async def _create(self, records: list[KeyRecord]) -> bool:
        names = [self._layout.key(record.generation) for record in records]
        puts = [Put(name, layout.encode(record)) for name, record in zip(names, records, strict=True)]
        return await self._store.commit([Compare(name, 0) for name in names], puts) is not None
