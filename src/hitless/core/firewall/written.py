"""What people write for addresses, prefixes, MACs, ports and protocols, to the one form in which it is compared.

Each function raises `WrittenError` for what it refuses, in words that lead on. A prefix with one address in it is
written as the address.
"""

from __future__ import annotations

import re
from functools import lru_cache
from ipaddress import ip_address, ip_network
from typing import Final

from hitless.core.firewall.documents import meant, shown
from hitless.core.firewall.schema import PROTOCOLS
from hitless.core.model.security import ICMP, ICMPV6, Ethertype, Range

_CACHED = 262_144  # prefixes and addresses of one intent; a miss only costs the parse
_PREFIX: Final = re.compile(r"[0-9A-Fa-f.:]+(/[0-9]{1,3})?")  # no zones, and no masks that are written as addresses
_MAC: Final = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_PORTS: Final = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_PORT_MAX, _PROTOCOL_MAX = 65535, 255


class WrittenError(Exception):
    """A value that is refused, with the code that says why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@lru_cache(_CACHED)
def prefix(text: str) -> str:
    """An address, or a prefix without bits behind its length."""
    try:
        found = ip_network(text if _PREFIX.fullmatch(text) else "", strict=False)
    except ValueError:
        message = f"{shown(text)} is no prefix; write one like 10.1.0.0/16 or 2001:db8::/32, or an address"
        raise WrittenError("intent-prefix", message) from None
    normal = str(found.network_address) if found.num_addresses == 1 else str(found)
    if ip_address(text.split("/", maxsplit=1)[0]) != found.network_address:
        raise WrittenError("intent-host-bits", f"{text} has bits behind its length; write {normal}, or one address")
    return normal


@lru_cache(_CACHED)
def address(text: str) -> str:
    """An address that a port can have: neither multicast nor loopback nor unspecified, and without a zone."""
    try:
        found = ip_address(text if _PREFIX.fullmatch(text) else "")
    except ValueError:
        message = f"{shown(text)} is no address; write one like 10.1.0.5 or 2001:db8::5"
        raise WrittenError("intent-address", message) from None
    if found.is_multicast or found.is_loopback or found.is_unspecified or str(found) == "255.255.255.255":
        raise WrittenError("intent-address", f"{text} cannot be the address of a port; write the one that it uses")
    return str(found)


def mac(text: str) -> str:
    """A unicast MAC in lower case with colons."""
    found = text.lower().replace("-", ":")
    if not _MAC.fullmatch(found):
        raise WrittenError("intent-mac", f"{shown(text)} is no MAC address; write one like fa:16:3e:00:00:01")
    if int(found[:2], 16) & 1 or found == "00:00:00:00:00:00":
        raise WrittenError("intent-mac", f"{text} is a group address or zero; write the one that the port sends from")
    return found


def ports(text: str) -> Range | None:
    """A port or `first-last`; None for all of them."""
    found = _PORTS.fullmatch(text)
    if found is None:
        raise WrittenError("intent-port", f"{shown(text)} is no port; write one like 80 or 8000-8010")
    first, last = int(found[1]), int(found[2] or found[1])
    if max(first, last) > _PORT_MAX:
        raise WrittenError("intent-port", f"{text} is out of 0 to {_PORT_MAX}; mend the number")
    if first > last:
        raise WrittenError("intent-port", f"{text} ends before it begins; write {last}-{first} if that is meant")
    return None if (first, last) == (0, _PORT_MAX) else Range(first, last)


def protocol(text: str, ethertype: Ethertype) -> int:
    """A protocol by name or number. ICMP in an IPv6 rule is ICMPv6, as OpenStack has it too."""
    number = PROTOCOLS.get(text.lower())
    if number is None:
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else -1
    if not 0 <= number <= _PROTOCOL_MAX:
        hint = meant(text, PROTOCOLS) or f"write a number from 0 to {_PROTOCOL_MAX}, or a name like tcp, udp, icmp, esp"
        raise WrittenError("intent-protocol", f"{shown(text)} is no protocol; {hint}")
    if number == ICMPV6 and ethertype == "ipv4":
        raise WrittenError("intent-family", "ICMPv6 is not spoken over IPv4; write icmp, or ethertype: ipv6")
    return ICMPV6 if number == ICMP and ethertype == "ipv6" else number


def family(normal: str) -> Ethertype:
    """Of an address or prefix in its normal form."""
    return "ipv6" if ":" in normal else "ipv4"


def link_local(normal: str) -> bool:
    """Whether an address in its normal form counts on its own network only (RFC 4291 §2.5.6, RFC 3927)."""
    return ip_address(normal).is_link_local
