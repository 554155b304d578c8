"""What nodes tell each other: node records, key records, progress records, tombstones.

These are the values in the store, encoded as JSON. Revisions are not part of a value: the store gives one to
each write, and `core.ipsec.view` keeps it beside the value. Nothing here is secret.
"""

from __future__ import annotations

import msgspec

NODE_ID_BITS = 20


class Incarnation(msgspec.Struct, frozen=True, order=True):
    """One life of a node's kernel state: a counter and 128 random bits (hex). Never used twice."""

    counter: int
    nonce: str


class NodeRecord(msgspec.Struct, frozen=True):
    """A node as its peers need it. Addresses are underlay endpoints, prefixes are what lives behind the node."""

    name: str
    node_id: int
    incarnation: Incarnation
    addresses: tuple[str, ...]
    prefixes: tuple[str, ...] = ()


class KeyRecord(msgspec.Struct, frozen=True):
    """A key generation: the key file's own id and a fingerprint, never the key (handover.md §2)."""

    generation: int
    key_id: int
    fingerprint: str
    algorithm: str


class Behind(msgspec.Struct, frozen=True, order=True):
    """An exception to a watermark: this peer, for this reason (a condition code), since then (wall seconds)."""

    peer: str
    reason: str
    since: float = 0.0


class Receives(msgspec.Struct, frozen=True):
    """For every peer but those behind, my IN state is in the kernel: newest node records as of `revision`, each
    of `generations` from the newest one on that the peer and I both hold."""

    revision: int
    generations: tuple[int, ...]
    behind: tuple[Behind, ...] = ()


class Sends(msgspec.Struct, frozen=True):
    """To every peer but those behind I send only with the newest identity as of `revision`, `generation` or newer."""

    revision: int
    generation: int
    behind: tuple[Behind, ...] = ()


class Progress(msgspec.Struct, frozen=True):
    """A node's two watermarks. They count for this incarnation and this store epoch only."""

    name: str
    incarnation: Incarnation
    epoch: str
    receives: Receives
    sends: Sends
    phase: str = "starting"
    since: float = 0.0


class Tombstone(msgspec.Struct, frozen=True):
    """A person removed the node: the only record that makes peers delete (handover.md §4)."""

    name: str
    node_id: int
    incarnation: Incarnation
    removed_at: float = 0.0


class Live(msgspec.Struct, frozen=True):
    """A heartbeat: bound to a lease, shown to people, and nothing else hangs on it."""

    name: str
    incarnation: Incarnation
