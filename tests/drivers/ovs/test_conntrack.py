"""Dumps of connections, of the kernel's tracker and of Open vSwitch's own, and the tuples to forget them by."""

from __future__ import annotations

import pytest
from tests.drivers.ovs.things import RealGround

from hitless.core.model.flow import Connection
from hitless.drivers.ovs.conntrack import parse_connections, tuple_text

_REPLY = "reply=(src=10.0.0.2,dst=10.0.0.1,sport=22,dport=4242)"
ENTRIES = [
    (
        f"tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=4242,dport=22),{_REPLY},zone=7,mark=1,protoinfo=(state=ESTABLISHED)",
        Connection(7, 6, "10.0.0.1", "10.0.0.2", 4242, 22, mark=1),
    ),
    (
        f"tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=4242,dport=22),{_REPLY},id=3140,zone=7,status=SEEN_REPLY|CONFIRMED,"
        "timeout=431999,mark=0x1,labels=0x5,protoinfo=(state_orig=ESTABLISHED,state_reply=ESTABLISHED)",
        Connection(7, 6, "10.0.0.1", "10.0.0.2", 4242, 22, mark=1),
    ),
    (
        "icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id=5,type=8,code=0),reply=(src=10.0.0.2,dst=10.0.0.1,id=5,type=0,code=0)",
        Connection(0, 1, "10.0.0.1", "10.0.0.2", 8, 0, icmp_id=5),
    ),
    (
        "icmpv6,orig=(src=fd00::1,dst=fd00::2,id=9,type=128,code=0),"
        "reply=(src=fd00::2,dst=fd00::1,id=9,type=129,code=0),zone=4094",
        Connection(4094, 58, "fd00::1", "fd00::2", 128, 0, icmp_id=9, ipv6=True),
    ),
    (
        "47,orig=(src=10.0.0.1,dst=10.0.0.2),reply=(src=10.0.0.2,dst=10.0.0.1),zone=1",
        Connection(1, 47, "10.0.0.1", "10.0.0.2"),
    ),
]


@pytest.mark.parametrize(("line", "connection"), ENTRIES)
def test_entries(line: str, connection: Connection) -> None:
    assert parse_connections(f"{line}\n\nodd line\n") == (connection,)


def test_tuples() -> None:
    assert [tuple_text(each) for _, each in (ENTRIES[0], ENTRIES[3])] == [
        "ct_nw_src=10.0.0.1,ct_nw_dst=10.0.0.2,ct_nw_proto=6,ct_tp_src=4242,ct_tp_dst=22",
        "ct_ipv6_src=fd00::1,ct_ipv6_dst=fd00::2,ct_nw_proto=58,icmp_type=128,icmp_code=0,icmp_id=9",
    ]


def test_an_echo_is_cut_and_its_neighbour_stays(real: RealGround) -> None:
    real.add_port("p1", ofport=1)
    real.private.ofctl("add-flow", "br0", "table=0,priority=9,ip,actions=ct(commit,zone=3)")
    for source in ("10.0.0.1", "10.0.0.3"):
        frame = (
            "in_port(1),eth(src=50:54:00:00:00:05,dst=50:54:00:00:00:07),eth_type(0x0800),"
            f"ipv4(src={source},dst=10.0.0.2,proto=1,tos=0,ttl=64,frag=no),icmp(type=8,code=0)"
        )
        real.private.appctl("netdev-dummy/receive", "p1", frame)
    switch = real.switch()
    first, second = sorted(switch.connections({3}), key=lambda each: each.source)
    assert (first.protocol, first.source_port, first.source) == (1, 8, "10.0.0.1")
    switch.cut((first,))
    assert switch.connections({3}) == (second,)
    switch.cut((second,))
