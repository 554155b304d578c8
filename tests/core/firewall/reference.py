"""What security groups mean, said once more and simply: the judge of the compiled tables, and not made from them."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Final, Literal

import msgspec

from hitless.core.firewall.decide import Packet
from hitless.core.model.security import Direction, Ethertype, Intent, Port, Rule

UNSPECIFIED: Final = "0.0.0.0"  # noqa: S104 - nothing listens here
State = Literal["new", "established", "reply", "related", "invalid"]


class Case(msgspec.Struct, frozen=True):
    """A packet between two ends (None: outside), its frame's MACs, and what is known of its connection.

    `target` and `link_layer` are those of neighbour discovery.
    """

    packet: Packet
    source: Port | None
    destination: Port | None
    source_mac: str
    destination_mac: str
    state: State = "new"
    marked: bool = False
    target: str = ""
    link_layer: str = ""


def allowed(intent: Intent, case: Case) -> bool:
    """Whether it goes from end to end."""
    source, destination = case.source, case.destination
    leaves = source is None or not source.port_security or _leaves(intent, source, case)
    return leaves and (
        destination is None or not destination.port_security or _arrives(intent, destination, case)
    )


def _leaves(intent: Intent, port: Port, case: Case) -> bool:
    return _is_own_service(port, case) or (
        not _is_served(case.packet)
        and _owns(port, case.source_mac, case.packet.source)
        and _passes(intent, port, "egress", case)
    )


def _is_own_service(port: Port, case: Case) -> bool:
    """What every port may say: neighbour and listener discovery about itself, solicitations, DHCP as a client."""
    packet, mac, kind = case.packet, case.source_mac, _icmpv6(case.packet)
    own, nobody = _owns(port, mac, packet.source), packet.source in {"::", UNSPECIFIED} and mac in _macs(port)
    about_itself = case.link_layer in {"", mac} and _owns(port, mac, case.target) if case.target else False
    return (
        (kind in {130, 131, 132, 133, 143} and own)
        or (kind in {131, 133, 143} and nobody)
        or (kind == 135 and own and case.link_layer in {"", mac})
        or (kind == 135 and nobody and about_itself and not case.link_layer)
        or (kind == 136 and about_itself)
        or (_udp(packet, "ipv4", 68, 67) and (own or nobody))
        or (_udp(packet, "ipv6", 546, 547) and own and packet.source == _link_local(mac))
    )


def _is_served(packet: Packet) -> bool:
    """What only a DHCP server or a router says."""
    return _icmpv6(packet) == 134 or _udp(packet, "ipv4", 67, 68) or _udp(packet, "ipv6", 547, 546)


def _arrives(intent: Intent, port: Port, case: Case) -> bool:
    always = _is_served(case.packet) or _icmpv6(case.packet) in {130, 135, 136}
    return always or _passes(intent, port, "ingress", case)


def _passes(intent: Intent, port: Port, direction: Direction, case: Case) -> bool:
    """The first rule in order decides what begins a connection or carries it on; a stateless one allows always."""
    rules = [rule for group in port.groups for rule in intent.groups[group].rules if rule.direction == direction]
    rules = [rule for rule in rules if _matches(intent, port, rule, case)]
    rules.sort(key=lambda rule: (rule.tier, rule.action == "allow", not rule.stateless))
    by_rule = bool(rules) and rules[0].action == "allow"
    if by_rule and rules[0].stateless:
        return True
    if case.state in {"reply", "related"}:
        return not case.marked
    keeps = all(intent.groups[group].revoked == "keep" for group in port.groups) and port.groups
    if case.state == "established" and keeps and not case.marked:
        return True
    return by_rule and case.state != "invalid"


def _matches(intent: Intent, port: Port, rule: Rule, case: Case) -> bool:
    packet = case.packet
    other, mac = (
        (packet.source, case.source_mac) if rule.direction == "ingress" else (packet.destination, case.destination_mac)
    )
    return (
        rule.ethertype == packet.ethertype
        and rule.protocol in {None, packet.protocol}
        and (rule.ports is None or rule.ports.first <= packet.destination_port <= rule.ports.last)
        and (rule.source_ports is None or rule.source_ports.first <= packet.source_port <= rule.source_ports.last)
        and rule.icmp_type in {None, packet.icmp_type}
        and rule.icmp_code in {None, packet.icmp_code}
        and _is_remote(intent, intent.networks[port.network].scope, rule, other, mac)
    )


def _is_remote(intent: Intent, scope: str, rule: Rule, address: str, mac: str) -> bool:
    if rule.remote.kind == "any":
        return True
    if rule.remote.kind == "prefix":
        return _inside(address, rule.remote.name)
    if rule.remote.kind == "address-group":
        return any(_inside(address, prefix) for prefix in intent.address_groups[rule.remote.name].prefixes)
    for port in intent.ports.values():
        if rule.remote.name in port.groups and port.port_security and intent.networks[port.network].scope == scope:
            if any(_inside(address, each) for each in port.addresses):
                return True
            for pair in port.pairs:  # a pair that says "any address" means: of that MAC
                of_mac = not pair.prefix.endswith("/0") or mac == (pair.mac or port.mac)
                if of_mac and _inside(address, pair.prefix):
                    return True
    return False


def _owns(port: Port, mac: str, address: str) -> bool:
    pairs = [(pair.mac or port.mac, pair.prefix) for pair in port.pairs]
    sources = [*((port.mac, each) for each in port.addresses), *pairs, *((m, _link_local(m)) for m in _macs(port))]
    return any(mac == theirs and _inside(address, prefix) for theirs, prefix in sources)


def _macs(port: Port) -> set[str]:
    return {port.mac, *(pair.mac for pair in port.pairs if pair.mac)}


def _link_local(mac: str) -> str:
    octets = [int(each, 16) for each in mac.split(":")]
    words = octets[0] ^ 2, octets[1], octets[2], 0xFF, 0xFE, octets[3], octets[4], octets[5]
    return str(ip_address((0xFE80 << 112) | int.from_bytes(bytes(words), "big")))


def _icmpv6(packet: Packet) -> int:
    return packet.icmp_type if packet.ethertype == "ipv6" and packet.protocol == 58 else -1


def _udp(packet: Packet, ethertype: Ethertype, source: int, destination: int) -> bool:
    ends = packet.source_port, packet.destination_port
    return (packet.ethertype, packet.protocol, ends) == (ethertype, 17, (source, destination))


def _inside(address: str, prefix: str) -> bool:
    wanted, network = ip_address(address), ip_network(prefix)
    return wanted.version == network.version and wanted in network
