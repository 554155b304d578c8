"""The check before each write: what passes it, what does not, what it costs where there is nothing to judge."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from tests.agent.firewall.bridge import OUT, WEB, Agent, Bridge, config, policy, rule, run, until

from hitless.agent.firewall.guard import Guard, Judged, check_batches, judge
from hitless.agent.firewall.rounds import Firewall, Round
from hitless.core.firewall.replay import bundles
from hitless.core.model.flow import Ct, Flow, Interface, Opaque, exact
from hitless.core.model.security import Intent
from hitless.core.plan.flows import AddFlow

P = {"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("11", "clients")}
SWAPPED = {"w1": ("11", "clients"), "w2": ("2", "web"), "c1": ("1", "web")}
ODD = Flow(72, 99, (exact("reg5", 1),), (Opaque("group:7"),), 5)


def guarded(switch: Bridge) -> Firewall:
    return Firewall(switch, config(Path("/nowhere")), lambda _step: None, Guard())


def brought_up(intent: Intent) -> tuple[Bridge, Firewall]:
    switch = Bridge()
    process = guarded(switch)
    assert process.round(intent, look=True).settled
    switch.calls.clear()
    return switch, process


def without_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipeline that knows one bundle only: then there are changes that the check refutes."""
    monkeypatch.setattr("hitless.agent.firewall.guard.stamped", lambda bundle, _stamp: (bundle,))


# --- what passes --------------------------------------------------------------------------------------------


def unplug(switch: Bridge) -> None:
    del switch.interfaces["w1"]


def renumber(switch: Bridge) -> None:
    switch.interfaces["w1"] = Interface("w1", 9, switch.interfaces["w1"].tag)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({}, {"web": (*WEB, rule(8080, "clients"))}),
        ({}, {"web": (OUT,)}),
        ({}, {"web": (*WEB, rule(80, "clients", action="deny", tier=2))}),
        ({}, {"web": (OUT, rule(80, "clients", stateless=True))}),
        ({}, {"ports": {**P, "far": ("30", "clients")}}),
        ({"ports": {**P, "far": ("30", "clients")}}, {}),
        ({}, {"ports": {"w1": P["w1"], "w2": P["w2"]}}),
        ({"ports": {"w1": P["w1"], "w2": P["w2"]}}, {}),
        ({}, {"ports": {**P, "c1": ("12", "clients")}}),
        ({}, {"ports": {**P, "c1": ("11", "web")}}),
        ({}, {"ports": SWAPPED}),
    ],
)
def test_ordinary_changes_are_proved_and_written(before: dict[str, Any], after: dict[str, Any]) -> None:
    switch, process = brought_up(policy(**before))
    done = process.round(policy(**after), look=True)
    assert done.settled, done.conditions
    assert guarded(switch).round(policy(**after), look=True).flow_mods == 0


@pytest.mark.parametrize("change", [unplug, renumber])
def test_ports_that_leave_or_change_their_number_are_no_obstacle(change: Any) -> None:
    switch, process = brought_up(policy())
    change(switch)
    assert process.round(policy(), look=True).settled


def test_a_first_programming_is_proved_without_the_engine() -> None:
    switch = Bridge()
    process = guarded(switch)
    process.look()
    judged = judge(tuple(switch.flows.values()), process.plan(policy()).bundle, (1, 2, 3))
    assert judged.accepted
    assert "no" in judged.told.about
    assert len(judged.batches) == 1


def test_lost_tables_are_written_again_in_one_bundle() -> None:
    switch, process = brought_up(policy())
    flows = len(switch.ours)
    switch.restart()
    switch.calls.clear()
    done = process.round(policy(), look=True)
    assert (done.settled, done.flow_mods) == (True, flows)
    assert switch.calls.count("apply") == 1


def test_an_unchanged_restart_does_not_load_the_engine() -> None:
    code = (
        "import sys; from tests.agent.firewall.test_guard import brought_up, guarded, policy; "
        "switch, _ = brought_up(policy()); guarded(switch).round(policy(), look=True); "
        "print(any('verify.transition' in name or name == 'oxidd' for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
                          cwd=Path(__file__).parents[3])  # fmt: skip
    assert done.stdout.splitlines()[-1] == "False"


# --- what does not ------------------------------------------------------------------------------------------


def refused(process: Firewall, intent: Intent) -> Round:
    done = process.round(intent, look=True)
    assert not done.settled
    assert done.conditions.keys() in ({"plan-refuted"}, {"plan-unknown"})
    return done


def test_a_refuted_change_is_not_written_and_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    switch, process = brought_up(policy())
    without_stamps(monkeypatch)
    with capture_logs() as logs:
        done = refused(process, policy(ports=SWAPPED))
        refused(process, policy(ports=SWAPPED))
    assert not switch.written
    assert done.judged is not None
    assert done.judged.told.story[0] in done.conditions["plan-refuted"]
    told = [each for each in logs if each["event"] == "plan-refuted"]
    assert len(told) == 1
    assert told[0]["verdict"] == "refuted"
    assert told[0]["story"]


def test_a_refusal_is_remembered_until_something_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    switch, process = brought_up(policy())
    without_stamps(monkeypatch)
    first = refused(process, policy(ports=SWAPPED)).judged
    assert refused(process, policy(ports=SWAPPED)).judged is first
    switch.flows[ODD.key] = ODD
    assert refused(process, policy(ports=SWAPPED)).judged is not first
    del switch.flows[ODD.key]
    monkeypatch.undo()
    assert process.round(policy(), look=True).settled


def test_what_cannot_be_told_is_not_written_either() -> None:
    switch, process = brought_up(policy())
    switch.flows[ODD.key] = ODD
    with capture_logs() as logs:
        done = refused(process, policy(ports={**P, "c1": ("12", "clients")}))
    assert done.judged is not None
    assert done.judged.told.verdict == "unknown"
    said = done.conditions["plan-unknown"]
    assert said.startswith("not proved, the action group:7, in the flow of table 72, priority 99, cookie 0x5: ")
    assert "smaller parts do not help: remove that flow" in said
    assert [each["event"] for each in logs] == ["plan-unknown"]
    assert not switch.written


def test_what_cannot_be_told_is_written_where_a_person_accepts_it() -> None:
    switch, _ = brought_up(policy())
    switch.flows[ODD.key] = ODD
    process = Firewall(switch, config(Path("/nowhere")), lambda _step: None, Guard(accept_unknown=True))
    assert process.round(policy(ports={**P, "c1": ("12", "clients")}), look=True).settled


def test_a_refuted_change_still_ends_a_stale_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    switch, process = brought_up(policy())
    without_stamps(monkeypatch)
    switch.restore_wait = True
    switch.external_ids["hitless-restoring"] = "1"
    refused(process, policy(ports=SWAPPED))
    assert not switch.restore_wait


def test_an_agent_shows_the_refusal_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.agent.firewall.bridge import documents

    async def test() -> None:
        agent = Agent(tmp_path, Bridge())
        agent.say(documents())
        agent.start()
        await agent.settled()
        without_stamps(monkeypatch)
        agent.say(documents(ports=SWAPPED))

        async def shown() -> bool:
            return "plan-refuted" in agent.codes

        await until(shown)
        assert not agent.status.settled
        agent.say(documents(ports={**P, "far": ("30", "clients")}))
        await agent.settled()
        assert "plan-refuted" not in agent.codes
        await agent.stop()

    run(test)


# --- the check bites ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ids", ["fresh", "reused"])
def test_the_historic_way_of_writing_is_refuted(ids: Any) -> None:
    switch, process = brought_up(policy())
    intent = policy((OUT, rule(443, "clients"), rule(80, "clients")))
    local = process.plan(intent).facts.local
    order = sorted(local.ofports)
    random.Random(1).shuffle(order)  # noqa: S311 - an order that can be repeated
    batches = [*bundles(intent, local, process.picture.ids(), process.picture.ours, order, ids)]
    assert any(isinstance(op, AddFlow) for each in batches for op in each)
    assert "Counterexample" in type(check_batches(switch.flows.values(), batches, atomic=False)).__name__


def test_tables_with_a_second_pass_are_judged_by_the_engine() -> None:
    tracks = Flow(0, 9, (exact("eth_type", 0x0800),), (Ct(zone=1, table=5),), 7)
    opens = Flow(5, 1, (), (), 7)
    judged = judge((tracks,), (AddFlow(opens),), (1,))
    assert isinstance(judged, Judged)
    assert judged.told.about != judge((), (AddFlow(opens),), (1,)).told.about
