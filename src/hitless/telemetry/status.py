"""How far each node is, read from the store: the answer to "what is in use, since when, and who is late"."""

from __future__ import annotations

from collections import defaultdict

import msgspec

from hitless.core.model.layout import Layout
from hitless.core.model.node import Behind
from hitless.core.model.view import KeySeen, NodeSeen, ProgressSeen
from hitless.ports import Store


class Laggard(msgspec.Struct, frozen=True):
    """A peer that this node waits for. `way` is what it waits to do; `since` is wall time (seconds since 1970)."""

    peer: str
    way: str
    reason: str
    since: float


class NodeStatus(msgspec.Struct, frozen=True):
    """One node. `generation` is what it sends with to all peers but the laggards; `since` is of this phase.

    `alive` says that its agent keeps a heartbeat. Without one the kernel goes on forwarding, and the rest may be old.
    """

    name: str
    node_id: int
    incarnation: int
    generation: int
    key_id: int
    phase: str
    since: float
    holds: tuple[int, ...]
    laggards: tuple[Laggard, ...]
    alive: bool = False


async def read(store: Store, cluster: str) -> tuple[NodeStatus, ...]:
    """All registered nodes, by name. Raises StoreError."""
    layout = Layout(cluster)
    found = await store.list(layout.root)
    seen = [layout.event(entry.key, entry.value, entry.mod_revision) for entry in found.entries]
    keys = {each.key.record.generation: each.key.record for each in seen if isinstance(each, KeySeen)}
    progress = {each.progress.name: each.progress for each in seen if isinstance(each, ProgressSeen)}
    alive = {entry.key for entry in found.entries if entry.key.startswith(layout.live(""))}
    result = []
    for each in seen:
        if not isinstance(each, NodeSeen):
            continue
        node = each.node.record
        said = progress.get(node.name)
        current = said is not None and said.incarnation == node.incarnation
        generation = said.sends.generation if said and current else 0
        result.append(
            NodeStatus(
                name=node.name,
                node_id=node.node_id,
                incarnation=node.incarnation.counter,
                generation=generation,
                key_id=keys[generation].key_id if generation in keys else 0,
                phase=said.phase if said and current else "starting",
                since=said.since if said else 0.0,
                holds=said.receives.generations if said and current else (),
                laggards=_laggards(said.receives.behind, said.sends.behind) if said and current else (),
                alive=layout.live(node.name) in alive,
            )
        )
    return tuple(sorted(result, key=lambda each: each.name))


def late(nodes: tuple[NodeStatus, ...]) -> dict[str, tuple[str, ...]]:
    """Who is waited for, and by whom."""
    found: defaultdict[str, list[str]] = defaultdict(list)
    for node in nodes:
        for laggard in node.laggards:
            found[laggard.peer].append(node.name)
    return {peer: tuple(names) for peer, names in sorted(found.items())}


def _laggards(receives: tuple[Behind, ...], sends: tuple[Behind, ...]) -> tuple[Laggard, ...]:
    ways = (("receive", receives), ("send", sends))
    return tuple(Laggard(each.peer, way, each.reason, each.since) for way, group in ways for each in group)
