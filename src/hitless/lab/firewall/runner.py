"""Carrying out a firewall scenario, step by step, on a switch that is up.

Every step that does something leaves a mark with its time. A wait that runs into its deadline ends the scenario there;
the traffic is still stopped and counted, and the report says where it ended. Whatever happens, the agent and the
traffic are ended.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from hitless.core.firewall.faults import IntentError
from hitless.core.model.security import TCP, UDP, Intent
from hitless.lab.agents import AgentError
from hitless.lab.conditions import Finding
from hitless.lab.firewall import checker, marks, world
from hitless.lab.firewall import scenario as s
from hitless.lab.firewall.agent import FirewallAgent
from hitless.lab.firewall.bridge import Announcements, Bridge
from hitless.lab.firewall.checker import Examined, Question, Service, Wire
from hitless.lab.firewall.conditions import Witnesses, cut, find
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.report import Counts
from hitless.lab.firewall.sampler import Sampler
from hitless.lab.firewall.streams import StreamResult, TrafficResult
from hitless.lab.firewall.traffic import Traffic
from hitless.lab.kernel.face import LabError
from hitless.lab.ovs import OvsLabError
from hitless.lab.report import Expectation
from hitless.lab.runner import EndedEarlyError, merged
from hitless.ports import SwitchError

_POLL_SECONDS: Final = 0.05
# Between two dumps; each takes time of the switch, which forwards with the same CPUs. The kernel's datapath runs
# in a virtual machine, where everything takes many times as long.
_SAMPLE_SECONDS: Final = {"netdev": 0.05, "system": 2.0}
_ASKED_PORTS: Final = 20  # the tables are asked about the pairs of so many ports, spread over all groups


class Record(msgspec.Struct, frozen=True):
    """What a run leaves for its report."""

    expectations: tuple[Expectation, ...]
    counts: Counts


class Runner:
    """One run of one scenario. `work` is a private directory for documents, state and store; `logs` is kept."""

    def __init__(self, scenario: s.Scenario, ground: FirewallGround, *, work: Path, logs: Path) -> None:
        self._scenario, self._ground = scenario, ground
        self._documents = world.documents(scenario)
        self._intents = [world.to_intent(self._documents)]
        self._streams = world.streams(scenario)
        self._expected = {each.name: each.expected for each in self._streams}
        self._agent = FirewallAgent(scenario, ground, work, logs / "agent.log")
        self._bridge = Bridge(ground)
        self._announced = Announcements(ground, work / "announced")
        self._counted_from = 0
        self._switch_runs = True
        self._traffic: Traffic | None = None
        self._sampler: Sampler | None = None
        self._result = TrafficResult(())
        self._examined = Examined(0, 0, 0.0, 0, 0, 0, 0)
        self._marks_left = 0
        self._checks: list[tuple[s.Step, Finding]] = []
        self._witnesses = Witnesses(
            agent=self._agent, bridge=self._bridge, flow_mods=self._flow_mods, snapshot=self._snapshot,
            members=self._members, noted={},
        )  # fmt: skip

    def run(self) -> Record:
        """All steps, or as many as come true; what ended the run early is an expectation that did not hold."""
        ended_early: list[Expectation] = []
        try:
            self._write()
            for step in self._scenario.steps:
                try:
                    self._carry_out(step)
                except (EndedEarlyError, AgentError, LabError, OvsLabError, SwitchError) as error:
                    ended_early = [Expectation(f"line {step.line}: {step.text}", False, str(error))]
                    break
            if not self._switch_runs:
                self._start_switch()  # what is judged at the end is asked of it
            if self._traffic is not None:
                self._stop_probes()
            flow_mods, flows = self._flow_mods(), len(self._bridge.ours())
        finally:
            self._end_all()
        passing = frozenset(name for name, expected in self._expected.items() if expected == "pass")
        counts = Counts(
            self._result, self._examined, passing, cut(self._agent), self._marks_left, flow_mods, flows
        )
        return Record((*merged(self._checks), *ended_early), counts)

    def _end_all(self) -> None:
        self._agent.stop(abruptly=True)
        self._announced.close()
        if self._sampler is not None:
            self._sampler.__exit__()
        if self._traffic is not None:
            self._traffic.close()

    # --- the verbs --------------------------------------------------------------------------------------

    def _carry_out(self, step: s.Step) -> None:
        action = step.action
        if self._traffic is not None and not isinstance(action, s.Wait | s.Hold | s.Expect | s.After | s.Probe):
            self._traffic.mark(step.text)
        match action:
            case s.After() | s.Wait() | s.Hold() | s.Expect():
                self._look(step)
            case s.Start() | s.Stop() | s.Crash() | s.Order() | s.StoreReach():
                self._agent_step(action)
            case s.Rule() | s.Groups() | s.Prefix() | s.Shuffle():
                self._policy_step(action)
            case s.Plug() | s.Switch() | s.Foreign() | s.Tamper() | s.Clean() | s.Note():
                self._switch_step(action)
            case s.Poison(names=names):
                self._poison(names)
            case s.Judge(names=names, expected=expected):
                for name in self._members(names):
                    self._playing().expect(name, expected)
                    self._expected[name] = expected
            case s.Probe(deed="start"):
                self._start_probes()
            case s.Probe():
                self._stop_probes()

    def _agent_step(self, action: s.AgentAction) -> None:
        match action:
            case s.Start():
                self._counted_from = self._announced.count()
                self._agent.start()
            case s.Stop(abruptly=abruptly):
                self._agent.stop(abruptly=abruptly)
            case s.Crash(at=at):
                self._agent.crash_at = at
            case s.Order(seed=seed):
                self._agent.order = seed
            case s.StoreReach(within=within):
                self._agent.reaches_store = within

    def _policy_step(self, action: s.PolicyAction) -> None:
        match action:
            case s.Rule(group=group, name=name, rule=rule):
                rules = self._documents["SecurityGroup", group]["rules"]
                kept = [each for each in rules if each["name"] != name]
                if rule is None and kept == rules:
                    raise EndedEarlyError(f"group {group} has no rule {name}")
                self._documents["SecurityGroup", group] = {
                    "rules": [*kept, {"name": name, **dict(rule)}] if rule else kept
                }
            case s.Groups(port=port, groups=()):
                self._documents.pop(("Port", port), None)
            case s.Groups(port=port, groups=groups):
                first = world.documents(self._scenario)["Port", port]
                self._documents["Port", port] = {**first, "groups": list(groups)}
            case s.Prefix(deed=deed, prefix=prefix):
                kept = [each for each in self._documents["AddressGroup", world.NEAR]["prefixes"] if each != prefix]
                self._documents["AddressGroup", world.NEAR] = {"prefixes": kept + [prefix] * (deed == "add")}
            case s.Shuffle(seed=seed):
                if self._agent.running:
                    raise EndedEarlyError("the agent runs and could read half of the files; `stop` it first")
                self._write(seed)
                return
        status = self._agent.status()
        self._witnesses.superseded = status.generation if status else self._witnesses.superseded
        try:
            self._intents.append(world.to_intent(self._documents))
        except IntentError as error:
            raise EndedEarlyError(f"the documents are refused now: {error}") from None
        self._write()

    def _write(self, seed: int = 0) -> None:
        world.write(self._documents, self._agent.documents, seed)
        if self._scenario.source == "store" and self._agent.reaches_store:
            self._agent.push()

    def _switch_step(self, action: s.SwitchAction) -> None:
        switch, bridge = self._ground.switch, self._ground.bridge
        match action:
            case s.Plug(port=port, deed="in"):
                number = self._scenario.port_names.index(port) + 1
                switch.add_port(bridge, port, iface_id=port, ofport=number)
            case s.Plug(port=port):
                switch.remove_port(bridge, port)
            case s.Switch(deed="kill"):
                self._announced.close()
                self._switch_runs = False
                self._ground.kill_switch()
            case s.Switch():
                self._start_switch()
            case s.Foreign():
                self._bridge.place_foreign()
                self._witnesses.noted["foreign"] = self._bridge.foreign()
            case s.Tamper():
                self._bridge.tamper(action)
            case s.Clean():
                self._bridge.undo()
            case s.Note(what="flows"):
                self._witnesses.noted["ours"] = self._bridge.ours()
            case s.Note():
                self._counted_from = self._announced.count()

    def _start_switch(self) -> None:
        self._ground.start_switch()
        self._announced.listen()
        self._switch_runs = True

    def _flow_mods(self) -> int:
        return self._announced.count() - self._counted_from

    # --- traffic ----------------------------------------------------------------------------------------

    def _start_probes(self) -> None:
        self._traffic = Traffic(self._ground, self._streams)
        self._traffic.start()
        self._traffic.settle()
        self._traffic.self_check()
        self._counted_from = self._announced.count()
        self._sampler = Sampler(self._ground, _SAMPLE_SECONDS[self._scenario.datapath])
        self._sampler.wait_for_sample()

    def _stop_probes(self) -> None:
        traffic, self._traffic = self._playing(), None
        self._result = traffic.stop()
        self._marks_left = self._bridge.marked()
        if self._sampler is not None:
            self._sampler.stop()
            self._examined = self._examine(self._sampler)
        self._witnesses.counted = self._count()

    def _playing(self) -> Traffic:
        if self._traffic is None:
            raise EndedEarlyError("the probes do not run; `probe start` comes first")
        return self._traffic

    def _snapshot(self) -> tuple[StreamResult, ...]:
        return self._playing().snapshot().streams

    def _poison(self, names: str) -> None:
        """Marks are planted by a live connection's next request, so one after the other."""
        for name in self._members(names):
            stream = next(each for each in self._streams if each.name == name)
            live = marks.of_stream(self._ground, stream, self._bridge.zones)
            for connection in live:
                marks.plant(self._ground, connection)
            if not live:
                raise EndedEarlyError(f"nothing is tracked of stream {name}")

    def _members(self, names: str) -> tuple[str, ...]:
        """The streams that a name stands for: itself, or all of a kind that the header did not name."""
        if names in {each.name for each in self._streams}:
            return (names,)
        named = {each.stream.name for each in self._scenario.streams}
        wanted = "pass" if names == "connections" else "drop"
        return tuple(each.name for each in self._streams if each.name not in named and each.expected == wanted)

    def _count(self) -> dict[str, float]:
        found: dict[str, float] = {"dead_pairs": self._examined.dead, "wrongly_open": self._examined.wrongly_open}
        for of in ("", "connections", "forbidden", *(each.name for each in self._streams)):
            wanted = set(self._members(of)) if of else {each.name for each in self._streams}
            of_these = [each for each in self._result.streams if each.name in wanted]
            found |= {f"{metric} {of}".strip(): value for metric, value in _numbers(of_these).items()}
        return found

    # --- tables -----------------------------------------------------------------------------------------

    def _examine(self, sampler: Sampler) -> Examined:
        # Ports keep the numbers that they were given, on the bridge or off it.
        wiring = {name: Wire(number, port.mac) for number, (name, port) in enumerate(self._ground.ports.items(), 1)}
        return checker.examine(sampler, wiring, *self._agreed())

    def _agreed(self) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
        """What every policy of this run allows, and what every one denies."""
        first, *later = self._intents
        # A port that is off the bridge for a time gets what NORMAL sends nowhere.
        moved = {step.action.port for step in self._scenario.steps if isinstance(step.action, s.Plug)}
        names = [name for name in self._scenario.port_names if name not in moved and _in_all(name, self._intents)]
        services = (Service(TCP, world.SERVICE), Service(UDP, world.SERVICE))
        asked = checker.questions(first, names[:_ASKED_PORTS], services)
        must_pass, must_drop = checker.agreed(asked, first, first)
        for each in later:
            must_pass, _ = checker.agreed(must_pass, first, each)
            _, must_drop = checker.agreed(must_drop, first, each)
        return must_pass, must_drop

    # --- conditions -------------------------------------------------------------------------------------

    def _look(self, step: s.Step) -> None:
        match step.action:
            case s.After(seconds=seconds):
                time.sleep(seconds)
                return
            case s.Wait(condition=condition, within_seconds=limit):
                finding = self._until(condition, limit, holds=True)
                if not finding.holds:
                    raise EndedEarlyError(f"not within {limit:g} s, the run ends here: {finding.observed}")
                return
            case s.Hold(condition=condition, for_seconds=limit):
                finding = self._until(condition, limit, holds=False)
            case s.Expect(condition=condition):
                finding = find(condition, self._witnesses)
            case _:
                return
        self._checks.append((step, finding))

    def _until(self, condition: s.Condition, limit_seconds: float, *, holds: bool) -> Finding:
        """Look until the condition holds (or does not), or the time is up; the last finding."""
        deadline = time.monotonic() + limit_seconds
        while True:
            finding = find(condition, self._witnesses)
            if finding.holds == holds or time.monotonic() >= deadline:
                return finding
            if why := self._agent.died_of_itself():
                raise EndedEarlyError(f"{why}\n    meanwhile: {finding.observed}")
            time.sleep(_POLL_SECONDS)


def _numbers(results: Sequence[StreamResult]) -> dict[str, float]:
    never = float("inf")
    healed = [never if each.recovered_after_seconds is None else each.recovered_after_seconds for each in results]
    return {
        "sent": sum(each.sent + each.answered for each in results),
        "lost": sum(each.lost for each in results),
        "leaked": sum(each.leaked for each in results),
        "broken": sum(each.broken for each in results),
        "healed": max(healed, default=0.0),
    }


def _in_all(name: str, intents: Sequence[Intent]) -> bool:
    return all(name in each.ports for each in intents)



