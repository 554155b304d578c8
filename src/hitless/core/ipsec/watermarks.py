"""The two watermarks and the two rules that hang on them (handover.md §3).

*Use*: send with an identity when its receiver has said that it can receive it. *Retire*: delete an IN state when
its sender has said that it sends with something newer. Everything here is a question about a `State`.

With a thousand peers the same few answers are asked for again at every step. Refs and wishes follow from a handful
of numbers, and are remembered by them; nothing that is remembered can become wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from hitless.core.ipsec.health import is_deaf
from hitless.core.ipsec.identity import Endpoint, spi
from hitless.core.ipsec.state import BLOCK, SaRef, State, Way
from hitless.core.model.node import Behind, Incarnation, NodeRecord, Progress, Receives, Sends
from hitless.core.model.view import NOWHERE, Recorded

CANNOT_DECRYPT = "cannot-decrypt"
_REMEMBERED_LIMIT = 1 << 16
"""Answers kept: in a rotation each peer has about eight, so this is enough for 8,000 peers. More only costs time."""
_OUTLOOKS_LIMIT = 4
"""Whole answers kept: most steps ask for what the one before asked for, and one such answer names every SA."""


class Outlook(NamedTuple):
    """What a state asks for, over all peers: computed once a step and handed on.

    `best` is the SPI to send to each peer with in the end: that of the newest generation held (BLOCK: none is).
    """

    peers: tuple[Recorded[NodeRecord], ...]
    ins: frozenset[SaRef]
    outs: frozenset[SaRef]
    wanted: frozenset[SaRef]
    best: Mapping[str, int]


def outlook(state: State) -> Outlook:
    """All peers, and the refs that are to be in the kernel for them."""
    peers, mine, held, cleanup = tuple(_peers(state)), _numbers(state.me), state.held, state.rules.cleanup
    records = [each.record for each in peers]
    pairs = tuple([
        _refs(each.name, mine, _numbers(each), held, common_generation(state, each), cleanup) for each in records
    ])  # fmt: skip
    best = {each.name: pair[2] for each, pair in zip(records, pairs, strict=True)}
    return Outlook(peers, *_together(pairs), best)


_Pair = tuple[frozenset[SaRef], frozenset[SaRef], int]


@lru_cache(_OUTLOOKS_LIMIT)
def _together(pairs: tuple[_Pair, ...]) -> tuple[frozenset[SaRef], frozenset[SaRef], frozenset[SaRef]]:
    none = frozenset[SaRef]()
    ins, outs = none.union(*(pair[0] for pair in pairs)), none.union(*(pair[1] for pair in pairs))
    return ins, outs, ins | outs


@lru_cache(_OUTLOOKS_LIMIT)
def _surplus(kernel: frozenset[SaRef], wanted: frozenset[SaRef]) -> tuple[SaRef, ...]:
    return tuple(sorted(kernel - wanted))


def _peers(state: State) -> Iterable[Recorded[NodeRecord]]:
    if state.view.tombstones:
        return state.view.peers(state.me.name)
    return (node for name, node in state.view.nodes.items() if name != state.me.name)


def ref(state: State, way: Way, peer: NodeRecord, generation: int) -> SaRef:
    """The ref of the newest identity with a peer under a generation."""
    return _ref(way, peer.name, _numbers(state.me), _numbers(peer), generation)


def _numbers(record: NodeRecord) -> tuple[int, int]:
    """All of a node that an SPI is made of."""
    return record.node_id, record.incarnation.counter


@lru_cache(_REMEMBERED_LIMIT)
def _ref(way: Way, peer: str, mine: tuple[int, int], theirs: tuple[int, int], generation: int) -> SaRef:
    me, them = (Endpoint("", node_id, Incarnation(counter, "")) for node_id, counter in (mine, theirs))
    sender, receiver = (them, me) if way == "in" else (me, them)
    return SaRef(way, peer, spi(generation, sender, receiver))


@lru_cache(_REMEMBERED_LIMIT)
def _refs(
    peer: str, mine: tuple[int, int], theirs: tuple[int, int], held: frozenset[int], common: int | None, cleanup: str
) -> _Pair:
    ins, outs = _generations_in(held, common, cleanup), _generations_out(held, common, cleanup)
    return (
        frozenset(_ref("in", peer, mine, theirs, each) for each in ins),
        frozenset(_ref("out", peer, mine, theirs, each) for each in outs),
        _ref("out", peer, mine, theirs, max(held)).spi if held else BLOCK,
    )


def pair_revision(state: State, peer: Recorded[NodeRecord]) -> int | None:
    """The newer of both node records' revisions; None while this log does not hold both as we know them."""
    mine = state.view.nodes.get(state.me.name)
    if mine is None or mine.record.incarnation != state.me.incarnation:
        return None
    if NOWHERE in (mine.revision, peer.revision):
        return None
    return max(mine.revision, peer.revision)


def said_by(state: State, peer: NodeRecord) -> Progress | None:
    """The peer's watermarks, if they speak of its present incarnation and of this log."""
    progress = state.view.progress.get(peer.name)
    if progress is None or progress.incarnation != peer.incarnation or progress.epoch != state.view.epoch:
        return None
    return progress


def common_generation(state: State, peer: NodeRecord) -> int | None:
    """The newest generation both hold; None where the peer has not said, 0 where there is none.

    What a peer once held in its present incarnation holds in every log: a newly created store must not bring back
    the wish for states that were retired, for they would come back with the key they had.
    """
    progress = state.view.progress.get(peer.name)
    if progress is None or progress.incarnation != peer.incarnation:
        return None
    return _newest_common(state.held, progress.receives.generations)


@lru_cache(_REMEMBERED_LIMIT)
def _newest_common(held: frozenset[int], theirs: tuple[int, ...]) -> int:
    return max(held.intersection(theirs), default=0)


def wanted_in(state: State, peer: NodeRecord) -> frozenset[int]:
    """Generations to be able to receive: the newest common one and all newer ones; all, while nothing is known."""
    return _generations_in(state.held, common_generation(state, peer), state.rules.cleanup)


def _generations_in(held: frozenset[int], common: int | None, cleanup: str) -> frozenset[int]:
    if cleanup == "timer":
        return frozenset({max(held)}) if held else frozenset()
    return frozenset(generation for generation in held if generation >= (common or 0))


def wanted_out(state: State, peer: NodeRecord) -> frozenset[int]:
    """Generations to be able to send with: the newest one held, and the newest common one while that differs."""
    return _generations_out(state.held, common_generation(state, peer), state.rules.cleanup)


def _generations_out(held: frozenset[int], common: int | None, cleanup: str) -> frozenset[int]:
    if not held:
        return frozenset()
    return frozenset({max(held)}) if cleanup == "timer" or not common else frozenset({max(held), common})


def why_not_usable(state: State, peer: Recorded[NodeRecord], generation: int) -> str:
    """The use rule: "" if this node may send to the peer with that generation, else the reason (a condition code)."""
    progress, revision = said_by(state, peer.record), pair_revision(state, peer)
    if progress is None or revision is None:
        return "peer-not-ready"
    receives = progress.receives
    if generation not in receives.generations:
        return "key-missing"
    key = state.view.keys.get(generation)
    # The systems that are replayed looked at the peer's generation only.
    needed = revision if key is None or state.rules.order != "acked" else max(revision, key.revision)
    if key is None or receives.revision < needed:
        return "peer-not-ready"
    for behind in receives.behind:
        if behind.peer == state.me.name:
            return CANNOT_DECRYPT if behind.reason == CANNOT_DECRYPT else "peer-install-failed"
    if generation < (common_generation(state, peer.record) or 0):
        return "superseded"  # the peer may never have installed it: it owes us the newest common one and newer
    return "" if ref(state, "out", peer.record, generation) in state.kernel else "install-failed"


def may_retire(state: State, old: SaRef) -> bool:
    """The retire rule, without the drain: whether nothing will be sent with this ref any more."""
    if state.view.removed(old.peer):
        return old.way == "in" or state.pinned.get(old.peer, BLOCK) != old.spi
    peer = state.view.nodes.get(old.peer)
    if peer is None:
        return False
    if old.way == "out":
        wanted = {ref(state, "out", peer.record, generation).spi for generation in wanted_out(state, peer.record)}
        return old.spi not in wanted and state.pinned.get(old.peer, BLOCK) in wanted
    wanted = {ref(state, "in", peer.record, generation).spi for generation in wanted_in(state, peer.record)}
    if old.spi in wanted:
        return False
    return state.rules.cleanup == "timer" or _sends_newer(state, peer, old)


def retirable(state: State, look: Outlook) -> Iterator[SaRef]:
    """All refs in the kernel of which `may_retire` holds, in order."""
    for old in _surplus(state.kernel, look.wanted):
        if old.peer not in look.best:
            if may_retire(state, old):
                yield old
        elif old.way == "out":
            if SaRef("out", old.peer, state.pinned.get(old.peer, BLOCK)) in look.outs:
                yield old
        elif state.rules.cleanup == "timer" or _sends_newer(state, state.view.nodes[old.peer], old):
            yield old


def _sends_newer(state: State, peer: Recorded[NodeRecord], old: SaRef) -> bool:
    progress, revision = said_by(state, peer.record), pair_revision(state, peer)
    if progress is None or revision is None:
        return False
    sends = progress.sends
    if sends.revision < revision or any(behind.peer == state.me.name for behind in sends.behind):
        return False
    may_come = tuple(generation for generation in state.view.keys if generation >= sends.generation)
    return old.spi not in _spis_in(_numbers(state.me), _numbers(peer.record), may_come)


@lru_cache(_REMEMBERED_LIMIT)
def _spis_in(mine: tuple[int, int], theirs: tuple[int, int], generations: tuple[int, ...]) -> frozenset[int]:
    return frozenset(_ref("in", "", mine, theirs, each).spi for each in generations)


def deaf(state: State) -> tuple[SaRef, ...]:
    """Present IN states whose packets this node cannot decrypt: said to the sender, who then begins anew."""
    found = [old for old, sample in state.samples.items() if old.way == "in" and is_deaf(sample)]
    if not found:
        return ()
    present = {
        ref(state, "in", peer.record, generation)
        for peer in state.view.peers(state.me.name)
        for generation in state.held
    }
    return tuple(old for old in found if old in present and old in state.kernel)


def progress_of(state: State, look: Outlook, now: float) -> Progress | None:
    """What this node can truthfully publish now; None while it cannot vouch for anything."""
    registered = state.view.nodes.get(state.me.name)
    if not (state.view.synced and state.observed and state.held) or state.reincarnate:
        return None
    if registered is None or registered.revision == NOWHERE or registered.record.incarnation != state.me.incarnation:
        return None
    failed = {old.peer: CANNOT_DECRYPT for old in deaf(state)}
    if state.rules.order == "acked" and not look.ins <= state.kernel:
        for peer in look.peers:
            for generation in wanted_in(state, peer.record):
                if ref(state, "in", peer.record, generation) in state.kernel:
                    continue
                failure = state.failures.get(("in", peer.record.name, generation))
                if failure is None:
                    return None
                failed[peer.record.name] = failure.reason
    newest, waiting = max(state.held), _not_yet_sent_to(state, look)
    since = {} if state.published is None else _since(state.published)
    wall = now + state.wall_offset_seconds
    revision = _as_of(state)
    phase = _phase(state, look, bool(waiting))
    old = state.published
    return Progress(
        name=state.me.name,
        incarnation=state.me.incarnation,
        epoch=state.view.epoch,
        receives=Receives(revision, tuple(sorted(state.held)), _behind(failed, since, wall)),
        sends=Sends(revision, newest, _behind(waiting, since, wall)),
        phase=phase,
        since=old.since if old and old.phase == phase and old.sends.generation == newest else wall,
    )


def _as_of(state: State) -> int:
    # A record that was deleted takes its revision along: a listing may then end before what was said already. It is
    # complete all the same, and what was said stays said.
    said = state.published
    return max(state.view.revision, said.receives.revision if said and said.epoch == state.view.epoch else 0)


def _not_yet_sent_to(state: State, look: Outlook) -> dict[str, str]:
    newest, waiting = max(state.held), {}
    for peer in look.peers:
        if state.pinned.get(peer.record.name, BLOCK) != look.best[peer.record.name]:
            failure = state.failures.get(("out", peer.record.name, newest))
            reason = failure.reason if failure else why_not_usable(state, peer, newest)
            waiting[peer.record.name] = reason or "switching"
    return waiting


def _phase(state: State, look: Outlook, waiting: bool) -> str:
    if state.failures:
        return "degraded"
    if waiting:
        return "waiting"
    known = {peer.record.name for peer in look.peers}
    return "draining" if any(each.peer in known for each in _surplus(state.kernel, look.wanted)) else "steady"


def _since(published: Progress) -> dict[tuple[str, str], float]:
    behind = (*published.receives.behind, *published.sends.behind)
    return {(each.peer, each.reason): each.since for each in behind}


def _behind(
    reasons: dict[str, str], since: dict[tuple[str, str], float], wall: float
) -> tuple[Behind, ...]:
    return tuple(
        Behind(peer, reason, since.get((peer, reason), wall)) for peer, reason in sorted(reasons.items())
    )
