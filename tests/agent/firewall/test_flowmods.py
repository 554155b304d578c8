"""Flow-mods as lines: what is understood, what each writes, and what is refused with which advice."""

from __future__ import annotations

import pytest

from hitless.agent.firewall.flowmods import FlowModError, Line, read
from hitless.core.plan.flows import AddFlow
from hitless.drivers.ovs.codec import format_flow, parse_dump

BRIDGE = """\
cookie=0x1, table=0, priority=5,in_port=1 actions=resubmit(,1)
cookie=0x2, table=0, priority=5,in_port=LOCAL actions=resubmit(,1)
cookie=0x2, table=1, priority=5,in_port=1 actions=output:2
cookie=0x2, table=1, priority=6,ipv6 actions=output:2
cookie=0x2, table=1, priority=6,tcp,tp_dst=80 actions=output:2
cookie=0x3, table=1, priority=6,icmp,icmp_type=8 actions=output:2
cookie=0x3, table=1, priority=6,dl_vlan=7,dl_vlan_pcp=3 actions=output:2
cookie=0x3, table=1, priority=6,arp,arp_spa=10.0.0.1 actions=output:2
cookie=0x3, table=1, priority=6,reg9=0x1 actions=output:2
"""


def lines(plan: str, *, bundled: bool = False) -> list[Line]:
    found = read(plan, parse_dump(BRIDGE), "plan", bundled=bundled)
    return [line for batch in found for line in batch]


def hit(line: str) -> list[str]:
    """What a line writes, as flows; the deleted ones with a minus."""
    (only,) = lines(line)
    return [("" if isinstance(op, AddFlow) else "-") + format_flow(op.flow) for op in only.ops]


@pytest.mark.parametrize(
    ("line", "count"),
    [
        ("delete", 9), ("delete table=255", 9), ("delete table=1", 7), ("delete,table=1,tcp", 1),
        ("delete ip6", 1), ("delete ipv6", 1), ("delete eth_type=0x86dd", 1), ("delete ip4", 2), ("delete ipv4", 2),
        ("delete in_port=local", 1), ("delete in_port=65534", 1), ("delete in_port=1", 2),
        ("delete vlan_vid=0x1007", 1), ("delete vlan_vid=0x1000/0x1000", 1), ("delete vlan_pcp=3,vlan_vid=0x1007", 1),
        ("delete icmp,tp_src=8", 1), ("delete icmp,icmp_type=8", 1), ("delete arp,nw_src=10.0.0.1", 1),
        ("delete arp,nw_src=10.0.0.0/24", 1), ("delete ip,tcp", 1), ("delete ip,nw_dst=1.2.3.4/0", 2),
        ("delete_strict table=1,priority=6,ip,tcp,tp_dst=80", 1),
        ("delete_strict table=1,priority=6,tcp,tcp_dst=0x50", 1),
        ("delete_strict table=1,priority=6,reg9=0x1", 1), ("delete_strict table=1,tcp,tp_dst=80", 0),
        ("delete cookie=0x2/-1", 4), ("delete cookie=2/0x2,table=1", 7), ("delete cookie=9/-1", 0), ("delete udp", 0),
        ("modify table=1,tcp actions=drop", 1), ("modify_strict,table=1,priority=6,ipv6 actions=drop", 1),
        ("modify cookie=9/-1,table=1 actions=drop", 0),
    ],
)  # fmt: skip
def test_how_many_flows_a_line_hits(line: str, count: int) -> None:
    assert len(hit(line)) == count


def test_a_line_writes_what_it_says() -> None:
    assert hit("cookie=7,priority=9 in_port=3 actions=2,normal") == [
        "cookie=0x7, priority=9,in_port=3 actions=output:2,NORMAL"
    ]
    assert hit("modify table=1,ip6 actions=drop") == ["cookie=0x2, table=1, priority=6,ipv6 actions=drop"]
    assert hit("delete ip6") == ["-cookie=0x2, table=1, priority=6,ipv6 actions=output:2"]


def test_lines_meet_what_lines_before_them_left() -> None:
    found = lines("add table=2,udp actions=drop\n---  # a comment\n\ndelete table=2\ndelete table=2")
    assert [(line.number, len(line.ops)) for line in found] == [(1, 1), (4, 1), (5, 0)]


REFUSED = [
    ("delete out_port=2", "out_port"), ("delete out_group=2", "out_group"), ("delete in_port=p1", "--no-names"),
    ('delete in_port="p 1"', "in_port"), ("delete in_port=70000", "in_port=70000"), ("delete in_port=1/1", "mask"),
    ("delete in_port=0xfffffffe", "in_port"), ("delete tcp,tp_dst=99999", "99999"), ("delete reg5=1_0", "reg5"),
    ("delete tcp,tp_dst=-1", "-1"), ("delete tcp,tp_dst=010", "010"), ("delete ip,nw_src=10.1", "10.1"),
    ("delete igmp", "nw_proto=2"), ("delete bogus", "bogus"), ("delete bogus=1", "bogus"), ("delete IP", "IP"),
    ("delete in_port", "in_port"), ("delete in_port=", "in_port"), ("delete in_port =1", "in_port"),
    ("de table=1", "de"), ("delete table=256", "255"), ("delete table=x", "table"), ("delete table=1,table=2", "twice"),
    ("delete priority=5,in_port=1", "priority"), ("delete in_port=1 actions=drop", "no actions"),
    ("delete cookie=0x2", "/-1"), ("delete cookie=x/-1", "cookie"), ("delete idle_timeout=0", "idle_timeout"),
    ("delete vlan_vid=7", "vlan_vid"),
    ("delete vlan_tci=0x2005/0xf000", "0x1fff"), ("delete dl_vlan=4096", "4096"), ("delete dl_vlan_pcp=9", "9"),
    ("delete dl_vlan=5,vlan_tci=0x1000/0x1000", "once"), ("delete dl_vlan=5,dl_vlan=6", "once"),
    ("delete reg5=1,reg5=2", "once"), ("delete reg0=5/0xf,reg0=3", "once"), ("delete ct_state=+new-new", "ct_state"),
    ("delete arp,nw_src=1.1.1.1,arp_spa=1.1.1.2", "once"),
    ("add nw_dst=10.0.0.5 actions=drop", "`ip`"), ("add arp,ip actions=drop", "once"),
    ("add tp_dst=80 actions=drop", "tcp"),
    ("add ip,tp_dst=80 actions=drop", "tcp"), ("add udp,tcp_flags=2 actions=drop", "tcp"),
    ("add ipv6,nw_src=1.1.1.1 actions=drop", "`ip`"), ("add tcp,icmp_type=8 actions=drop", "icmp"),
    ("add icmp6,nd_target=fe80::1 actions=drop", "135"),
    ("add icmp6,icmp_type=136,nd_sll=00:00:00:00:00:01 actions=drop", "135"),
    ("add icmp6,icmp_type=136,icmp_code=1,nd_target=fe80::1 actions=drop", "136"),
    ("add in_port=1", "actions="), ("add priority=65536 actions=drop", "65535"),
    ("add cookie=1/1 actions=drop", "mask"),
    ("add table=255 actions=drop", "255"), ("add idle_timeout=5 actions=drop", "ends by itself"),
    ("add hard_timeout=5 actions=drop", "ends by itself"), ("add check_overlap actions=drop", "check_overlap"),
    ("modify table=1,in_port=1", "actions="), ("add actions=conjunction(1,3/2)", "conjunction(1,3/2)"),
    ("add actions=conjunction(1,1/65)", "1/65"), ("add actions=conjunction(1,1/2),output:2", "`conjunction`"),
    ("add actions=output:99999999999", "99999999999"), ("add actions=output:65280", "65280"),
    ("add actions=output:NXM_NX_REG5[40..50]", "40..50"), ("add actions=output:p2", "p2"), ("add actions=p2", "p2"),
    ("add actions=set_f", "set_f"), ("add actions=drop,output:1", "drop"), ("add actions=clone(output:1", "clone"),
    ("add actions=set_field:0x1ffffffff->reg5", "0x1ffffffff"), ("add actions=set_field:1/0->reg5", "1/0"),
    ("add actions=load:0x1ff->NXM_NX_REG5[0..3]", "0x1ff"), ("add actions=load:1->NXM_NX_REG5[30..40]", "30..40"),
    ("add actions=resubmit(,255)", "255"), ("add ip actions=ct(table=255)", "255"),
    ("add ip actions=ct(zone=70000)", "70000"), ("add in_port=1 actions=ct(table=1)", "`ip`"),
]  # fmt: skip


@pytest.mark.parametrize(("line", "word"), REFUSED, ids=[line for line, _ in REFUSED])
def test_what_open_vswitch_refuses_or_would_change_is_refused(line: str, word: str) -> None:
    with pytest.raises(FlowModError) as caught:
        lines(f"# a comment\n{line}")
    assert str(caught.value).startswith("plan:2: ")
    assert word in str(caught.value)
    assert caught.value.code == "flow-mod-invalid"


@pytest.mark.parametrize(
    "line",
    ["delete xreg0=5", "delete table=1,reg9=0x1", "delete_strict table=1,priority=6,reg9=1",
     "modify table=1,tun_src=1.2.3.4 actions=drop"],
)  # fmt: skip
def test_which_flows_a_field_means_that_is_not_understood_is_not_guessed(line: str) -> None:
    with pytest.raises(FlowModError) as caught:
        lines(line)
    assert caught.value.code == "flow-mod-not-understood"


@pytest.mark.parametrize(
    ("plan", "why"),
    [
        ("modify_strict table=0,priority=9,in_port=1 actions=drop", "matches no flow"),
        ("modify table=0,in_port=7 actions=drop", "matches no flow"),
        ("modify in_port=1 actions=drop", "all tables"),
        ("modify table=255,in_port=1 actions=drop", "all tables"),
        ("modify table=1,ipv6 actions=drop\ndelete cookie=2/-1", "overwrites cookies"),
        ("add table=2,vlan_tci=0 actions=drop\nadd table=2,vlan_tci=0x0000/0x1000 actions=output:2", "untagged"),
        ("modify table=1,ipv6,cookie=9 actions=drop\ndelete cookie=9/-1", "overwrites cookies"),
    ],
)
def test_what_depends_on_the_version_of_openflow_is_refused(plan: str, why: str) -> None:
    with pytest.raises(FlowModError) as caught:
        lines(plan)
    assert why in str(caught.value)
    assert caught.value.code == "flow-mod-ambiguous"
    assert lines(plan, bundled=True)


def test_a_bundle_is_never_openflow_1_0() -> None:
    def writes(line: str) -> int:
        return len(lines(line, bundled=True)[0].ops)

    assert writes("modify_strict table=0,priority=9,in_port=1 actions=drop") == 0
    assert writes("modify in_port=1 actions=drop") == 1


def test_a_modify_that_means_the_same_in_every_version_needs_no_table() -> None:
    assert hit("modify_strict priority=5,in_port=LOCAL actions=drop") == [
        "cookie=0x2, priority=5,in_port=LOCAL actions=drop"
    ]
