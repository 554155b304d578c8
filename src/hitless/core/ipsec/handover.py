"""The handover: one pure function that changes the SAs between nodes without losing a packet (handover.md).

`step` folds one event, or a batch, into the state and says what to do next. It is level-triggered: effects
follow from the state alone, so events may come late, twice, together or in pieces. The same function runs in the
agent, in the simulator and in the explorer. The shell carries out all effects in order, reports each outcome as
an event, and only then calls `step` again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

import msgspec

from hitless.core.ipsec import health, rebirth, watermarks
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
    KernelEvent,
    KeysFiled,
    Measured,
    Observed,
    Publish,
    Published,
    Recalled,
    Reincarnate,
    Remove,
    Removed,
    SaRef,
    State,
    Switch,
    Switched,
    Tick,
    Used,
    WakeAt,
    Way,
)
from hitless.core.model import view as views
from hitless.core.model.node import NodeRecord, Progress, Tombstone
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
from hitless.core.plan.backoff import delay_seconds

replace = msgspec.structs.replace
_SHORT_LIST = 32
"""Peers waited for that are worth a write every publish interval."""


def step(state: State, events: Iterable[Event], now: float) -> tuple[State, tuple[Effect, ...]]:
    """The state after these events, and what has to be done now, in order. `now` is monotonic seconds."""
    state = fold_all(state, events, now)
    if not state.observed:
        return state, ()
    look = watermarks.outlook(state)
    why = rebirth.reason(state, look, now)
    if why:
        state = replace(state, reincarnate=why)
        earliest = state.reborn_at + state.rules.rebirth_pause_seconds
        return state, (Reincarnate(why),) if now >= earliest else (WakeAt(earliest),)
    state = _drains(replace(state, failures=_standing(state)), look, now)
    forgets = tuple(_forgotten(state))
    if forgets:
        state = replace(state, held=state.held.difference(each.generation for each in forgets))
        look = watermarks.outlook(state)
    installs = tuple(_installs(state, look, now))
    progress = watermarks.progress_of(state, look, now)
    publish = _publish(state, _abridged(state, progress, now), now)
    effects = (
        *(publish if state.rules.order == "advertise-first" else ()),
        *installs,
        *_switches(state, look, now),
        *(publish if state.rules.order == "acked" else ()),
        *_removals(state, now),
        *forgets,
        *_wake(state, progress),
    )
    return state, effects


def fold_all(state: State, events: Iterable[Event], now: float) -> State:
    """The state after these events, the same as one after the other: a thousand alike cost one copy of a mapping."""
    for kind, group in groupby(events, type):
        alike = list(group)
        if kind is ProgressSeen and state.rules.absent == "keep":
            said = {each.progress.name: _heard(each.progress, state.me.name) for each in alike
                    if isinstance(each, ProgressSeen)}  # fmt: skip
            if state.me.name not in said:  # what this node once said has a meaning of its own
                state = _learned(state, replace(state.view, progress={**state.view.progress, **said}))
                continue
        if kind is Switched:
            pinned = {each.peer: each.spi for each in alike if isinstance(each, Switched)}
            failures = {key: each for key, each in state.failures.items() if key[0] != "out" or key[1] not in pinned}
            state = replace(state, pinned={**state.pinned, **pinned}, failures=failures)
            continue
        for event in alike:
            state = fold(state, event, now)
    return state


def fold(state: State, event: Event, now: float) -> State:  # noqa: PLR0911 - one flat case per event
    """The state after one event; cheap, total, and free of decisions."""
    match event:
        case Listed() | NodeSeen() | KeySeen() | ProgressSeen() | TombstoneSeen() | RecordAbsent():
            view = views.fold(state.view, _concerning(event, state.me.name))
            return _learned(state, _buried(view, state.me.name) if state.rules.absent == "delete" else view)
        case KeysFiled(generations):
            return replace(state, filed=generations, held=state.held | generations)
        case Recalled(used):
            return replace(state, used=used)
        case Published(progress):
            return replace(state, published=progress, published_at=now)
        case Incarnated(me):
            return replace(
                state, me=me, reincarnate="", reborn_at=now, published=None, failures={}, drains={}, used=frozenset()
            )
        case Doubted(reason):
            return replace(state, reincarnate=state.reincarnate or reason)
        case Tick():
            return state
        case _:
            return _fold_kernel(state, event, now)


def _fold_kernel(state: State, event: KernelEvent, now: float) -> State:  # noqa: PLR0911 - as above
    match event:
        case Observed():
            return _observed(state, event)
        case Installed(refs):
            return _installed(state, refs)
        case InstallFailed():
            return _failed(state, event, now)
        case Switched(peer, spi):
            failures = {key: each for key, each in state.failures.items() if key[:2] != ("out", peer)}
            return replace(state, pinned={**state.pinned, peer: spi}, failures=failures)
        case Removed(refs):
            gone = frozenset(refs)
            drains = {ref: drain for ref, drain in state.drains.items() if ref not in gone}
            return replace(state, kernel=state.kernel - gone, drains=drains)
        case Counted(packets):
            drains = {ref: _count(drain, packets.get(ref, 0), now) for ref, drain in state.drains.items()}
            return replace(state, drains=drains)
        case Measured(samples):
            return replace(state, samples=health.judged(state.samples, samples))


def _concerning(event: StoreEvent, me: str) -> StoreEvent:
    match event:
        case Listed():
            return replace(event, progress=tuple(_heard(each, me) for each in event.progress))
        case ProgressSeen(progress):
            return ProgressSeen(_heard(progress, me))
        case _:
            return event


def _heard(progress: Progress, me: str) -> Progress:
    """What a peer says, as far as it concerns this node. A thousand peers may each except a thousand others."""
    receives, sends = progress.receives, progress.sends
    if progress.name == me or not (receives.behind or sends.behind):
        return progress
    return replace(
        progress,
        receives=replace(receives, behind=tuple(each for each in receives.behind if each.peer == me)),
        sends=replace(sends, behind=tuple(each for each in sends.behind if each.peer == me)),
    )


def _learned(state: State, view: views.View) -> State:
    # After a restart the store still holds what this incarnation said: it is not said again.
    published = state.published
    mine = view.progress.get(state.me.name)
    if published is None and mine is not None and mine.incarnation == state.me.incarnation:
        published = mine
    return replace(state, view=view, published=published)


def _buried(view: views.View, me: str) -> views.View:
    """The historic mistake: a node whose record this log does not hold counts as removed, until the record is back."""
    absent = {
        name: Recorded(Tombstone(name, node.record.node_id, node.record.incarnation), 0)
        for name, node in view.nodes.items()
        if node.revision == views.NOWHERE and name != me
    }
    return replace(view, tombstones={**view.tombstones, **absent}) if absent else view


def _observed(state: State, event: Observed) -> State:
    reason = state.reincarnate
    if event.altered:
        reason = reason or "sa-altered"
    elif state.observed and any(_is_missed(state, ref) for ref in state.kernel - event.kernel):
        reason = reason or "sa-vanished"
    return replace(state, observed=True, kernel=event.kernel, pinned=event.pinned, reincarnate=reason)


def _is_missed(state: State, ref: SaRef) -> bool:
    # What drains is on its way out anyhow. "#42" is a node that no record has named yet: when one does, the same SA
    # is seen under its name.
    return ref not in state.drains and not ref.peer.startswith("#")


def _installed(state: State, refs: tuple[SaRef, ...]) -> State:
    done = {(ref.way, ref.peer) for ref in refs}
    failures = {key: each for key, each in state.failures.items() if (key[0], key[1]) not in done}
    used = frozenset(used_by(state, refs))
    return replace(state, kernel=state.kernel.union(refs), failures=failures, used=state.used | used)


def used_by(state: State, refs: Iterable[SaRef]) -> Iterator[Used]:
    """What installing these refs uses up: to be written down before it is done."""
    for ref in refs:
        peer = state.view.nodes.get(ref.peer)
        if peer is not None:
            yield Used(ref, peer.record.incarnation.nonce)


def _failed(state: State, event: InstallFailed, now: float) -> State:
    if event.reason == "spi-in-use":
        return replace(state, reincarnate="spi-in-use")
    key = (event.way, event.peer, event.generation)
    attempts = state.failures[key].attempts + 1 if key in state.failures else 1
    wait = delay_seconds(attempts, state.rules.retry_seconds, state.rules.retry_limit_seconds)
    return replace(state, failures={**state.failures, key: Failure(event.reason, attempts, now + wait)})


def _count(drain: Drain, packets: int, now: float) -> Drain:
    if packets != drain.packets:
        return Drain(now, packets, now)
    return replace(drain, counted_at=now)


def _installs(state: State, look: watermarks.Outlook, now: float) -> Iterator[Install]:
    ways: tuple[Way, ...] = ("in", "out")
    for way in ways:  # IN for every peer first: nobody is told before all of them are there
        if (look.ins if way == "in" else look.outs) <= state.kernel:
            continue
        for peer in look.peers:
            wanted = watermarks.wanted_in if way == "in" else watermarks.wanted_out
            for generation in sorted(wanted(state, peer.record)):
                failure = state.failures.get((way, peer.record.name, generation))
                ref = watermarks.ref(state, way, peer.record, generation)
                if ref not in state.kernel and (failure is None or now >= failure.retry_at):
                    yield Install(ref, generation)


def _switches(state: State, look: watermarks.Outlook, now: float) -> Iterator[Switch]:
    for name in state.pinned if state.view.tombstones else ():
        if state.view.removed(name) and state.pinned[name] != BLOCK:
            yield Switch(name, BLOCK, 0)
    me_removed = state.view.removed(state.me.name)
    # Where the newest is in use, nothing newer can be usable, and an older one would not be gone back to.
    newest_known = max(state.held, default=0) in state.view.keys
    for peer in look.peers:
        pinned = state.pinned.get(peer.record.name, BLOCK)
        if newest_known and not me_removed and pinned == look.best[peer.record.name]:
            continue
        target = None if me_removed else _target(state, peer)
        if me_removed and pinned != BLOCK:
            yield Switch(peer.record.name, BLOCK, 0)
        elif target and target[1] != pinned and not _refused_lately(state, peer.record.name, target[0], now):
            yield Switch(peer.record.name, target[1], target[0])


def _refused_lately(state: State, peer: str, generation: int, now: float) -> bool:
    failure = state.failures.get(("out", peer, generation))
    return failure is not None and now < failure.retry_at


def _target(state: State, peer: Recorded[NodeRecord]) -> tuple[int, int] | None:
    """The newest generation usable towards a peer, with its SPI; never an older one than is in use now."""
    if state.rules.select != "acked":  # the replayed systems did not ask the peer
        spis = {watermarks.ref(state, "out", peer.record, each).spi: each for each in state.held}
        installed = [each for each in spis if SaRef("out", peer.record.name, each) in state.kernel]
        return (spis[min(installed)], min(installed)) if installed else None
    newest_first = sorted(state.held, reverse=True)
    usable = next((each for each in newest_first if not watermarks.why_not_usable(state, peer, each)), None)
    if usable is None:
        return None
    pinned = state.pinned.get(peer.record.name, BLOCK)
    newer_in_use = (
        each
        for each in state.view.keys
        if each > usable and watermarks.ref(state, "out", peer.record, each).spi == pinned
    )
    if any(newer_in_use):
        return None
    return usable, watermarks.ref(state, "out", peer.record, usable).spi


def _publish(state: State, progress: Progress | None, now: float) -> tuple[Publish, ...]:
    if progress is None or progress == state.published:
        return ()
    urgent = state.published is None or _worth(progress) != _worth(state.published)
    if urgent or now >= state.published_at + _publish_seconds(state, progress):
        return (Publish(progress),)
    return ()


def _abridged(state: State, progress: Progress | None, now: float) -> Progress | None:
    """The same without a long list of peers waited for, until that list has had its time.

    In a rotation everybody waits for everybody at first: N nodes that tell N others of N laggards each. What this node
    said of its sending before still holds, and the news that others wait for is what it receives.
    """
    said = state.published
    if progress is None or said is None or len(progress.sends.behind) <= _SHORT_LIST:
        return progress
    if (said.incarnation, said.epoch) != (progress.incarnation, progress.epoch):
        return progress
    if now >= state.published_at + _publish_seconds(state, progress):
        return progress
    return replace(progress, sends=said.sends)


def _publish_seconds(state: State, progress: Progress) -> float:
    """How long the list of peers still waited for may lag. A long list is news to nobody and is read by everybody."""
    return state.rules.publish_interval_seconds * max(1.0, len(progress.sends.behind) / _SHORT_LIST)


def _worth(progress: Progress) -> tuple[object, ...]:
    """What others wait for. The list of peers still waited for may lag by the publish interval."""
    return progress.receives, progress.sends.revision, progress.sends.generation, not progress.sends.behind


def _drains(state: State, look: watermarks.Outlook, now: float) -> State:
    drains = {ref: state.drains.get(ref, Drain(now)) for ref in watermarks.retirable(state, look)}
    return state if drains == state.drains else replace(state, drains=drains)


def _quiet_seconds(state: State) -> float:
    return state.rules.drain_seconds if state.rules.cleanup == "acked" else state.rules.cleanup_seconds


def _removals(state: State, now: float) -> Iterator[Remove | Count]:
    quiet = _quiet_seconds(state)
    by_timer, count = state.rules.cleanup == "timer", False
    for ref, drain in state.drains.items():
        at_once = state.rules.absent == "delete" and state.view.removed(ref.peer)
        end = drain.since + quiet
        if at_once or (now >= end and (by_timer or drain.counted_at >= end)):
            yield Remove(ref)
        count = count or drain.packets < 0 or drain.counted_at < end <= now
    if count and not by_timer:
        yield Count()


def _standing(state: State) -> Mapping[tuple[Way, str, int], Failure]:
    """Failures of what is still wanted: one of a retired key is no news, and nobody would ever try it again."""
    if not state.failures:
        return state.failures
    peers = {peer.record.name: peer.record for peer in state.view.peers(state.me.name)}
    standing = {}
    for (way, name, generation), failure in state.failures.items():
        wanted = watermarks.wanted_in if way == "in" else watermarks.wanted_out
        if name in peers and generation in wanted(state, peers[name]):
            standing[way, name, generation] = failure
    return standing


def _forgotten(state: State) -> Iterator[Forget]:
    old = state.held - state.filed
    if not old or not state.filed or not state.view.synced:
        return
    peers = [peer.record for peer in state.view.peers(state.me.name)]
    for generation in sorted(old):
        refs = (watermarks.ref(state, way, peer, generation) for peer in peers for way in ("in", "out"))
        # An empty kernel (after a reboot) says nothing about who still needs the key: the peers do.
        surpassed = all((watermarks.common_generation(state, peer) or 0) > generation for peer in peers)
        if generation < max(state.filed) and surpassed and not any(ref in state.kernel for ref in refs):
            yield Forget(generation)


def _wake(state: State, progress: Progress | None) -> tuple[WakeAt, ...]:
    quiet = _quiet_seconds(state)
    times = [drain.since + quiet for drain in state.drains.values()]
    times += [failure.retry_at for failure in state.failures.values()]
    if state.published is not None and progress is not None and progress != state.published:
        times.append(state.published_at + _publish_seconds(state, progress))
    return (WakeAt(min(times)),) if times else ()
