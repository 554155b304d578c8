"""One node of the handover model: the real `handover.step`, a kernel, and effects still on their way to it.

The kernel of the model holds *identities*, not only SPIs: who sends, who receives, both lives, the generation. That
is what decides whether a packet can be decrypted, and what the protocol itself never sees.

Time is relative. `now` is always `NOW`; a tick moves everything that the state remembers back by one drain time, and
what is older than that is all the same. So a node that has waited twice as long is in the same state.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

import msgspec

from hitless.core.ipsec import handover
from hitless.core.ipsec.state import (
    BLOCK,
    Count,
    Counted,
    Doubted,
    Drain,
    Effect,
    Event,
    Failure,
    Forget,
    Incarnated,
    Install,
    Installed,
    InstallFailed,
    KeysFiled,
    Observed,
    Publish,
    Published,
    Recalled,
    Reincarnate,
    Remove,
    Removed,
    Rules,
    SaRef,
    State,
    Switch,
    Switched,
    Tick,
    Used,
    WakeAt,
)
from hitless.core.model.node import Behind, Incarnation, KeyRecord, NodeRecord, Progress
from hitless.core.model.view import Listed, View

NOW = 1000.0
replace = msgspec.structs.replace


class Ident(NamedTuple):
    """The inputs of an SA's key: two are the same key exactly if they are equal."""

    sender: str
    sender_nonce: str
    receiver: str
    receiver_nonce: str
    generation: int


class Todo(NamedTuple):
    """An effect that the shell has yet to carry out, and for an install the identity it was decided for."""

    effect: Effect
    ident: Ident | None = None


class Node(msgspec.Struct, frozen=True):
    """A node, from outside: what it knows (`state`), what is so (`kernel`, `pinned`), and what was (the rest).

    `file` is in the key file and survives the agent, as do `kernel` and `pinned`; a key whose file is gone does not.
    `flight` is everything sent since the last tick that may still arrive. `lost` are states that a fault or a tombstone
    took away, `spent` what was ever deleted, `said` the progress record in the store. `journal` is what the state
    directory says was installed in this incarnation. A `barred` node knows that it was removed and may not register.
    `retired`: it has deleted an SA of the first generation itself. `asks` is what `handover.step` says now: the state
    and the effects; None while effects are pending.
    """

    state: State
    file: frozenset[int] = frozenset()
    pending: tuple[Todo, ...] = ()
    kernel: frozenset[tuple[SaRef, Ident]] = frozenset()
    pinned: frozenset[tuple[str, int]] = frozenset()
    flight: frozenset[Ident] = frozenset()
    lost: frozenset[Ident] = frozenset()
    spent: frozenset[tuple[str, Ident]] = frozenset()
    journal: frozenset[Used] = frozenset()
    said: Progress | None = None
    barred: bool = False
    retired: bool = False
    wrong: str = ""
    asks: tuple[State, tuple[Effect, ...]] | None = None

    @property
    def name(self) -> str:
        return self.state.me.name


Put = NodeRecord | KeyRecord | Progress
"""What a node writes to the store."""


def incarnation(name: str, counter: int) -> Incarnation:
    """The model's nonces: unique, and readable in a story."""
    return Incarnation(counter, f"{name}/{counter}")


def record(name: str, node_id: int, counter: int = 1) -> NodeRecord:
    return NodeRecord(name, node_id, incarnation(name, counter), (f"192.0.2.{node_id}",))


def next_life(me: NodeRecord) -> NodeRecord:
    """The node's record in its next incarnation."""
    return replace(me, incarnation=incarnation(me.name, me.incarnation.counter + 1))


def fresh(me: NodeRecord, rules: Rules, file: frozenset[int]) -> Node:
    """A node before anything has happened."""
    return Node(state=State(me=me, rules=rules, wall_offset_seconds=-NOW), file=file)


# --- what can happen to a node ----------------------------------------------------------------------------


def hear(node: Node, events: Iterable[Event]) -> Node:
    """The node learns something. What it does about it is another step: meanwhile it may learn more."""
    state = node.state
    for event in events:
        state = handover.fold(state, event, NOW)
    return trimmed(_calm(replace(node, state=normal(state))))


def can_decide(node: Node) -> bool:
    """Whether the protocol would now ask for something."""
    return node.asks is not None and bool(node.asks[1])


def decide(node: Node) -> Node:
    """One call of `handover.step`; its effects are then pending, in order."""
    state, effects = _decision(node) if node.asks is None else node.asks
    todos = tuple(Todo(each, _ident(state, each) if isinstance(each, Install) else None) for each in effects)
    # The shell writes down what a wave of installs uses up before the first of them reaches the kernel.
    journal = node.journal.union(handover.used_by(state, (each.ref for each in effects if isinstance(each, Install))))
    return trimmed(_calm(replace(node, state=normal(state), pending=todos, journal=journal)))


def perform(node: Node) -> tuple[Node, Put | None]:
    """The first pending effect succeeds; also what it writes to the store."""
    todo, rest = node.pending[0], replace(node, pending=node.pending[1:])
    match todo.effect:
        case Install(ref):
            return _install(rest, ref, todo), None
        case Switch(peer, spi):
            return _switch(rest, peer, spi), None
        case Remove(ref):
            gone = {pair for pair in rest.kernel if pair[0] == ref}
            spent = rest.spent | {(ref.way, ident) for _, ident in gone}
            # Who was removed on purpose may not know it yet: what it still sends is meant to be lost.
            stone = rest.state.view.tombstones.get(ref.peer)
            lost = rest.lost | ({ident for _, ident in gone} if stone and stone.revision > 0 else set())
            left = replace(rest, kernel=rest.kernel - gone, spent=spent, lost=lost)
            retired = rest.retired or any(ident.generation == 1 for _, ident in gone)
            return hear(replace(left, retired=retired), [Removed((ref,))]), None
        case Publish(progress):
            wrong = rest.wrong or _went_back(rest.said, progress)
            return hear(replace(rest, said=plain(progress), wrong=wrong), [Published(progress)]), plain(progress)
        case Reincarnate():
            reborn = next_life(node.state.me)
            return hear(replace(rest, said=None, journal=frozenset()), [Incarnated(reborn)]), reborn
        case _:
            raise AssertionError(f"not an effect that waits: {todo.effect!r}")


def refuse(node: Node) -> Node:
    """The first pending effect, an install, fails."""
    install = node.pending[0].effect
    assert isinstance(install, Install)  # noqa: S101 - offered for installs only
    event = InstallFailed(install.ref.way, install.ref.peer, install.generation, "no-memory")
    return hear(replace(node, pending=node.pending[1:]), [event])


def tick(node: Node) -> Node:
    """A whole drain time passes: what was on the wire has arrived; what is in use now may still be."""
    aged = _aged(node.state, node.state.rules.drain_seconds)
    return hear(replace(node, state=aged, flight=frozenset(in_use(node))), [Tick()])


def load(node: Node, generation: int) -> Node:
    """The operator replaced the key file, and the node has read it. The key is registered already."""
    filed = frozenset({generation})
    return hear(replace(node, file=filed), [KeysFiled(filed)])


def restart(node: Node, listed: Listed) -> Node:
    """The agent died, whatever it was doing, and a new one starts. The kernel has not noticed."""
    state = State(me=node.state.me, rules=node.state.rules, wall_offset_seconds=-NOW)
    refs = frozenset(ref for ref, _ in node.kernel)
    observed = Observed(refs, dict(node.pinned))
    events: list[Event] = [listed, Recalled(node.journal), KeysFiled(node.file), observed]
    return hear(replace(node, state=state, pending=(), barred=False), events)


def reboot(node: Node, listed: Listed) -> Node:
    """The machine restarts: the kernel is empty, and the node begins a new life."""
    me = node.state.me
    if node.state.rules.rebirth == "new-key":
        me = next_life(me)
    emptied = replace(
        node,
        state=replace(node.state, me=me),
        kernel=frozenset(),
        pinned=frozenset(),
        lost=node.lost | {ident for _, ident in node.kernel},
        spent=node.spent | {(ref.way, ident) for ref, ident in node.kernel},
        said=None,
        journal=frozenset(),
    )
    return restart(emptied, listed)


def readdress(node: Node, listed: Listed) -> Node:
    """The agent starts with another underlay address: the kernel is as it was, and the node begins a new life.

    Packets to the old address still arrive: it has to stay until the handover is over.
    """
    reborn = replace(next_life(node.state.me), addresses=(f"198.51.100.{node.state.me.node_id}",))
    moved = replace(node, state=replace(node.state, me=reborn), said=None, journal=frozenset())
    return restart(moved, listed)


def notice(node: Node) -> Node:
    """A removed node finds that it was taken back. Peers have deleted what they had for its present life."""
    return hear(replace(node, barred=False), [Doubted("restored")])


def vanish(node: Node, ref: SaRef) -> Node:
    """Somebody deletes one SA, and the node sees it."""
    gone = {pair for pair in node.kernel if pair[0] == ref}
    left = node.kernel - gone
    lost = node.lost | {ident for _, ident in gone}
    spent = node.spent | {(ref.way, ident) for _, ident in gone}
    observed = Observed(frozenset(each for each, _ in left), dict(node.pinned))
    return hear(replace(node, kernel=left, lost=lost, spent=spent), [observed])


# --- inside -----------------------------------------------------------------------------------------------


def _decision(node: Node) -> tuple[State, tuple[Effect, ...]]:
    state, effects = handover.step(node.state, (), NOW)
    return state, tuple(each for each in effects if not isinstance(each, WakeAt))


def _calm(node: Node) -> Node:
    """Carry out at once what nobody else can see: reading counters, dropping a key, starting a drain, and saying what
    is there for people only."""
    while node.pending and _is_unseen(node, node.pending[0].effect):
        effect, node = node.pending[0].effect, replace(node, pending=node.pending[1:])
        if isinstance(effect, Count):
            # Nothing ever arrives late in the counters: the most hopeful reading, hence the earliest removal.
            counted = Counted(dict.fromkeys(node.state.drains, 0))
            node = replace(node, state=normal(handover.fold(node.state, counted, NOW)))
        elif isinstance(effect, Publish):
            node = replace(node, state=normal(handover.fold(node.state, Published(effect.progress), NOW)))
    if node.pending:
        return replace(node, asks=None)
    state, effects = _decision(node)
    if effects and all(_is_unseen(node, each) for each in effects):
        return _calm(replace(node, state=normal(state), pending=tuple(Todo(each) for each in effects)))
    if not effects and (settled := normal(state)) != node.state:
        return _calm(replace(node, state=settled))
    return replace(node, asks=(state, effects))


def _is_unseen(node: Node, effect: Effect) -> bool:
    """Whether it changes nothing but this node's own mind; the store holds the same afterwards (`plain`)."""
    return isinstance(effect, Count | Forget) or (isinstance(effect, Publish) and plain(effect.progress) == node.said)


def _install(node: Node, ref: SaRef, todo: Todo) -> Node:
    ident = todo.ident
    assert ident is not None  # noqa: S101 - `decide` gives every install its identity
    if any(each == ref for each, _ in node.kernel):
        return hear(node, [InstallFailed(ref.way, ref.peer, ident.generation, "spi-in-use")])
    return hear(replace(node, kernel=node.kernel | {(ref, ident)}), [Installed((ref,))])


def _switch(node: Node, peer: str, spi: int) -> Node:
    pinned = frozenset({*((name, each) for name, each in node.pinned if name != peer), (peer, spi)})
    used = {ident for ref, ident in node.kernel if ref == SaRef("out", peer, spi)}
    # Whether the SPI has an OUT state is asked of every state, not only here: see `unpinned`.
    sent = replace(node, pinned=pinned, flight=node.flight | used)
    return hear(sent, [Switched(peer, spi)])


def in_use(node: Node) -> set[Ident]:
    """What the node sends with now."""
    pinned = dict(node.pinned)
    return {ident for ref, ident in node.kernel if ref.way == "out" and pinned.get(ref.peer) == ref.spi}


def unpinned(node: Node) -> str:
    """What is wrong where a policy pins an SPI without an OUT state (that no fault took away)."""
    refs = {ref for ref, _ in node.kernel}
    for peer, spi in node.pinned:
        lost = any(ident.sender == node.name and ident.receiver == peer for ident in node.lost)
        if spi != BLOCK and SaRef("out", peer, spi) not in refs and not lost:
            return f"{node.name} deleted the OUT state that it sends to {peer} with"
    return ""


def _ident(state: State, install: Install) -> Ident:
    me, peer = state.me, state.view.nodes[install.ref.peer].record
    sender, receiver = (peer, me) if install.ref.way == "in" else (me, peer)
    return Ident(sender.name, sender.incarnation.nonce, receiver.name, receiver.incarnation.nonce, install.generation)


def _went_back(said: Progress | None, says: Progress) -> str:
    if said is None or said.epoch != says.epoch or said.incarnation != says.incarnation:
        return ""
    if max(says.receives.generations) < max(said.receives.generations):
        return f"{says.name} takes back a key"
    received = (said.receives.revision, said.receives.generations), (says.receives.revision, says.receives.generations)
    sent = (said.sends.revision, said.sends.generation), (says.sends.revision, says.sends.generation)
    if says.receives.revision < said.receives.revision or sent[1][0] < sent[0][0] or sent[1][1] < sent[0][1]:
        return f"{says.name}'s watermarks go back"
    if received[0] == received[1] and _names(says.receives.behind) - _names(said.receives.behind):
        return f"{says.name} takes back whom it receives from"
    if sent[0] == sent[1] and _names(says.sends.behind) - _names(said.sends.behind):
        return f"{says.name} takes back whom it sends to"
    return ""


def _names(behind: tuple[Behind, ...]) -> set[str]:
    return {each.peer for each in behind}


def plain(progress: Progress) -> Progress:
    """A progress record without what is there for people only: fewer states that differ in nothing."""
    receives = replace(progress.receives, behind=tuple(Behind(each.peer, "") for each in progress.receives.behind))
    sends = replace(progress.sends, behind=tuple(Behind(each.peer, "") for each in progress.sends.behind))
    return replace(progress, receives=receives, sends=sends, phase="", since=0.0)


def key(node: Node) -> Hashable:
    """What tells nodes apart: two with the same key behave alike."""
    state = node.state
    view = state.view
    return (
        state.me,
        (view.epoch, view.synced, view.revision),
        frozenset(view.nodes.items()),
        frozenset(view.keys.items()),
        frozenset(view.progress.items()),
        frozenset(view.tombstones.items()),
        (state.filed, state.held, state.observed, state.kernel, state.reincarnate, state.used),
        frozenset(state.pinned.items()),
        frozenset(state.failures.items()),
        frozenset(state.drains.items()),
        (state.published, state.published_at),
        (node.file, node.pending, node.kernel, node.pinned, node.barred),
        (node.flight, node.lost, node.spent, node.journal, node.said, node.wrong, node.retired),
    )


def normal(state: State) -> State:
    """The state with everything forgotten that cannot matter any more."""
    drain_seconds = state.rules.drain_seconds
    drains = {
        ref: Drain(_since(state, each), each.packets, _clamp(each.counted_at, drain_seconds))
        for ref, each in state.drains.items()
    }
    failures = {key: Failure(each.reason, 1, max(each.retry_at, NOW)) for key, each in state.failures.items()}
    return replace(
        state,
        view=_settled_view(state),
        drains=drains,
        failures=failures,
        published_at=said_at(state),
        reborn_at=-1e9,  # a pause between two incarnations only delays
    )


def _since(state: State, drain: Drain) -> float:
    # What was never counted begins to drain when it is.
    counts = state.rules.cleanup != "timer"
    return NOW if counts and drain.packets < 0 else max(drain.since, NOW - state.rules.drain_seconds)


def trimmed(node: Node) -> Node:
    """The node without what it remembers and can never matter again.

    Nobody goes back to an earlier incarnation, and no key comes back that is neither held nor in the file. What a fault
    took away excuses a node that goes on sending with it, until it has decided anew.
    """
    me, oldest = node.state.me, min(node.state.held | node.file)
    lives = {name: each.record.incarnation.nonce for name, each in node.state.view.nodes.items()}
    lives[me.name] = me.incarnation.nonce

    def returns(ident: Ident) -> bool:
        ends = (ident.sender, ident.sender_nonce), (ident.receiver, ident.receiver_nonce)
        return ident.generation >= oldest and all(lives.get(name, nonce) == nonce for name, nonce in ends)

    present = {(ref.way, ident) for ref, ident in node.kernel}
    settled = frozenset[str]() if node.pending else {ident.receiver for ident in in_use(node)}
    known = frozenset(each for each in node.state.used if lives.get(each.ref.peer, each.nonce) == each.nonce)
    return replace(
        node,
        state=replace(node.state, used=known),
        spent=frozenset(each for each in node.spent if each in present or returns(each[1])),
        journal=frozenset(each for each in node.journal if lives.get(each.ref.peer, each.nonce) == each.nonce),
        lost=frozenset(each for each in node.lost if each.receiver not in settled),
    )


def said_at(state: State) -> float:
    """When the node last said something, as far as it matters.

    Whether the list of peers waited for is empty is said at once. So only where there are two of them may what a peer
    can see lag behind by the interval.
    """
    since = NOW - state.rules.publish_interval_seconds
    return max(state.published_at, since) if len(state.view.nodes) > 2 else since


def _settled_view(state: State) -> View:
    # What this node itself said matters only until it knows that it said it.
    if state.published is None or state.me.name not in state.view.progress:
        return state.view
    others = {name: each for name, each in state.view.progress.items() if name != state.me.name}
    return replace(state.view, progress=others)


def _clamp(counted_at: float, drain_seconds: float) -> float:
    return counted_at if counted_at < 0 else max(counted_at, NOW - drain_seconds)


def _aged(state: State, seconds: float) -> State:
    drains = {
        ref: Drain(each.since - seconds, each.packets, each.counted_at - seconds if each.packets >= 0 else -1.0)
        for ref, each in state.drains.items()
    }
    failures = {
        key: Failure(each.reason, each.attempts, each.retry_at - seconds) for key, each in state.failures.items()
    }
    return replace(state, drains=drains, failures=failures, published_at=state.published_at - seconds)
