"""Flow text: what is written is what a dump prints, against generated flows and against the real switch."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tests.drivers.ovs.things import FLOWS, RealGround

from hitless.core.model.flow import (
    ARP,
    IPV4,
    IPV6,
    Conjunction,
    Ct,
    CtClear,
    Flow,
    Normal,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    Term,
    ct_state,
    exact,
)
from hitless.core.plan.flows import AddFlow, by_key
from hitless.drivers.ovs.actions import is_malformed
from hitless.drivers.ovs.codec import FlowTextError, format_flow, parse, parse_dump
from hitless.drivers.ovs.fields import LOCAL, number

HERE = Path(__file__).parent
IP, IP6, TCP = exact("eth_type", IPV4), exact("eth_type", IPV6), exact("nw_proto", 6)
ZONE = "NXM_NX_REG6[0..15]"

# As Open vSwitch 3.1 prints them, and what they say.
PRINTED: list[tuple[str, Flow]] = [
    ("actions=drop", Flow(0, 32768, ())),
    ("table=5, actions=drop", Flow(5, 32768, ())),
    ("priority=0 actions=NORMAL", Flow(0, 0, (), (Normal(),))),
    ("cookie=0x6874000000000001, table=6, ip actions=ct()", Flow(6, 32768, (IP,), (Ct(),), 0x6874000000000001)),
    (
        "table=60, priority=90,dl_vlan=7,dl_dst=fa:16:3e:00:00:01 actions=set_field:0x1->reg5,pop_vlan,resubmit(,81)",
        Flow(60, 90, (exact("dl_dst", 0xFA163E000001), ("vlan_tci", 0x1007, 0x1FFF)),
             (SetField("reg5", 1), PopVlan(), Resubmit(81))),
    ),
    ("table=60, priority=1,vlan_tci=0x0000/0x1fff actions=drop", Flow(60, 1, (("vlan_tci", 0, 0x1FFF),))),
    ("priority=1,dl_vlan=3,dl_vlan_pcp=2 actions=drop", Flow(0, 1, (("vlan_tci", 0x5003, 0xFFFF),))),
    ("priority=1,dl_vlan_pcp=3 actions=drop", Flow(0, 1, (("vlan_tci", 0x7000, 0xF000),))),
    ("priority=1,vlan_tci=0x1000/0x1f00 actions=drop", Flow(0, 1, (("vlan_tci", 0x1000, 0x1F00),))),
    (
        "table=82, priority=73,ct_state=+new-est,tcp,reg5=0x2,tp_dst=0x1f40/0xfff8 actions=conjunction(22,2/2)",
        Flow(82, 73, (("ct_state", 1, 3), IP, TCP, exact("reg5", 2), ("tp_dst", 0x1F40, 0xFFF8)),
             (Conjunction(22, 2, 2),)),
    ),
    (
        "priority=4,arp,arp_spa=10.0.0.1,arp_tpa=10.0.0.0/8,arp_op=1,arp_sha=00:11:22:33:44:55 actions=drop",
        Flow(0, 4, (exact("arp_op", 1), exact("arp_sha", 0x001122334455), exact("arp_spa", 0x0A000001),
                    ("arp_tpa", 0x0A000000, 0xFF000000), exact("eth_type", ARP))),
    ),
    (
        "priority=2,icmp6,icmp_type=135,nd_target=fe80::/10,nd_sll=00:00:00:00:00:00 actions=drop",
        Flow(0, 2, (IP6, exact("icmp_type", 135), exact("nd_sll", 0),
                    ("nd_target", 0xFE80 << 112, 0xFFC0 << 112), exact("nw_proto", 58))),
    ),
    (
        "priority=1,ip,nw_src=10.0.0.0/255.0.255.0,nw_proto=50,nw_tos=8,nw_ecn=1,nw_frag=not_later actions=drop",
        Flow(0, 1, (IP, ("nw_frag", 0, 2), exact("nw_proto", 50), ("nw_src", 0x0A000000, 0xFF00FF00),
                    exact("nw_tos", 9))),
    ),
    (
        "priority=1,pkt_mark=0x1,conj_id=5,ct_zone=6,ct_mark=0,ct_label=0x5,in_port=LOCAL,dl_type=0x88cc actions=LOCAL",
        Flow(0, 1, (exact("conj_id", 5), exact("ct_label", 5), exact("ct_mark", 0), exact("ct_zone", 6),
                    exact("eth_type", 0x88CC), exact("in_port", LOCAL), exact("pkt_mark", 1)), (Output(LOCAL),)),
    ),
    (
        f"priority=1,ct_state=new|trk,ip actions=ct(commit,table=4,zone={ZONE},exec(set_field:0x1->ct_mark)),ct_clear",
        Flow(0, 1, (("ct_state", 0x21, 0xFF), IP), (Ct(ZONE, True, 4, 1), CtClear())),
    ),
    (
        "priority=1 actions=push_vlan:0x8100,set_field:4103->vlan_vid,output:2,output:NXM_NX_REG5[]",
        Flow(0, 1, (), (PushVlan(7), Output(2), Output("NXM_NX_REG5[]"))),
    ),
    ("priority=1 actions=load:0x5->NXM_NX_REG5[4..7]", Flow(0, 1, (), (SetField("reg5", 0x50, 0xF0),))),
    (
        "priority=1,reg8=0x4,reg15=0x8,tun_src=1.2.3.4 actions=clone(output:3,ct(zone=1)),ALL,load:0x5->NXM_NX_REG5[]",
        Flow(0, 1, (("reg15=0x8", 0, 0), ("reg8=0x4", 0, 0), ("tun_src=1.2.3.4", 0, 0)),
             (Opaque("clone(output:3,ct(zone=1))"), Opaque("ALL"), Opaque("load:0x5->NXM_NX_REG5[]"))),
    ),
]  # fmt: skip

# Other words for the same: older versions, statistics, names, what people write.
OTHERWISE: list[tuple[str, str]] = [
    (
        " cookie=0x5, duration=1.2s, table=6, n_packets=1, n_bytes=2, idle_timeout=5, idle_age=0, hard_age=9, "
        "send_flow_rem reset_counts importance=7, priority=11,ip actions=drop",
        "cookie=0x5, table=6, priority=11,ip actions=drop",
    ),
    (" cookie=0x0, duration=1.325s, table=5, n_packets=0, n_bytes=0, actions=drop", "table=5, actions=drop"),
    ("table=60,ip,priority=90,tp_dst=80,nw_proto=6,cookie=5,actions=strip_vlan",
     "cookie=0x5, table=60, priority=90,tcp,tp_dst=80 actions=pop_vlan"),
    ("priority=1,ct_state=0x21/0x23 actions=drop", "priority=1,ct_state=+new-est+trk actions=drop"),
    ("priority=1,vlan_tci=0x1007/0x1fff actions=drop", "priority=1,dl_vlan=7 actions=drop"),
    ("priority=1,vlan_tci=0 actions=drop", "priority=1,vlan_tci=0x0000/0x1fff actions=drop"),
    ("priority=1,dl_vlan=0xffff actions=drop", "priority=1,vlan_tci=0x0000/0x1fff actions=drop"),
    ("priority=1,eth_type=0x800,ip_proto=17,udp_dst=0x50/0xffff actions=drop", "priority=1,udp,tp_dst=80 actions=drop"),
    ("priority=1,ip,nw_src=10.0.0.9/255.255.255.0,nw_dst=1.1.1.1/0 actions=drop",
     "priority=1,ip,nw_src=10.0.0.0/24 actions=drop"),
    ("priority=1,reg5=0xff/0x0f,reg6=5/0 actions=drop", "priority=1,reg5=0xf/0xf actions=drop"),
    ("priority=1,igmp actions=drop", "priority=1,ip,nw_proto=2 actions=drop"),
    ("priority=1,ip4 actions=normal,local,output:LOCAL,2", "priority=1,ip actions=NORMAL,LOCAL,LOCAL,output:2"),
    ("priority=1,ip6,vlan_vid=0x1007,vlan_pcp=3 actions=set_field:5->tunnel_id,set_field:0:0:0:0:0:1->dl_dst",
     "priority=1,ipv6,dl_vlan=7,dl_vlan_pcp=3 actions=set_field:0x5->tun_id,set_field:00:00:00:00:00:01->eth_dst"),
    ("priority=1,in_port=local,vlan_vid=0x1000/0x1000 actions=drop",
     "priority=1,in_port=LOCAL,vlan_tci=0x1000/0x1000 actions=drop"),
    ("priority=1,in_port=65534,ip_dscp=2,ip actions=drop", "priority=1,ip,in_port=LOCAL,nw_tos=8 actions=drop"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "flow"), PRINTED, ids=[text[:60] for text, _ in PRINTED])
def test_printed(text: str, flow: Flow) -> None:
    assert parse(text) == flow
    assert format_flow(flow) == text
    assert parse_dump(f"OFPST_FLOW reply (OF1.4) (xid=0x2):\n {text}\n\n") == (flow,)


@pytest.mark.parametrize(("text", "normal"), OTHERWISE, ids=[text[:60] for text, _ in OTHERWISE])
def test_other_words(text: str, normal: str) -> None:
    assert format_flow(parse(text)) == normal
    assert parse_dump(text) == (parse(normal),)


def test_a_name_of_a_port_is_kept_as_it_is() -> None:
    named = parse("priority=1,in_port=tap1,ip actions=output:tap2")
    assert named.match == (exact("eth_type", IPV4), ("in_port=tap1", 0, 0))
    assert named.actions == (Opaque("output:tap2"),)
    assert format_flow(named) == "priority=1,ip,in_port=tap1 actions=output:tap2"


def test_a_value_that_does_not_fit_is_kept_as_it_is() -> None:
    assert parse("priority=1,dl_vlan=70000,reg5=0x1ffffffff,ct_state=+odd actions=drop").match == (
        ("ct_state=+odd", 0, 0), ("dl_vlan=70000", 0, 0), ("reg5=0x1ffffffff", 0, 0))  # fmt: skip
    for text in ("ct_state=+new-new", "in_port=70000", "vlan_vid=7", "vlan_vid=0x3007", "reg5=1_0", "tp_dst=010"):
        assert parse(f"{text} actions=drop").match == ((text, 0, 0),)


UNFIT = ["resubmit(,255)", "conjunction(1,3/2)", "conjunction(1,1/1)", "conjunction(1,1/65)", "output:65280",
         "output:p2", "output:NXM_NX_REG5[40..50]", "output:NXM_NX_REG5[9..3]", "output:reg5[]",
         "set_field:0x1ffffffff->reg5",
         "set_field:1/0->reg5", "load:0x1ff->NXM_NX_REG5[0..3]", "load:1->NXM_NX_REG5[30..40]", "ct(table=255)",
         "ct(zone=70000)", "ct(commit,zone=NXM_NX_REG6[0..7])", "ct(zone=REG6)", "set_f", "clone(output:1"]  # fmt: skip


@pytest.mark.parametrize("text", UNFIT)
def test_an_action_with_a_value_that_does_not_fit_is_kept_as_it_is(text: str) -> None:
    assert parse(f"ip actions={text}").actions == (Opaque(text),)


@pytest.mark.parametrize(
    ("text", "known"),
    [
        ("dec_ttl", True), ("CONTROLLER:65535", True), ("controller(pause)", True), ("resubmit(1,2)", True),
        ("output(port=1,max_len=100)", True), ("set_field:5->nw_ttl", True), ("ct(commit,zone=65535,nat)", True),
        ("load:0x5->NXM_NX_REG5[]", True), ("FLOOD", True), ("resubmit(,255)", False), ("output:p2", False),
        ("drop", False), ("set_f", False), ("set_field:0x1ffffffff->reg5", False), ("ct(commit,zone=70000,nat)", False),
        ("ct(table=255,nat)", False), ("clone(output:1", False), ("", False), ("conjunction(1,3/2)", False),
    ],
)  # fmt: skip
def test_an_action_of_open_vswitch_is_told_from_none(text: str, known: bool) -> None:
    assert is_malformed(text) is not known


@pytest.mark.parametrize("text", ["1_0", "0b11", "0o7", "-1", "+1", " 1", "", "010"])
def test_a_number_is_what_open_vswitch_takes_for_one(text: str) -> None:
    with pytest.raises(ValueError, match=r".*"):
        number(text)


@pytest.mark.parametrize("line", ["table=5", "table=x actions=drop", "ovs-ofctl: no such bridge"])
def test_no_flow(line: str) -> None:
    with pytest.raises(FlowTextError) as caught:
        parse_dump(line)
    assert caught.value.code == "flow-text-invalid"
    assert line in str(caught.value)


def test_terms_of_the_model_and_of_the_text_are_the_same() -> None:
    term: Term = ct_state(on=0x22, off=0x14)
    assert parse("priority=1,ct_state=+est-rel-inv+trk actions=drop").match == (term,)


@given(FLOWS)
@settings(max_examples=150, deadline=None)
def test_round_trip(flow: Flow) -> None:
    text = format_flow(flow)
    assert parse(text) == flow
    assert parse_dump(" " + text) == (flow,)
    assert format_flow(parse(text)) == text


def test_neutron_dump() -> None:
    text = (HERE / "neutron.txt").read_text(encoding="utf-8")
    flows = parse_dump(text)
    assert [format_flow(each) for each in flows] == [line.strip() for line in text.splitlines()]
    assert not [term for each in flows for term in each.match if not term[2]]
    assert not [each for flow in flows for each in flow.actions if isinstance(each, Opaque)]


def test_a_dump_with_statistics_and_names_has_the_same_flows() -> None:
    plain = parse_dump((HERE / "neutron.txt").read_text(encoding="utf-8"))
    named = (HERE / "neutron_statistics.txt").read_text(encoding="utf-8")
    assert "in_port=tap1" in named
    for index in (1, 2):
        for before in ("in_port=", "output:"):
            named = named.replace(f"{before}tap{index}", f"{before}{index}")
    assert set(parse_dump(named)) == set(plain)


@given(st.lists(FLOWS, min_size=60, max_size=80))
@settings(
    max_examples=6, deadline=None, database=None, phases=[Phase.generate],  # smaller bundles would say no more
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large,
                           HealthCheck.large_base_example],
)  # fmt: skip
def test_the_real_switch_prints_what_we_write(real: RealGround, flows: list[Flow]) -> None:
    wanted = by_key(flows)
    real.private.ofctl("del-flows", "br0")
    real.switch().apply(tuple(map(AddFlow, wanted.values())))
    text = real.private.ofctl("--no-names", "--no-stats", "dump-flows", "br0")
    assert by_key(parse_dump(text)) == wanted
    assert sorted(line.strip() for line in text.splitlines()) == sorted(map(format_flow, wanted.values()))
    assert by_key(real.switch().observe().flows) == wanted
