"""Pieces of matches that rules and base flows are made of: addresses, protocols, ports."""

from __future__ import annotations

from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from itertools import product

from hitless.core.firewall.masks import cover
from hitless.core.model.flow import IPV4, IPV6, Term, exact
from hitless.core.model.security import Ethertype, Range, Rule

_CACHED = 262_144  # addresses in one intent; a miss only costs the parse

_ETH = {"ipv4": exact("eth_type", IPV4), "ipv6": exact("eth_type", IPV6)}
_FIELD = {
    ("ipv4", "src"): "nw_src",
    ("ipv4", "dst"): "nw_dst",
    ("ipv6", "src"): "ipv6_src",
    ("ipv6", "dst"): "ipv6_dst",
}


def eth(ethertype: Ethertype) -> Term:
    """`ip` or `ipv6`."""
    return _ETH[ethertype]


@lru_cache(_CACHED)
def family(prefix: str) -> Ethertype:
    """Of an address or prefix in normal form."""
    return "ipv6" if ":" in prefix else "ipv4"


@lru_cache(_CACHED)
def address(prefix: str, side: str) -> tuple[Term, ...]:
    """The source ("src") or destination ("dst") lies in a prefix; nothing for a prefix of length 0."""
    return prefix_term(_FIELD[family(prefix), side], prefix)


@lru_cache(_CACHED)
def prefix_term(field: str, prefix: str) -> tuple[Term, ...]:
    """An address field lies in a prefix; nothing for a prefix of length 0."""
    network = ip_network(prefix)
    mask = int(network.netmask)
    return ((field, int(network.network_address), mask),) if mask else ()


@lru_cache(_CACHED)
def mac_number(mac: str) -> int:
    """aa:bb:cc:dd:ee:ff as a number."""
    return int(mac.replace(":", ""), 16)


@lru_cache(_CACHED)
def link_local(mac: str) -> str:
    """The IPv6 link-local address that a MAC leads to (RFC 4291, appendix A: modified EUI-64)."""
    number = mac_number(mac) ^ (0x02 << 40)
    return str(IPv6Address((0xFE80 << 112) | (number >> 24 << 40) | (0xFFFE << 24) | (number & 0xFFFFFF)))


def protocol(number: int) -> Term:
    """The IP protocol or IPv6 next header."""
    return exact("nw_proto", number)


def service(rule: Rule) -> tuple[tuple[Term, ...], ...]:
    """What a rule says above IP, as alternatives: every alternative is one flow."""
    if rule.protocol is None:
        return ((eth(rule.ethertype),),)
    first: tuple[Term, ...] = (eth(rule.ethertype), protocol(rule.protocol))
    if rule.icmp_type is not None:
        first += (exact("icmp_type", rule.icmp_type),)
    if rule.icmp_code is not None:
        first += (exact("icmp_code", rule.icmp_code),)
    pairs = product(_ports("tp_dst", rule.ports), _ports("tp_src", rule.source_ports))
    return tuple(first + here + there for here, there in pairs)


def _ports(field: str, wanted: Range | None) -> tuple[tuple[Term, ...], ...]:
    if wanted is None:
        return ((),)
    return tuple(((field, value, mask),) if mask else () for value, mask in cover(wanted.first, wanted.last))
