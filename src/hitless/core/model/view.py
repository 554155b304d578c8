"""What a node knows of the cluster: the fold of everything the store has said.

Absence says nothing: a record that is missing from a listing stays in the view, without a revision (fail
static, handover.md §4). Only a tombstone removes a node.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from hitless.core.model.node import KeyRecord, NodeRecord, Progress, Tombstone

NOWHERE: Final = -1
"""The revision of a record that this store epoch does not hold (yet, or any more)."""

T = TypeVar("T")


class Recorded(msgspec.Struct, Generic[T], frozen=True):
    """A record and the store revision that wrote it."""

    record: T
    revision: int


class View(msgspec.Struct, frozen=True):
    """`revision` is the newest revision of a node record, key record or tombstone seen in this `epoch`."""

    epoch: str = ""
    synced: bool = False
    revision: int = 0
    nodes: Mapping[str, Recorded[NodeRecord]] = {}
    keys: Mapping[int, Recorded[KeyRecord]] = {}
    progress: Mapping[str, Progress] = {}
    tombstones: Mapping[str, Recorded[Tombstone]] = {}

    def removed(self, name: str) -> bool:
        """Whether a tombstone is the last thing said about this node."""
        tombstone, node = self.tombstones.get(name), self.nodes.get(name)
        return tombstone is not None and (node is None or node.revision < tombstone.revision)

    def peers(self, me: str) -> Iterator[Recorded[NodeRecord]]:
        """All other nodes that have not been removed."""
        return (node for name, node in self.nodes.items() if name != me and not self.removed(name))

    def newest_generation(self) -> int:
        """The newest generation registered; 0 where there is none."""
        return max(self.keys, default=0)


class Listed(msgspec.Struct, frozen=True):
    """A full listing of the store as of `revision`."""

    epoch: str
    revision: int
    nodes: tuple[Recorded[NodeRecord], ...] = ()
    keys: tuple[Recorded[KeyRecord], ...] = ()
    progress: tuple[Progress, ...] = ()
    tombstones: tuple[Recorded[Tombstone], ...] = ()


class NodeSeen(msgspec.Struct, frozen=True):
    """A node record was written."""

    node: Recorded[NodeRecord]


class KeySeen(msgspec.Struct, frozen=True):
    """A key generation was registered."""

    key: Recorded[KeyRecord]


class ProgressSeen(msgspec.Struct, frozen=True):
    """A node's watermarks moved."""

    progress: Progress


class TombstoneSeen(msgspec.Struct, frozen=True):
    """A node was removed on purpose."""

    tombstone: Recorded[Tombstone]


class RecordAbsent(msgspec.Struct, frozen=True):
    """A node's record was deleted or expired: noted, and nothing more."""

    name: str


StoreEvent = Listed | NodeSeen | KeySeen | ProgressSeen | TombstoneSeen | RecordAbsent


def fold(view: View, event: StoreEvent) -> View:
    """The view after one more event. Total: any event fits any view."""
    match event:
        case Listed():
            return _listed(view, event)
        case NodeSeen(node):
            return _replace(view, node.revision, nodes={**view.nodes, node.record.name: node})
        case KeySeen(key):
            return _replace(view, key.revision, keys={**view.keys, key.record.generation: key})
        case ProgressSeen(progress):
            return msgspec.structs.replace(view, progress={**view.progress, progress.name: progress})
        case TombstoneSeen(tombstone):
            marked = {**view.tombstones, tombstone.record.name: tombstone}
            return _replace(view, tombstone.revision, tombstones=marked)
        case RecordAbsent(name):
            return _absent(view, name)


def _replace(view: View, revision: int, **fields: object) -> View:
    return msgspec.structs.replace(view, revision=max(view.revision, revision), **fields)


def _listed(view: View, listed: Listed) -> View:
    # A record that is no longer listed keeps its content and loses its revision: what it says still holds, but
    # no watermark of this log can vouch for it.
    nodes = {name: Recorded(node.record, NOWHERE) for name, node in view.nodes.items()}
    nodes.update((node.record.name, node) for node in listed.nodes)
    keys = {generation: Recorded(key.record, NOWHERE) for generation, key in view.keys.items()}
    keys.update((key.record.generation, key) for key in listed.keys)
    same_log = view.epoch == listed.epoch
    tombstones = dict(view.tombstones) if same_log else {}
    tombstones.update((tombstone.record.name, tombstone) for tombstone in listed.tombstones)
    progress = dict(view.progress)
    progress.update((each.name, each) for each in listed.progress)
    revisions = [each.revision for group in (listed.nodes, listed.keys, listed.tombstones) for each in group]
    newest = max(revisions, default=0)
    return View(
        epoch=listed.epoch,
        synced=True,
        revision=max(newest, view.revision) if same_log else newest,
        nodes=nodes,
        keys=keys,
        progress=progress,
        tombstones=tombstones,
    )


def _absent(view: View, name: str) -> View:
    node = view.nodes.get(name)
    if node is None:
        return view
    return msgspec.structs.replace(view, nodes={**view.nodes, name: Recorded(node.record, NOWHERE)})
