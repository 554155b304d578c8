"""The nouns of the firewall: what may talk to what, as its owner says it. Nothing here knows a bridge.

An `Intent` is complete: every group, port and network of the fleet, so that a node can compile its own ports without
asking anybody. Names are identities; the order of anything never matters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import msgspec

Direction = Literal["ingress", "egress"]
Ethertype = Literal["ipv4", "ipv6"]
Verdict = Literal["allow", "deny"]
Revoked = Literal["cut", "keep"]

TIERS = 8  # evaluated from tier 0 to tier 7; within one tier a deny goes before an allow
DEFAULT_TIER = 4

ICMP, TCP, UDP, ICMPV6, SCTP = 1, 6, 17, 58, 132
WITH_PORTS = frozenset({TCP, UDP, SCTP})


class Place(msgspec.Struct, frozen=True):
    """Where something was said: a file, or `store:KEY`; the document in it from 1, and the line from 1 (0: unknown)."""

    file: str = ""
    document: int = 0
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


class Range(msgspec.Struct, frozen=True):
    """Port numbers from `first` to `last`, both included (0 to 65535)."""

    first: int
    last: int


class Remote(msgspec.Struct, frozen=True):
    """The other end of a rule. `any` has no name; a `prefix`'s name is the prefix in its normal form."""

    kind: Literal["any", "prefix", "group", "address-group"] = "any"
    name: str = ""


class Rule(msgspec.Struct, frozen=True):
    """One rule. `protocol` None is every protocol; `ports` are destination ports. `name` may be empty.

    `stateless` rules let packets through without tracking them: replies need a rule of their own.
    """

    direction: Direction
    ethertype: Ethertype
    protocol: int | None = None
    ports: Range | None = None
    source_ports: Range | None = None
    icmp_type: int | None = None
    icmp_code: int | None = None
    remote: Remote = Remote()
    action: Verdict = "allow"
    tier: int = DEFAULT_TIER
    stateless: bool = False
    name: str = ""
    place: Place = Place()

    @property
    def identity(self) -> str:
        """What the rule is called in cookies: its name, else its content, never its position."""
        if self.name:
            return self.name
        parts = [f"tier{self.tier}", self.action, self.direction, self.ethertype, f"proto={self.protocol}"]
        for label, each in (("dst", self.ports), ("src", self.source_ports)):
            parts += [f"{label}={each.first}-{each.last}"] if each is not None else []
        parts += [f"icmp={self.icmp_type}/{self.icmp_code}"] if self.icmp_type is not None else []
        parts += [f"{self.remote.kind}:{self.remote.name}"] + (["stateless"] if self.stateless else [])
        return " ".join(parts)


class SecurityGroup(msgspec.Struct, frozen=True):
    """Rules under a name. `revoked`: what becomes of live connections that no rule allows any longer."""

    name: str
    rules: tuple[Rule, ...] = ()
    revoked: Revoked = "cut"
    place: Place = Place()


class AddressGroup(msgspec.Struct, frozen=True):
    """Prefixes under a name, in normal form; they may nest and overlap, and be of both families."""

    name: str
    prefixes: tuple[str, ...] = ()
    place: Place = Place()


class AddressPair(msgspec.Struct, frozen=True):
    """A further source that a port may use: an address or prefix in normal form; `mac` empty means the port's own."""

    prefix: str
    mac: str = ""


class Port(msgspec.Struct, frozen=True):
    """An attachment, on whatever node. `mac` in lower case with colons. It belongs to the node whose bridge has it.

    `port_security` off: the port is trusted; it is neither filtered nor tracked, and belongs to no group.
    """

    name: str
    network: str
    mac: str
    addresses: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    pairs: tuple[AddressPair, ...] = ()
    port_security: bool = True
    place: Place = Place()


class Network(msgspec.Struct, frozen=True):
    """A broadcast domain. `tag` 0: chosen by each node and kept (VLAN tag and conntrack zone, 1 to 4094).

    Networks with one `scope` route to each other, so members of a group count in all of them; addresses are unique
    within a scope. Networks whose addresses overlap need different scopes.
    """

    name: str
    tag: int = 0
    scope: str = "default"
    place: Place = Place()


class Intent(msgspec.Struct, frozen=True):
    """Everything the owner says, checked: every name that is used is there."""

    groups: Mapping[str, SecurityGroup] = {}
    address_groups: Mapping[str, AddressGroup] = {}
    ports: Mapping[str, Port] = {}
    networks: Mapping[str, Network] = {}
