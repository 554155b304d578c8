"""A node of two, as values: for tests that ask one question about one state."""

from __future__ import annotations

from hitless.core.ipsec import watermarks
from hitless.core.ipsec.state import SaRef, State, Way
from hitless.core.model.node import Behind, Incarnation, KeyRecord, NodeRecord, Progress, Receives, Sends
from hitless.core.model.view import Recorded, View

EPOCH = "log-1"


def record(name: str, counter: int = 1) -> NodeRecord:
    number = ord(name[0]) - ord("a") + 1
    return NodeRecord(name, number, Incarnation(counter, f"{number:02x}{counter:02x}"), (f"192.0.2.{number}",))


ME, PEER = record("a"), record("b")


def key(generation: int, revision: int) -> Recorded[KeyRecord]:
    return Recorded(KeyRecord(generation, generation, f"print-{generation}", "rfc4106(gcm(aes))-288-128"), revision)


def progress(
    name: str,
    revision: int,
    generations: tuple[int, ...],
    *,
    counter: int = 1,
    epoch: str = EPOCH,
    deaf: tuple[str, ...] = (),
    behind: tuple[str, ...] = (),
    sends: int | None = None,
) -> Progress:
    """What a node says; `deaf` it does not receive from, `behind` it does not send the newest to."""
    return Progress(
        name,
        record(name, counter).incarnation,
        epoch,
        Receives(revision, generations, tuple(Behind(each, "no-memory") for each in deaf)),
        Sends(revision, max(generations) if sends is None else sends, tuple(Behind(each, "x") for each in behind)),
    )


def view(*said: Progress, me: int = 1, peer: int = 2, keys: int = 2, epoch: str = EPOCH) -> View:
    """Both nodes at the given revisions, then `keys` generations at the revisions 11, 12 …"""
    return View(
        epoch=epoch,
        synced=True,
        revision=10 + keys,
        nodes={"a": Recorded(ME, me), "b": Recorded(PEER, peer)},
        keys={each: key(each, 10 + each) for each in range(1, keys + 1)},
        progress={each.name: each for each in said},
    )


def ref(way: Way, generation: int, *, me: NodeRecord = ME, peer: NodeRecord = PEER) -> SaRef:
    return watermarks.ref(State(me=me), way, peer, generation)


def both(*generations: int) -> frozenset[SaRef]:
    return frozenset(ref(way, each) for each in generations for way in ("in", "out"))
