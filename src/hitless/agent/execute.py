"""Effects carried out: the handover's wishes become operations on the kernel and writes to the store.

Every outcome comes back as an event; what the kernel or the store did not confirm has not happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Generic, TypeVar, get_args

import msgspec
import structlog

from hitless.agent.registry import Registry
from hitless.core.ipsec import desired, policies, watermarks
from hitless.core.ipsec.handover import used_by
from hitless.core.ipsec.identity import generation_of
from hitless.core.ipsec.settings import IpsecSettings
from hitless.core.ipsec.state import (
    BLOCK,
    Count,
    Counted,
    Event,
    Forget,
    Install,
    Installed,
    InstallFailed,
    Measured,
    Observed,
    Publish,
    Published,
    Remove,
    Removed,
    SaRef,
    State,
    Switch,
    Switched,
    Used,
    WakeAt,
    Way,
)
from hitless.core.ipsec.state import Effect as AnyEffect
from hitless.core.model.key import MasterKey
from hitless.core.model.node import NodeRecord, Progress
from hitless.core.model.sa import ObservedSa, PolicyKey, Sa
from hitless.core.plan.actual import Actual, actual, after
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Op, Outcome, SetPolicy, Wave
from hitless.ports import Dataplane, StoreError

CrashPoint = Callable[[str], None]
T = TypeVar("T")
_LOOK_PAUSE_TIMES, _CHEAP_LOOK_SECONDS = 50.0, 0.005  # of CPU: counters may wait so many times what a look costs
_SHOWN_LIMIT = 32  # peers named in one log line, and lines for one kind of news at a time


class Executor:
    """The kernel and the store, as far as this node writes them. It alone holds key material."""

    def __init__(
        self,
        dataplane: Dataplane,
        registry: Registry,
        settings: IpsecSettings,
        writes: Callable[[], int],
        crash_point: CrashPoint,
        write_down: Callable[[frozenset[Used]], None],
    ) -> None:
        """`write_down` makes the journal durable before the identities in it reach the kernel."""
        self._keyring: dict[int, MasterKey] = {}
        self.wake_at: float | None = None
        self.retry = False
        self._dataplane, self._registry, self._settings = dataplane, registry, settings
        self._writes, self._crash_point, self._write_down = writes, crash_point, write_down
        self._actual = Actual()
        self._standing_for: tuple[object, ...] = ()
        self._shape: object = object()  # another one whenever policies of ours come or go
        self._compared: dict[SaRef, tuple[NodeRecord, NodeRecord, tuple[Sa, ...]]] = {}
        self._looked_at = self._look_seconds = 0.0
        self._count_at = 0.0
        self._out_keys: dict[str, tuple[NodeRecord, NodeRecord, tuple[PolicyKey, ...]]] = {}
        self._refused: dict[str, str] = {}
        self._log = structlog.get_logger()

    @property
    def writes(self) -> int:
        """Messages that change the kernel, sent so far."""
        return self._writes()

    def load_keys(self, keys: Mapping[int, MasterKey]) -> None:
        """Take up the keys of a file, by generation."""
        for generation, key in keys.items():
            if generation not in self._keyring:
                self._log.info("key-loaded", generation=generation, key_id=key.key_id, algorithm=key.spec.label)
        self._keyring.update(keys)
        self._crash_point("key-loaded")

    async def observe(self, state: State) -> tuple[Observed, Counted, Measured]:
        """A full look at the kernel, as the handover sees it."""
        refs = await self._look(state)
        counted, measured = _counters(refs)
        return self._judge(state, refs), counted, measured

    async def _count(self, state: State) -> list[Event]:
        """The counters alone; later, where looking is dear and the last look is not long ago."""
        now = time.monotonic()
        due = self._looked_at + _LOOK_PAUSE_TIMES * self._look_seconds
        if now < due and self._look_seconds >= _CHEAP_LOOK_SECONDS:
            self._count_at = due
            return []
        return list(_counters(await self._look(state)))

    async def _look(self, state: State) -> dict[SaRef, tuple[ObservedSa, ...]]:
        began = time.thread_time()
        found = await asyncio.to_thread(self._dataplane.observe)
        before, self._actual = self._actual, actual(found, self._dataplane.owns)
        if before.policies != self._actual.policies:
            self._standing_for = ()
        refs = desired.by_ref(state, self._actual, self._settings)
        self._looked_at, self._look_seconds = time.monotonic(), time.thread_time() - began
        return refs

    def _judge(self, state: State, refs: Mapping[SaRef, tuple[ObservedSa, ...]]) -> Observed:
        """The same as `desired.observed`, which derives every key; here an SA is compared with its derived self once.

        What was right, and is what it was, is right. Other records, or a key that was not there, void the comparison.
        """
        fresh = {ref: group for ref, group in refs.items() if not self._is_compared(state, ref, group)}
        nodes = {ref.peer: state.view.nodes[ref.peer] for ref in fresh if ref.peer in state.view.nodes}
        some = Actual(sas={each.sa.key: each for group in fresh.values() for each in group})
        narrow = msgspec.structs.replace(state, view=msgspec.structs.replace(state.view, nodes=nodes))
        seen = desired.observed(narrow, self._keyring, some, self._settings)
        self._compared = {ref: each for ref, each in self._compared.items() if ref in refs and ref not in fresh}
        for ref in (seen.kernel - seen.altered) & self._derivable(narrow):
            self._remember(state, ref, tuple(each.sa for each in fresh[ref]))
        return Observed(seen.kernel.union(refs.keys() - fresh.keys()), self._pinned(state), seen.altered)

    def _pinned(self, state: State) -> dict[str, int]:
        """As in `desired.observed`, without making every policy of every peer anew to learn its selector."""
        names, found = desired.peer_names(state), defaultdict[str, set[int]](set)
        for key, each in self._actual.policies.items():
            template = each.policy.template
            if key.direction == "out" and template is not None:
                peer_id = template.reqid - self._settings.reqid_base
                found[names.get(peer_id, f"#{peer_id}")].add(template.spi)
        for peer in state.view.peers(state.me.name):
            there = [self._actual.policies.get(key) for key in self._out_keys_of(state, peer.record)]
            if any(each is None or each.policy.template is None for each in there):
                found[peer.record.name].add(BLOCK)
        return {name: spis.pop() if len(spis) == 1 else BLOCK for name, spis in found.items()}

    def _out_keys_of(self, state: State, peer: NodeRecord) -> tuple[PolicyKey, ...]:
        me, them, keys = self._out_keys.get(peer.name, (None, None, ()))
        if (me, them) != (state.me, peer):
            keys = tuple(policy.key for policy in policies.peer_out(state.me, peer, BLOCK, self._settings))
            self._out_keys[peer.name] = state.me, peer, keys
        return keys

    def _derivable(self, state: State) -> set[SaRef]:
        """What there is a key for; anything else was not compared with anything."""
        peers = [peer.record for peer in state.view.peers(state.me.name)]
        generations, ways = state.held & self._keyring.keys(), get_args(Way)
        return {watermarks.ref(state, way, peer, each) for way in ways for peer in peers for each in generations}

    def _is_compared(self, state: State, ref: SaRef, group: tuple[ObservedSa, ...]) -> bool:
        known, peer = self._compared.get(ref), state.view.nodes.get(ref.peer)
        now = tuple(each.sa for each in group)
        return known is not None and peer is not None and known == (state.me, peer.record, now)

    def _remember(self, state: State, ref: SaRef, sas: tuple[Sa, ...]) -> None:
        peer = state.view.nodes.get(ref.peer)
        if peer is not None:
            self._compared[ref] = state.me, peer.record, sas

    async def stand(self, state: State) -> None:
        """Guards and standing policies: before anything else, and whenever nodes come, change or go."""
        basis = (state.view.nodes, state.view.tombstones, state.view.synced, self._footing(state))
        if len(basis) == len(self._standing_for) and all(
            new is old for new, old in zip(basis, self._standing_for, strict=True)
        ):
            return
        ops = desired.standing_ops(state, self._actual, self._settings)
        outcomes = await self._apply(ops)
        if ops:
            self._log.info("policies-written", count=sum(each.ok for each in outcomes))
        if all(each.ok for each in outcomes):
            self._standing_for = (*basis[:3], self._footing(state))
        else:
            self.retry = True

    def _footing(self, state: State) -> object:
        """What of the kernel the standing policies depend on, to be compared by identity.

        As a rule nothing but which policies there are. Where a node was removed, or something belongs to a node that
        nobody has named, what may be swept away depends on every SA.
        """
        if state.view.tombstones or not state.view.synced or not self._all_named(state):
            return self._actual
        return self._shape

    def _all_named(self, state: State) -> bool:
        names = desired.peer_names(state)
        reqids = {each.sa.reqid for each in self._actual.sas.values()}
        reqids |= {each.policy.template.reqid for each in self._actual.policies.values() if each.policy.template}
        return all(each - self._settings.reqid_base in names for each in reqids)

    async def carry_out(self, state: State, effects: Sequence[AnyEffect]) -> list[Event]:
        """All effects in order; what came of them."""
        events: list[Event] = []
        self.wake_at, self._count_at = None, 0.0
        for kind, group in groupby(effects, type):
            some = tuple(group)
            if kind is Install:
                events += await self._install(state, [each for each in some if isinstance(each, Install)])
            elif kind is Switch:
                events += await self._switch(state, [each for each in some if isinstance(each, Switch)])
            elif kind is Remove:
                events += await self._remove(state, [each for each in some if isinstance(each, Remove)])
            for effect in some:
                match effect:
                    case Publish():
                        events += await self._publish(state, effect)
                    case Count():
                        events += await self._count(state)
                    case Forget(generation):
                        self._keyring.pop(generation, None)
                        old = {ref for ref in self._compared if generation_of(ref.spi, generation) == generation}
                        self._compared = {ref: each for ref, each in self._compared.items() if ref not in old}
                        self._log.info("key-forgotten", generation=generation)
                    case WakeAt(at):
                        self.wake_at = at
        if self._count_at:
            self.wake_at = max(self._count_at, self.wake_at or 0.0)
        return events

    async def _apply(self, wave: Wave) -> tuple[Outcome, ...]:
        if not wave:
            return ()
        outcomes = await asyncio.to_thread(self._dataplane.apply, wave)
        if any(_changes_shape(each.op, self._actual) for each in outcomes):
            self._shape = object()
        self._actual = after(self._actual, outcomes)
        for outcome in outcomes:
            if self._refused or not outcome.ok:
                self._tell_refused(outcome)
        return outcomes

    def _tell_refused(self, outcome: Outcome) -> None:
        # What is tried again and again is said once, until its outcome changes.
        op = _shown(outcome.op)
        if outcome.error != self._refused.get(op, ""):
            if outcome.ok:
                del self._refused[op]
                return
            self._refused[op] = outcome.error
            self._log.warning("kernel-refused", op=op, code=outcome.error, why=outcome.detail)

    async def _install(self, state: State, installs: list[Install]) -> list[Event]:
        events: list[Event] = []
        nonces = {name: node.record.incarnation.nonce for name, node in state.view.nodes.items()}
        known = (each for each in state.used if nonces.get(each.ref.peer, each.nonce) == each.nonce)
        used = frozenset((*known, *used_by(state, (each.ref for each in installs))))
        await asyncio.to_thread(self._write_down, used)
        for way, some in groupby(installs, lambda each: each.ref.way):
            began, wave, wanted = time.monotonic(), _Wave[Install](), dict[SaRef, tuple[Sa, ...]]()
            for install in some:
                peer = state.view.nodes[install.ref.peer].record
                wanted[install.ref] = desired.sas(
                    state.me, peer, way, install.generation, self._keyring, self._settings
                )
                wave.add(install, desired.install_ops(wanted[install.ref], self._actual))
            done, failed = wave.sort(await self._apply(wave.ops))
            for install in done:
                self._remember(state, install.ref, wanted[install.ref])
            events += [self._failed(install, outcome) for install, outcome in failed]
            events.append(Installed(tuple(each.ref for each in done)))
            self._tell_installed(f"{way}-installed", done, time.monotonic() - began)
        return events

    def _failed(self, install: Install, outcome: Outcome) -> InstallFailed:
        reason = "spi-in-use" if outcome.error == "exists" else "install-failed"
        where = {"peer": install.ref.peer, "generation": install.generation, "way": install.ref.way}
        self._log.warning("install-failed", code=outcome.error, why=outcome.detail, **where)
        return InstallFailed(install.ref.way, install.ref.peer, install.generation, reason)

    def _tell_installed(self, event: str, done: list[Install], seconds: float) -> None:
        for generation, count in sorted(Counter(each.generation for each in done).items()):
            peers = sorted(each.ref.peer for each in done if each.generation == generation)
            peer = peers[0] if count == 1 else ""
            self._log.info(event, generation=generation, count=count, seconds=round(seconds, 6), peer=peer)
        if done:
            self._crash_point(event)

    async def _switch(self, state: State, switches: list[Switch]) -> list[Event]:
        wave = _Wave[Switch]()
        for switch in switches:
            node = state.view.nodes.get(switch.peer)
            if node is not None:
                wave.add(switch, self._switch_ops(state, node.record, switch.spi))
        done, failed = wave.sort(await self._apply(wave.ops))
        events: list[Event] = [
            InstallFailed("out", switch.peer, switch.generation, "policy-refused") for switch, _ in failed
        ]
        events += [Switched(switch.peer, switch.spi) for switch in done]
        for switch in done[:_SHOWN_LIMIT]:
            was, now = f"{state.pinned.get(switch.peer, BLOCK):#010x}", f"{switch.spi:#010x}"
            self._log.info("peer-switched", generation=switch.generation, peer=switch.peer, spi=now, was=was)
            self._crash_point("peer-switched")
        self._tell_rest("peer-switched", [switch.generation for switch in done])
        return events

    def _switch_ops(self, state: State, peer: NodeRecord, spi: int) -> tuple[Op, ...]:
        # Only a policy that is new needs an index that no other has: for the rest, its own policies are enough to see.
        found = self._actual.policies
        keys = self._out_keys_of(state, peer)
        known = {key: found[key] for key in keys if key in found}
        there = Actual(policies=known) if len(known) == len(keys) else self._actual
        return desired.switch_ops(state, peer, spi, there, self._settings)

    async def _publish(self, state: State, effect: Publish) -> list[Event]:
        progress, before = effect.progress, state.published
        try:
            revision = await self._registry.publish(progress)
        except StoreError as error:
            self._log.warning("publish-failed", code=error.code, why=str(error))
            self.retry = True
            return []
        self._log.info(
            "published",
            generation=progress.sends.generation,
            phase=progress.phase,
            receives=progress.receives.revision,
            generations=progress.receives.generations,
            behind=_some(progress),
            revision=revision,
        )
        fresh = before is None or before.receives != progress.receives
        self._crash_point("published-receives" if fresh else "published-sends")
        return [Published(progress)]

    async def _remove(self, state: State, removes: list[Remove]) -> list[Event]:
        refs = desired.by_ref(state, self._actual, self._settings)
        newest = max(state.view.newest_generation(), max(state.held, default=0))
        self._tell_old("drained", [each.ref for each in removes], newest)
        wave = tuple(DelSa(each.sa.key) for remove in removes for each in refs.get(remove.ref, ()))
        outcomes = await self._apply(wave)
        failed = {each.op.key for each in outcomes if isinstance(each.op, DelSa) and _still_there(each)}
        gone = []
        for remove in removes:
            if any(each.sa.key in failed for each in refs.get(remove.ref, ())):
                self.retry = True
                continue
            gone.append(remove.ref)
        self._tell_old("retired", gone, newest)
        return [Removed(tuple(gone))]

    def _tell_old(self, event: str, refs: Sequence[SaRef], newest: int) -> None:
        for ref in refs[:_SHOWN_LIMIT]:
            generation = generation_of(ref.spi, newest)
            self._log.info(event, generation=generation, peer=ref.peer, way=ref.way, spi=f"{ref.spi:#010x}")
            self._crash_point(event)
        self._tell_rest(event, [generation_of(ref.spi, newest) for ref in refs])

    def _tell_rest(self, event: str, generations: Sequence[int]) -> None:
        """One line for all that came in the same wave beyond the first few."""
        for generation, count in sorted(Counter(generations[_SHOWN_LIMIT:]).items()):
            self._log.info(event, generation=generation, peer="", count=count)


class _Wave(Generic[T]):
    """Operations of several effects in one wave, and afterwards what became of each effect."""

    def __init__(self) -> None:
        self._ops: list[Op] = []
        self._spans: list[tuple[T, int, int]] = []

    @property
    def ops(self) -> Wave:
        return tuple(self._ops)

    def add(self, effect: T, ops: Wave) -> None:
        self._spans.append((effect, len(self._ops), len(self._ops) + len(ops)))
        self._ops.extend(ops)

    def sort(self, outcomes: Sequence[Outcome]) -> tuple[list[T], list[tuple[T, Outcome]]]:
        """Effects that are done, and those that are not with their first failure."""
        done: list[T] = []
        failed: list[tuple[T, Outcome]] = []
        for effect, first, last in self._spans:
            bad = next((each for each in outcomes[first:last] if not each.ok), None)
            if bad is None:
                done.append(effect)
            else:
                failed.append((effect, bad))
        return done, failed


def _counters(refs: Mapping[SaRef, tuple[ObservedSa, ...]]) -> tuple[Counted, Measured]:
    wall = time.time()
    counted = {ref: sum(each.counters.packets for each in group) for ref, group in refs.items()}
    samples = {ref: desired.sample(group, wall) for ref, group in refs.items()}
    return Counted(counted), Measured(samples)


def _changes_shape(op: Op, before: Actual) -> bool:
    return isinstance(op, DelPolicy) or (isinstance(op, SetPolicy) and op.policy.key not in before.policies)


def _some(progress: Progress) -> list[str]:
    """Who is behind and why, for a log line: the first few of a long list, and how many there are."""
    behind = (*progress.receives.behind, *progress.sends.behind)
    shown = [f"{each.peer}: {each.reason}" for each in behind[:_SHOWN_LIMIT]]
    return [*shown, f"and {len(behind) - len(shown)} more"] if len(behind) > len(shown) else shown


def _still_there(outcome: Outcome) -> bool:
    return not outcome.ok and outcome.error != "no-such-sa"


def _shown(op: Op) -> str:
    """An operation without its keys."""
    match op:
        case AddSa(sa):
            return f"add-sa {sa.src} > {sa.dst} spi {sa.spi:#010x}"
        case DelSa(key):
            return f"del-sa {key.dst} spi {key.spi:#010x}"
        case _:
            key_of = op.policy.key if hasattr(op, "policy") else op.key
            return f"policy {key_of.direction} {key_of.selector.src} > {key_of.selector.dst}"
