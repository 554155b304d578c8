"""What the handover must never do, and when all is well: asked of nodes, one or two or all at a time."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from hitless.core.ipsec.state import BLOCK
from hitless.core.verify import node as nodes
from hitless.core.verify.node import Ident, Node


class Face(NamedTuple):
    """All of a node that a verdict may hang on: what it sends, with which of it under a key used before, what it can
    receive (or a fault took away), what of that is new since, and what is wrong with the node alone."""

    name: str
    sends: frozenset[Ident]
    again: frozenset[Ident]
    receives: frozenset[Ident]
    lost: frozenset[Ident]
    remade: frozenset[Ident]
    reused: str
    unsound: str


def face(node: Node) -> Face:
    """What a node looks like to whoever judges it: a few hundred, where there are thousands of nodes."""
    spent_out = {ident for way, ident in node.spent if way == "out"}
    receives = frozenset(ident for ref, ident in node.kernel if ref.way == "in")
    return Face(
        name=node.name,
        sends=node.flight,
        again=frozenset(nodes.in_use(node) & spent_out),
        receives=receives,
        lost=frozenset(ident for ident in node.lost if ident.receiver == node.name),
        remade=frozenset(ident for ident in receives if ("in", ident) in node.spent),
        reused=reused(node),
        unsound=unsound(node),
    )


def undecryptable(sender: Face, receiver: Face) -> str:
    """Something on its way, or about to be sent, that its receiver cannot decrypt; "" if there is none.

    What a fault took from the receiver is excused: its sender cannot know. A state that counts from 0 again is not:
    its receiver still has the window of what was sent before, and takes all of it for replays.
    """
    for ident in sender.sends:
        if ident.receiver == receiver.name and ident not in receiver.receives and ident not in receiver.lost:
            return f"{receiver.name} cannot decrypt what {sender.name} sends with generation {ident.generation}"
    for ident in sender.again:
        if ident in receiver.receives and ident not in receiver.remade:
            return (
                f"{sender.name} counts from 0 again under the key of generation {ident.generation}, and the replay "
                f"window of {receiver.name} swallows all of it, for ever"
            )
    return ""


def reused(node: Node) -> str:
    """An SA that exists a second time with the key it had; "" if there is none."""
    for ref, ident in node.kernel:
        if (ref.way, ident) in node.spent:
            return f"{node.name} has the {ref.way.upper()} state of generation {ident.generation} a second time"
    return ""


def unsound(node: Node) -> str:
    """What one node did that it must never do: take back a word, delete what it sends with."""
    return node.wrong or nodes.unpinned(node)


def rests(members: Collection[Node], removed: frozenset[str], newest: int) -> bool:
    """Everybody is on the newest key, the old ones are gone everywhere, and nobody has anything left to do.

    Nobody has, or is sent, anything of a node that was removed; that one sends nothing.
    """
    return all(_rests(node, members, removed, newest) for node in members)


def _rests(node: Node, members: Collection[Node], removed: frozenset[str], newest: int) -> bool:
    if node.pending or nodes.can_decide(node):
        return False
    sends = {peer for peer, spi in node.pinned if spi != BLOCK}
    if node.name in removed:
        return not sends
    peers = [each for each in members if each is not node and each.name not in removed]
    wanted = {(way, _ident(node, peer, way, newest)) for peer in peers for way in ("in", "out")}
    used = {ident.receiver for ident in nodes.in_use(node)}
    return (
        {(ref.way, ident) for ref, ident in node.kernel} == wanted
        and sends == used == {each.name for each in peers}
        and node.state.held == node.file == {newest}
        and not (node.state.failures or node.barred)
    )


def _ident(node: Node, peer: Node, way: str, generation: int) -> Ident:
    sender, receiver = (peer.state.me, node.state.me) if way == "in" else (node.state.me, peer.state.me)
    return Ident(sender.name, sender.incarnation.nonce, receiver.name, receiver.incarnation.nonce, generation)
