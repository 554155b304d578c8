"""What every switch must do; run against the fake and against a real Open vSwitch on directories of its own."""

from __future__ import annotations

import pytest
from tests.drivers.ovs.things import Ground, flow

from hitless.core.firewall.pipeline import CANARY, DENIED
from hitless.core.model.flow import (
    IPV4,
    Action,
    Conjunction,
    Connection,
    Ct,
    Flow,
    Interface,
    Opaque,
    Output,
    Resubmit,
    SetField,
    ct_state,
    exact,
)
from hitless.core.plan.flows import AddFlow, DelFlow, by_key, diff
from hitless.ports import BundleRefusedError, SwitchError, SwitchUnavailableError

IP = exact("eth_type", IPV4)
ADDRESS = flow(72, 70, IP, exact("nw_src", 0x0A000001), actions=(Conjunction(5, 1, 2),), name=1)
ACCEPT = flow(72, 70, IP, exact("conj_id", 5), actions=(SetField("reg7", 5), Resubmit(DENIED)), name=2)
ENTRY = flow(0, 1, actions=(Resubmit(60),), name=3)
WANTED = (ADDRESS, ACCEPT, ENTRY)


def ours(ground: Ground) -> tuple[Flow, ...]:
    switch = ground.switch()
    return tuple(sorted((each for each in switch.observe().flows if switch.owns(each)), key=lambda each: each.key))


def ordered(*flows: Flow) -> tuple[Flow, ...]:
    return tuple(sorted(flows, key=lambda each: each.key))


def test_what_was_written_is_what_is_seen(ground: Ground) -> None:
    ground.switch().apply(tuple(map(AddFlow, WANTED)))
    assert ours(ground) == ordered(*WANTED)


def test_nothing_is_left_to_do_after_a_write(ground: Ground) -> None:
    ground.switch().apply(tuple(map(AddFlow, WANTED)))
    assert diff(by_key(WANTED), by_key(ours(ground)), {}) == ()


def test_a_new_bridge_has_the_implicit_flow_which_is_not_ours(ground: Ground) -> None:
    (implicit,) = ground.switch().observe().flows
    assert implicit.key == (0, 0, ())
    assert not ground.switch().owns(implicit)


def test_an_add_replaces_actions_and_cookie(ground: Ground) -> None:
    changed = flow(72, 70, *ADDRESS.match, actions=(Conjunction(5, 1, 2), Conjunction(6, 1, 3)), name=9)
    ground.switch().apply((AddFlow(ADDRESS),))
    ground.switch().apply((AddFlow(changed),))
    assert ours(ground) == (changed,)


def test_a_delete_takes_exactly_its_flow(ground: Ground) -> None:
    inside = flow(72, 70, IP, ("nw_src", 0x0A000000, 0xFFFFFF00), name=4)
    higher = flow(72, 71, *ADDRESS.match, name=5)
    ground.switch().apply(tuple(map(AddFlow, (*WANTED, inside, higher))))
    ground.switch().apply((DelFlow(inside), DelFlow(ENTRY)))
    assert ours(ground) == ordered(ADDRESS, ACCEPT, higher)
    assert len(ground.switch().observe().flows) == 4  # the implicit flow is in the table of ENTRY and stays


def test_a_delete_leaves_a_flow_with_another_cookie(ground: Ground) -> None:
    foreign = Flow(72, 70, ADDRESS.match, (), 0x5)
    ground.switch().apply((AddFlow(foreign),))
    ground.switch().apply((DelFlow(ADDRESS),))
    assert foreign in ground.switch().observe().flows


def test_deleting_what_is_not_there_is_no_error(ground: Ground) -> None:
    ground.switch().apply((DelFlow(ADDRESS),))
    assert ours(ground) == ()


@pytest.mark.parametrize(
    ("actions", "reason"),
    [
        ((Opaque("group:7"),), "OFPBAC_BAD_OUT_GROUP"),
        ((Conjunction(1, 1, 65),), "at most 64 clauses"),
        ((Ct(commit=True),), "OFPBAC_MATCH_INCONSISTENT"),
    ],
)
def test_a_refusal_leaves_everything_and_names_the_flow(
    ground: Ground, actions: tuple[Action, ...], reason: str
) -> None:
    ground.switch().apply(tuple(map(AddFlow, WANTED)))
    bad = flow(93, 1234, exact("reg5", 77), actions=actions)
    with pytest.raises(BundleRefusedError, match="reg5=0x4d") as caught:
        ground.switch().apply((DelFlow(ENTRY), AddFlow(bad), AddFlow(flow(71, 4))))
    assert caught.value.code == "bundle-refused"
    assert reason in str(caught.value)
    assert ours(ground) == ordered(*WANTED)


def test_an_empty_bundle_is_nothing(ground: Ground) -> None:
    ground.switch().apply(())
    assert ours(ground) == ()


def test_equal_matches_in_other_words_are_one_flow(ground: Ground) -> None:
    named = flow(72, 9, IP, ct_state(on=0x21), exact("nw_proto", 6), ("vlan_tci", 0x1007, 0x1FFF))
    ground.switch().apply((AddFlow(named),))
    ground.switch().apply((AddFlow(named),))
    assert ours(ground) == (named,)


def test_the_canary_goes_with_a_restart(ground: Ground) -> None:
    switch = ground.switch()
    assert not switch.canary()
    switch.apply((AddFlow(flow(CANARY, 0)), AddFlow(ACCEPT)))
    assert switch.canary()
    switch.remember({"ht-generation": "7"})
    ground.restart()
    assert not switch.canary()
    assert ours(ground) == ()
    assert dict(switch.observe().external_ids) == {"ht-generation": "7"}


def test_a_canary_of_somebody_else_is_none(ground: Ground) -> None:
    ground.switch().apply((AddFlow(Flow(CANARY, 0, (), (), 5)),))
    assert not ground.switch().canary()


def test_a_change_of_the_fail_mode_forgets_all_flows_once(ground: Ground) -> None:
    switch = ground.switch()
    switch.apply((AddFlow(ACCEPT),))
    switch.set_fail_secure()
    assert switch.observe().fail_mode == "secure"
    assert switch.observe().flows == ()
    switch.apply((AddFlow(ACCEPT),))
    switch.set_fail_secure()
    assert ours(ground) == (ACCEPT,)
    ground.restart()
    assert switch.observe().flows == ()


def test_values_are_remembered_and_removed(ground: Ground) -> None:
    switch = ground.switch()
    awkward = {"ht a": 'x="1",{}[]\n\\', "ht-b": "é", "-c": "--", "ht-tag:net/1": "7"}
    switch.remember(awkward)
    assert dict(switch.observe().external_ids) == awkward
    switch.remember({"ht a": "", "ht-b": "2", "absent": ""})
    assert dict(switch.observe().external_ids) == {"-c": "--", "ht-b": "2", "ht-tag:net/1": "7"}
    switch.remember({})


def test_interfaces_have_their_iface_id_and_tag(ground: Ground) -> None:
    ground.add_port("p1", ofport=11)
    ground.add_port("p2", iface_id="port-uuid-2", ofport=12)
    switch = ground.switch()
    switch.set_tags({"port-uuid-2": 7, "p1": 4094})
    found = {each for each in switch.observe().interfaces if each.name != "br0"}
    assert found == {Interface("p1", 11, 4094), Interface("port-uuid-2", 12, 7)}


def test_a_tag_for_an_unknown_interface_changes_nothing(ground: Ground) -> None:
    ground.add_port("p1", ofport=11)
    with pytest.raises(SwitchError, match="nobody") as caught:
        ground.switch().set_tags({"p1": 5, "nobody": 6})
    assert caught.value.code == "interface-unknown"
    assert Interface("p1", 11, 0) in ground.switch().observe().interfaces


def test_restore_wait_is_set_and_removed(ground: Ground) -> None:
    switch = ground.switch()
    assert not switch.observe().restore_wait
    switch.set_restore_wait(True)
    try:
        assert switch.observe().restore_wait
    finally:
        switch.set_restore_wait(False)
    assert not switch.observe().restore_wait


def test_flows_survive_restore_wait_and_tags(ground: Ground) -> None:
    ground.add_port("p1", ofport=11)
    switch = ground.switch()
    switch.apply((AddFlow(ACCEPT),))
    switch.set_restore_wait(True)
    switch.set_restore_wait(False)
    switch.set_tags({"p1": 5})
    assert ours(ground) == (ACCEPT,)


def test_a_barrier_returns(ground: Ground) -> None:
    ground.switch().apply((AddFlow(ACCEPT),))
    ground.switch().barrier()
    assert ours(ground) == (ACCEPT,)


def test_connections_are_listed_by_zone_and_cut(ground: Ground) -> None:
    ground.add_port("p1", ofport=1)
    for zone in (5, 6):
        ground.echo(zone, "10.0.0.1", "10.0.0.2")
    ground.echo(5, "fd00::1", "fd00::2")
    switch = ground.switch()
    four = Connection(5, 17, "10.0.0.1", "10.0.0.2", 8, 10)
    six = Connection(5, 17, "fd00::1", "fd00::2", 8, 10, ipv6=True)
    other = Connection(6, 17, "10.0.0.1", "10.0.0.2", 8, 10)
    assert set(switch.connections({5})) == {four, six}
    assert set(switch.connections({5, 6, 7})) == {four, six, other}
    assert switch.connections(()) == ()
    switch.cut((four, six, four))
    assert switch.connections({5, 6}) == (other,)
    switch.cut((other,))


def test_a_switch_that_is_down_says_so(ground: Ground) -> None:
    switch = ground.switch()
    ground.stop()
    try:
        for ask in (switch.observe, switch.canary, switch.barrier, lambda: switch.apply((AddFlow(ACCEPT),)),
                    lambda: switch.connections({5})):  # fmt: skip
            with pytest.raises(SwitchUnavailableError) as caught:
                ask()
            assert caught.value.code == "switch-unavailable"
    finally:
        ground.restart()


def test_output_to_a_register_comes_back(ground: Ground) -> None:
    wanted = flow(92, 1, actions=(Output("NXM_NX_REG5[]"),))
    ground.switch().apply((AddFlow(wanted),))
    assert ours(ground) == (wanted,)
