"""`hitless apply`: what it refuses, what it does, and what becomes of a change that nobody confirms."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.agent.firewall.bridge import OUT, WEB, Crash, documents, firewall, policy, rule, text
from tests.cli.firewall_node import Node
from tests.cli.test_firewall import LIMIT_SECONDS, switch
from tests.cli.test_plan import SWAPPED, opaque_flow

from hitless.agent.firewall import confirm
from hitless.agent.firewall.memory import read_intent, write_json
from hitless.agent.firewall.status import Status
from hitless.core.model.flow import Connection
from hitless.lab.ovs import PrivateSwitch

__all__ = ["switch"]  # a fixture
APPLY = ("apply", "p.json", "-c", "fw.toml")
SHOP = (*WEB, rule(8080, "clients"))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def planned(node: Node, *args: object, wanted: int = 3, **more: object) -> None:
    node.say(*args, **more)
    node.run("plan", "-c", "fw.toml", "--out", "p.json", wanted=wanted)


def test_a_plan_is_carried_out_as_the_agent_would(node: Node) -> None:
    planned(node, SHOP)
    assert "in force: " in node.run(*APPLY)
    assert node.bridge.external_ids["hitless-intent"] == node.bridge.external_ids["hitless-committed"]
    assert confirm.UNTIL not in node.bridge.external_ids
    assert "barrier" in node.bridge.calls
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")
    assert firewall(node.bridge).round(policy(SHOP), look=True).flow_mods == 0


def test_a_change_that_takes_more_than_one_bundle_is_carried_out(node: Node) -> None:
    planned(node, ports={"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("12", "clients")})
    assert len(json.loads((node.place / "p.json").read_text())["batches"]) > 1
    node.run(*APPLY)
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")


def test_a_plan_for_another_state_of_the_bridge_is_stale(node: Node) -> None:
    planned(node, SHOP)
    key, flow = next(iter(node.bridge.ours.items()))
    del node.bridge.flows[key]
    assert "[plan-stale]" in node.run(*APPLY, wanted=1)
    node.bridge.flows[key] = flow
    node.say((OUT,))
    assert "the documents say something else now" in node.run(*APPLY, wanted=1)
    node.say(SHOP)
    node.bridge.writes = 0
    node.run(*APPLY)
    assert node.bridge.writes


def test_a_plan_of_another_node_or_none_at_all_is_refused(node: Node) -> None:
    planned(node, SHOP)
    text = (node.place / "p.json").read_text()
    (node.place / "p.json").write_text(text.replace('"n1"', '"n2"'))
    assert "[plan-elsewhere]" in node.run(*APPLY, wanted=1)
    (node.place / "p.json").write_text("{}")
    assert "[plan-invalid]" in node.run(*APPLY, wanted=1)


def test_nothing_is_done_beside_an_agent(node: Node) -> None:
    planned(node, SHOP)
    write_json(node.place / "state/status.json", Status("n1", "br", os.getpid()))
    assert "[agent-alive]" in node.run(*APPLY, wanted=1)
    assert not node.bridge.written


def test_a_refuted_plan_is_not_carried_out(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitless.agent.firewall.guard.stamped", lambda bundle, _stamp: (bundle,))
    planned(node, ports=SWAPPED, wanted=4)
    for more in ((), ("--accept-unknown",)):
        assert "[plan-refuted]" in node.run(*APPLY, *more, wanted=4)
    # Nor one whose file says otherwise: it is judged again right before.
    text = (node.place / "p.json").read_text()
    (node.place / "p.json").write_text(text.replace('"refuted"', '"proved"'))
    assert "[plan-refuted]" in node.run(*APPLY, wanted=4)
    assert not node.bridge.written


def test_what_is_unknown_is_carried_out_only_when_it_is_accepted(node: Node) -> None:
    odd = opaque_flow()
    node.bridge.flows[odd.key] = odd
    planned(node, ports={"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("12", "clients")}, wanted=7)
    said = node.run(*APPLY, wanted=7)
    assert "--accept-unknown" in said
    assert "[plan-unknown]" in said
    assert not node.bridge.written
    node.run(*APPLY, "--accept-unknown")
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")


# --- a word in time -----------------------------------------------------------------------------------------


def when(node: Node, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Do this once while the command waits."""
    import hitless.cli.apply as command

    waiting = command._entered
    done: list[bool] = []

    def entered(*args: object) -> bool:
        if not done:
            done.append(True)
            then()
        return waiting(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(command, "_entered", entered)


@pytest.fixture(autouse=True)
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers belong to the process, and this one is the tests'."""
    monkeypatch.setattr("signal.signal", lambda *_: None)


def test_a_change_that_nobody_confirms_is_taken_back(node: Node) -> None:
    before, intent = node.bridge.ours, read_intent(node.place / "state")
    ids = dict(node.bridge.external_ids)
    planned(node, (OUT, rule(8080, "clients")))
    zone = int(ids["hitless-tags"].removeprefix("blue:"))
    node.bridge.tracked = [Connection(zone, 6, "10.9.0.1", "10.0.0.1", 40000, 443)]
    planned(node, (OUT, rule(8080, "clients")))
    said = node.run(*APPLY, "--confirm-within", "0.05", wanted=6)
    assert "ends, and does not come back if this is taken back:  protocol 6, 10.9.0.1 port 40000" in said
    assert "not confirmed, taken back: " in said
    assert node.bridge.ours == before
    assert node.bridge.external_ids == ids
    assert read_intent(node.place / "state") == intent
    assert not node.bridge.tracked


def test_a_change_that_is_confirmed_stays(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    when(node, monkeypatch, lambda: node.run(*APPLY, "--confirm"))
    assert "confirmed" in node.run(*APPLY, "--confirm-within", "60")
    assert confirm.UNTIL not in node.bridge.external_ids
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")
    assert "[nothing-to-confirm]" in node.run(*APPLY, "--confirm", wanted=1)


def test_an_interrupt_takes_the_change_back_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.bridge.ours
    planned(node, SHOP)

    def interrupt() -> None:
        raise KeyboardInterrupt

    when(node, monkeypatch, interrupt)
    node.run(*APPLY, "--confirm-within", "600", wanted=6)
    assert node.bridge.ours == before


def test_a_way_back_that_is_refuted_keeps_the_change_from_being_made(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(node, ports={"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("12", "clients")})
    monkeypatch.setattr("hitless.agent.firewall.guard.stamped", lambda bundle, _stamp: (bundle,))
    assert "the way back is not sound" in node.run(*APPLY, "--confirm-within", "60", wanted=4)
    assert not node.bridge.written


def died_waiting(node: Node, monkeypatch: pytest.MonkeyPatch, seconds: str) -> None:
    """A command that is killed while it waits."""

    def die() -> None:
        raise Crash

    with monkeypatch.context() as patch:
        when(node, patch, die)
        with pytest.raises((Crash, AssertionError)):
            node.run(*APPLY, "--confirm-within", seconds)
    assert confirm.UNTIL in node.bridge.external_ids


def test_after_a_crash_a_confirmation_still_counts_while_there_is_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch, "600")
    assert "[confirm-pending]" in node.run(*APPLY, wanted=1)
    after = node.bridge.ours
    node.run(*APPLY, "--confirm")
    assert node.bridge.ours == after
    assert confirm.UNTIL not in node.bridge.external_ids


def test_after_a_crash_the_next_apply_takes_back_what_has_expired(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = node.bridge.ours
    planned(node, SHOP)
    died_waiting(node, monkeypatch, "600")
    plan = node.bridge.external_ids[confirm.UNTIL].partition(":")[2]
    node.bridge.external_ids[confirm.UNTIL] = f"{time.time() - 1:.3f}:{plan}"
    assert "[confirm-expired]" in node.run(*APPLY, "--confirm", wanted=1)
    assert "[confirm-expired]" in node.run(*APPLY, wanted=1)
    assert node.bridge.ours == before
    assert confirm.UNTIL not in node.bridge.external_ids
    node.run("plan", "-c", "fw.toml", "--out", "p.json", wanted=3)
    node.run(*APPLY)


def test_without_the_way_back_the_change_stays_until_it_is_confirmed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch, "600")
    (node.place / "state/reversal.json").unlink()
    plan = node.bridge.external_ids[confirm.UNTIL].partition(":")[2]
    node.bridge.external_ids[confirm.UNTIL] = f"{time.time() - 1:.3f}:{plan}"
    assert "[reversal-missing]" in node.run(*APPLY, wanted=1)
    node.run(*APPLY, "--confirm")
    assert confirm.UNTIL not in node.bridge.external_ids


def test_an_agent_that_starts_goes_by_the_documents(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch, "600")
    after = node.bridge.ours
    assert firewall(node.bridge).round(policy(SHOP), look=True).settled
    assert node.bridge.ours == after
    assert confirm.UNTIL not in node.bridge.external_ids


def test_a_bridge_that_has_no_way_back_does_not_wait(node: Node) -> None:
    node.bridge.fail_mode = ""
    planned(node, SHOP)
    assert "[confirm-impossible]" in node.run(*APPLY, "--confirm-within", "60", wanted=1)


# --- a real Open vSwitch ------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where `switch` puts its configuration."""
    (tmp_path / "intent").mkdir()
    (tmp_path / "intent/all.yaml").write_text(text(documents()))
    return tmp_path


def started(place: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "hitless", *words], cwd=place, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def ends(process: subprocess.Popen[str], wanted: int) -> str:
    said = process.communicate(timeout=LIMIT_SECONDS)[0]
    assert process.returncode == wanted, said
    assert "Traceback" not in said
    return said


def waiting(place: Path) -> subprocess.Popen[str]:
    """A command that is in force and waits for a word."""
    ends(started(place, "plan", "-c", "fw.toml", "--out", "p.json"), 3)
    process = started(place, *APPLY, "--confirm-within", "600")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("waiting "):
            return process
    raise AssertionError(process.wait(LIMIT_SECONDS))


def test_plans_on_a_real_switch(place: Path, switch: PrivateSwitch) -> None:
    assert "in one bundle" in ends(started(place, "plan", "-c", "fw.toml", "--out", "p.json"), 3)
    ends(started(place, *APPLY), 0)
    assert "nothing to change" in ends(started(place, "plan", "-c", "fw.toml"), 0)

    (place / "intent/all.yaml").write_text(text(documents(SHOP)))
    process = waiting(place)
    assert confirm.UNTIL in switch.vsctl("get", "Bridge", "br", "external_ids")
    process.send_signal(signal.SIGHUP)  # the terminal is gone; the change goes on waiting
    assert ends(started(place, *APPLY, "--confirm"), 0) == "confirmed\n"
    assert "confirmed" in ends(process, 0)
    assert "nothing to change" in ends(started(place, "plan", "-c", "fw.toml"), 0)

    (place / "intent/all.yaml").write_text(text(documents(ports=SWAPPED)))
    process = waiting(place)
    process.send_signal(signal.SIGTERM)
    assert "not confirmed, taken back" in ends(process, 6)
    assert confirm.UNTIL not in switch.vsctl("get", "Bridge", "br", "external_ids")
    (place / "intent/all.yaml").write_text(text(documents(SHOP)))
    assert "nothing to change" in ends(started(place, "plan", "-c", "fw.toml"), 0)
