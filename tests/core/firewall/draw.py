"""Random intents and packets from few values, so that rules, members and packets meet."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec
from tests.core.firewall.reference import UNSPECIFIED, Case, State

from hitless.core.firewall.compile import Local
from hitless.core.firewall.decide import Packet
from hitless.core.model.security import (
    AddressGroup,
    AddressPair,
    Direction,
    Ethertype,
    Intent,
    Network,
    Port,
    Range,
    Remote,
    Rule,
    SecurityGroup,
)

replace = msgspec.structs.replace
UPLINK: Final = 9
NETWORKS: Final = {"blue": 11, "red": 22}
GROUPS: Final = ("app", "db", "web")
OUTSIDE_MAC: Final = "02:00:00:00:00:99"
SECOND_MAC: Final = "02:00:00:00:00:55"
LISTS: Final = {
    "flat": ("10.0.0.2", "10.0.0.7", "2001:db8::7"),
    "nested": ("10.0.0.0/24", "10.0.0.0/29", "10.0.0.2", "2001:db8::/64", "2001:db8::2"),
    "wide": ("0.0.0.0/0", "::/0"),
    "empty": (),
}
PREFIXES: Final[dict[Ethertype, tuple[str, ...]]] = {
    "ipv4": ("10.0.0.0/24", "10.0.0.4/30", "192.0.2.0/24", "0.0.0.0/0"),
    "ipv6": ("2001:db8::/64", "2001:db8::4/126", "::/0"),
}
STATES: Final[tuple[State, ...]] = ("new", "established", "reply", "related", "invalid")
SERVICES: Final = ((6, 80), (6, 443), (17, 53), (132, 80), (47, 0))


class Draw:
    """Everything that is chosen comes from one source of randomness."""

    def __init__(self, source: random.Random | int) -> None:
        """`source`: randomness, or a seed of it."""
        self._random = random.Random(source) if isinstance(source, int) else source  # noqa: S311 - nothing secret

    def chance(self, likelihood: float) -> bool:
        return self._random.random() < likelihood

    def intent(self, *, stateless: bool = True) -> Intent:
        """Up to five ports in two networks of one scope or of two, in up to three groups each."""
        scopes = ("default", "default") if self.chance(0.7) else ("default", "other")
        ports = [self._port(number) for number in range(1, self._random.randrange(3, 6))]
        return Intent(
            groups={name: self._group(name, stateless=stateless) for name in GROUPS},
            address_groups={name: AddressGroup(name, prefixes) for name, prefixes in LISTS.items()},
            ports={each.name: each for each in ports},
            networks={name: Network(name, scope=scope) for name, scope in zip(NETWORKS, scopes, strict=True)},
        )

    def local(self, intent: Intent) -> Local:
        """Most of the ports are here; the uplink's number is known, or NORMAL finds the way."""
        here = [name for number, name in enumerate(intent.ports) if number < 2 or self.chance(0.7)]
        ofports = {name: int(name.removeprefix("p")) for name in here}
        return Local(ofports, NETWORKS, (UPLINK,) if self.chance(0.5) else ())

    def case(self, intent: Intent, local: Local) -> Case:
        """A packet between two ends of which one at least is a port that is here."""
        here = [intent.ports[name] for name in local.ofports]
        source = self._random.choice(here)
        others = [each for each in here if each.network == source.network and each != source]
        ends: list[Port | None] = [source, self._random.choice([*others, None])]
        self._random.shuffle(ends)
        sender, receiver = ends
        mac = sender.mac if sender else OUTSIDE_MAC
        if sender and self.chance(0.15):
            mac = self._random.choice((SECOND_MAC, OUTSIDE_MAC))
        ethertype: Ethertype = "ipv6" if self.chance(0.35) else "ipv4"
        to_mac = receiver.mac if receiver else OUTSIDE_MAC
        addresses = self._address(sender, ethertype), self._address(receiver, ethertype)
        packet = self._packet(ethertype, *addresses)
        state = self._random.choice(STATES) if self.chance(0.6) else "new"
        marked = state not in {"new", "invalid"} and self.chance(0.3)
        case = Case(packet, sender, receiver, mac, to_mac, state, marked)
        if packet.protocol == 58 and packet.icmp_type in {135, 136}:
            target = self._address(sender, "ipv6")
            return replace(case, target=target, link_layer=self._pick(("", mac, OUTSIDE_MAC)))
        return case

    def _pick(self, among: Sequence[str]) -> str:
        return self._random.choice(among)

    def _address(self, port: Port | None, ethertype: Ethertype) -> str:
        base = "2001:db8::" if ethertype == "ipv6" else "10.0.0."
        own = [each for each in (port.addresses if port else ()) if (":" in each) == (ethertype == "ipv6")]
        if own and self.chance(0.7):
            return self._pick(own)
        strange = ("fe80::ff:fe00:1", "::", "2001:db9::1") if ethertype == "ipv6" else ("192.0.2.9", UNSPECIFIED)
        return self._pick((*(f"{base}{number}" for number in range(1, 8)), *strange))

    def _packet(self, ethertype: Ethertype, source: str, destination: str) -> Packet:
        if self.chance(0.25):
            kinds = (128, 129, 130, 131, 133, 134, 135, 136, 143) if ethertype == "ipv6" else (0, 3, 8)
            protocol = 58 if ethertype == "ipv6" else 1
            kind = self._random.choice(kinds)
            code = 0 if kind in {135, 136} else self._random.choice((0, 1))  # with another code it is no discovery
            return Packet(ethertype, protocol, source, destination, icmp_type=kind, icmp_code=code)
        if self.chance(0.1):
            ends = self._random.choice(((67, 68), (68, 67), (546, 547), (547, 546)))
            return Packet(ethertype, 17, source, destination, *ends)
        protocol, port = self._random.choice(SERVICES)
        if protocol == 47:
            return Packet(ethertype, protocol, source, destination)
        from_port = self._random.choice((1000, 5000, 40000))
        return Packet(ethertype, protocol, source, destination, from_port, port + self._random.choice((0, 0, 1, 7)))

    def _port(self, number: int) -> Port:
        addresses = (f"10.0.0.{number}",) + ((f"2001:db8::{number}",) if self.chance(0.7) else ())
        pairs: list[AddressPair] = []
        if self.chance(0.3):
            pairs.append(AddressPair(self._pick(("10.0.0.4/30", "10.0.0.6", "2001:db8::4/126"))))
        if self.chance(0.2):
            pairs.append(AddressPair(self._pick(("10.0.0.7", "0.0.0.0/0", "::/0")), f"02:00:00:00:55:0{number}"))
        secured = self.chance(0.85)
        return Port(
            name=f"p{number}",
            network="red" if self.chance(0.2) else "blue",
            mac=f"02:00:00:00:00:0{number}",
            addresses=addresses,
            groups=tuple(self._random.sample(GROUPS, self._random.randrange(0, 4))) if secured else (),
            pairs=tuple(pairs) if secured else (),
            port_security=secured,
        )

    def _group(self, name: str, *, stateless: bool) -> SecurityGroup:
        rules = [self._rule(stateless=stateless) for _ in range(self._random.randrange(1, 7))]
        return SecurityGroup(name, tuple(rules), "keep" if self.chance(0.3) else "cut")

    def _rule(self, *, stateless: bool) -> Rule:
        ethertype: Ethertype = "ipv6" if self.chance(0.35) else "ipv4"
        direction: Direction = "egress" if self.chance(0.5) else "ingress"
        protocol = ports = source_ports = icmp_type = icmp_code = None
        if self.chance(0.2):
            protocol = 58 if ethertype == "ipv6" else 1
            icmp_type = self._random.choice((None, 128 if ethertype == "ipv6" else 8))
            icmp_code = 0 if icmp_type is not None and self.chance(0.3) else None
        elif self.chance(0.7):
            protocol, port = self._random.choice(SERVICES)
            if protocol != 47 and self.chance(0.7):
                ports = Range(port, port + self._random.choice((0, 1, 9)))
            if protocol != 47 and self.chance(0.2):
                source_ports = Range(1000, 6000)
        return Rule(
            direction=direction, ethertype=ethertype, protocol=protocol, ports=ports, source_ports=source_ports,
            icmp_type=icmp_type, icmp_code=icmp_code, remote=self._remote(ethertype),
            action="deny" if self.chance(0.25) else "allow", tier=self._random.choice((0, 4, 4, 4, 7)),
            stateless=stateless and self.chance(0.1),
        )  # fmt: skip

    def _remote(self, ethertype: Ethertype) -> Remote:
        kind = self._random.choice(("any", "prefix", "group", "group", "address-group", "address-group"))
        if kind == "prefix":
            return Remote("prefix", self._pick(PREFIXES[ethertype]))
        if kind == "group":
            return Remote("group", self._pick(GROUPS))
        return Remote("address-group", self._pick(tuple(LISTS))) if kind == "address-group" else Remote()
