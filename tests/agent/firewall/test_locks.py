"""Locks that say who holds them, and that nothing but their holder's life keeps."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.agent.firewall.bridge import config

from hitless.agent.firewall import locks
from hitless.agent.statefile import StateFileError

HOLD = """
import sys, time
from pathlib import Path
from hitless.agent.firewall import locks
with locks.held(Path(sys.argv[1]), locks.Holder("agent", 7, "/there"), "it"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_is_its_holders_until_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    command = [sys.executable, "-c", HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        assert locks.holder(file) == locks.Holder("agent", 7, "/there")
        with (
            pytest.raises(locks.HeldError, match="process 7, state directory /there") as caught,
            locks.held(file, locks.Holder("apply", 8), "bridge br", 0.0),
        ):
            raise AssertionError
        assert caught.value.code == "agent-alive"
        process.kill()
        process.wait(30)
    assert locks.holder(file) is None
    with locks.held(file, locks.Holder("apply", 8), "bridge br", 0.0):
        assert locks.holder(file) == locks.Holder("apply", 8)
    assert locks.holder(file) is None


def test_what_a_holder_could_not_say_is_no_obstacle(tmp_path: Path) -> None:
    file = tmp_path / "a.lock"
    with locks.held(file, locks.Holder("apply", 8), "it"):
        file.write_bytes(b"")
        assert locks.holder(file) == locks.Holder("somebody")
        with pytest.raises(locks.HeldError) as caught, locks.held(file, locks.Holder("apply", 9), "it", 0.0):
            raise AssertionError
    assert caught.value.code == "confirm-busy"


def test_a_bridge_is_known_by_its_name_where_open_vswitchs_directory_can_be_written(tmp_path: Path) -> None:
    here, there = (config(tmp_path, run_dir=str(tmp_path), state_dir=str(tmp_path / each)) for each in ("a", "b"))
    with locks.bridge(here, "agent"):
        found = locks.keeper(there)
        assert found is not None
        assert found.state_dir == str(tmp_path / "a")
        with pytest.raises(locks.HeldError), locks.bridge(there, "apply", 0.0):
            raise AssertionError
    no_run_dir = config(tmp_path, run_dir=str(tmp_path / "none"))
    with locks.bridge(no_run_dir, "agent"):
        assert locks.keeper(no_run_dir) is not None
    assert not (tmp_path / "none").exists()


def test_a_state_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(StateFileError, match="make the directory writable"), locks.bridge(config(tmp_path), "apply"):
        raise AssertionError
