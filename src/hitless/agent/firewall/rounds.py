"""One round of the firewall: look, compile, compare, judge, write one bundle, wait it out, repair, remember.

Where one bundle is not sound for all packets, the same is written under a stamp (`guard.py`), or not at all. A round
leaves the bridge as the intent says or as it was, and can be cut off after any step: what is remembered in
`external_ids` before the bundle (`hitless-intent`) and after the repair (`hitless-committed`) tells the next process
what may be unfinished. Nothing changed means nothing written, not even there.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
import structlog

from hitless.agent.firewall import facts
from hitless.agent.firewall.config import Config
from hitless.agent.firewall.confirm import TAKEN_BACK, governing
from hitless.agent.firewall.facts import Facts, read_facts, strangers
from hitless.agent.firewall.guard import Judged, code, sentence, unverified
from hitless.agent.firewall.picture import Picture
from hitless.agent.statefile import StateFileError
from hitless.core.firewall.compile import Compiled, compile_flows
from hitless.core.firewall.identity import TagError
from hitless.core.firewall.stamp import read_stamp
from hitless.core.model.flow import Connection, Flow, Normal
from hitless.core.model.security import Intent
from hitless.core.plan.flows import AddFlow, Bundle, KeyTakenError, diff
from hitless.ports import Switch, SwitchError

CrashPoint = Callable[[str], None]
Verify = Callable[[Picture, Bundle], Judged]
"""Whether, and in which steps, a bundle may be written to the bridge as it was last seen."""

_IMPLICIT = Flow(0, 0, (), (Normal(),))  # what a bridge without controllers has by itself (vswitchd/bridge.c)
_FLUSHES = (
    "fail_mode is not secure, and setting it would flush the flows that others have on this bridge; set it when that "
    "suits them: ovs-vsctl set-fail-mode BRIDGE secure"
)


class Plan(msgspec.Struct, frozen=True):
    """What a round would do: nothing of it is written yet. `restarted`: ovs-vswitchd lost the tables.

    `bundle` is the whole difference; `batches` the steps in which it was judged to be sound, empty before that.
    """

    generation: str
    facts: Facts
    compiled: Compiled
    bundle: Bundle
    restarted: bool
    batches: tuple[Bundle, ...] = ()


class Round(msgspec.Struct, frozen=True):
    """What a round did. `conditions` are codes and sentences that hold after it; `flow_mods` it wrote."""

    generation: str
    settled: bool
    conditions: Mapping[str, str] = {}
    plan: Plan | None = None
    flow_mods: int = 0
    cut: int = 0
    judged: Judged | None = None


class Firewall:
    """One bridge's firewall. Synchronous; one round at a time. Methods raise SwitchError."""

    def __init__(
        self, switch: Switch, config: Config, crash_point: CrashPoint, verify: Verify = unverified
    ) -> None:
        self.picture = Picture(switch)
        self._config, self._crash_point, self._verify = config, crash_point, verify
        self.by_hand = False  # whether a person is behind this: an agent has to mind what waits for a confirmation
        self._told: Judged | None = None  # the refusal that was logged last
        self.restarting: Callable[[], None] = lambda: None  # called when the switch is found to have lost our tables
        self._committed = ""  # the generation that this process knows to be in force, with connections repaired
        self._generation: tuple[Intent, str] | None = None
        self._log = structlog.get_logger()

    def look(self) -> bool:
        """Dump the bridge; True."""
        self.picture.look()
        self._crash_point("observed")
        return True

    def release(self) -> bool:
        """Without an intent nothing is written, but a flow-restore-wait that a dead agent left is ended; True."""
        if self.picture.bridge is None:
            self.look()
        self._end_stale_wait()
        return True

    def round(self, intent: Intent, *, look: bool) -> Round:
        """Make the bridge what the intent says. `look`: dump it first; else what is known of it is enough."""
        if look or self.picture.bridge is None:
            self.look()
        before = self.picture.flow_mods
        governed, odd = (intent, {}) if self.by_hand else self._governed(intent)
        if governed is None:
            self._end_stale_wait()
            return Round(self.picture.said(facts.COMMITTED), False, odd)
        intent = governed
        generation = self.generation(intent)
        try:
            plan = self.plan(intent)
        except (KeyTakenError, TagError) as error:
            self._end_stale_wait()
            return Round(generation, False, {error.code: str(error)})
        if self._flush_would_take_others():
            return Round(generation, False, {"fail-mode-standalone": _FLUSHES}, plan)
        if not self._secure():
            plan = self.plan(intent)
        judged = self._verify(self.picture, plan.bundle) if plan.bundle else None
        if judged is not None and not judged.accepted:
            self._tell_refused(judged)
            self._end_stale_wait()
            return Round(generation, False, {code(judged.told): sentence(judged.told)}, plan, judged=judged)
        plan = msgspec.structs.replace(plan, batches=judged.batches if judged else ())
        if not plan.restarted:
            self._end_stale_wait()
        cut = self._write(intent, plan)
        if not odd:
            self.picture.remember({TAKEN_BACK: ""})
        mods = self.picture.flow_mods - before
        return Round(generation, True, {**odd, **self.conditions(plan)}, plan, mods, cut, judged)

    def _governed(self, intent: Intent) -> tuple[Intent | None, dict[str, str]]:
        try:
            return governing(self, Path(self._config.state_dir), intent)
        except StateFileError as error:
            return None, {error.code: str(error)}

    def plan(self, intent: Intent) -> Plan:
        """What a round would write to the bridge as it is known. Raises KeyTakenError, TagError."""
        picture = self.picture
        bridge = picture.bridge or picture.look()
        found = read_facts(intent, bridge, self._config.uplinks)
        local = msgspec.structs.replace(found.local, stamp=read_stamp(picture.ours.values()))
        compiled = compile_flows(intent, local, picture.ids())
        self._crash_point("compiled")
        return Plan(
            generation=self.generation(intent),
            facts=found,
            compiled=compiled,
            bundle=diff(compiled.flows, picture.ours, picture.others),
            # Only tables that were in force once can be lost: on a bridge's first day there is no canary either.
            restarted=bool(picture.said(facts.INTENT)) and not picture.has_canary,
        )

    def generation(self, intent: Intent) -> str:
        if self._generation is None or self._generation[0] is not intent:
            self._generation = (intent, facts.generation(intent))
        return self._generation[1]

    def conditions(self, plan: Plan) -> dict[str, str]:
        """What is odd about the bridge, though everything is done that can be."""
        found = {**plan.facts.oddities, **strangers(self.picture.others.values(), self.picture.ours.values())}
        bridge = self.picture.bridge
        if bridge is not None and bridge.restore_wait and not self.picture.said(facts.RESTORING):
            found["switch-restarting"] = "flow-restore-wait is set, and not by this agent: nothing new is forwarded"
        return found

    # --- writing ------------------------------------------------------------------------------------------

    def _flush_would_take_others(self) -> bool:
        """Setting fail_mode empties the tables; what others put there is not ours to lose."""
        if self.picture.bridge is None or self.picture.bridge.fail_mode == "secure":
            return False
        return any(flow != _IMPLICIT for flow in self.picture.others.values())

    def _secure(self) -> bool:
        """Whether fail_mode was secure already. Setting it empties the tables (ofproto/connmgr.c), so it goes first."""
        if self.picture.bridge is None or self.picture.bridge.fail_mode == "secure":
            return True
        self.picture.switch.set_fail_secure()
        self.picture.look()
        return False

    def _write(self, intent: Intent, plan: Plan) -> int:
        """The steps; how many connections were cut."""
        picture, digest, cut = self.picture, plan.generation, 0
        if not self._committed and picture.said(facts.INTENT) == picture.said(facts.COMMITTED) == digest:
            self._committed = digest  # a process before this one finished it
        ids = {facts.TAGS: facts.tags_text(plan.facts.tags), facts.INTENT: digest}
        # A first round that finds another generation cannot know whether its predecessor got as far as the repair.
        if plan.bundle or not self._committed:
            self._committed = ""
            # With new port numbers one intent has other tables; then it is not committed until they are in force.
            clear = {facts.COMMITTED: ""} if picture.said(facts.COMMITTED) == digest else {}
            picture.remember({**ids, **clear})
            self._crash_point("intended")
            picture.tag(plan.facts.untagged)
            self._put(plan)
            picture.barrier()
            self._crash_point("barrier")
            cut = self._repair(intent, plan)
            self._crash_point("repaired")
        picture.tag(plan.facts.untagged if not plan.bundle else {})
        if picture.remember({**ids, facts.COMMITTED: digest}):
            self._crash_point("committed")
        self._committed = digest
        return cut

    def _put(self, plan: Plan) -> None:
        if not plan.bundle:
            return
        began = time.monotonic()
        with self._restoring() if plan.restarted else contextlib.nullcontext():
            for number, batch in enumerate(plan.batches):
                if number:
                    self.picture.barrier()
                self._apply(batch)
        adds = sum(isinstance(op, AddFlow) for op in plan.bundle)
        seconds = round(time.monotonic() - began, 6)
        self._log.info("firewall-applied", adds=adds, deletes=len(plan.bundle) - adds, seconds=seconds)
        if plan.restarted:
            self._log.warning("switch-restarted", flows=adds, seconds=seconds)
        self._crash_point("applied")

    def _apply(self, bundle: Bundle) -> None:
        self.picture.apply(bundle)
        if self.picture.bundles == self._config.lab.crash_after_batches:
            self._crash_point("batch")

    def tracked(self, plan: Plan) -> tuple[Connection, ...]:
        """What is tracked now in the networks of ports that are filtered here."""
        zones = sorted({each.tag for each in plan.compiled.attached if each.port.port_security})
        return self.picture.switch.connections(zones) if zones else ()

    def revoked(self, intent: Intent, plan: Plan, live: Iterable[Connection]) -> tuple[Connection, ...]:
        """Those of these connections that the intent no longer allows."""
        from hitless.core.firewall.decide import to_cut

        return to_cut(intent, [each for each in plan.compiled.attached if each.port.port_security], live)

    def _repair(self, intent: Intent, plan: Plan) -> int:
        doomed = self.revoked(intent, plan, self.tracked(plan))
        if doomed:
            self.picture.switch.cut(doomed)
            self._log.info("connections-cut", count=len(doomed))
        return len(doomed)

    def _tell_refused(self, judged: Judged) -> None:
        # What is refused is asked again and again, and said once.
        if judged is not self._told:
            self._told = judged
            told = judged.told
            what = {"code": code(told), "verdict": told.verdict, "why": told.about}
            if told.verdict == "unknown":
                self._log.error("plan-unknown", **what)
            else:
                self._log.error("plan-refuted", **what, kind=told.kind, story=told.story)

    @contextlib.contextmanager
    def _restoring(self) -> Iterator[None]:
        """Hold the switch back while the lost tables are written, for a bounded time, whatever happens."""
        picture, seconds = self.picture, self._config.restore_seconds
        self.restarting()
        picture.remember({facts.RESTORING: str(int(time.time() + seconds))})
        picture.switch.set_restore_wait(True)
        deadline = threading.Timer(seconds, self._give_up_waiting)
        deadline.daemon = True
        deadline.start()
        try:
            yield
        finally:
            deadline.cancel()
            picture.switch.set_restore_wait(False)
            picture.remember({facts.RESTORING: ""})

    def _give_up_waiting(self) -> None:
        # What fails here is tried again by the round that follows: the remembered value is still there.
        with contextlib.suppress(SwitchError):
            self.picture.switch.set_restore_wait(False)

    def _end_stale_wait(self) -> None:
        if self.picture.said(facts.RESTORING):
            self.picture.switch.set_restore_wait(False)
            self.picture.remember({facts.RESTORING: ""})
            self.picture.look()
