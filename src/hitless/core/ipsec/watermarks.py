"""The two watermarks and the two rules that hang on them (handover.md §3).

*Use*: send with an identity when its receiver has said that it can receive it. *Retire*: delete an IN state when
its sender has said that it sends with something newer. Everything here is a question about a `State`.
"""

from __future__ import annotations

from hitless.core.ipsec.health import is_deaf
from hitless.core.ipsec.identity import endpoint, spi
from hitless.core.ipsec.state import BLOCK, SaRef, State, Way
from hitless.core.model.node import Behind, NodeRecord, Progress, Receives, Sends
from hitless.core.model.view import NOWHERE, Recorded

CANNOT_DECRYPT = "cannot-decrypt"


def ref(state: State, way: Way, peer: NodeRecord, generation: int) -> SaRef:
    """The ref of the newest identity with a peer under a generation."""
    mine, theirs = endpoint(state.me), endpoint(peer)
    sender, receiver = (theirs, mine) if way == "in" else (mine, theirs)
    return SaRef(way, peer.name, spi(generation, sender, receiver))


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
    return max(state.held.intersection(progress.receives.generations), default=0)


def wanted_in(state: State, peer: NodeRecord) -> frozenset[int]:
    """Generations to be able to receive: the newest common one and all newer ones; all, while nothing is known."""
    if state.rules.cleanup == "timer":
        return frozenset({max(state.held)}) if state.held else frozenset()
    oldest = common_generation(state, peer) or 0
    return frozenset(generation for generation in state.held if generation >= oldest)


def wanted_out(state: State, peer: NodeRecord) -> frozenset[int]:
    """Generations to be able to send with: the newest one held, and the newest common one while that differs."""
    if not state.held:
        return frozenset()
    newest, common = max(state.held), common_generation(state, peer)
    if state.rules.cleanup == "timer" or not common:
        return frozenset({newest})
    return frozenset({newest, common})


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


def _sends_newer(state: State, peer: Recorded[NodeRecord], old: SaRef) -> bool:
    progress, revision = said_by(state, peer.record), pair_revision(state, peer)
    if progress is None or revision is None:
        return False
    sends = progress.sends
    if sends.revision < revision or any(behind.peer == state.me.name for behind in sends.behind):
        return False
    may_come = (generation for generation in state.view.keys if generation >= sends.generation)
    return old.spi not in {ref(state, "in", peer.record, generation).spi for generation in may_come}


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


def progress_of(state: State, now: float) -> Progress | None:
    """What this node can truthfully publish now; None while it cannot vouch for anything."""
    registered = state.view.nodes.get(state.me.name)
    if not (state.view.synced and state.observed and state.held) or state.reincarnate:
        return None
    if registered is None or registered.revision == NOWHERE or registered.record.incarnation != state.me.incarnation:
        return None
    failed = {old.peer: CANNOT_DECRYPT for old in deaf(state)}
    if state.rules.order == "acked":
        for peer in state.view.peers(state.me.name):
            for generation in wanted_in(state, peer.record):
                if ref(state, "in", peer.record, generation) in state.kernel:
                    continue
                failure = state.failures.get(("in", peer.record.name, generation))
                if failure is None:
                    return None
                failed[peer.record.name] = failure.reason
    newest, waiting = max(state.held), _not_yet_sent_to(state)
    since = {} if state.published is None else _since(state.published)
    wall = now + state.wall_offset_seconds
    revision = _as_of(state)
    phase = _phase(state, bool(waiting))
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


def _not_yet_sent_to(state: State) -> dict[str, str]:
    newest, waiting = max(state.held), {}
    for peer in state.view.peers(state.me.name):
        if state.pinned.get(peer.record.name, BLOCK) != ref(state, "out", peer.record, newest).spi:
            failure = state.failures.get(("out", peer.record.name, newest))
            reason = failure.reason if failure else why_not_usable(state, peer, newest)
            waiting[peer.record.name] = reason or "switching"
    return waiting


def _phase(state: State, waiting: bool) -> str:
    if state.failures:
        return "degraded"
    if waiting:
        return "waiting"
    wanted = set()
    for peer in state.view.peers(state.me.name):
        wanted |= {ref(state, "in", peer.record, each) for each in wanted_in(state, peer.record)}
        wanted |= {ref(state, "out", peer.record, each) for each in wanted_out(state, peer.record)}
    known = {peer.record.name for peer in state.view.peers(state.me.name)}
    return "draining" if any(each.peer in known for each in state.kernel - wanted) else "steady"


def _since(published: Progress) -> dict[tuple[str, str], float]:
    behind = (*published.receives.behind, *published.sends.behind)
    return {(each.peer, each.reason): each.since for each in behind}


def _behind(
    reasons: dict[str, str], since: dict[tuple[str, str], float], wall: float
) -> tuple[Behind, ...]:
    return tuple(
        Behind(peer, reason, since.get((peer, reason), wall)) for peer, reason in sorted(reasons.items())
    )
