"""The runner, on a ground without a kernel and with stand-ins for agents: steps, deadlines, endings."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

import msgspec
import pytest

from hitless.lab import grammar
from hitless.lab.agents import Place
from hitless.lab.ground import traffic
from hitless.lab.probe.capture import CaptureResult
from hitless.lab.probe.counters import NodeErrors
from hitless.lab.probe.judge import Verdict
from hitless.lab.probe.tcp import TcpResult
from hitless.lab.probe.udp import PairResult, UdpResult
from hitless.lab.runner import Record, Runner
from hitless.lab.security import Association, Security
from hitless.stores.options import SqliteOptions

AGENT = (sys.executable, str(Path(__file__).with_name("stand_in_agent.py")))
WITHIN = "within 30s"  # generous: the machine may be busy; nothing here asserts a time


class Behind(msgspec.Struct, frozen=True):
    peer: str
    reason: str


class Status(msgspec.Struct, frozen=True):
    name: str
    generation: int
    phase: str
    laggards: tuple[Behind, ...] = ()


class StandIn:
    """Ground without a network: it notes what it was asked for."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.looks: dict[str, int] = {}
        self.lost = 0
        self.arrived: dict[tuple[str, str], int] = {}
        self.spawned: list[subprocess.Popen[bytes]] = []

    def up(self) -> None:
        self.said.append("up")

    def down(self) -> None:
        self.said.append("down")

    def add(self, node: str) -> None:
        self.said.append(f"add {node}")

    def place(self, node: str) -> Place:
        return Place((f"192.0.2.{node.removeprefix('n')}",), (f"10.1.{node.removeprefix('n')}.0/24",))

    def protected(self) -> tuple[str, ...]:
        return ("10.1.0.0/16",)

    def spawn(self, node: str, argv: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        self.said.append(f"spawn {node}")
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.spawned.append(process)
        return process

    def kernel(self, node: str) -> Security:
        pair = Association(self.place(node).addresses[0], "192.0.2.2", 0x02000001)
        return Security((pair,), (pair,))

    def changes(self, node: str) -> int:
        """One more at every look, whoever's."""
        self.looks[node] = self.looks.get(node, 0) + 1
        return self.looks[node]

    def delay(self, node: str, delay_seconds: float) -> None:
        self.said.append(f"delay {node} {delay_seconds:g}")

    def link(self, node: str, state: str, *, to_store: bool = False) -> None:
        self.said.append(f"{'store' if to_store else 'link'} {node} {state}")

    def readdress(self, node: str, deed: str) -> None:
        self.said.append(f"address {deed} {node}")

    def second_place(self, node: str) -> Place:
        return Place((f"192.0.2.10{node.removeprefix('n')}",), self.place(node).prefixes)

    def flush(self, node: str, what: str) -> None:
        self.said.append(f"flush {node} {what}")

    def touch(self, node: str, src: Sequence[str], dst: Sequence[str], deed: str) -> None:
        self.said.append(f"{deed} at {node}: {src[0]} > {dst[0]}")

    def plant(self, node: str, src: Sequence[str], dst: Sequence[str], oseq: int) -> None:
        self.said.append(f"plant at {node}: {src[0]} > {dst[0]} {oseq}")

    def place_foreign(self) -> None:
        self.said.append("foreign")

    def foreign_changes(self) -> str:
        return "" if "foreign" in self.said else "nothing was placed"

    def judge_from_now(self, *, silent: bool = False) -> None:
        self.said.append("probes watch" if silent else "probes start")

    def send(self, source: str, target: str, count: int) -> None:
        self.arrived[source, target] = self.arrived.get((source, target), 0) + count

    def arrivals(self, source: str, target: str) -> tuple[int, float]:
        return self.arrived.get((source, target), 0), 0.5

    def judge_also(self, node: str) -> None:
        self.said.append(f"probes add {node}")

    def verdict(self) -> Verdict:
        self.said.append("probes stop")
        pair = PairResult("c1>c2/4", sent=10, received=10 - self.lost, lost=self.lost)
        return Verdict(UdpResult((pair,)), (), CaptureResult(), (NodeErrors("n2", {"XfrmInNoStates": self.lost}),))


class PublishedFiles:
    """A store without a store: what the stand-ins write into their directories."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self.options = SqliteOptions(str(place / "store.db"))

    async def statuses(self) -> tuple[Status, ...]:
        found = sorted(self._place.glob("n*/state/status.json"))
        return tuple(msgspec.json.decode(file.read_bytes(), type=Status) for file in found)

    async def heartbeat(self, node: str) -> bool:
        return node == "n1"

    async def forget(self, node: str) -> None:
        (self._place / node / "state" / "status.json").unlink()

    async def wipe(self) -> None:
        for node in ("n1", "n2"):
            await self.forget(node)

    async def compact(self) -> None:
        return

    async def kill_leader(self) -> None:
        return

    async def revive(self) -> None:
        return

    async def restart(self) -> None:
        return


def run(tmp_path: Path, steps: str, ground: StandIn | None = None, header: str = "") -> tuple[Record, StandIn]:
    scenario = grammar.parse(f"title A test\nnodes 2\n{header}---\n{steps}", source="test.txt", name="test")
    ground = ground or StandIn()
    logs = tmp_path / "logs"
    logs.mkdir()

    runner = Runner(scenario, ground, PublishedFiles(tmp_path), work=tmp_path, logs=logs, agent_argv=AGENT)
    record = asyncio.run(runner.run())
    assert all(process.poll() is not None for process in ground.spawned)
    return record, ground


def held(record: Record) -> list[tuple[str, bool]]:
    return [(each.text, each.held) for each in record.expectations]


def test_a_rotation_from_start_to_verdict(tmp_path: Path) -> None:
    record, ground = run(
        tmp_path,
        f"start all\nwait settled {WITHIN}\nprobe start\nrepeat 3\nkey new\nwait settled {WITHIN}\nend\n"
        "link n1 delay 300ms\nprobe stop\nexpect lost == 0\nexpect keys n1 == 1\nexpect sending n1 n2 == 1\n",
    )
    assert held(record) == [
        ("line 13: expect lost == 0", True),
        ("line 14: expect keys n1 == 1", True),
        ("line 15: expect sending n1 n2 == 1", True),
    ]
    assert ground.said == ["spawn n1", "spawn n2", "probes start", "delay n1 0.3", "probes stop"]
    assert [mark.text for mark in record.marks].count("key new") == 3
    assert record.marks == tuple(sorted(record.marks, key=lambda mark: mark.monotonic))


def test_an_expectation_that_does_not_hold_is_told_with_what_was_seen(tmp_path: Path) -> None:
    ground = StandIn()
    ground.lost = 7
    record, _ = run(
        tmp_path, "probe start\nprobe stop\nexpect lost == 0\nexpect lost n1 n2 > 0\nexpect XfrmInNoStates n2 == 7\n"
        "expect XfrmInNoStates == 7\nexpect XfrmOutNoStates == 0\n", ground,
    )  # fmt: skip
    assert [(each.held, each.seen) for each in record.expectations] == [
        (False, "7"), (True, "7"), (True, "7"), (True, "7"), (True, "0"),
    ]  # fmt: skip


def test_a_wait_that_runs_out_ends_the_scenario_but_the_probes_are_counted(tmp_path: Path) -> None:
    record, ground = run(
        tmp_path,
        "start all\nprobe start\nwait laggard n2 reason key-missing within 200ms\n"
        "key new\nprobe stop\nexpect lost == 0\n",
    )
    assert held(record) == [("line 6: wait laggard n2 reason key-missing within 200ms", False)]
    assert "nobody is behind" in record.expectations[0].seen
    assert ground.said[-1] == "probes stop"
    assert record.verdict is not None


def test_an_agent_that_dies_is_noticed_while_something_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "n1" / "state").parent.mkdir()
    (tmp_path / "n1" / "state").write_text("no directory can be made here")
    record, _ = run(tmp_path, f"start n1\nwait event n1 settled {WITHIN}\n")
    assert [each.held for each in record.expectations] == [False]
    assert "n1 ended with exit status 1; its last words:" in record.expectations[0].seen
    assert "FileExistsError" in record.expectations[0].seen


def test_a_crash_is_armed_for_one_start(tmp_path: Path) -> None:
    record, _ = run(
        tmp_path,
        f"crash n2 at key-loaded\nstart all\nwait settled {WITHIN}\nkey new\nwait exited n2 {WITHIN}\n"
        f"expect event n2 crash-point\nstart n2\nwait settled {WITHIN}\nexpect event n2 crash-point\n",
    )
    assert [each.held for each in record.expectations] == [True, False]
    assert "n2 has said: started" in record.expectations[1].seen


def test_a_fault_cannot_be_armed_while_the_agent_runs(tmp_path: Path) -> None:
    record, _ = run(tmp_path, f"start all\nwait settled {WITHIN}\nslow n1 install 5ms\n")
    assert held(record) == [("line 6: slow n1 install 5ms", False)]
    assert "`stop n1` above it" in record.expectations[0].seen


def test_a_late_node_is_not_settled(tmp_path: Path) -> None:
    record, _ = run(
        tmp_path,
        f"start all\nwait settled {WITHIN}\nkey new on n1\nwait event n1 key-loaded {WITHIN}\n"
        f"expect settled\nkey copy to n2\nwait settled {WITHIN}\n",
    )
    assert [each.held for each in record.expectations] == [False]
    assert "n2: steady, key 1 of 2" in record.expectations[0].seen


def test_a_bad_key_is_refused_and_asks_for_no_new_generation(tmp_path: Path) -> None:
    record, _ = run(
        tmp_path,
        f"start all\nwait settled {WITHIN}\nkey half-written on n2\n"
        f"wait event n2 key-refused code key-fields {WITHIN}\nexpect settled\nhold event n2 key-refused for 100ms\n",
    )
    assert [each.held for each in record.expectations] == [True, True]


def test_writes_count_from_the_last_start(tmp_path: Path) -> None:
    record, _ = run(tmp_path, f"start n1\nwait settled n1 {WITHIN}\nexpect writes n1 == 1\nexpect writes n1 == 2\n")
    assert [each.held for each in record.expectations] == [True, True]


def test_a_joining_node_gets_the_current_key(tmp_path: Path) -> None:
    record, ground = run(
        tmp_path,
        f"start all\nwait settled {WITHIN}\nprobe start\njoin n3\nwait event n3 settled {WITHIN}\n"
        "probe add n3\nprobe stop\n",
    )
    assert held(record) == []
    assert ground.said[-5:] == ["probes start", "add n3", "spawn n3", "probes add n3", "probes stop"]
    assert (tmp_path / "keys/n3/keys").read_bytes() == (tmp_path / "keys/n1/keys").read_bytes()


@pytest.mark.parametrize(("header", "replays"), [("replay\norder advertise-first\n", True), ("", False)])
def test_old_behaviour_is_asked_for_only_where_the_scenario_says_so(
    tmp_path: Path, header: str, replays: bool
) -> None:
    record, _ = run(tmp_path, f"start all\nwait settled {WITHIN}\n", header=header)
    assert [agent.log.events[0].fields["replay"] for agent in record.agents] == [replays, replays]


def test_mishaps_reach_the_node_they_are_meant_for(tmp_path: Path) -> None:
    record, ground = run(
        tmp_path,
        f"foreign place\nstart all\nwait settled {WITHIN}\nlink n2 down\nxfrm flush n2 states\nlink n2 up\n"
        "xfrm delete n2 from n1\nxfrm recreate n2 to n1\nplant n1 to n2 oseq 7\naddress add n2\nstop n2\n"
        f"address use n2\nstart n2\nwait settled n2 {WITHIN}\naddress drop n2\nxfrm delete n1 to n2\n"
        "expect foreign untouched\nexpect heartbeat n1 == 1\nexpect heartbeat n2 == 1\n",
    )
    assert [each.held for each in record.expectations] == [True, True, False]
    assert [each for each in ground.said if not each.startswith("spawn")] == [
        "foreign", "link n2 down", "flush n2 states", "link n2 up", "delete at n2: 192.0.2.1 > 192.0.2.2",
        "recreate at n2: 192.0.2.2 > 192.0.2.1", "plant at n1: 192.0.2.1 > 192.0.2.2 7", "address add n2",
        "address drop n2", "delete at n1: 192.0.2.1 > 192.0.2.102",
    ]  # fmt: skip


def test_a_reboot_takes_the_kernels_state_and_changes_its_boot_id(tmp_path: Path) -> None:
    record, ground = run(tmp_path, f"start all\nwait settled {WITHIN}\nreboot n2\nwait settled {WITHIN}\n")
    assert ground.said == ["spawn n1", "spawn n2", "flush n2 policies", "flush n2 states", "spawn n2"]
    booted = [agent.log.events[-1].fields["boot_id"] for agent in record.agents]
    assert booted[0] == ""
    assert len(booted[1]) == 36


def test_records_that_are_gone_are_not_settled(tmp_path: Path) -> None:
    record, _ = run(
        tmp_path, f"start n1\nwait settled n1 {WITHIN}\nstop n1\nrecord delete n1\nexpect settled n1\n"
    )
    assert [each.held for each in record.expectations] == [False]
    assert record.expectations[0].seen == "n1 runs but has published nothing"


def test_a_node_can_be_given_anothers_name(tmp_path: Path) -> None:
    record, _ = run(
        tmp_path,
        f"join n3 as n2\nwait event n3 settled {WITHIN}\nstop n3\nrename n3 as n3\nstart n3\n"
        f"wait event n3 settled {WITHIN}\n",
    )
    names = [event.fields["node"] for event in record.agents[2].log.events if event.event == "started"]
    assert names == ["n2", "n3"]


def test_packets_are_counted_while_they_are_sent(tmp_path: Path) -> None:
    record, ground = run(
        tmp_path,
        f"probe watch\nsend n1 n2 1500\nwait received n1 n2 == 1500 {WITHIN}\nexpect silence n1 n2 == 0.5s\n"
        "probe stop\nexpect sent n1 n2 == 10\n",
    )
    assert held(record) == [
        ("line 7: expect silence n1 n2 == 0.5s", True), ("line 9: expect sent n1 n2 == 10", True),
    ]  # fmt: skip
    assert ground.said == ["probes watch", "probes stop"]


def test_hogs_are_gone_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def note(*args: object, **kwargs: object) -> subprocess.Popen[bytes]:
        started.append(real(*args, **kwargs))  # type: ignore[call-overload]
        return started[-1]

    monkeypatch.setattr("hitless.lab.runner.subprocess.Popen", note)
    run(tmp_path, "hog cpu 2\nhog stop\nhog cpu 1\n")
    assert len(started) == 3
    assert all(process.poll() is not None for process in started)


def test_repeated_expectations_are_told_once_and_failures_each(tmp_path: Path) -> None:
    record, _ = run(tmp_path, "repeat 3\nexpect keys n1 == 1\nexpect keys n1 == 2\nend\n")
    assert held(record) == [
        ("line 5: expect keys n1 == 1 (3 times)", True),
        ("line 6: expect keys n1 == 2 (turn 1)", False),
        ("line 6: expect keys n1 == 2 (turn 2)", False),
        ("line 6: expect keys n1 == 2 (turn 3)", False),
    ]


def test_a_stream_that_broke_has_stalled_for_ever() -> None:
    def stalled(stream: TcpResult) -> float:
        return traffic(Verdict(UdpResult(()), (stream,), CaptureResult(), ()))["stalled_seconds"]

    assert stalled(TcpResult("c1>c2/4", 100, 100, 0, 250.0)) == 0.25
    assert stalled(TcpResult("c1>c2/4", 100, 100, 1, 250.0)) == float("inf")
    assert stalled(TcpResult("c1>c2/4", 100, 0, 0, 0.0)) == float("inf")
