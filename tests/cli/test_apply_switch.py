"""`hitless apply` on a real Open vSwitch: processes that are killed, that come at once, and an agent in between."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.agent.firewall.bridge import documents, text
from tests.cli.test_apply import APPLY, SHOP
from tests.cli.test_firewall import LIMIT_SECONDS, Running, switch
from tests.cli.test_plan import SWAPPED

from hitless.agent.firewall import confirm
from hitless.agent.firewall.memory import write_json
from hitless.lab.ovs import PrivateSwitch

__all__ = ["switch"]  # a fixture
PLAN = ("plan", "-c", "fw.toml", "--out", "p.json")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where `switch` puts its configuration."""
    (tmp_path / "intent").mkdir()
    (tmp_path / "intent/all.yaml").write_text(text(documents()))
    return tmp_path


def started(place: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hitless", *words], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip


def ends(process: subprocess.Popen[str], wanted: int) -> str:
    said = process.communicate(timeout=LIMIT_SECONDS)[0]
    assert process.returncode == wanted, said
    assert "Traceback" not in said
    return said


def until(holds: Callable[[], object], why: Callable[[], object]) -> None:
    end = time.monotonic() + LIMIT_SECONDS
    while not holds():
        assert time.monotonic() < end, why()
        time.sleep(0.05)


def waiting(place: Path, seconds: str = "600") -> subprocess.Popen[str]:
    """A command that is in force and waits for a word."""
    ends(started(place, *PLAN), 3)
    process = started(place, *APPLY, "--confirm-within", seconds)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("waiting "):
            return process
    raise AssertionError(process.wait(LIMIT_SECONDS))


def reverter(place: Path) -> int:
    return confirm.reverter(place / "state")


def end_reverter(place: Path, how: signal.Signals) -> None:
    pid = reverter(place)
    assert pid > 1
    os.kill(pid, how)


def taken_back(place: Path) -> bool:
    found = confirm.last(place / "state")
    return found is not None and found.outcome == "taken-back" and not reverter(place)


@pytest.fixture
def running(place: Path, switch: PrivateSwitch) -> Iterator[PrivateSwitch]:
    """A bridge with the first documents in force, and others in place."""
    ends(started(place, *PLAN), 3)
    ends(started(place, *APPLY), 0)
    (place / "intent/all.yaml").write_text(text(documents(SHOP)))
    yield switch
    found = confirm.awaited(place / "state")
    if found is not None:  # a test that failed: its reverter goes at once
        write_json(place / "state/confirmation.json", {**json_of(place), "outcome": "confirmed"})
        until(lambda: not reverter(place), lambda: "the reverter lives")


def json_of(place: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((place / "state/confirmation.json").read_text())
    return found


def test_a_change_that_is_confirmed_and_one_that_is_interrupted(place: Path, running: PrivateSwitch) -> None:
    process = waiting(place)
    assert confirm.UNTIL in running.vsctl("get", "Bridge", "br", "external_ids")
    process.send_signal(signal.SIGHUP)  # the terminal is gone; the change goes on waiting
    assert ends(started(place, *APPLY, "--confirm"), 0) == "confirmed\n"
    assert "confirmed" in ends(process, 0)
    until(lambda: not reverter(place), lambda: "the reverter lives")
    assert "nothing to change" in ends(started(place, "plan", "-c", "fw.toml"), 0)

    (place / "intent/all.yaml").write_text(text(documents(ports=SWAPPED)))
    process = waiting(place)
    process.send_signal(signal.SIGTERM)
    assert "not confirmed, taken back" in ends(process, 6)
    assert confirm.UNTIL not in running.vsctl("get", "Bridge", "br", "external_ids")
    (place / "intent/all.yaml").write_text(text(documents(SHOP)))
    assert "nothing to change" in ends(started(place, "plan", "-c", "fw.toml"), 0)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGQUIT])
def test_whoever_dies_the_change_is_taken_back(place: Path, running: PrivateSwitch, how: signal.Signals) -> None:
    before = running.ofctl("dump-flows", "br", "table=60", "--no-stats")
    process = waiting(place, "4")
    os.killpg(process.pid, how)  # the whole session of the terminal
    process.communicate(timeout=LIMIT_SECONDS)
    until(lambda: taken_back(place), (place / "state/reverter.log").read_text)
    assert running.ofctl("dump-flows", "br", "table=60", "--no-stats") == before
    assert confirm.UNTIL not in running.vsctl("get", "Bridge", "br", "external_ids")
    assert "too late: the change was taken back at" in ends(started(place, *APPLY, "--confirm"), 1)
    (place / "intent/all.yaml").write_text(text(documents()))
    assert "nothing to change" in ends(started(place, "plan", "-c", "fw.toml"), 0)


DIES = """
import os, signal, sys
import hitless.agent.firewall.{module} as module
def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)
module.{name} = die
from hitless.cli.main import app
app()
"""


@pytest.mark.parametrize(
    ("module", "name", "reverted"),
    [
        ("reverter", "start", False),  # the way back is kept, nobody is there to go it, nothing is written
        ("confirm", "begin", True),  # the reverter is there, nothing is written
        ("picture", "Picture.apply", True),
        ("picture", "Picture.barrier", True),  # the flows are written, the time has not begun anew
    ],
)
def test_wherever_the_command_is_killed_the_bridge_is_as_before(
    place: Path, running: PrivateSwitch, module: str, name: str, reverted: bool
) -> None:
    before = running.ofctl("dump-flows", "br", "--no-stats")
    ends(started(place, *PLAN), 3)
    code = DIES.format(module=module, name=name)
    process = subprocess.run(
        [sys.executable, "-c", code, *APPLY, "--confirm-within", "2"], cwd=place, stdin=subprocess.DEVNULL,
        capture_output=True, timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert process.returncode == -signal.SIGKILL, process.stderr
    assert bool(reverter(place)) == reverted
    log = place / "state/reverter.log"
    if reverted:
        until(lambda: taken_back(place), log.read_text)
    else:
        found = confirm.awaited(place / "state")
        assert found is not None
        until(lambda: found.left_seconds <= 0, lambda: "the time does not pass")
        assert "[confirm-expired]" in ends(started(place, *APPLY), 1)
    assert running.ofctl("dump-flows", "br", "--no-stats") == before
    ends(started(place, *PLAN), 3)
    ends(started(place, *APPLY), 0)


def test_what_a_switch_that_is_down_does_not_take_back_is_taken_back_later(
    place: Path, running: PrivateSwitch
) -> None:
    process = waiting(place, "2")
    process.kill()
    process.communicate(timeout=LIMIT_SECONDS)
    running.kill_vswitchd()

    def trouble() -> str:
        found = confirm.awaited(place / "state")
        return found.trouble if found is not None else ""

    until(trouble, (place / "state/reverter.log").read_text)
    assert "but could not: " in ends(started(place, "firewall", "status", "-c", "fw.toml"), 7)
    running.start_vswitchd()
    until(lambda: taken_back(place), (place / "state/reverter.log").read_text)
    (place / "intent/all.yaml").write_text(text(documents()))
    assert "nothing to change" in ends(started(place, "plan", "-c", "fw.toml"), 0)


def test_who_removes_the_state_directory_has_not_confirmed(place: Path, running: PrivateSwitch) -> None:
    process = waiting(place, "3")
    for name in ("confirmation.json", "reversal.json"):
        (place / "state" / name).unlink()
    assert "[confirmation-lost]" in ends(process, 1)
    until(lambda: taken_back(place), (place / "state/reverter.log").read_text)


def test_a_reverter_that_is_ended_takes_the_change_back_at_once(place: Path, running: PrivateSwitch) -> None:
    process = waiting(place)
    end_reverter(place, signal.SIGTERM)
    assert "taken back" in ends(process, 6)


def test_a_command_whose_reverter_is_killed_takes_the_change_back(place: Path, running: PrivateSwitch) -> None:
    process = waiting(place, "5")
    end_reverter(place, signal.SIGKILL)
    assert "taken back" in ends(process, 6)


def test_of_several_at_once_one_wins_and_the_others_are_told(place: Path, running: PrivateSwitch) -> None:
    ends(started(place, *PLAN), 3)
    together = [started(place, *APPLY, "--confirm-within", "600") for _ in range(3)]
    until(lambda: sum(process.poll() is not None for process in together) == 2, lambda: "not one is left")
    ends(started(place, *APPLY, "--confirm"), 0)
    said = [process.communicate(timeout=LIMIT_SECONDS)[0] for process in together]
    assert sorted(process.returncode for process in together) == [0, 1, 1], said
    losers = [each for process, each in zip(together, said, strict=True) if process.returncode == 1]
    assert all("[apply-running]" in each or "[confirm-pending]" in each for each in losers), losers


def test_an_agent_that_starts_meanwhile_does_not_confirm(place: Path, running: PrivateSwitch) -> None:
    process = waiting(place)
    agent = Running(place)
    try:
        assert agent.wait("firewall-condition")["code"] == "confirmation-pending"
        assert "confirmation-pending" in ends(started(place, "firewall", "status", "-c", "fw.toml"), 5)
        assert "taken back: " in ends(started(place, *APPLY, "--take-back"), 0)
        assert "not confirmed, taken back" in ends(process, 6)
        assert agent.wait("firewall-condition", 2)["code"] == "change-taken-back"
        assert agent.events("firewall-applied") == []
        assert "[agent-alive]" in ends(started(place, *APPLY), 1)
        assert "is in other hands" in ends(started(place, "firewall", "agent", "-c", "fw.toml"), 1)
        (place / "intent/all.yaml").write_text(text(documents()))
        assert agent.wait("firewall-settled")["flow_mods"] == 0
        until(lambda: "taken-back" not in (place / "state/status.json").read_text(), agent.log.read_text)
    finally:
        assert agent.stop() == 0
