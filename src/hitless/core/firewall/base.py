"""The flows that do not come from rules: classification, anti-spoofing, ARP, neighbour discovery, DHCP, accept, deny.

Most are the same for all ports, because `reg5` and `reg6` say which port and which network a packet belongs to. Per
port there is only what names it: its number, its MACs, the sources it may use.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import msgspec

from hitless.core.firewall import pipeline as p
from hitless.core.firewall.identity import cookie
from hitless.core.firewall.stamp import entry
from hitless.core.firewall.terms import address, eth, family, link_local, mac_number, prefix_term, protocol
from hitless.core.model.flow import (
    ARP,
    EST,
    INV,
    IPV4,
    IPV6,
    NEW,
    RARP,
    REL,
    RPL,
    TRK,
    Action,
    Ct,
    CtClear,
    Flow,
    Match,
    Normal,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    Term,
    ct_state,
    exact,
)
from hitless.core.model.security import ICMPV6, UDP, Ethertype, Port

_VLAN_PRESENT = 0x1000  # the CFI bit of vlan_tci, which Open vSwitch sets for "has a VLAN header"
_UNTAGGED: Term = ("vlan_tci", 0, 0x1FFF)
_MULTICAST = 1 << 40
_FAMILIES: tuple[Ethertype, Ethertype] = ("ipv4", "ipv6")

# ICMPv6 types: RFC 2710 and 3810 (MLD), RFC 4861 (ND).
_MLD_QUERY, _MLD_REPORT, _MLD_DONE, _MLD2_REPORT = 130, 131, 132, 143
_ROUTER_SOLICIT, _ROUTER_ADVERT, _NEIGHBOR_SOLICIT, _NEIGHBOR_ADVERT = 133, 134, 135, 136


class Attached(msgspec.Struct, frozen=True):
    """A port of the intent that this bridge has. `stateless` and `kept` follow from the groups it is in."""

    port: Port
    ofport: int
    tag: int
    stateless: frozenset[str] = frozenset()  # directions with stateless rules
    kept: bool = False

    @property
    def sources(self) -> tuple[tuple[str, str], ...]:
        """(MAC, prefix) that it may send from, its own first, each MAC's link-local address included."""
        pairs = [(self.port.mac, each) for each in self.port.addresses]
        pairs += [(each.mac or self.port.mac, each.prefix) for each in self.port.pairs]
        pairs += [(mac, link_local(mac)) for mac in dict.fromkeys((self.port.mac, *(mac for mac, _ in pairs)))]
        return tuple(dict.fromkeys(pairs))

    @property
    def macs(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(mac for mac, _ in self.sources))


def flows(attached: Sequence[Attached], uplinks: Sequence[int], stamp: int = 0) -> Iterator[Flow]:
    """All base flows of a bridge, in no particular order."""
    yield entry(stamp)
    yield from _pipeline()
    yield from _delivery(attached)
    yield from _out(attached, uplinks)
    for each in attached:
        yield from _classify(each)
        if each.port.port_security:
            yield from _sources(each)
            yield from _exceptions(each)


def _is(kind: int) -> Term:
    return exact("eth_type", kind)


def _mac(field: str, mac: str) -> Term:
    return exact(field, mac_number(mac))


def _pipeline() -> Iterator[Flow]:
    """What every port shares."""

    def put(name: str, table: int, priority: int, terms: Match, *actions: Action) -> Flow:
        return p.flow(table, priority, terms, actions, cookie("pipeline", name))

    go = Resubmit
    yield put("canary", p.CANARY, 0, ())
    yield put("other", p.CLASSIFY, 0, (), Normal())
    yield put("fresh", p.EGRESS_BASE, 110, (p.TRACKED,), CtClear(), go(p.EGRESS_BASE))
    for name, terms in _server_bans():
        yield put(name, p.EGRESS_BASE, 70, terms, go(p.DENIED))
    yield put("spoofed", p.EGRESS_BASE, 0, (), go(p.DENIED))
    for table, then in ((p.EGRESS_RULES, p.EGRESS_ACCEPTED), (p.INGRESS_RULES, p.INGRESS_ACCEPTED)):
        yield put("invalid", table, p.INVALID, (ct_state(on=INV | TRK),), go(p.DENIED))
        live = exact("ct_mark", 0)
        yield put("reply", table, p.DECIDED, (ct_state(on=EST | RPL | TRK, off=REL | INV), live), go(then))
        yield put("related", table, p.DECIDED, (ct_state(on=REL | TRK, off=NEW | INV), live), go(then))
        # Rules speak of the original direction: what is not and was not let through above belongs to a cut connection.
        yield put("cut-reply", table, p.DECIDED - 1, (ct_state(on=RPL | TRK),), go(p.DENIED))
        yield put("cut-related", table, p.DECIDED - 1, (ct_state(on=REL | TRK, off=NEW),), go(p.DENIED))
        yield put("denied", table, 0, (), go(p.DENIED))
    for ethertype in _FAMILIES:
        commit = Ct(zone=p.ZONE, commit=True)
        heal = Ct(zone=p.ZONE, commit=True, mark=0)
        marked = (ct_state(on=EST | TRK, off=REL | RPL | INV), exact("ct_mark", p.CUT_MARK), eth(ethertype))
        unmarked = (ct_state(on=EST | TRK, off=REL | RPL | INV), exact("ct_mark", 0), eth(ethertype))
        first = (ct_state(on=NEW | TRK), eth(ethertype))
        yield put("commit", p.EGRESS_ACCEPTED, 90, first, commit, go(p.HOOK_EGRESS))
        yield put("heal", p.EGRESS_ACCEPTED, 85, marked, heal, go(p.HOOK_EGRESS))
        yield put("commit", p.INGRESS_ACCEPTED, 90, first, commit, Output("NXM_NX_REG5[]"))
        yield put("heal", p.INGRESS_ACCEPTED, 85, marked, heal, Output("NXM_NX_REG5[]"))
        yield put("cut", p.DENIED, 90, unmarked, Ct(zone=p.ZONE, commit=True, mark=p.CUT_MARK))
        fresh = (ct_state(off=TRK), eth(ethertype))
        yield put("track", p.INGRESS_BASE, 90, fresh, p.track(p.INGRESS_RULES))
    yield put("out", p.EGRESS_ACCEPTED, 80, (), go(p.OUT))
    yield put("out", p.HOOK_EGRESS, 0, (), go(p.OUT))
    # The tag goes last: a packet that has to begin anew (`stamp.py`) still says where it came from.
    tagged: Term = ("vlan_tci", _VLAN_PRESENT, _VLAN_PRESENT)
    yield put("untag", p.INGRESS_ACCEPTED, 100, (tagged,), PopVlan(), go(p.INGRESS_ACCEPTED))
    yield put("in", p.INGRESS_ACCEPTED, 80, (), Output("NXM_NX_REG5[]"))
    yield put("drop", p.DENIED, 0, ())
    for name, terms in _to_every_port():
        yield put(name, p.INGRESS_BASE, 100, terms, go(p.INGRESS_ACCEPTED))
    yield put("tracked", p.INGRESS_BASE, 80, (p.TRACKED,), go(p.INGRESS_RULES))
    yield put("denied", p.INGRESS_BASE, 0, (), go(p.DENIED))


def _server_bans() -> Iterator[tuple[str, Match]]:
    yield "dhcp-server-ban", (_is(IPV4), protocol(UDP), exact("tp_src", 67), exact("tp_dst", 68))
    yield "dhcpv6-server-ban", (_is(IPV6), protocol(UDP), exact("tp_src", 547), exact("tp_dst", 546))
    yield "router-advert-ban", (_is(IPV6), protocol(ICMPV6), exact("icmp_type", _ROUTER_ADVERT))


def _to_every_port() -> Iterator[tuple[str, Match]]:
    yield "arp", (_is(ARP),)
    for kind in (_MLD_QUERY, _ROUTER_ADVERT, _NEIGHBOR_SOLICIT, _NEIGHBOR_ADVERT):
        yield "icmpv6", (_is(IPV6), protocol(ICMPV6), exact("icmp_type", kind))
    yield "dhcp", (_is(IPV4), protocol(UDP), exact("tp_src", 67), exact("tp_dst", 68))
    yield "dhcpv6", (_is(IPV6), protocol(UDP), exact("tp_src", 547), exact("tp_dst", 546))


def _classify(each: Attached) -> Iterator[Flow]:
    """Who sends: an access port, whose frames have no VLAN header (one that has is an attempt to leave the network)."""
    owner = cookie("port", each.port.name)
    place = exact("in_port", each.ofport)
    known = (SetField("reg5", each.ofport), SetField("reg6", each.tag))
    then = Resubmit(p.EGRESS_BASE if each.port.port_security else p.EGRESS_ACCEPTED)
    yield p.flow(p.CLASSIFY, 100, (place, _UNTAGGED), (*known, then), owner)
    yield p.flow(p.CLASSIFY, 99, (place,), (), owner)


def _delivery(attached: Sequence[Attached]) -> Iterator[Flow]:
    """To whom: the ports that a MAC leads to. Several may claim one (a virtual router's): each filters for itself."""
    claims: dict[tuple[int, str], list[Attached]] = {}
    for each in attached:
        if each.port.port_security:
            for mac in each.macs:
                claims.setdefault((each.tag, mac), []).append(each)
    tags: dict[str, list[int]] = {}
    for (tag, mac), owners in sorted(claims.items(), key=lambda item: item[0]):
        owners.sort(key=lambda each: each.port.name)
        owner, to = cookie("port", owners[0].port.name), _mac("dl_dst", mac)
        yield p.flow(p.EGRESS_ACCEPTED, 100, (p.network_term(tag), to), _to(owners), owner)
        vlan = ("vlan_tci", _VLAN_PRESENT | tag, 0x1FFF)
        yield p.flow(p.CLASSIFY, 90, (vlan, to), (SetField("reg6", tag), *_to(owners)), owner)
        tags.setdefault(mac, []).append(tag)
    for mac, found in tags.items():
        # Untagged and from no port of the intent: a flat network, or a port nobody listed. One MAC in two networks
        # does not say which is meant, so it is denied rather than guessed.
        owners = claims[found[0], mac]
        known_to = (SetField("reg6", found[0]), *_to(owners)) if len(found) == 1 else p.go(p.DENIED)
        owner = cookie("port", owners[0].port.name)
        yield p.flow(p.CLASSIFY, 85, (_UNTAGGED, _mac("dl_dst", mac)), known_to, owner)


def _to(owners: Sequence[Attached]) -> tuple[Action, ...]:
    return tuple(
        action for each in owners for action in (SetField("reg5", each.ofport), Resubmit(p.INGRESS_BASE))
    )


def _out(attached: Sequence[Attached], uplinks: Sequence[int]) -> Iterator[Flow]:
    """Where an accepted packet leaves: a trusted port by its MAC, uplinks where they are named, else NORMAL."""
    by_tag: Mapping[int, str] = {each.tag: each.port.network for each in attached}
    for each in attached:
        if not each.port.port_security:
            terms = (p.network_term(each.tag), _mac("dl_dst", each.port.mac))
            yield p.flow(p.OUT, 12, terms, (Output(each.ofport),), cookie("port", each.port.name))
    if uplinks:
        unicast: Term = ("dl_dst", 0, _MULTICAST)
        for tag, network in by_tag.items():
            leave = (PushVlan(tag), *map(Output, sorted(uplinks)))
            yield p.flow(p.OUT, 10, (p.network_term(tag), unicast), leave, cookie("network", network))
    yield p.flow(p.OUT, 0, (), (Normal(),), cookie("pipeline", "normal"))


def _sources(each: Attached) -> Iterator[Flow]:
    """What a port may call itself: MAC, IP, ARP, ND; and what it may always say (DHCP, MLD, solicitations)."""
    owner, here = cookie("port", each.port.name), p.port_term(each.ofport)

    def put(priority: int, terms: Match, *actions: Action) -> Flow:
        return p.flow(p.EGRESS_BASE, priority, (here, *terms), actions, owner)

    onward = Resubmit(p.EGRESS_ACCEPTED)
    first = Resubmit(p.EGRESS_RULES) if "egress" in each.stateless else p.track(p.EGRESS_RULES)
    for mac in each.macs:
        source = _mac("dl_src", mac)
        yield put(95, (_is(RARP), source), onward)
        # An address probe (RFC 5227) comes from no address.
        probe = (exact("arp_op", 1), prefix_term("arp_spa", "0.0.0.0/32")[0])
        yield put(95, (_is(ARP), source, _mac("arp_sha", mac), *probe), onward)
        dhcp = (_is(IPV4), source, protocol(UDP), exact("tp_src", 68), exact("tp_dst", 67))
        yield put(80, (*dhcp, *address("0.0.0.0/32", "src")), onward)
        dhcpv6 = (_is(IPV6), source, protocol(UDP), exact("tp_src", 546), exact("tp_dst", 547))
        yield put(80, (*dhcpv6, *address(link_local(mac), "src")), onward)
        unspecified = (_is(IPV6), source, *address("::/128", "src"), protocol(ICMPV6))
        for kind in (_ROUTER_SOLICIT, _MLD_REPORT, _MLD2_REPORT):
            yield put(95, (*unspecified, exact("icmp_type", kind)), onward)
    for mac, prefix in each.sources:
        source = _mac("dl_src", mac)
        if family(prefix) == "ipv4":
            yield put(95, (_is(ARP), source, _mac("arp_sha", mac), *prefix_term("arp_spa", prefix)), onward)
            dhcp = (_is(IPV4), source, protocol(UDP), exact("tp_src", 68), exact("tp_dst", 67))
            yield put(80, (*dhcp, *address(prefix, "src")), onward)
        else:
            for terms in _discovery(mac, prefix):
                yield put(95, (_is(IPV6), source, protocol(ICMPV6), *terms), onward)
        yield put(65, (eth(family(prefix)), source, *address(prefix, "src")), first)


def _discovery(mac: str, prefix: str) -> Iterator[Match]:
    """ND and MLD of one source. A link-layer option names the sender or is absent, which reads as 0 (ovs-fields(7))."""
    own, none = mac_number(mac), 0
    source, target = address(prefix, "src"), prefix_term("nd_target", prefix)
    for kind in (_MLD_QUERY, _MLD_REPORT, _MLD_DONE, _MLD2_REPORT, _ROUTER_SOLICIT):
        yield (*source, exact("icmp_type", kind))
    for link in (own, none):
        yield (*source, exact("icmp_type", _NEIGHBOR_SOLICIT), exact("nd_sll", link))
        yield (*target, exact("icmp_type", _NEIGHBOR_ADVERT), exact("nd_tll", link))
    # Duplicate address detection (RFC 4862): from no address, for one that may be used, with no link-layer option.
    yield (*address("::/128", "src"), *target, exact("icmp_type", _NEIGHBOR_SOLICIT), exact("nd_sll", none))


def _exceptions(each: Attached) -> Iterator[Flow]:
    """Ports with stateless rules are asked before tracking; ports that keep revoked connections, after it."""
    owner, here = cookie("port", each.port.name), p.port_term(each.ofport)
    for ethertype in _FAMILIES:
        fresh = (here, ct_state(off=TRK), eth(ethertype))
        if "ingress" in each.stateless:
            yield p.flow(p.INGRESS_BASE, 92, fresh, p.go(p.INGRESS_RULES), owner)
            yield p.flow(p.INGRESS_RULES, p.UNTRACKED, fresh, (p.track(p.INGRESS_RULES),), owner)
        if "egress" in each.stateless:
            yield p.flow(p.EGRESS_RULES, p.UNTRACKED, fresh, (p.track(p.EGRESS_RULES),), owner)
    if each.kept:
        live = (here, ct_state(on=EST | TRK, off=REL | RPL | INV), exact("ct_mark", 0))
        yield p.flow(p.EGRESS_RULES, p.KEPT, live, p.go(p.EGRESS_ACCEPTED), owner)
        yield p.flow(p.INGRESS_RULES, p.KEPT, live, p.go(p.INGRESS_ACCEPTED), owner)
