"""Rounds on a bridge in memory: what is written, what is not, and what a successor makes of a half of one."""

from __future__ import annotations

import random

import msgspec
import pytest
from structlog.testing import capture_logs
from tests.agent.firewall.bridge import OUT, Bridge, Crash, firewall, policy, rule

from hitless.agent.firewall import facts
from hitless.agent.firewall.config import STEPS
from hitless.agent.firewall.facts import generation, read_facts
from hitless.agent.firewall.guard import Judged, Told
from hitless.core.firewall.compile import compile_flows
from hitless.core.firewall.identity import KnownIds, read_ids
from hitless.core.model.flow import TRK, Conjunction, Connection, Flow, FlowKey, Interface, Resubmit, ct_state, exact
from hitless.core.model.security import Intent
from hitless.ports import BundleRefusedError, SwitchUnavailableError

SHOP = (OUT, rule(80, "clients"), rule(8080, "clients", protocol="udp"))


def brought_up(intent: Intent, *names: str) -> Bridge:
    """A bridge on which an agent has lived, with nothing called since."""
    switch = Bridge(*names)
    assert firewall(switch).round(intent, look=True).settled
    switch.calls.clear()
    return switch


def wanted(intent: Intent, switch: Bridge) -> dict[FlowKey, Flow]:
    """A compilation by a process that knows nothing but what a dump says."""
    seen = switch.observe()
    return dict(compile_flows(intent, read_facts(intent, seen, ()).local, read_ids(seen.flows)).flows)


def test_a_first_round_writes_everything_and_remembers_it() -> None:
    switch, intent = Bridge(), policy()
    done = firewall(switch).round(intent, look=True)
    assert done.settled
    assert switch.ours == wanted(intent, switch)
    assert done.flow_mods == switch.writes == len(switch.ours)
    assert switch.fail_mode == "secure"
    assert switch.external_ids[facts.COMMITTED] == switch.external_ids[facts.INTENT] == generation(intent)
    tag = int(switch.external_ids[facts.TAGS].removeprefix("blue:"))
    assert {each.tag for each in switch.interfaces.values()} == {tag}
    assert not switch.restore_wait
    assert "set_restore_wait" not in switch.calls


def test_an_unchanged_restart_writes_nothing_of_any_kind() -> None:
    intent = policy()
    switch = brought_up(intent)
    done = firewall(switch).round(policy(), look=True)
    assert done.settled
    assert done.flow_mods == 0
    assert switch.calls == ["observe"]


def test_a_change_while_down_costs_the_difference() -> None:
    switch = brought_up(policy())
    before = switch.ours
    done = firewall(switch).round(policy(ports={"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("12", "clients")}),
                                  look=True)  # fmt: skip
    after = switch.ours
    changed = {key for key in before.keys() | after.keys() if before.get(key) != after.get(key)}
    assert done.flow_mods == len(changed) > 0


def test_a_change_elsewhere_is_committed_without_touching_a_flow() -> None:
    switch = Bridge()
    process = firewall(switch)
    process.round(policy(), look=True)
    switch.calls.clear()
    ports = {"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("11", "clients"), "far": ("30", "web")}
    done = process.round(policy(ports=ports), look=False)
    assert (done.settled, done.flow_mods) == (True, 0)
    assert switch.calls == ["remember"]
    assert switch.external_ids[facts.COMMITTED] == done.generation


def test_where_something_was_said_is_no_part_of_the_generation() -> None:
    one = policy()
    moved = msgspec.structs.replace(one, ports=dict(reversed(list(one.ports.items()))))
    assert generation(one) == generation(moved) != generation(policy(SHOP))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("fresh", [True, False], ids=["first", "change"])
def test_a_successor_finishes_what_was_cut_off_after_any_step(step: str, fresh: bool) -> None:
    switch = Bridge() if fresh else brought_up(policy())
    intent = policy(SHOP)
    with pytest.raises(Crash):
        firewall(switch, crash_at=step).round(intent, look=True)
    switch.calls.clear()
    switch.tracked = [Connection(0, 6, "10.0.0.11", "10.0.0.1", 40000, 443)]
    if facts.TAGS in switch.external_ids:
        zone = int(switch.external_ids[facts.TAGS].removeprefix("blue:"))
        switch.tracked = [msgspec.structs.replace(each, zone=zone) for each in switch.tracked]
    done = firewall(switch).round(intent, look=True)
    assert done.settled
    assert switch.ours == wanted(intent, switch)
    assert switch.external_ids[facts.COMMITTED] == generation(intent)
    # Only a predecessor that got as far as `committed` leaves nothing to wait for and nothing to repair.
    assert ("barrier" in switch.calls) == (step != "committed")
    assert firewall(switch).round(intent, look=True).flow_mods == 0


def test_a_port_that_moves_is_not_committed_before_it_is_in_force() -> None:
    switch, intent = brought_up(policy()), policy()
    switch.interfaces["w1"] = Interface("w1", 9, switch.interfaces["w1"].tag)
    with pytest.raises(Crash):
        firewall(switch, crash_at="applied").round(intent, look=True)
    assert facts.COMMITTED not in switch.external_ids
    switch.calls.clear()
    firewall(switch).round(intent, look=True)
    assert "barrier" in switch.calls


def test_connections_that_nothing_allows_any_longer_are_cut() -> None:
    switch = brought_up(policy())
    zone = switch.interfaces["w1"].tag
    kept = Connection(zone, 6, "10.0.0.11", "10.0.0.1", 40000, 80)
    doomed = Connection(zone, 6, "10.9.0.1", "10.0.0.1", 40000, 443)
    switch.tracked = [kept, doomed]
    with capture_logs() as logs:
        done = firewall(switch).round(policy((OUT, rule(80, "clients"))), look=True)
    assert done.cut == 1
    assert switch.tracked == [kept]
    assert [each["count"] for each in logs if each["event"] == "connections-cut"] == [1]


def test_a_refused_bundle_leaves_the_old_tables_and_is_not_committed() -> None:
    switch = brought_up(policy())
    before = switch.ours
    switch.refuses = lambda op: "OFPBAC_X" if exact("tp_dst", 8080) in op.flow.match else ""
    process = firewall(switch)
    with pytest.raises(BundleRefusedError):
        process.round(policy(SHOP), look=True)
    assert switch.ours == before
    assert switch.external_ids[facts.COMMITTED] == generation(policy())
    switch.refuses = lambda _op: ""
    assert process.round(policy(SHOP), look=True).settled


def test_ids_that_were_freed_rest_until_the_barrier_has_passed() -> None:
    switch = brought_up(policy(SHOP))
    process = firewall(switch)
    process.round(policy(SHOP), look=True)
    before = read_ids(switch.ours.values()).in_use
    process.round(policy((OUT,)), look=False)
    assert process.picture.ids().resting == frozenset()
    process.round(policy(SHOP), look=False)

    def fails() -> None:
        raise SwitchUnavailableError("switch-unavailable", "away")

    switch.barrier = fails  # type: ignore[method-assign]
    with pytest.raises(SwitchUnavailableError):
        process.round(policy((OUT,)), look=False)
    known = process.picture.ids()
    assert known.resting == before != frozenset()
    assert not before & known.in_use


def test_an_accept_flow_that_somebody_deleted_comes_back_alone() -> None:
    switch = brought_up(policy(SHOP))
    before = switch.ours
    gone = [key for key, flow in before.items() if any(term[0] == "conj_id" for term in flow.match)]
    for key in gone:
        del switch.flows[key]
    assert firewall(switch).round(policy(SHOP), look=True).flow_mods == len(gone) > 0
    assert switch.ours == before


# --- others on the bridge ---------------------------------------------------------------------------------


def foreign(*flows: Flow, intent: Intent | None = None) -> Bridge:
    switch = brought_up(intent or policy())
    switch.flows.update((flow.key, flow) for flow in flows)
    return switch


def test_a_key_that_somebody_else_has_stops_everything() -> None:
    first = Bridge()
    firewall(first).round(policy(), look=True)
    taken = next(flow for flow in first.ours.values() if exact("tp_dst", 443) in flow.match)
    switch = Bridge()
    switch.fail_mode = "secure"
    theirs = msgspec.structs.replace(taken, cookie=7, actions=())
    switch.flows[theirs.key] = theirs
    done = firewall(switch).round(policy(), look=True)
    assert not done.settled
    assert list(done.conditions) == ["flow-key-taken"]
    assert not switch.written


def test_conjunctions_of_others_that_shadow_ours_are_told_and_left_alone() -> None:
    clause = Flow(82, 70, (exact("eth_type", 0x0800),), (Conjunction(77, 1, 2),), 7)
    zero = Flow(82, 71, (exact("conj_id", 0),), (), 7)
    harmless = Flow(3, 70, (), (Conjunction(78, 1, 2),), 7)
    switch = foreign(clause, zero, harmless)
    done = firewall(switch).round(policy(), look=True)
    assert set(done.conditions) == {"orphan-conjunction", "conj-id-zero"}
    assert "id 77" in done.conditions["orphan-conjunction"]
    assert "id 78" not in done.conditions["orphan-conjunction"]
    assert {clause.key, zero.key, harmless.key} <= switch.flows.keys()
    accept = Flow(82, 70, (exact("conj_id", 77), ct_state(on=TRK)), (Resubmit(92),), 7)
    done = firewall(foreign(clause, accept)).round(policy(), look=True)
    assert not done.conditions


# --- tags -------------------------------------------------------------------------------------------------


def test_a_tag_is_kept_when_its_network_has_left_and_comes_back() -> None:
    switch = brought_up(policy())
    tag = switch.interfaces["w1"].tag
    firewall(switch).round(policy(ports={}), look=True)
    assert switch.external_ids[facts.TAGS] == f"blue:{tag}"
    firewall(switch).round(policy(), look=True)
    assert switch.external_ids[facts.TAGS] == f"blue:{tag}"


def test_a_tag_that_ports_wear_already_is_taken_over() -> None:
    switch = Bridge()
    switch.interfaces = {name: Interface(name, each.ofport, 7) for name, each in switch.interfaces.items()}
    assert not firewall(switch).round(policy(), look=True).conditions
    assert switch.external_ids[facts.TAGS] == "blue:7"
    assert "set_tags" not in switch.calls


def test_another_tag_is_told_and_the_ports_rules_hold() -> None:
    switch = brought_up(policy())
    switch.interfaces["w1"] = Interface("w1", 1, 99)
    done = firewall(switch).round(policy(), look=True)
    assert "w1 has 99" in done.conditions["tag-conflict"]
    assert done.flow_mods == 0
    assert switch.interfaces["w1"].tag == 99


def test_a_tag_that_two_networks_want_stops_everything() -> None:
    switch = brought_up(policy())
    tag = switch.interfaces["w1"].tag
    one, other = policy(), policy(network="red", ports={"w2": ("2", "web")})
    ports = {**one.ports, "w2": other.ports["w2"]}
    red = msgspec.structs.replace(other.networks["red"], tag=tag)
    both = msgspec.structs.replace(one, ports=ports, networks={**one.networks, "red": red})
    done = firewall(switch).round(both, look=True)
    assert list(done.conditions) == ["tag-taken"]
    assert not switch.written


def test_a_missing_uplink_is_told() -> None:
    done = firewall(Bridge("w1", "w2", "c1", "eth0"), uplinks=("eth0", "eth1")).round(policy(), look=True)
    assert done.conditions == {"uplink-missing": "eth1"}
    assert done.plan is not None
    assert done.plan.facts.local.uplinks == (4,)
    assert done.plan.facts.unlisted == ()


# --- restarts of the switch -------------------------------------------------------------------------------


def test_lost_tables_are_restored_with_the_switch_held_back() -> None:
    switch = brought_up(policy())
    switch.restart()
    waits: list[bool] = []
    told: list[str] = []
    switch.at = lambda step: waits.append(switch.restore_wait) if step == "before-apply" else None
    process = firewall(switch)
    process.restarting = lambda: told.append("restarting")
    with capture_logs() as logs:
        assert process.round(policy(), look=True).settled
    assert waits == [True]
    assert told == ["restarting"]
    assert not switch.restore_wait
    assert facts.RESTORING not in switch.external_ids
    assert switch.ours == wanted(policy(), switch)
    assert [each["event"] for each in logs] == ["firewall-applied", "switch-restarted"]


@pytest.mark.parametrize("has_intent", [True, False], ids=["intent", "no intent"])
def test_a_wait_that_a_dead_agent_left_is_ended(has_intent: bool) -> None:
    switch = brought_up(policy())
    switch.restart()

    def dies(step: str) -> None:
        if step == "after-apply":
            raise Crash(step)

    switch.at = dies
    # A process that is killed runs nothing more, so what would end the wait does not run either.
    switch.set_restore_wait(True)
    switch.external_ids[facts.RESTORING] = "1"
    with pytest.raises(Crash):
        firewall(switch)._apply(firewall(switch).plan(policy()).bundle)
    switch.at = lambda _step: None
    if has_intent:
        assert firewall(switch).round(policy(), look=True).settled
    else:
        firewall(switch).release()
    assert not switch.restore_wait
    assert facts.RESTORING not in switch.external_ids


def test_a_wait_that_somebody_else_set_is_told_and_left() -> None:
    switch = brought_up(policy())
    switch.restore_wait = True
    done = firewall(switch).round(policy(), look=True)
    assert list(done.conditions) == ["switch-restarting"]
    assert switch.restore_wait


def test_a_wait_is_over_at_its_deadline_though_the_bundle_hangs() -> None:
    switch = brought_up(policy())
    switch.restart()
    ended: list[bool] = []

    def hangs(step: str) -> None:
        if step == "before-apply":
            while switch.restore_wait:  # ends when the deadline does what it is for, else the test's limit does
                pass
            ended.append(True)

    switch.at = hangs
    assert firewall(switch, restore_seconds=0.05).round(policy(), look=True).settled
    assert ended == [True]


def test_a_bridge_whose_fail_mode_is_changed_is_written_again() -> None:
    switch = brought_up(policy())
    switch.fail_mode = "standalone"
    assert firewall(switch).round(policy(), look=True).settled
    assert switch.fail_mode == "secure"
    assert switch.ours == wanted(policy(), switch)


def test_others_flows_are_not_flushed_to_make_the_bridge_secure() -> None:
    switch = Bridge()
    switch.fail_mode = "standalone"
    foreign = Flow(0, 10, (exact("in_port", 77),), (Resubmit(5),), 0x1234)
    switch.flows = {foreign.key: foreign}
    done = firewall(switch).round(policy(), look=True)
    assert not done.settled
    assert "fail-mode-standalone" in done.conditions
    assert switch.flows == {foreign.key: foreign}
    assert switch.fail_mode == "standalone"


def test_what_is_found_unsafe_is_not_written() -> None:
    switch = brought_up(policy())
    process = firewall(switch)
    process._verify = lambda _picture, bundle: Judged(Told("refuted", "a packet would pass"), (bundle,), accepted=False)
    done = process.round(policy(SHOP), look=True)
    assert done.conditions["plan-refuted"].startswith("a packet would pass: nothing is written")
    assert not switch.written


# --- incremental and whole --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(12))
def test_rounds_without_a_look_end_where_a_process_that_looks_would(seed: int) -> None:
    """One process goes through many changes of intent and bridge; another only sees the last state."""
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated
    names = ("w1", "w2", "w3", "c1", "c2")
    switch = Bridge(*names)
    process, intent = firewall(switch), policy()
    process.round(intent, look=True)
    for _ in range(12):
        rules = [OUT, *(rule(chance.choice((80, 81, 443)) + n, chance.choice(("clients", "web", "10.9.0.0/16")))
                        for n in range(0, 10 * chance.randrange(4), 10))]  # fmt: skip
        ports = {name: (str(number), chance.choice(("web", "clients")))
                 for number, name in enumerate(names, 1) if chance.random() < 0.7}  # fmt: skip
        intent = policy(rules, ports=ports)
        look = chance.random() < 0.3
        if look and chance.random() < 0.5:
            gone = chance.choice(names)
            held = switch.interfaces.pop(gone, None)
            switch.interfaces[gone] = held or Interface(gone, chance.randrange(10, 60))
        if look and chance.random() < 0.3:
            switch.restart()
        process.round(intent, look=look)
        assert process.picture.ours == switch.ours
    alone = Bridge()
    alone.interfaces = dict(switch.interfaces)
    alone.external_ids = {facts.TAGS: switch.external_ids[facts.TAGS]}
    firewall(alone).round(intent, look=True)
    assert switch.ours.keys() == alone.ours.keys()
    assert switch.ours == alone.ours
    switch.calls.clear()
    assert firewall(switch).round(intent, look=True).flow_mods == 0
    assert not switch.written


def test_ids_of_a_bridge_are_known_to_whoever_looks() -> None:
    switch = brought_up(policy())
    process = firewall(switch)
    process.look()
    assert process.picture.ids() == KnownIds(*msgspec.structs.astuple(read_ids(switch.flows.values())))
