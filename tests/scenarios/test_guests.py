"""Scenarios shared out over guests: who gets which, what a guest that dies takes along, what is left behind."""

from __future__ import annotations

import itertools
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from hitless.cli.lab import app
from hitless.lab import guests, lines, outer, report, series
from hitless.lab.guests import Guests
from hitless.lab.kernel import LabError
from hitless.lab.kernel.host import HostKernel
from hitless.lab.probe.capture import CaptureResult
from hitless.lab.probe.judge import Verdict
from hitless.lab.probe.udp import UdpResult
from hitless.lab.scenario import ScenarioError
from hitless.lab.series import ENDED, Ended

NAMES = ("rotate", "rotate-wrap", "transport", "bad-key", "dual-stack")
_PATIENCE_SECONDS = 60.0

Answer = Callable[[str], Ended | None]
"""A scenario's name -> how it ends; None: the guest dies of it."""


class StandInGuest:
    """Takes lines as the guest does, without carrying anything out. Boots are counted."""

    name = "stand-in"

    def __init__(self, answer: Answer = lambda _: Ended(0)) -> None:
        self._answer = answer
        self.played: list[list[str]] = []
        self.playing = threading.Event()

    def run(self, argv: Sequence[str], *, results: Path, env: Mapping[str, str], timeout_seconds: float) -> int:  # noqa: ARG002
        assert argv[argv.index("--results") + 1] == str(results)
        boot: list[str] = []
        self.played.append(boot)
        for number in range(10):
            line = _next(results, number)
            if line == lines.QUIT:
                return 0
            scenario = Path(line)
            boot.append(scenario.stem)
            self.playing.set()
            ended = self._answer(scenario.stem)
            if ended is None:
                raise LabError("guest-died", "the guest kernel ended without an exit status")
            _leave(scenario, ended)
            if not ended.clean:
                return 1
        raise AssertionError("more lines than scenarios")

    def describe(self) -> str:
        return "no kernel"


def _next(results: Path, number: int) -> str:
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while (line := lines.taken(results, number)) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    return line


def _leave(scenario: Path, ended: Ended) -> None:
    """What a scenario's end looks like from outside."""
    held = report.Expectation("expect lost == 0", ended.status == 0, "0")
    found = report.build(scenario.stem, "6.1", Verdict(UdpResult(()), (), CaptureResult(), ()), [held])
    scenario.with_name(outer.REPORT).write_bytes(report.to_json(found))
    fresh = scenario.with_name(".fresh")
    fresh.write_bytes(msgspec.json.encode(ended))
    fresh.rename(scenario.with_name(ENDED))


def use(monkeypatch: pytest.MonkeyPatch, guest: StandInGuest) -> StandInGuest:
    monkeypatch.setattr(guests, "choose", lambda _: guest)
    return guest


def test_one_guest_plays_all_and_the_longest_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guest = use(monkeypatch, StandInGuest())
    with Guests(NAMES, results=tmp_path) as played:
        outcomes = {each.name: each for each in played.outcomes()}
    assert {name: (each.status, each.trouble) for name, each in outcomes.items()} == dict.fromkeys(NAMES, (0, ""))
    assert len(guest.played) == 1
    assert sorted(guest.played[0]) == sorted(NAMES)
    assert guest.played[0][0] == "bad-key"
    assert guest.played[0][-1] == "rotate"  # it allows a TCP stream to stand still for one second
    assert (tmp_path / "rotate" / "report.json").exists()


def test_several_guests_share_the_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    meeting = threading.Barrier(2, timeout=_PATIENCE_SECONDS)
    first = {"dual-stack", "transport"}

    def answer(name: str) -> Ended:
        if name in first:
            meeting.wait()  # comes back only if two are played at the same time
        return Ended(0)

    guest = use(monkeypatch, StandInGuest(answer))
    with Guests(sorted(first), results=tmp_path, count=2) as played:
        assert [played.outcome(name).status for name in sorted(first)] == [0, 0]
    assert sorted(map(len, guest.played)) == [1, 1]


def test_what_allows_no_long_silence_is_played_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    playing: set[str] = set()
    beside: dict[str, set[str]] = {}

    def answer(name: str) -> Ended:
        beside[name] = set(playing)
        playing.add(name)
        time.sleep(0.05)  # long enough for another guest to begin, if it is let
        playing.remove(name)
        return Ended(0)

    use(monkeypatch, StandInGuest(answer))
    tight = ("rotate", "policies-flushed", "node-rebooted")
    with Guests((*NAMES, *tight[1:]), results=tmp_path, count=2) as played:
        assert [each.status for each in played.outcomes()] == [0] * 7
    assert [beside[name] for name in tight] == [set()] * 3
    assert not any(set(tight) & others for others in beside.values())


def test_a_guest_that_dies_takes_one_scenario_along(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guest = use(monkeypatch, StandInGuest(lambda name: None if name == "bad-key" else Ended(0)))
    with Guests(NAMES, results=tmp_path) as played:
        outcomes = {name: played.outcome(name) for name in NAMES}
    assert {name for name, each in outcomes.items() if each.status} == {"bad-key"}
    assert "[guest-died]" in outcomes["bad-key"].trouble
    assert len(guest.played) == 2
    assert sorted(itertools.chain(*guest.played)) == sorted(NAMES)


def test_what_is_left_behind_fails_and_what_stays_costs_the_guest(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ends = {
        "bad-key": Ended(0, left=("process 7 (etcd)",), clean=False),
        "transport": Ended(0, left=("file a",)),
        "rotate": Ended(1),
        "dual-stack": Ended(124),
    }
    guest = use(monkeypatch, StandInGuest(lambda name: ends.get(name, Ended(0))))
    with Guests(NAMES, results=tmp_path) as played:
        outcomes = {name: played.outcome(name) for name in NAMES}
    assert {name: each.status for name, each in outcomes.items()} == dict.fromkeys(NAMES, 1) | {"rotate-wrap": 0}
    assert outcomes["bad-key"].trouble == "left behind: process 7 (etcd) [left-behind]"
    assert "[left-behind]" in outcomes["transport"].trouble
    assert "[lab-timed-out]" in outcomes["dual-stack"].trouble
    assert not outcomes["rotate"].trouble  # its report says it
    assert [len(boot) for boot in guest.played] == [1, 4]


def test_leaving_early_ends_the_guest(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    released = threading.Event()

    def answer(_: str) -> Ended:
        # As the guest does: a line that comes while a scenario is played ends it.
        assert _next(tmp_path, 1) == lines.QUIT
        released.set()
        return Ended(124)

    guest = use(monkeypatch, StandInGuest(answer))
    with Guests(NAMES, results=tmp_path):
        assert guest.playing.wait(_PATIENCE_SECONDS)
    assert released.is_set()
    assert len(list(itertools.chain(*guest.played))) == 1


def test_what_cannot_be_played_is_said_before_anything_boots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guest = use(monkeypatch, StandInGuest())
    with pytest.raises(ScenarioError):
        Guests(["rotate", "no-such"], results=tmp_path)
    with pytest.raises(LabError) as caught:
        Guests(["rotate", "rotate"], results=tmp_path)
    assert caught.value.code == "scenario-named-twice"
    assert guest.played == []


def test_the_command_line_takes_several(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    guest = use(monkeypatch, StandInGuest(lambda name: Ended(int(name == "bad-key"))))
    done = CliRunner().invoke(app, ["run", "bad-key", "transport", "-o", "json", "--results", str(tmp_path)])
    assert done.exit_code == 1
    told = [report.from_json(line.encode()) for line in done.stdout.splitlines()]
    assert {each.scenario: each.ok for each in told} == {"bad-key": False, "transport": True}
    assert len(guest.played) == 1


# --- inside -----------------------------------------------------------------------------------------------

_SERIES = """
import ctypes, os, pathlib, signal, subprocess, sys, tempfile, time
from hitless.lab import series
from hitless.lab.probe import namespace

def scenario(arguments):
    name = pathlib.Path(arguments[2]).stem
    if name == "untidy":
        orphan = "sleep 1000 & echo $!"  # its parent ends: it becomes that of the series
        subprocess.run(["sh", "-c", orphan], stdout=subprocess.DEVNULL, check=True)
        namespace.create("hl-n1")
        pathlib.Path(tempfile.gettempdir(), "forgotten").touch()
        return 0
    if name == "endless":
        time.sleep(1000)
    if name == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(1000)
    if name == "defect":
        raise RuntimeError("a defect")
    return 1

series.run.main = scenario
series._GOING_SECONDS = 0.5
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
for path in sys.argv[1:]:
    # The untidy ones need no limit; of those that hang the end is what counts.
    series.play(pathlib.Path(path), 1.0 if "endless" in path or "deaf" in path else 60.0)
print(namespace.names("hl"), [p for p, _ in series._children()])
"""


def test_what_a_scenario_leaves_is_said_and_removed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / name / f"{name}.txt" for name in ("untidy", "tidy", "endless", "deaf", "defect")]
    for file in files:
        file.parent.mkdir()
    argv = [sys.executable, "-c", _SERIES, *map(str, files)]
    assert HostKernel().run(argv, results=tmp_path, env={}, timeout_seconds=120) == 0
    out, err = capfd.readouterr()
    assert out == "() []\n"
    untidy, tidy, endless, deaf, defect = (
        msgspec.json.decode(file.with_name(ENDED).read_bytes(), type=Ended) for file in files
    )
    assert untidy.clean
    assert [each.split(" (")[-1] for each in untidy.left] == ["sleep)", "network namespace hl-n1", "file forgotten"]
    assert err.count("untidy left behind: ") == len(untidy.left) == err.count("[left-behind]")
    assert tidy == Ended(1)
    assert (endless.status, deaf.status) == (124, 124)
    assert defect.status == 1
    assert "RuntimeError: a defect" in defect.words


def test_a_series_ends_with_quit(tmp_path: Path) -> None:
    lines.relay([], tmp_path)
    assert series.main(["--results", str(tmp_path)]) == 0
