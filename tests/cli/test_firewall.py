"""`hitless firewall` as a person meets it: processes, their words and exit statuses; once on a real Open vSwitch."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.agent.firewall.bridge import OUT, documents, rule, text

from hitless.agent.firewall import locks
from hitless.agent.firewall.config import load
from hitless.agent.firewall.memory import write_json
from hitless.agent.firewall.status import Standing, Status
from hitless.core.firewall.identity import cookie
from hitless.lab.ovs import PrivateSwitch

LIMIT_SECONDS = 60.0
CONFIG = 'node = "n1"\nbridge = "br"\nintent = "intent"\nstate_dir = "state"\n'
FROM_STORE = 'node = "n1"\nbridge = "br"\ncluster = "demo"\n[store]\npath = "store.db"\n'


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "fw.toml").write_text(CONFIG)
    (tmp_path / "intent").mkdir()
    (tmp_path / "intent/all.yaml").write_text(text(documents()))
    return tmp_path


def says(place: Path, *words: str, wanted: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "hitless", "firewall", *words], cwd=place, stdin=subprocess.DEVNULL,
        env={**os.environ, "COLUMNS": "120", "NO_COLOR": "1"}, capture_output=True, text=True,
        timeout=LIMIT_SECONDS, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr + done.stdout
    assert done.returncode == wanted, (done.stdout, done.stderr)
    return done


# --- documents --------------------------------------------------------------------------------------------


def test_check_counts_what_is_good_and_names_every_fault(place: Path) -> None:
    assert "2 security groups, 0 address groups, 1 networks, 3 ports" in says(place, "check", "intent").stdout
    (place / "intent/bad.yaml").write_text("apiVersion: hitless/v1\nkind: Prt\n---\nkind: Network\n")
    faults = says(place, "check", "intent", wanted=1).stderr.splitlines()
    assert faults[0].startswith("intent/bad.yaml:2: document 1: kind: ")
    assert any("document 2" in each for each in faults)


def test_schema_is_json(place: Path) -> None:
    assert "2020-12" in json.loads(says(place, "schema").stdout)["$schema"]


def test_import_makes_documents_that_check_takes(place: Path) -> None:
    (place / "networks.json").write_text(json.dumps([{"ID": "n-1", "Name": "blue", "Subnets": []}]))
    (place / "got.yaml").write_text(says(place, "import", "networks.json").stdout)
    assert "1 networks" in says(place, "check", "got.yaml").stdout
    (place / "networks.json").write_text("[")
    assert "[import-unreadable]" in says(place, "import", "networks.json", wanted=1).stderr


def test_push_brings_documents_to_the_store_and_explain_reads_them_there(place: Path) -> None:
    (place / "store.toml").write_text(FROM_STORE)
    assert "6 documents, 6 written, 0 deleted" in says(place, "push", "intent", "-c", "store.toml").stdout
    assert "6 documents, nothing to change" in says(place, "push", "intent", "-c", "store.toml").stdout
    found = says(place, "explain", "-c", "store.toml", "--from", "c1", "--to", "w1", "tcp", "80").stdout
    assert "store:/hitless/demo/firewall/SecurityGroup/web" in found.splitlines()[0]
    assert "[config-invalid]" in says(place, "push", "intent", "-c", "fw.toml", wanted=1).stderr
    (place / "intent/bad.yaml").write_text("kind: Prt\n")
    says(place, "push", "intent", "-c", "store.toml", wanted=1)


# --- questions --------------------------------------------------------------------------------------------


def test_explain_says_first_what_decides(place: Path) -> None:
    ask = ("explain", "-c", "fw.toml")
    first = says(place, *ask, "--from", "c1", "--to", "w1", "tcp", "80").stdout.splitlines()[0]
    assert first.startswith("allowed by intent/all.yaml:")
    assert "rule web/" in first
    denied = says(place, *ask, "--from", "c1", "--to", "10.0.0.2", "tcp", "81", wanted=4).stdout.splitlines()[0]
    assert denied.startswith("denied: no rule allows it (ingress of port w2); nearest is intent/all.yaml:")
    assert denied.endswith("which fails on port")
    outside = says(place, *ask, "--from", "10.9.1.1", "--to", "w1", "tcp", "443", "-o", "json").stdout
    assert json.loads(outside)["allowed"] is True
    assert "neither end" in says(place, *ask, "--from", "192.0.2.1", "--to", "192.0.2.2", "icmp").stdout


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--from", "nobody", "--to", "w1", "tcp", "80"), "port-unknown"),
        (("--from", "2001:db8::1", "--to", "w1", "tcp", "80"), "no-common-family"),
        (("--from", "c1", "--to", "w1", "tpc", "80"), "intent-protocol"),
        (("--flow", "xyz"), "cookie-invalid"),
        (("--flow", "0x12"), "cookie-foreign"),
    ],
)
def test_questions_without_an_answer_say_why(place: Path, words: tuple[str, ...], code: str) -> None:
    done = says(place, "explain", "-c", "fw.toml", *words, wanted=1)
    assert done.stderr.endswith(f"[{code}]\n")
    assert not done.stdout


def test_a_question_that_is_not_whole_is_usage(place: Path) -> None:
    says(place, "explain", "-c", "fw.toml", "--from", "c1", wanted=2)
    says(place, "explain", "-c", "fw.toml", "--from", "c1", "--to", "w1", "tcp", wanted=2)
    says(place, "flows", "-c", "fw.toml", "--desired", "--diff", wanted=2)


def test_a_cookie_leads_to_what_was_said(place: Path) -> None:
    def ask(kind: str, name: str) -> str:
        return says(place, "explain", "-c", "fw.toml", "--flow", hex(cookie(kind, name))).stdout

    lines = ask("port", "w1").splitlines()
    assert lines[0] == "port w1"
    assert lines[1].startswith("  intent/all.yaml:")
    assert ask("member", "blue/10.0.0.11/").startswith("member 10.0.0.11 of group:clients on network blue")
    assert ask("pipeline", "canary").startswith("pipeline ")


# --- the agent --------------------------------------------------------------------------------------------


def test_agent_checks_and_refuses_historic_mistakes(place: Path) -> None:
    assert says(place, "agent", "-c", "fw.toml", "--check").stdout == "configuration and intent are good\n"
    (place / "fw.toml").write_text(CONFIG + '[lab]\nwrite = "piecewise"\n')
    assert "[replay-not-allowed]" in says(place, "agent", "-c", "fw.toml", "--check", wanted=1).stderr
    says(place, "agent", "-c", "fw.toml", "--check", "--replay-old-behaviour")


def test_an_agent_that_cannot_keep_its_state_does_not_start(place: Path) -> None:
    (place / "fw.toml").write_text(CONFIG.replace('"state"', '"/dev/null/state"'))
    assert says(place, "agent", "-c", "fw.toml", wanted=1).stderr.endswith("[state-dir-unusable]\n")


def test_status_of_agents_that_are_well_degraded_gone_or_never_were(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(place)

    def shown(status: Status, wanted: int, *, alive: bool = True) -> dict[str, Any]:
        write_json(place / "state/status.json", status)
        with locks.bridge(load(place / "fw.toml"), "agent") if alive else contextlib.nullcontext():
            says(place, "status", "-c", "fw.toml", wanted=wanted)
            said = says(place, "status", "-c", "fw.toml", "-o", "json", wanted=wanted).stdout
        found: dict[str, Any] = json.loads(said)
        return found

    assert "no agent has run" in says(place, "status", "-c", "fw.toml", wanted=7).stderr
    well = Status("n1", "br", os.getpid(), "ab", True, 10, 10, ("w1",))
    assert shown(well, 0)["degraded"] is False
    bad = Status("n1", "br", os.getpid(), "ab", True, conditions=(Standing("tag-conflict", 1.0, "w1 has 9"),))
    assert shown(bad, 5)["conditions"] == [{"code": "tag-conflict", "since": 1.0, "about": "w1 has 9"}]
    # The number of a process that is there proves nothing: it may be another's since.
    assert shown(well, 5, alive=False)["alive"] is False


# --- a real Open vSwitch ----------------------------------------------------------------------------------


@pytest.fixture
def switch(place: Path) -> Iterator[PrivateSwitch]:
    directory = Path(tempfile.mkdtemp(prefix="fw-"))  # short: it holds sockets
    try:
        with PrivateSwitch(directory) as made:
            made.add_bridge("br")
            for name in ("w1", "w2", "c1"):
                made.add_port("br", f"t{name}", kind="dummy", iface_id=name)
            where = f'database = "{made.database}"\nrun_dir = "{made.run_dir}"\n'
            (place / "fw.toml").write_text(CONFIG + where)
            yield made
    finally:
        shutil.rmtree(directory)


class Running:
    """An agent's process and what it says."""

    def __init__(self, place: Path) -> None:
        self.log = place / "agent.log"
        with self.log.open("wb") as log:
            command = [sys.executable, "-m", "hitless", "firewall", "agent", "-c", "fw.toml"]
            self.process = subprocess.Popen(command, cwd=place, stdin=subprocess.DEVNULL, stderr=log)

    def events(self, name: str) -> list[dict[str, Any]]:
        lines = self.log.read_text(encoding="utf-8").splitlines(keepends=True)
        told = [json.loads(each) for each in lines if each.startswith("{") and each.endswith("\n")]
        return [each for each in told if each["event"] == name]

    def wait(self, name: str, times: int = 1) -> dict[str, Any]:
        end = time.monotonic() + LIMIT_SECONDS
        while len(self.events(name)) < times:
            assert time.monotonic() < end, self.log.read_text()
            time.sleep(0.02)
        return self.events(name)[times - 1]

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        self.process.send_signal(how)
        return self.process.wait(LIMIT_SECONDS)


def test_a_life_on_a_real_switch(place: Path, switch: PrivateSwitch) -> None:
    assert says(place, "flows", "-c", "fw.toml", "--diff", wanted=3).stdout.startswith("+ ")
    agent = Running(place)
    try:
        flows = agent.wait("firewall-settled")["flows"]
        assert flows == agent.wait("firewall-settled")["flow_mods"] > 100
        assert not says(place, "flows", "-c", "fw.toml", "--diff").stdout
        assert len(says(place, "flows", "-c", "fw.toml").stdout.splitlines()) == flows
        mine = says(place, "flows", "-c", "fw.toml", "--port", "w1", "-o", "json").stdout
        assert 10 < len(json.loads(mine)) < flows
        says(place, "status", "-c", "fw.toml")

        switch.restart_vswitchd()
        assert agent.wait("switch-restarted")["flows"] == flows
        agent.wait("firewall-settled", 2)
        assert "flow-restore-wait" not in switch.vsctl("get", "Open_vSwitch", ".", "other_config")

        agent.stop(signal.SIGKILL)
        (place / "intent/all.yaml").write_text(text(documents((OUT, rule(80, "clients")))))
        agent = Running(place)
        assert 0 < agent.wait("firewall-settled")["flow_mods"] < 50
        assert agent.stop() == 0
        agent = Running(place)
        assert agent.wait("firewall-settled")["flow_mods"] == 0
    finally:
        assert agent.stop() == 0
