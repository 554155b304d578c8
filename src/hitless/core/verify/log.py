"""The store of the handover model: a log, its present contents, and what is still on its way to a node.

A queue holds what was written and has not reached a node yet, one *batch* a write: a watch never splits a revision.
The empty batch stands for the end of a log that was lost: whoever meets it lists the new one.
"""

from __future__ import annotations

from typing import NamedTuple

from hitless.core.model.node import KeyRecord, NodeRecord, Progress, Tombstone
from hitless.core.model.view import (
    KeySeen,
    Listed,
    NodeSeen,
    ProgressSeen,
    RecordAbsent,
    Recorded,
    StoreEvent,
    TombstoneSeen,
)

Batch = tuple[StoreEvent, ...]
Queue = tuple[Batch, ...]
RELIST: Batch = ()


class Store(NamedTuple):
    """The log's present contents; `silent` are the nodes whose heartbeat has run out.

    Revisions count node records, keys and tombstones only: nothing compares with the others'.
    """

    epoch: int
    revision: int
    nodes: tuple[tuple[str, Recorded[NodeRecord]], ...] = ()
    keys: tuple[tuple[int, Recorded[KeyRecord]], ...] = ()
    progress: tuple[tuple[str, Progress], ...] = ()
    tombstones: tuple[tuple[str, Recorded[Tombstone]], ...] = ()
    silent: frozenset[str] = frozenset()

    def listed(self) -> Listed:
        return Listed(
            epoch=f"e{self.epoch}",
            revision=self.revision,
            nodes=tuple(each for _, each in self.nodes),
            keys=tuple(each for _, each in self.keys),
            progress=tuple(each for _, each in self.progress),
            tombstones=tuple(each for _, each in self.tombstones),
        )

    def put(self, value: NodeRecord | KeyRecord | Progress) -> tuple[Store, Batch]:
        """The contents afterwards and what watchers see: nothing, where they would see no difference."""
        if isinstance(value, Progress):
            if (value.name, value) in self.progress:
                return self, ()
            said = {**dict(self.progress), value.name: value}
            return self._replace(progress=tuple(sorted(said.items()))), (ProgressSeen(value),)
        revision = self.revision + 1
        if isinstance(value, NodeRecord):
            node = Recorded(value, revision)
            records = {**dict(self.nodes), value.name: node}
            return self._replace(revision=revision, nodes=tuple(sorted(records.items()))), (NodeSeen(node),)
        key = Recorded(value, revision)
        keys = {**dict(self.keys), value.generation: key}
        return self._replace(revision=revision, keys=tuple(sorted(keys.items()))), (KeySeen(key),)

    def without(self, name: str) -> tuple[Store, Batch]:
        """A node's record is gone, and nothing is said about why."""
        left = tuple(each for each in self.nodes if each[0] != name)
        return self._replace(nodes=left), (RecordAbsent(name),)

    def buried(self, name: str) -> tuple[Store, Batch]:
        """`hitless node remove`: one write, which leaves a tombstone and takes the node's records."""
        record = dict(self.nodes)[name].record
        stone = Recorded(Tombstone(name, record.node_id, record.incarnation), self.revision + 1)
        said = tuple(each for each in self.progress if each[0] != name)
        stones = tuple(sorted({**dict(self.tombstones), name: stone}.items()))
        left, absent = self._replace(revision=stone.revision, progress=said, tombstones=stones).without(name)
        return left, (TombstoneSeen(stone), *absent)

    def restored(self, name: str) -> Store:
        """`hitless node restore`: the tombstone is taken away, which no view is told."""
        return self._replace(tombstones=tuple(each for each in self.tombstones if each[0] != name))

    def bars(self, me: NodeRecord) -> bool:
        """Whether a tombstone stands for the name, whatever the incarnation: then it must not register."""
        return me.name in dict(self.tombstones)

    def lacks(self, me: NodeRecord) -> bool:
        """Whether a node has to write its record."""
        mine = dict(self.nodes).get(me.name)
        return mine is None or mine.record != me


def cut(queue: Queue) -> Queue:
    """A queue after its log was replaced: what the old log said may still arrive, then the end of it."""
    old = queue[: queue.index(RELIST)] if RELIST in queue else queue
    return (*old, RELIST)


def key_record(generation: int) -> KeyRecord:
    return KeyRecord(generation, generation, f"fingerprint-{generation}", "rfc4106(gcm(aes))-288-128")
