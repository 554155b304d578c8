"""Flows to draw from: every shape the real switch accepts, and grounds to stand a switch on."""

from __future__ import annotations

from ipaddress import IPv6Address
from typing import Protocol

from hypothesis import strategies as st

from hitless.core.firewall.pipeline import TABLES
from hitless.core.model.flow import (
    ARP,
    INV,
    IPV4,
    IPV6,
    WIDTH,
    Action,
    Conjunction,
    Connection,
    Ct,
    CtClear,
    Flow,
    Interface,
    Match,
    Normal,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    Term,
    exact,
)
from hitless.drivers.fake.switch import FakeSwitch
from hitless.drivers.ovs.driver import OvsSwitch
from hitless.lab.ovs import PrivateSwitch

OURS = 0x6874 << 48


def flow(table: int = 71, priority: int = 1, *terms: Term, actions: tuple[Action, ...] = (), name: int = 1) -> Flow:
    """One of our own flows."""
    return Flow(table, priority, tuple(sorted(terms)), actions, OURS | name)


class Ground(Protocol):
    """A bridge `br0` and what happens to it from outside."""

    def switch(self) -> FakeSwitch | OvsSwitch: ...
    def add_port(self, interface: str, *, iface_id: str = "", ofport: int = 0) -> None: ...
    def stop(self) -> None: ...
    def restart(self) -> None: ...
    def echo(self, zone: int, source: str, destination: str) -> None:
        """A UDP packet, port 8 to 10, that is committed to a zone."""
        ...


class FakeGround:
    def __init__(self) -> None:
        self._switch = FakeSwitch(tables=TABLES, interfaces=(Interface("br0", 65534),))

    def switch(self) -> FakeSwitch:
        return self._switch

    def add_port(self, interface: str, *, iface_id: str = "", ofport: int = 0) -> None:
        name = iface_id or interface
        self._switch.interfaces[name] = Interface(name, ofport)

    def stop(self) -> None:
        self._switch.up = False

    def restart(self) -> None:
        self._switch.restart()

    def echo(self, zone: int, source: str, destination: str) -> None:
        self._switch.tracked.append(Connection(zone, 17, source, destination, 8, 10, ipv6=":" in source))


class RealGround:
    def __init__(self, private: PrivateSwitch) -> None:
        self.private = private

    def switch(self) -> OvsSwitch:
        return OvsSwitch("br0", tables=TABLES, database=self.private.database, run_dir=self.private.run_dir)

    def add_port(self, interface: str, *, iface_id: str = "", ofport: int = 0) -> None:
        self.private.add_port("br0", interface, kind="dummy", iface_id=iface_id, ofport=ofport)

    def stop(self) -> None:
        self.private.kill_vswitchd()

    def restart(self) -> None:
        self.private.restart_vswitchd()

    def echo(self, zone: int, source: str, destination: str) -> None:
        self.private.ofctl("add-flow", "br0", f"table=0,priority=9,ip,actions=ct(commit,zone={zone})")
        self.private.ofctl("add-flow", "br0", f"table=0,priority=9,ipv6,actions=ct(commit,zone={zone})")
        address = f"src={source},dst={destination}"
        inner = f"eth_type(0x0800),ipv4({address},proto=17,tos=0,ttl=64,frag=no)"
        if ":" in source:
            inner = f"eth_type(0x86dd),ipv6({address},label=0,proto=17,tclass=0,hlimit=64,frag=no)"
        frame = f"in_port(1),eth(src=50:54:00:00:00:05,dst=50:54:00:00:00:07),{inner},udp(src=8,dst=10)"
        self.private.appctl("netdev-dummy/receive", "p1", frame)


def _any(field: str) -> st.SearchStrategy[int]:
    return st.integers(0, (1 << WIDTH[field]) - 1)


def _exact(field: str) -> st.SearchStrategy[Term]:
    return _any(field).map(lambda value: exact(field, value))


def _masked(field: str, top: int | None = None) -> st.SearchStrategy[Term]:
    full = top if top is not None else (1 << WIDTH[field]) - 1
    masks = st.integers(1, full) | st.just(full)
    return st.builds(lambda value, mask: (field, value & mask, mask), st.integers(0, full), masks)


def _prefix(field: str) -> st.SearchStrategy[Term]:
    bits = WIDTH[field]

    def build(value: int, length: int) -> Term:
        mask = (1 << bits) - (1 << (bits - length))
        return field, value & mask, mask

    return st.builds(build, _any(field), st.integers(1, bits)) | _masked(field).filter(_is_readable)


def _is_readable(term: Term) -> bool:
    """ovs-ofctl takes an IPv6 mask that begins with a decimal digit for a prefix length (lib/packets.c)."""
    return WIDTH[term[0]] < 128 or not str(IPv6Address(term[2]))[0].isdecimal()


_VLAN = st.one_of(
    st.just(("vlan_tci", 0, 0x1FFF)),
    st.integers(0, 4095).map(lambda vid: ("vlan_tci", 0x1000 | vid, 0x1FFF)),
    st.integers(0, 0xFFFF).map(lambda tci: ("vlan_tci", 0x1000 | tci, 0xFFFF)),
    st.integers(0, 7).map(lambda pcp: ("vlan_tci", 0x1000 | pcp << 13, 0xF000)),
    st.just(("vlan_tci", 0x1000, 0x1000)),
)
_MACS = _masked("dl_src") | _exact("dl_src")
_BASE = [
    _exact("in_port").filter(lambda term: 0 < term[1] < 0xFF00) | st.just(exact("in_port", 65534)),
    *(_masked(f"reg{index}") for index in range(8)), _masked("metadata"), _masked("tun_id"), _exact("conj_id"),
    _masked("ct_state", 0xFF), _exact("ct_zone"), _masked("ct_mark"), _masked("ct_label"), _masked("pkt_mark"),
    _masked("dl_src"), _masked("dl_dst") | _exact("dl_dst"), _VLAN,
]  # fmt: skip


def _subset(options: list[st.SearchStrategy[Term]], most: int) -> st.SearchStrategy[tuple[Term, ...]]:
    picked = st.lists(st.sampled_from(range(len(options))), max_size=most, unique=True)
    return picked.flatmap(lambda which: st.tuples(*(options[each] for each in which)))


def _transport(*numbers: int) -> st.SearchStrategy[tuple[Term, ...]]:
    ports = _subset([_masked("tp_src"), _masked("tp_dst")], 2)
    flagged = _subset([_masked("tp_dst"), _masked("tcp_flags")], 2).map(lambda terms: (exact("nw_proto", 6), *terms))
    plain = st.sampled_from(numbers).flatmap(
        lambda number: ports.map(lambda terms: (exact("nw_proto", number), *terms))
    )
    other = st.integers(0, 255).map(lambda number: (exact("nw_proto", number),))
    return st.one_of(st.just(()), plain, flagged, other)


_TOS = st.integers(0, 63).map(lambda value: ("nw_tos", value << 2, 0xFC)) | st.integers(0, 3).map(
    lambda value: ("nw_tos", value, 3)
)
_FRAG = st.sampled_from([("nw_frag", value, mask) for value, mask in ((0, 3), (1, 1), (1, 3), (3, 3), (0, 2))])
_IP = [_TOS | _exact("nw_tos"), _exact("nw_ttl"), _FRAG]
_ICMP = st.just((exact("nw_proto", 1),)).flatmap(
    lambda head: _subset([_exact("icmp_type"), _exact("icmp_code")], 2).map(lambda terms: (*head, *terms))
)
_ND = st.sampled_from([(135, "nd_sll"), (136, "nd_tll")]).flatmap(
    lambda kind: _subset([_prefix("nd_target"), _masked(kind[1])], 2).map(
        lambda terms: (exact("nw_proto", 58), exact("icmp_type", kind[0]), *terms)
    )
)


def _kind(number: int, *parts: st.SearchStrategy[tuple[Term, ...]]) -> st.SearchStrategy[tuple[Term, ...]]:
    return st.tuples(*parts).map(lambda found: (exact("eth_type", number), *(term for part in found for term in part)))


_KINDS: list[st.SearchStrategy[tuple[Term, ...]]] = [
    st.just(()),
    st.sampled_from([0x8035, 0x88CC]).map(lambda number: (exact("eth_type", number),)),
    _kind(IPV4, _subset([_prefix("nw_src"), _prefix("nw_dst"), *_IP], 3), _transport(6, 17, 132) | _ICMP),
    _kind(IPV6, _subset([_prefix("ipv6_src"), _prefix("ipv6_dst"), _masked("ipv6_label"), *_IP], 3),
          _transport(6, 17, 132) | _ND),
    _kind(ARP, _subset([st.integers(0, 255).map(lambda op: exact("arp_op", op)), _prefix("arp_spa"),
                        _prefix("arp_tpa"), _masked("arp_sha"), _exact("arp_tha")], 3)),
]  # fmt: skip


def _match(kind: tuple[Term, ...], base: tuple[Term, ...]) -> Match:
    """Later fragments have no ports: the switch refuses a match on both (OFPBMC_BAD_PREREQ)."""
    above = {"tp_src", "tp_dst", "tcp_flags", "icmp_type"} & {term[0] for term in kind}
    return tuple(sorted((*(term for term in kind if not (above and term[0] == "nw_frag")), *base)))


MATCHES = st.builds(_match, st.one_of(_KINDS), _subset(_BASE, 4))

_TABLES = st.integers(0, 253)
_SET = [
    *(_any("reg1").map(lambda value, field=f"reg{index}": SetField(field, value)) for index in range(8)),  # type: ignore[misc]
    _any("metadata").map(lambda value: SetField("metadata", value)),
    _any("tun_id").map(lambda value: SetField("tun_id", value)),
    _any("dl_src").map(lambda value: SetField("dl_src", value)),
    st.tuples(st.integers(0, 31), st.integers(0, 31)).map(
        lambda ends: SetField("reg3", 0, (1 << (max(ends) + 1)) - (1 << min(ends)))
    ).filter(lambda each: each.mask != 0xFFFFFFFF),
]  # fmt: skip
_PLAIN: list[st.SearchStrategy[Action]] = [
    *_SET,
    st.builds(Resubmit, _TABLES), st.just(CtClear()), st.builds(Output, st.integers(1, 0xFEFF)), st.just(Normal()),
    st.just(Output("NXM_NX_REG5[]")), st.just(Output("NXM_NX_REG5[0..15]")), st.just(Output(65534)),
    st.builds(PushVlan, st.integers(0, 4095)),
    st.sampled_from(["IN_PORT", "CONTROLLER:65535", "move:NXM_NX_REG5[]->NXM_NX_REG6[]", "load:0x5->NXM_NX_REG5[]",
                     "learn(table=3,NXM_OF_ETH_SRC[],load:0->NXM_OF_VLAN_TCI[])", "clone(output:3,resubmit(,5))",
                     "resubmit(7,5)", "note:00.11.22.33.44.55"]).map(Opaque),
]  # fmt: skip
_CT = st.builds(
    Ct,
    zone=st.integers(0, 0xFFFF) | st.just("NXM_NX_REG6[0..15]"),
    commit=st.just(True),
    table=st.none() | _TABLES,
    mark=st.none() | _any("ct_mark"),
) | st.builds(Ct, zone=st.integers(0, 0xFFFF), table=st.none() | _TABLES)
_CONJUNCTIONS = st.integers(2, 64).flatmap(
    lambda clauses: st.lists(
        st.builds(Conjunction, st.integers(1, 2**32 - 1), st.integers(1, clauses), st.just(clauses)), min_size=1,
        max_size=4,
    )
)  # fmt: skip


def _actions(match: Match) -> st.SearchStrategy[tuple[Action, ...]]:
    """What the match allows: ct() needs IP, pop_vlan a VLAN header, and a conjunction stands with its kind alone.

    What conntrack calls invalid cannot be committed (lib/ofp-actions.c).
    """
    allowed = list(_PLAIN)
    if {exact("eth_type", IPV4), exact("eth_type", IPV6)} & set(match):
        invalid = any(field == "ct_state" and value & INV for field, value, _ in match)
        allowed.append(_CT.filter(lambda each: not each.commit) if invalid else _CT)
    if any(field == "vlan_tci" and value & 0x1000 for field, value, _ in match):
        allowed.append(st.just(PopVlan()))
    lists = st.lists(st.one_of(allowed), max_size=4).filter(_once)
    return (_CONJUNCTIONS | lists).map(tuple) if "conj_id" not in {term[0] for term in match} else lists.map(tuple)


def _once(actions: list[Action]) -> bool:
    """A header is popped or pushed at most once, so that prerequisites hold all the way."""
    return sum(isinstance(each, PopVlan | PushVlan) for each in actions) <= 1


FLOWS: st.SearchStrategy[Flow] = MATCHES.flatmap(
    lambda match: st.builds(
        Flow, _TABLES, st.integers(0, 65535) | st.just(32768), st.just(match), _actions(match),
        st.integers(0, 2**64 - 2) | st.just(0),
    )
)  # fmt: skip
