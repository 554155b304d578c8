"""`hitless apply --confirm-within`: what becomes of a change that waits for a word, on a bridge in memory.

The process that takes it back is another one, which cannot reach this bridge, so here the command does what is left to
it when that one is dead. What two processes make of it is in `test_apply_switch.py`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from tests.agent.firewall.bridge import OUT, Crash, config, rule
from tests.cli.firewall_node import Node
from tests.cli.test_apply import APPLY, SHOP, planned

from hitless.agent.firewall import confirm, locks
from hitless.agent.firewall.memory import read_intent, write_json
from hitless.agent.firewall.rounds import Firewall, Round
from hitless.cli.firewall_files import intent_of_files
from hitless.core.model.flow import Connection
from hitless.ports import SwitchUnavailableError

MOVED = {"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("12", "clients")}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


@pytest.fixture(autouse=True)
def no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handlers belong to the process, and this one is the tests'."""
    monkeypatch.setattr("signal.signal", lambda *_: None)


def when(node: Node, monkeypatch: pytest.MonkeyPatch, then: Callable[[], object]) -> None:
    """Do this once while the command waits."""
    import hitless.cli.apply_confirm as command

    waiting = command._entered
    done: list[bool] = []

    def entered(left_seconds: float) -> bool:
        if not done:
            done.append(True)
            then()
        return waiting(left_seconds)

    monkeypatch.setattr(command, "_entered", entered)


def died_waiting(node: Node, monkeypatch: pytest.MonkeyPatch, seconds: str = "600") -> None:
    """A command that is killed while it waits, and its reverter with it."""

    def die() -> None:
        raise Crash

    with monkeypatch.context() as patch:
        when(node, patch, die)
        with pytest.raises((Crash, AssertionError)):
            node.run(*APPLY, "--confirm-within", seconds)
    assert confirm.UNTIL in node.bridge.external_ids


def let_expire(node: Node) -> None:
    """As if the time were over."""
    found = confirm.awaited(node.place / "state")
    assert found is not None
    over = msgspec.structs.replace(found, boot_until=0.0, until=time.time() - 1)
    write_json(node.place / "state/confirmation.json", over)


def agent(node: Node, flow_mods: int | None = None) -> Round:
    """A round of an agent with this state directory."""
    process = Firewall(node.bridge, config(node.place), lambda _step: None)
    done = process.round(intent_of_files(node.place / "intent"), look=True)
    assert flow_mods in {None, done.flow_mods}
    return done


# --- the command --------------------------------------------------------------------------------------------


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
    taken_back = node.bridge.external_ids.pop(confirm.TAKEN_BACK)
    assert node.bridge.external_ids == ids
    assert taken_back != ids["hitless-intent"]
    assert read_intent(node.place / "state") == intent
    assert not node.bridge.tracked
    assert not (node.place / "state/reversal.json").exists()


def test_a_change_that_is_confirmed_stays(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    when(node, monkeypatch, lambda: node.run(*APPLY, "--confirm"))
    assert node.run(*APPLY, "--confirm-within", "60").endswith("confirmed\n")
    assert confirm.UNTIL not in node.bridge.external_ids
    assert not (node.place / "state/reversal.json").exists()
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")
    assert "confirmed already, at " in node.run(*APPLY, "--confirm")
    assert "[nothing-to-confirm]" in node.run(*APPLY, "--take-back", wanted=1)


def test_a_word_about_another_plan_decides_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    (node.place / "old.json").write_bytes((node.place / "p.json").read_bytes())
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    said = node.run("apply", "old.json", "-c", "fw.toml", "--confirm", wanted=1)
    assert "[nothing-to-confirm]" in said
    assert confirm.awaited(node.place / "state") is not None


def test_an_interrupt_takes_the_change_back_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.bridge.ours
    planned(node, SHOP)

    def interrupt() -> None:
        raise KeyboardInterrupt

    when(node, monkeypatch, interrupt)
    node.run(*APPLY, "--confirm-within", "600", wanted=6)
    assert node.bridge.ours == before


def test_what_is_waited_for_is_never_taken_for_granted(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    when(node, monkeypatch, (node.place / "state/confirmation.json").unlink)
    assert "[confirmation-lost]" in node.run(*APPLY, "--confirm-within", "600", wanted=1)
    # The bridge still knows of it, and a word still counts.
    assert "[confirm-pending]" in node.run(*APPLY, wanted=1)
    assert "confirmed" in node.run(*APPLY, "--confirm")
    assert confirm.UNTIL not in node.bridge.external_ids


def test_a_way_back_that_is_refuted_keeps_the_change_from_being_made(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(node, ports=MOVED)
    asked = refute_the_way_back(monkeypatch)
    assert "the way back is not sound" in node.run(*APPLY, "--confirm-within", "60", wanted=4)
    assert len(asked) == 2
    assert not node.bridge.written


def refute_the_way_back(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """The second verdict that is asked for, the one about the way back, is a refutation."""
    from hitless.agent.firewall import guard

    judge, asked = guard.judge, list[bool]()

    def judged(*args: object) -> guard.Judged:
        asked.append(True)
        found: guard.Judged = judge(*args)  # type: ignore[arg-type]
        refuted = guard.Told("refuted", "a packet passes")
        return found if len(asked) == 1 else msgspec.structs.replace(found, told=refuted, accepted=False)

    monkeypatch.setattr(guard, "judge", judged)
    return asked


def test_without_a_reverter_nothing_is_written(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    from hitless.agent.firewall import reverter

    def dead(*_: object) -> None:
        assert not node.bridge.written
        raise reverter.ReverterError("it did not start")

    monkeypatch.setattr(reverter, "start", dead)
    planned(node, SHOP)
    before = node.bridge.ours
    assert "[reverter-failed]" in node.run(*APPLY, "--confirm-within", "60", wanted=1)
    assert node.bridge.ours == before
    assert confirm.awaited(node.place / "state") is None
    node.run(*APPLY)


def test_a_write_that_was_cut_off_is_taken_back_at_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, ports=MOVED)
    before, write = node.bridge.ours, node.bridge.apply
    calls: list[bool] = []

    def cut_off(bundle: object) -> None:
        calls.append(True)
        if len(calls) > 1:
            raise SwitchUnavailableError("switch-unavailable", "ovs-vswitchd does not answer")
        write(bundle)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(node.bridge, "apply", cut_off)
        assert "[switch-unavailable]" in node.run(*APPLY, "--confirm-within", "600", wanted=1)
    assert node.bridge.ours != before
    found = confirm.awaited(node.place / "state")
    assert found is not None
    assert found.left_seconds <= 0
    assert "[confirm-expired]" in node.run(*APPLY, wanted=1)
    assert node.bridge.ours.keys() == before.keys()


def test_a_bridge_that_has_no_way_back_does_not_wait(node: Node) -> None:
    node.bridge.fail_mode = ""
    planned(node, SHOP)
    assert "[confirm-impossible]" in node.run(*APPLY, "--confirm-within", "60", wanted=1)


# --- after a crash ------------------------------------------------------------------------------------------


def test_after_a_crash_a_confirmation_still_counts_while_there_is_time(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    said = node.run(*APPLY, wanted=1)
    assert "[confirm-pending]" in said
    assert f"hitless apply {node.place}/p.json -c {node.place}/fw.toml --confirm" in said
    after = node.bridge.ours
    node.run(*APPLY, "--confirm")
    assert node.bridge.ours == after
    assert confirm.UNTIL not in node.bridge.external_ids


@pytest.mark.parametrize("overdue", [False, True])
def test_what_waits_is_shown_with_the_commands_that_end_it(
    node: Node, monkeypatch: pytest.MonkeyPatch, overdue: bool
) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    if overdue:
        let_expire(node)
    command = f"hitless apply {node.place}/p.json -c {node.place}/fw.toml"
    for words, status in ((("plan", "-c", "fw.toml"), 0), (("firewall", "status", "-c", "fw.toml"), 7)):
        said = node.run(*words, wanted=status)
        assert ("is not taken back yet" if overdue else "a change waits for its confirmation until ") in said
        assert f"keep it: {command} --confirm; take it back now: {command} --take-back" in said
        assert "no process is there" in said


def test_it_can_be_taken_back_before_its_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.bridge.ours
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    assert "taken back: " in node.run(*APPLY, "--take-back")
    assert node.bridge.ours == before
    assert "too late: the change was taken back at " in node.run(*APPLY, "--confirm", wanted=1)


def test_a_late_confirmation_counts_while_the_change_is_in_force(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    let_expire(node)
    assert "late: nothing had taken it back yet" in node.run(*APPLY, "--confirm")
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")


def test_after_a_crash_the_next_apply_takes_back_what_has_expired(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.bridge.ours
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    let_expire(node)
    assert "[confirm-expired]" in node.run(*APPLY, wanted=1)
    assert node.bridge.ours == before
    assert confirm.UNTIL not in node.bridge.external_ids
    assert "[confirm-expired]" in node.run(*APPLY, "--confirm", wanted=1)
    assert "an agent does not make it" in node.run("plan", "-c", "fw.toml", "--out", "p.json", wanted=3)
    node.run(*APPLY)
    assert confirm.TAKEN_BACK not in node.bridge.external_ids


def test_a_flow_that_somebody_put_in_the_way_is_named_and_nothing_is_lost(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = node.bridge.ours
    planned(node, (OUT,))
    died_waiting(node, monkeypatch)
    key = next(key for key in before if key not in node.bridge.ours)
    node.bridge.flows[key] = msgspec.structs.replace(before[key], cookie=5)
    let_expire(node)
    assert "[flow-key-taken]" in node.run(*APPLY, wanted=1)
    assert "but could not: " in node.run("plan", "-c", "fw.toml", wanted=0)
    assert "cannot be taken back: " in agent(node, 0).conditions["confirmation-pending"]
    del node.bridge.flows[key]
    assert agent(node).conditions.keys() == {"change-taken-back"}
    assert node.bridge.ours == before


def test_a_change_that_was_taken_back_on_a_full_disk_is_not_called_confirmed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hitless.agent.firewall import memory
    from hitless.agent.statefile import StateFileError

    before, write = node.bridge.ours, memory.write_json
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    let_expire(node)

    def full(file: Path, value: object) -> None:
        if confirm.TAKEN_BACK in node.bridge.external_ids:
            raise StateFileError(f"{file}: No space left on device")
        write(file, value)

    with monkeypatch.context() as patch:
        patch.setattr(memory, "write_json", full)
        assert "[state-dir-unusable]" in node.run(*APPLY, wanted=1)
    assert node.bridge.ours == before
    assert confirm.awaited(node.place / "state") is not None
    assert "[confirm-expired]" in node.run(*APPLY, "--confirm", wanted=1)
    assert confirm.awaited(node.place / "state") is None


def test_without_the_way_back_the_change_stays_until_it_is_confirmed(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    (node.place / "state/reversal.json").unlink()
    let_expire(node)
    assert "[reversal-missing]" in node.run(*APPLY, wanted=1)
    assert "but could not: " in node.run("plan", "-c", "fw.toml")
    node.run(*APPLY, "--confirm")
    assert confirm.UNTIL not in node.bridge.external_ids


# --- an agent that starts -----------------------------------------------------------------------------------


def test_an_agent_leaves_the_bridge_alone_while_a_change_waits(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    node.say((OUT,))
    done = agent(node, 0)
    assert not done.settled
    assert "--confirm; take it back now: " in done.conditions["confirmation-pending"]
    assert confirm.awaited(node.place / "state") is not None
    assert confirm.UNTIL in node.bridge.external_ids
    node.run(*APPLY, "--confirm")
    assert agent(node).settled


def test_an_agent_does_not_make_again_what_was_taken_back(node: Node) -> None:
    before = node.bridge.ours
    planned(node, SHOP)
    node.run(*APPLY, "--confirm-within", "0.05", wanted=6)
    done = agent(node, 0)
    assert done.settled
    assert done.conditions.keys() == {"change-taken-back"}
    # It goes on to guard what is in force.
    node.bridge.restart()
    assert agent(node, len(before)).conditions.keys() == {"change-taken-back"}
    assert node.bridge.ours == before
    node.say((OUT,))
    assert not agent(node).conditions
    assert confirm.TAKEN_BACK not in node.bridge.external_ids


def test_an_agent_takes_back_what_is_overdue_and_has_no_reverter(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    before = node.bridge.ours
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    let_expire(node)
    with locks.held(node.place / "state/reverter.lock", locks.Holder("reverter", 7), "it"):
        assert agent(node, 0).conditions.keys() == {"confirmation-pending"}
    done = agent(node)
    assert node.bridge.ours == before
    assert done.conditions.keys() == {"change-taken-back"}


def test_a_reboot_ends_the_time(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    monkeypatch.setattr(confirm, "boot_id", lambda: "another")
    found = confirm.awaited(node.place / "state")
    assert found is not None
    assert found.left_seconds == 0.0


def test_a_change_of_another_state_directory_is_minded(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    planned(node, SHOP)
    died_waiting(node, monkeypatch)
    (node.place / "state").rename(node.place / "theirs")
    planned(node, SHOP, wanted=0)
    assert "another change waits" in node.run(*APPLY, wanted=1)
    assert "another state directory" in agent(node, 0).conditions["confirmation-pending"]
    node.bridge.external_ids[confirm.UNTIL] = f"{time.time() - 3600:.3f}:abc"
    assert agent(node).settled
    assert confirm.UNTIL not in node.bridge.external_ids
