"""Carrying out a scenario, step by step, on some ground.

One task, one list of steps. Every step that does something leaves a mark with its time for the timeline. A wait that
runs into its deadline ends the scenario there - what follows would judge something else - but the probes are still
stopped and counted, and the report says where it ended. Whatever happens, agents and hogs that were started are ended.
"""

from __future__ import annotations

import asyncio
import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol

import msgspec

from hitless.lab import scenario as s
from hitless.lab.agents import AGENT, COMMAND, Agent, AgentError, Settings
from hitless.lab.conditions import Finding, Witnesses, find
from hitless.lab.ground import Ground, traffic
from hitless.lab.kernel.face import LabError
from hitless.lab.keyfiles import KeyFiles
from hitless.lab.probe.judge import Verdict
from hitless.lab.probe.udp import Mark
from hitless.lab.records import Records
from hitless.lab.report import Expectation
from hitless.lab.verbs import ALL

POLL_SECONDS: Final = 0.1  # between two looks at a condition; a look costs a few ms, and up to 60 ms of `ip` in a guest
_COMMAND_SECONDS: Final = 60.0  # a command takes two seconds in a guest whose CPU is busy
_HOG: Final = ("sh", "-c", "while :; do :; done")


class Record(msgspec.Struct, frozen=True):
    """What a run leaves for its report. `verdict` is None where no probe ran."""

    expectations: tuple[Expectation, ...]
    marks: tuple[Mark, ...]
    verdict: Verdict | None
    agents: tuple[Agent, ...]


class EndedEarlyError(Exception):
    """A step that the following ones depend on did not come true."""


class Runner:
    """One run of one scenario. `work` is a private directory for keys, state and the store; `logs` is kept."""

    def __init__(
        self,
        scenario: s.Scenario,
        ground: Ground,
        records: Records,
        *,
        work: Path,
        logs: Path,
        agent_argv: Sequence[str] = AGENT,
    ) -> None:
        self._scenario = scenario
        self._ground = ground
        self._records = records
        self._work = work
        self._logs = logs
        self._argv = tuple(agent_argv)
        self._keys = KeyFiles(work / "keys", first_id=scenario.first_key)
        self._settings = Settings(
            mode=scenario.mode,
            protected=ground.protected(),
            store=records.options,
            udp_port=scenario.udp_port,
            drain_seconds=scenario.drain_seconds,
            order=scenario.order,
            cleanup=scenario.cleanup,
            cleanup_seconds=scenario.cleanup_seconds,
            absent=scenario.absent,
            esn=scenario.esn,
            resync_seconds=scenario.resync_seconds,
            replay=scenario.replay,
        )
        self._witnesses = Witnesses(
            agents={},
            statuses=records.statuses,
            kernel=ground.kernel,
            changes=ground.changes,
            least_generation=lambda: self._keys.drawn,
            heartbeat=records.heartbeat,
            arrivals=ground.arrivals,
            foreign=ground.foreign_changes,
        )
        self._hogs: list[subprocess.Popen[bytes]] = []
        self._marks: list[Mark] = []
        self._checks: list[tuple[s.Step, Finding]] = []
        self._verdict: Verdict | None = None
        self._probing = False

    @property
    def nodes(self) -> tuple[str, ...]:
        """The nodes that are there now."""
        return tuple(self._agents)

    @property
    def _agents(self) -> dict[str, Agent]:
        return self._witnesses.agents

    async def run(self) -> Record:
        """All steps, or as many as come true; what ended the run early is an expectation that did not hold."""
        self.populate()
        ended_early: list[Expectation] = []
        try:
            for step in self._scenario.steps:
                if not isinstance(step.action, s.Wait | s.Hold | s.Expect | s.After):
                    self._marks.append(Mark(time.monotonic(), step.text))
                try:
                    await self.carry_out(step)
                except (EndedEarlyError, AgentError, LabError) as error:
                    ended_early = [Expectation(f"line {step.line}: {step.text}", False, str(error))]
                    break
            if self._probing:
                self._stop_probes()
            if ended_early:
                for agent in self._agents.values():
                    agent.tell_where_it_stands()
        finally:
            self.end_all()
        return Record(
            (*merged(self._checks), *ended_early), tuple(self._marks), self._verdict, tuple(self._agents.values())
        )

    def populate(self) -> None:
        """The first nodes get their keys; no agent runs yet."""
        for node in self._scenario.node_names:
            self._add(node)

    def _add(self, node: str) -> None:
        self._keys.copy([node])
        log = self._logs / f"{node}.log"
        self._agents[node] = Agent(node, self._ground.place(node), self._work / node, log)

    def end_all(self) -> None:
        """Kill every agent and hog that still runs."""
        for process in self._hogs:
            process.kill()
            process.wait()
        for agent in self._agents.values():
            if agent.running:
                agent.end(abruptly=True)
            agent.log.poll()

    # --- the verbs --------------------------------------------------------------------------------------

    async def carry_out(self, step: s.Step) -> Finding | None:
        """One step; what it looked at, if it did. Raises EndedEarlyError where it did not come true, AgentError."""
        match step.action:
            case s.Wait() | s.Hold() | s.Expect() | s.After():
                return await self._look(step)
            case s.Membership() | s.StoreDeed():
                await self._store_step(step.action)
            case s.Probe() | s.Send():
                await asyncio.to_thread(self._traffic_step, step.action)
            case s.Hog(count=count):
                self._hog(count)
            case s.Key() as key:
                self._key_step(key)
            case s.LinkDelay() | s.Link() | s.Address():
                self._network_step(step.action)
            case s.Flush() | s.TouchSa() | s.Plant() | s.Foreign() | s.CountWrites():
                self._kernel_step(step.action)
            case _:
                self._agent_step(step.action)
        return None

    def _agent_step(self, action: s.AgentAction) -> None:
        match action:
            case s.Start(nodes=nodes):
                for node in self._named(nodes):
                    self._start(node)
            case s.Stop(nodes=nodes, abruptly=abruptly):
                for node in self._named(nodes):
                    self._agents[node].end(abruptly=abruptly)
            case s.Join(node=node, called=called):
                self._ground.add(node)
                self._add(node)
                self._agents[node].called = called or node
                self._start(node)
            case s.Rename(node=node, called=called):
                self._agents[node].called = called
            case s.Reboot(node=node):
                self._agents[node].end(abruptly=True)
                self._ground.flush(node, "policies")
                self._ground.flush(node, "states")
                self._agents[node].boot_id = str(uuid.uuid4())
                self._start(node)
            case s.Crash(node=node, at=at):
                self._agents[node].arm(crash_at=at)
            case s.SlowInstall(node=node, delay_seconds=delay_seconds):
                self._agents[node].arm(install_delay_seconds=delay_seconds)
            case s.FailInstall(node=node, peer=peer, times=times):
                # The agent knows a peer of an SA by its address: the first, which tunnels use.
                self._agents[node].arm(fail_in_peer=self._agents[peer].place.addresses[0], fail_times=times)

    def _start(self, node: str) -> None:
        self._agents[node].changes_before = self._ground.changes(node)
        self._agents[node].start(self._settings, self._keys.path(node), self._ground.spawn, self._argv)

    def _network_step(self, action: s.NetworkAction) -> None:
        match action:
            case s.LinkDelay(node=node, delay_seconds=delay_seconds):
                self._ground.delay(node, delay_seconds)
            case s.Link(node=node, state=state, to_store=to_store):
                self._ground.link(node, state, to_store=to_store)
            case s.Address(node=node, deed="use"):
                self._agents[node].place = self._ground.second_place(node)
            case s.Address(node=node, deed=deed):
                self._ground.readdress(node, "add" if deed == "add" else "drop")

    def _kernel_step(self, action: s.KernelAction) -> None:
        match action:
            case s.Flush(node=node, what=what):
                self._ground.flush(node, what)
            case s.TouchSa(node=node, peer=peer, deed=deed, inward=inward):
                src, dst = (peer, node) if inward else (node, peer)
                self._ground.touch(node, self._addresses(src), self._addresses(dst), deed)
            case s.Plant(node=node, peer=peer, oseq=oseq):
                self._ground.plant(node, self._addresses(node), self._addresses(peer), oseq)
            case s.Foreign():
                self._ground.place_foreign()
            case s.CountWrites():
                for node, agent in self._agents.items():
                    agent.changes_before = self._ground.changes(node)

    def _addresses(self, node: str) -> tuple[str, ...]:
        return self._agents[node].place.addresses

    async def _store_step(self, action: s.StoreAction) -> None:
        match action:
            case s.StoreDeed(deed="wipe"):
                await self._records.wipe()
            case s.StoreDeed(deed="compact"):
                await self._records.compact()
            case s.StoreDeed(deed="kill-leader"):
                await self._records.kill_leader()
            case s.StoreDeed(deed="revive"):
                await self._records.revive()
            case s.StoreDeed(deed="restart"):
                await self._records.restart()
            case s.StoreDeed(node=node):
                await self._records.forget(node)
            case s.Membership(node=node, deed=deed):
                await asyncio.to_thread(self._command, node, ("node", deed, node))

    def _command(self, node: str, words: tuple[str, ...]) -> None:
        """What an operator types about a node, on another one. Raises EndedEarlyError where it is refused."""
        other = next(agent for name, agent in self._agents.items() if name != node and agent.config.exists())
        consent = ("--yes",) if "remove" in words else ()
        argv = (*COMMAND, *words, "--config", str(other.config), *consent)
        log = self._logs / "commands.log"
        with log.open("ab") as stream:
            process = self._ground.spawn(other.name, argv, stream)
            try:
                status = process.wait(_COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                status = process.wait()
        if status:
            said = log.read_text("utf-8", "replace").splitlines()[-3:]
            raise EndedEarlyError(f"`hitless {' '.join(words)}` ended with exit status {status}: {' / '.join(said)}")

    def _key_step(self, key: s.Key) -> None:
        nodes = key.nodes or tuple(self._agents)
        match key.deed:
            case "new":
                self._keys.new(nodes, key.key_id)
            case "copy":
                self._keys.copy(nodes)
            case "same-id":
                self._keys.same_id(nodes)
            case "wrong-length":
                self._keys.wrong_length(nodes)
            case "half-written":
                self._keys.half_written(nodes)

    def _traffic_step(self, action: s.TrafficAction) -> None:
        match action:
            case s.Send(node=node, peer=peer, count=count):
                self._ground.send(node, peer, count)
            case s.Probe(deed="start" | "watch" as deed):
                self._ground.judge_from_now(silent=deed == "watch")
                self._probing = True
            case s.Probe(deed="add", nodes=nodes):
                for node in nodes:
                    self._ground.judge_also(node)
            case s.Probe():
                self._stop_probes()

    def _stop_probes(self) -> None:
        self._probing = False
        self._verdict = self._ground.verdict()
        self._witnesses.traffic = traffic(self._verdict)

    def _hog(self, count: int) -> None:
        while self._hogs:
            process = self._hogs.pop()
            process.kill()
            process.wait()
        for _ in range(count):
            self._hogs.append(subprocess.Popen(_HOG, stdin=subprocess.DEVNULL))

    def _named(self, nodes: Sequence[str]) -> tuple[str, ...]:
        return tuple(self._agents) if ALL in nodes else tuple(nodes)

    # --- conditions -------------------------------------------------------------------------------------

    async def _look(self, step: s.Step) -> Finding | None:
        match step.action:
            case s.After(seconds=seconds):
                await asyncio.sleep(seconds)
                return None
            case s.Wait(condition=condition, within_seconds=within_seconds):
                finding = await self._until(condition, within_seconds, holds=True)
                if not finding.holds:
                    raise EndedEarlyError(f"not within {within_seconds:g} s, the run ends here: {finding.observed}")
                return finding
            case s.Hold(condition=condition, for_seconds=for_seconds):
                finding = await self._until(condition, for_seconds, holds=False)
            case s.Expect(condition=condition):
                finding = await find(condition, self._witnesses)
            case _:
                return None
        self._checks.append((step, finding))
        return finding

    async def _until(self, condition: s.Condition, limit_seconds: float, *, holds: bool) -> Finding:
        """Look until the condition holds (or does not), or the time is up; the last finding."""
        deadline = time.monotonic() + limit_seconds
        while True:
            finding = await find(condition, self._witnesses)
            if finding.holds == holds or time.monotonic() >= deadline:
                return finding
            for agent in self._agents.values():
                if why := agent.died_of_itself():
                    raise EndedEarlyError(f"{why}\n    meanwhile: {finding.observed}")
            await asyncio.sleep(POLL_SECONDS)


class Numbered(Protocol):
    """A step of any kind of scenario."""

    @property
    def line(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def turn(self) -> int: ...


def merged(checks: Sequence[tuple[Numbered, Finding]]) -> list[Expectation]:
    """One expectation a line where all its turns held; each turn that did not by itself."""
    turns: dict[int, int] = {}
    for step, _ in checks:
        turns[step.line] = turns.get(step.line, 0) + 1
    found: list[Expectation] = []
    told: set[int] = set()
    for step, finding in checks:
        times = turns[step.line]
        if not finding.holds:
            turn = f" (turn {step.turn})" if times > 1 else ""
            found.append(Expectation(f"line {step.line}: {step.text}{turn}", False, finding.observed))
        elif step.line not in told:
            told.add(step.line)
            often = f" ({times} times)" if times > 1 else ""
            found.append(Expectation(f"line {step.line}: {step.text}{often}", True, finding.observed))
    return found
