"""Where records stand in the store, and how they are written: one JSON object a key, readable with `etcdctl get`."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from hitless.core.model.node import KeyRecord, NodeRecord, Progress, Tombstone
from hitless.core.model.view import KeySeen, NodeSeen, ProgressSeen, RecordAbsent, Recorded, StoreEvent, TombstoneSeen

T = TypeVar("T")

encode = msgspec.json.encode


class Layout(msgspec.Struct, frozen=True):
    """The keys of one cluster."""

    cluster: str

    @property
    def root(self) -> str:
        return f"/hitless/{self.cluster}/"

    def node(self, name: str) -> str:
        return f"{self.root}nodes/{name}"

    def key(self, generation: int) -> str:
        # Padded, so that a listing is in order.
        return f"{self.root}keys/{generation:010d}"

    def progress(self, name: str) -> str:
        return f"{self.root}progress/{name}"

    def tombstone(self, name: str) -> str:
        return f"{self.root}tombstones/{name}"

    def live(self, name: str) -> str:
        return f"{self.root}live/{name}"

    def node_id(self, node_id: int) -> str:
        return f"{self.root}ids/{node_id:05x}"

    def event(self, key: str, value: bytes | None, revision: int) -> StoreEvent | None:
        """What a write (or, without a value, a deletion) of a key says; None where it says nothing to a view.

        Raises msgspec.MsgspecError for a record that is not of its kind.
        """
        kind, _, name = key.removeprefix(self.root).partition("/")
        if value is None:
            return RecordAbsent(name) if kind == "nodes" else None
        match kind:
            case "nodes":
                return NodeSeen(Recorded(_decode(value, NodeRecord), revision))
            case "keys":
                return KeySeen(Recorded(_decode(value, KeyRecord), revision))
            case "progress":
                return ProgressSeen(_decode(value, Progress))
            case "tombstones":
                return TombstoneSeen(Recorded(_decode(value, Tombstone), revision))
            case _:
                return None


def _decode(value: bytes, kind: type[T]) -> T:
    return msgspec.json.decode(value, type=kind)
