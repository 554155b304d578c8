"""Effects carried out: the handover's wishes become operations on the kernel and writes to the store.

Every outcome comes back as an event; what the kernel or the store did not confirm has not happened.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Generic, TypeVar

import structlog

from hitless.agent.registry import Registry
from hitless.core.ipsec import desired
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
    State,
    Switch,
    Switched,
    Used,
    WakeAt,
)
from hitless.core.ipsec.state import Effect as AnyEffect
from hitless.core.model.key import MasterKey
from hitless.core.plan.actual import Actual, actual, after
from hitless.core.plan.ops import AddSa, DelSa, Op, Outcome, Wave
from hitless.ports import Dataplane, StoreError

CrashPoint = Callable[[str], None]
T = TypeVar("T")


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
        found = await asyncio.to_thread(self._dataplane.observe)
        self._actual = actual(found, self._dataplane.owns)
        self._standing_for = ()
        refs = desired.by_ref(state, self._actual, self._settings)
        counted = {ref: sum(each.counters.packets for each in group) for ref, group in refs.items()}
        samples = {ref: desired.sample(group, time.time()) for ref, group in refs.items()}
        seen = desired.observed(state, self._keyring, self._actual, self._settings)
        return seen, Counted(counted), Measured(samples)

    async def stand(self, state: State) -> None:
        """Guards and standing policies: before anything else, and whenever nodes come, change or go."""
        basis = (state.view.nodes, state.view.tombstones, state.view.synced, self._actual)
        if len(basis) == len(self._standing_for) and all(
            new is old for new, old in zip(basis, self._standing_for, strict=True)
        ):
            return
        ops = desired.standing_ops(state, self._actual, self._settings)
        outcomes = await self._apply(ops)
        if ops:
            self._log.info("policies-written", count=sum(each.ok for each in outcomes))
        if all(each.ok for each in outcomes):
            self._standing_for = (*basis[:3], self._actual)
        else:
            self.retry = True

    async def carry_out(self, state: State, effects: Sequence[AnyEffect]) -> list[Event]:
        """All effects in order; what came of them."""
        events: list[Event] = []
        self.wake_at = None
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
                        events += await self.observe(state)
                    case Forget(generation):
                        self._keyring.pop(generation, None)
                        self._log.info("key-forgotten", generation=generation)
                    case WakeAt(at):
                        self.wake_at = at
        return events

    async def _apply(self, wave: Wave) -> tuple[Outcome, ...]:
        if not wave:
            return ()
        outcomes = await asyncio.to_thread(self._dataplane.apply, wave)
        self._actual = after(self._actual, outcomes)
        for outcome in outcomes:
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
            began, wave = time.monotonic(), _Wave[Install]()
            for install in some:
                peer = state.view.nodes[install.ref.peer].record
                wanted = desired.sas(state.me, peer, way, install.generation, self._keyring, self._settings)
                wave.add(install, desired.install_ops(wanted, self._actual))
            done, failed = wave.sort(await self._apply(wave.ops))
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
                wave.add(switch, desired.switch_ops(state, node.record, switch.spi, self._actual, self._settings))
        done, failed = wave.sort(await self._apply(wave.ops))
        events: list[Event] = [
            InstallFailed("out", switch.peer, switch.generation, "policy-refused") for switch, _ in failed
        ]
        for switch in done:
            events.append(Switched(switch.peer, switch.spi))
            was, now = f"{state.pinned.get(switch.peer, BLOCK):#010x}", f"{switch.spi:#010x}"
            self._log.info("peer-switched", generation=switch.generation, peer=switch.peer, spi=now, was=was)
            self._crash_point("peer-switched")
        return events

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
            behind=[f"{each.peer}: {each.reason}" for each in (*progress.receives.behind, *progress.sends.behind)],
            revision=revision,
        )
        fresh = before is None or before.receives != progress.receives
        self._crash_point("published-receives" if fresh else "published-sends")
        return [Published(progress)]

    async def _remove(self, state: State, removes: list[Remove]) -> list[Event]:
        refs = desired.by_ref(state, self._actual, self._settings)
        newest = max(state.view.newest_generation(), max(state.held, default=0))
        for remove in removes:
            self._tell_old("drained", remove, newest)
        wave = tuple(DelSa(each.sa.key) for remove in removes for each in refs.get(remove.ref, ()))
        outcomes = await self._apply(wave)
        failed = {each.op.key for each in outcomes if isinstance(each.op, DelSa) and _still_there(each)}
        gone = []
        for remove in removes:
            if any(each.sa.key in failed for each in refs.get(remove.ref, ())):
                self.retry = True
                continue
            gone.append(remove.ref)
            self._tell_old("retired", remove, newest)
        return [Removed(tuple(gone))]

    def _tell_old(self, event: str, remove: Remove, newest: int) -> None:
        ref = remove.ref
        generation = generation_of(ref.spi, newest)
        self._log.info(event, generation=generation, peer=ref.peer, way=ref.way, spi=f"{ref.spi:#010x}")
        self._crash_point(event)


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
