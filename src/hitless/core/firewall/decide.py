"""Which rule decides a packet, asked of the intent itself and not of the tables.

For people (`explain`) and for connections that a change leaves behind: what is tracked and no longer allowed is found
here and cut. The tables say the same; tests hold the two to each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Literal

import msgspec

from hitless.core.firewall.base import Attached
from hitless.core.firewall.compile import remote_members
from hitless.core.firewall.rules import Member, is_conjunctive
from hitless.core.model.flow import Connection
from hitless.core.model.security import (
    ICMP,
    ICMPV6,
    WITH_PORTS,
    Direction,
    Ethertype,
    Intent,
    Port,
    Range,
    Rule,
)

Field = Literal["ethertype", "protocol", "port", "source port", "icmp type", "icmp code", "remote"]


class Packet(msgspec.Struct, frozen=True):
    """A packet of a connection's original direction. ICMP has type and code, the others ports."""

    ethertype: Ethertype
    protocol: int
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    icmp_type: int = 0
    icmp_code: int = 0


class Decided(msgspec.Struct, frozen=True):
    """The verdict at one port in one direction; `rule` is None where no rule matched, which denies."""

    allowed: bool
    group: str = ""
    rule: Rule | None = None


class Addresses:
    """A remote's members: exact addresses by look-up, prefixes one by one.

    A member of length 0 counts for everybody here, while the tables ask for its MAC too, which a connection has not.
    """

    def __init__(self, members: Iterable[Member]) -> None:
        networks = [ip_network(each.prefix) for each in members]
        self._exact = {each.network_address for each in networks if each.num_addresses == 1}
        self._wide = [each for each in networks if each.num_addresses > 1]

    def has(self, address: str) -> bool:
        wanted = ip_address(address)
        return wanted in self._exact or any(wanted.version == each.version and wanted in each for each in self._wide)


class Policy:
    """An intent, prepared for many questions."""

    def __init__(self, intent: Intent) -> None:
        self.intent = intent
        self._scopes: dict[str, Mapping[str, Sequence[Member]]] = {}
        self._remotes: dict[tuple[str, str], Addresses] = {}
        self._ranked = {
            group.name: sorted(group.rules, key=lambda rule: (rule.tier, rule.action != "deny", rule.identity))
            for group in intent.groups.values()
        }

    def rules(self, port: Port, direction: Direction) -> list[tuple[str, Rule]]:
        """The rules that a port asks, in the order in which they decide."""
        found = [
            (group, rule) for group in port.groups for rule in self._ranked[group] if rule.direction == direction
        ]
        return sorted(found, key=lambda each: (each[1].tier, each[1].action != "deny", each[0], each[1].identity))

    def decide(self, port: Port, direction: Direction, packet: Packet) -> Decided:
        """The first rule that matches; a port without security is not asked and allows."""
        if not port.port_security:
            return Decided(True)
        for group, rule in self.rules(port, direction):
            if not self.misses(port, rule, packet):
                return Decided(rule.action == "allow", group, rule)
        return Decided(False)

    def misses(self, port: Port, rule: Rule, packet: Packet) -> tuple[Field, ...]:
        """The fields on which a rule does not match, in the order in which a person would look."""
        found: list[Field] = []
        if rule.ethertype != packet.ethertype:
            found.append("ethertype")
        if rule.protocol is not None and rule.protocol != packet.protocol:
            found.append("protocol")
        elif packet.protocol in WITH_PORTS and rule.protocol is not None:
            found += ["port"] if not _within(rule.ports, packet.destination_port) else []
            found += ["source port"] if not _within(rule.source_ports, packet.source_port) else []
        elif packet.protocol in {ICMP, ICMPV6} and rule.icmp_type is not None:
            found += ["icmp type"] if rule.icmp_type != packet.icmp_type else []
            found += ["icmp code"] if rule.icmp_code not in {None, packet.icmp_code} else []
        if not self._remote_matches(port, rule, packet):
            found.append("remote")
        return tuple(found)

    def _remote_matches(self, port: Port, rule: Rule, packet: Packet) -> bool:
        other = packet.source if rule.direction == "ingress" else packet.destination
        if rule.remote.kind == "any":
            return True
        if is_conjunctive(rule):
            return self._addresses(port, f"{rule.remote.kind}:{rule.remote.name}").has(other)
        return ip_address(other) in ip_network(rule.remote.name)

    def _addresses(self, port: Port, remote: str) -> Addresses:
        scope = self.intent.networks[port.network].scope
        if (scope, remote) not in self._remotes:
            if scope not in self._scopes:
                self._scopes[scope] = remote_members(self.intent, scope)
            self._remotes[scope, remote] = Addresses(self._scopes[scope].get(remote, ()))
        return self._remotes[scope, remote]


class _Owners:
    """Which attached port an address of a zone belongs to."""

    def __init__(self, attached: Iterable[Attached]) -> None:
        self._exact: dict[tuple[int, str], Attached] = {}
        self._pairs: list[tuple[int, Attached]] = []
        for each in attached:
            self._exact.update(((each.tag, address), each) for address in each.port.addresses)
            if each.port.pairs:
                self._pairs.append((each.tag, each))

    @cached_property
    def _wide(self) -> list[tuple[int, IPv4Network | IPv6Network, Attached]]:
        return [(tag, ip_network(pair.prefix), each) for tag, each in self._pairs for pair in each.port.pairs]

    def owner(self, zone: int, address: str) -> Attached | None:
        found = self._exact.get((zone, address))
        if found is not None:
            return found
        wanted = ip_address(address)
        for tag, network, each in self._wide:
            if tag == zone and wanted.version == network.version and wanted in network:
                return each
        return None


def to_cut(
    intent: Intent, attached: Sequence[Attached], connections: Iterable[Connection]
) -> tuple[Connection, ...]:
    """Tracked connections that a port of this bridge no longer allows, where that port's groups say `cut`."""
    policy, owners = Policy(intent), _Owners(attached)
    return tuple(each for each in connections if _denied(policy, owners, each))


def _denied(policy: Policy, owners: _Owners, connection: Connection) -> bool:
    packet = packet_of(connection)
    ends: tuple[tuple[str, Direction], ...] = ((packet.source, "egress"), (packet.destination, "ingress"))
    for address, direction in ends:
        port = owners.owner(connection.zone, address)
        if port is not None and not port.kept and not policy.decide(port.port, direction, packet).allowed:
            return True
    return False


def packet_of(connection: Connection) -> Packet:
    """A packet of a connection's original direction."""
    icmp = connection.protocol in {ICMP, ICMPV6}
    return Packet(
        ethertype="ipv6" if connection.ipv6 else "ipv4",
        protocol=connection.protocol,
        source=connection.source,
        destination=connection.destination,
        source_port=0 if icmp else connection.source_port,
        destination_port=0 if icmp else connection.destination_port,
        icmp_type=connection.source_port if icmp else 0,
        icmp_code=connection.destination_port if icmp else 0,
    )


def _within(wanted: Range | None, number: int) -> bool:
    return wanted is None or wanted.first <= number <= wanted.last
