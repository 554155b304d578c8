"""What a document of the firewall may look like: one struct a kind, from which the JSON Schema is made too.

Field names are camelCase in a document. Descriptions stand here once: in error messages, in the schema and in the
reference. What a struct cannot say (families, references, host bits) is checked in `intent`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from hitless.core.model.security import DEFAULT_TIER, TIERS, Direction, Ethertype, Revoked, Verdict

VERSION = "hitless/v1"
NAME = re.compile(r"[A-Za-z0-9._:-]{1,63}")  # an OpenStack UUID fits, and so does a MAC
_TITLE_LIMIT = 255  # characters; as long as a name in OpenStack may be

# https://www.iana.org/assignments/protocol-numbers, with the names that OpenStack and /etc/protocols use for them
PROTOCOLS: Mapping[str, int] = {
    "hopopt": 0, "icmp": 1, "igmp": 2, "ggp": 3, "ipip": 4, "ipv4": 4, "tcp": 6, "egp": 8, "igp": 9, "udp": 17,
    "rdp": 27, "dccp": 33, "ipv6": 41, "ipv6-encap": 41, "ipv6-route": 43, "ipv6-frag": 44, "rsvp": 46, "gre": 47,
    "esp": 50, "ah": 51, "icmpv6": 58, "ipv6-icmp": 58, "ipv6-nonxt": 59, "ipv6-opts": 60, "eigrp": 88, "ospf": 89,
    "etherip": 97, "pim": 103, "ipcomp": 108, "vrrp": 112, "pgm": 113, "l2tp": 115, "sctp": 132, "udplite": 136,
    "mpls-in-ip": 137,
}  # fmt: skip

_Name = Annotated[str, Meta(pattern=f"^{NAME.pattern}$")]
_Octet = Annotated[int, Meta(ge=0, le=255)]
_Tag = Annotated[int, Meta(ge=1, le=4094)]  # IEEE 802.1Q: 0 and 4095 are reserved


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """A mapping in a document: its fields and no others."""


class Metadata(Part, frozen=True):
    """What a document is called."""

    name: Annotated[_Name, Meta(description="identity within its kind: 1 to 63 of A-Z a-z 0-9 . _ : -")]
    title: Annotated[str, Meta(description="for people; means nothing", max_length=_TITLE_LIMIT)] = ""


class RemoteSpec(Part, frozen=True):
    """The other end of a rule: exactly one of these."""

    prefix: Annotated[str | None, Meta(description="addresses: 10.1.0.0/16, 2001:db8::/32, or one address")] = None
    group: Annotated[_Name | None, Meta(description="the ports of this security group")] = None
    address_group: Annotated[_Name | None, Meta(description="the prefixes of this address group")] = None


class RuleSpec(Part, frozen=True):
    """What may, or may not, come in or go out."""

    direction: Annotated[Direction, Meta(description="seen from the port: ingress is towards it")]
    ethertype: Annotated[Ethertype, Meta(description="the IP version")]
    name: Annotated[_Name | None, Meta(description="unique in its group; without one, the content is the name")] = None
    protocol: Annotated[
        int | str | None, Meta(description="IANA name or number, 0 to 255; every protocol if absent")
    ] = None
    port: Annotated[
        int | str | None, Meta(description="destination port or first-last, 0 to 65535; tcp, udp and sctp only")
    ] = None
    source_port: Annotated[int | str | None, Meta(description="source port or first-last, likewise")] = None
    icmp_type: Annotated[_Octet | None, Meta(description="icmp and icmpv6 only, 0 to 255; every type if absent")] = None
    icmp_code: Annotated[_Octet | None, Meta(description="0 to 255, needs a type; every code if absent")] = None
    remote: Annotated[RemoteSpec | None, Meta(description="the other end; anybody if absent")] = None
    action: Annotated[Verdict, Meta(description="within one tier a deny goes before an allow")] = "allow"
    tier: Annotated[int, Meta(description="evaluated from tier 0 to tier 7", ge=0, le=TIERS - 1)] = DEFAULT_TIER
    stateless: Annotated[
        bool | None, Meta(description="not tracked: replies need a rule of their own; the group's if absent")
    ] = None


class SecurityGroupSpec(Part, frozen=True):
    """Rules that ports share."""

    rules: Annotated[tuple[RuleSpec, ...], Meta(description="in any order; what no rule allows is denied")] = ()
    revoked: Annotated[Revoked, Meta(description="what becomes of live connections no rule allows any longer")] = "cut"
    stateless: Annotated[bool, Meta(description="for rules that do not say it themselves")] = False


class AddressGroupSpec(Part, frozen=True):
    """Addresses that rules name together."""

    prefixes: Annotated[tuple[str, ...], Meta(description="of both IP versions; they may nest and overlap")] = ()


class NetworkSpec(Part, frozen=True):
    """A broadcast domain."""

    tag: Annotated[
        _Tag | None,
        Meta(description="VLAN tag and conntrack zone, 1 to 4094; each node chooses and keeps one if absent"),
    ] = None
    scope: Annotated[
        _Name, Meta(description="networks of one scope route to each other; addresses are unique within it")
    ] = "default"


class PairSpec(Part, frozen=True):
    """A further source that a port may use."""

    prefix: Annotated[str, Meta(description="an address or prefix")]
    mac: Annotated[str | None, Meta(description="the port's own if absent")] = None


class PortSpec(Part, frozen=True):
    """An attachment: whoever has it may use these addresses and is held to these groups."""

    network: Annotated[_Name, Meta(description="the network it is on")]
    mac: Annotated[str, Meta(description="unicast, unique on its network: fa:16:3e:00:00:01")]
    addresses: Annotated[tuple[str, ...], Meta(description="of both IP versions, unique within the scope")] = ()
    groups: Annotated[tuple[_Name, ...], Meta(description="security groups; without any, everything is denied")] = ()
    allowed_address_pairs: Annotated[
        tuple[PairSpec, ...], Meta(description="further sources it may use; several ports may share one")
    ] = ()
    port_security: Annotated[bool, Meta(description="false: the port is trusted, neither filtered nor tracked")] = True


Spec = SecurityGroupSpec | AddressGroupSpec | NetworkSpec | PortSpec
_Version = Annotated[Literal["hitless/v1"], Meta(description="the form of the document")]


class SecurityGroupDocument(Part, frozen=True, tag_field="kind", tag="SecurityGroup"):
    """Rules under a name."""

    api_version: _Version
    metadata: Metadata
    spec: SecurityGroupSpec


class AddressGroupDocument(Part, frozen=True, tag_field="kind", tag="AddressGroup"):
    """Prefixes under a name."""

    api_version: _Version
    metadata: Metadata
    spec: AddressGroupSpec


class NetworkDocument(Part, frozen=True, tag_field="kind", tag="Network"):
    """A broadcast domain and its tag."""

    api_version: _Version
    metadata: Metadata
    spec: NetworkSpec = NetworkSpec()


class PortDocument(Part, frozen=True, tag_field="kind", tag="Port"):
    """An attachment on whatever node."""

    api_version: _Version
    metadata: Metadata
    spec: PortSpec


AnyDocument = SecurityGroupDocument | AddressGroupDocument | NetworkDocument | PortDocument
KINDS: Mapping[str, type[AnyDocument]] = {
    "SecurityGroup": SecurityGroupDocument,
    "AddressGroup": AddressGroupDocument,
    "Network": NetworkDocument,
    "Port": PortDocument,
}


def schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of one document, for editors and for checks before a file is delivered."""
    made = msgspec.json.schema(AnyDocument)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "hitless firewall intent",
        **made,
    }
