"""Matches as flow text: what stands between the priority and the actions.

Open vSwitch prints prerequisites as one word (`tcp` is `eth_type` and `nw_proto`), VLAN in two notations, and terms in
an order of its own (lib/match.c, match_format); the model has sorted terms and neither words nor aliases. A field that
is not understood becomes the term `(TEXT, 0, 0)`: equal texts are equal keys, and it is written back as it was.

Tokens repeat from flow to flow, so both ways go through tables that fill themselves: that is most of the speed.
"""

from __future__ import annotations

from itertools import chain
from typing import Final

from hitless.core.model.flow import ARP, IPV4, IPV6, RARP, WIDTH, Match, Term, exact
from hitless.drivers.ovs.fields import number, read_field, show_field

_CACHED: Final = 500_000  # tokens; a bridge of 100,000 flows has about as many different ones, 100 MB at the very most

_KINDS: Final = {"ip": IPV4, "ipv6": IPV6, "arp": ARP, "rarp": RARP, "mpls": 0x8847, "mplsm": 0x8848}
_KIND_NAME: Final = {number: name for name, number in _KINDS.items()}
_PROTOCOLS: Final = {
    "icmp": (IPV4, 1), "tcp": (IPV4, 6), "udp": (IPV4, 17), "sctp": (IPV4, 132),
    "icmp6": (IPV6, 58), "tcp6": (IPV6, 6), "udp6": (IPV6, 17), "sctp6": (IPV6, 132),
}  # fmt: skip
# `igmp` is printed by Open vSwitch 3.1 and not read by it, so it is read here and not written.
_WORDS: Final[dict[str, Match]] = {
    **{name: (exact("eth_type", kind),) for name, kind in _KINDS.items()},
    **{name: (exact("eth_type", kind), exact("nw_proto", proto)) for name, (kind, proto) in _PROTOCOLS.items()},
    "igmp": (exact("eth_type", IPV4), exact("nw_proto", 2)),
    **{name: (exact("eth_type", kind),) for name, kind in (("ip4", IPV4), ("ipv4", IPV4), ("ip6", IPV6))},
}
_SHORT: Final = {f"{_KIND_NAME[kind]},nw_proto={proto}": name for name, (kind, proto) in _PROTOCOLS.items()}
ALIASES: Final = {
    "dl_type": "eth_type", "eth_src": "dl_src", "eth_dst": "dl_dst", "ip_src": "nw_src", "ip_dst": "nw_dst",
    "ip_proto": "nw_proto", "ip_frag": "nw_frag", "tunnel_id": "tun_id", "icmpv6_type": "icmp_type",
    "icmpv6_code": "icmp_code", "ip_ttl": "nw_ttl",
    **{f"{protocol}_{side}": f"tp_{side}" for protocol in ("tcp", "udp", "sctp") for side in ("src", "dst")},
}  # fmt: skip

_CFI, _VID, _PCP, _TCI = 0x1000, 0x0FFF, 0xE000, 0xFFFF
_UNTAGGED: Final[Term] = ("vlan_tci", 0, _CFI | _VID)

# lib/match.c, match_format(): the order in which a dump prints. `nw_proto` stands after `eth_type` for its shorthand.
_ORDER: Final = (
    "pkt_mark", "conj_id", "ct_state", "ct_zone", "ct_mark", "ct_label", "ct_", "eth_type", "nw_proto",
    *(f"reg{index}" for index in range(16)), "tun_id", "tun_", "metadata", "in_port", "vlan_tci", "dl_src", "dl_dst",
    "dl_type", "nw_src", "nw_dst", "ipv6_src", "ipv6_dst", "arp_spa", "arp_tpa", "ipv6_label", "late_nw_proto",
    "arp_op", "arp_sha", "arp_tha", "nw_tos", "nw_ttl", "nw_frag", "icmp_type", "icmp_code", "nd_target", "nd_sll",
    "nd_tll", "tp_src", "tp_dst", "tcp_flags", "",
)  # fmt: skip
_RANK: Final = {name: chr(0x21 + at) for at, name in enumerate(_ORDER)}
_LATE_PROTO: Final = _RANK["late_nw_proto"]
_PROTO: Final = _RANK["nw_proto"] + "nw_proto="


class LooseOrderError(Exception):
    """A word that stands before the match in a dump was met inside it: the line is no dump's and is read slowly."""


NOT_MATCH: Final = frozenset({
    "cookie", "duration", "table", "n_packets", "n_bytes", "idle_timeout", "hard_timeout", "importance", "idle_age",
    "hard_age", "priority", "send_flow_rem", "check_overlap", "reset_counts", "no_packet_counts", "no_byte_counts",
})  # fmt: skip


class _Tokens(dict[str, Match]):
    """A token's terms; most have one."""

    def __missing__(self, token: str) -> Match:
        if len(self) >= _CACHED:
            self.clear()
        terms = self[token] = read_token(token)
        return terms


class _Pieces(dict[Term, str]):
    """A term's text behind one character for its place, so that sorting strings brings them into a dump's order."""

    def __missing__(self, term: Term) -> str:
        if len(self) >= _CACHED:
            self.clear()
        piece = self[term] = _show_piece(term)
        return piece


_TOKENS: Final = _Tokens()
_PIECES: Final = _Pieces()
_token: Final = _TOKENS.__getitem__
_piece: Final = _PIECES.__getitem__


def read_match(text: str) -> Match:
    """The normalised match of comma-separated tokens. Raises LooseOrderError."""
    return read_tokens(text.split(","), "_pcp=" in text or "_ecn=" in text) if text else ()


def read_tokens(tokens: list[str], shared: bool) -> Match:
    """The normalised match; `shared` where two tokens may speak of one field. Raises LooseOrderError."""
    terms = sorted(chain.from_iterable(map(_token, tokens)))
    return _merge(terms) if shared else tuple(terms)


def show_match(match: Match) -> str:
    """The match in a dump's words and order; empty for one that matches everything."""
    pieces = sorted(map(_piece, match))
    text = ",".join([piece[1:] for piece in pieces])
    at = text.find(",nw_proto=")
    if at < 0:
        return text
    # One word with the kind before it, or else a term of its own further back.
    start, end = text.rfind(",", 0, at) + 1, text.find(",", at + 1)
    end = len(text) if end < 0 else end
    if short := _SHORT.get(text[start:end]):
        return text[:start] + short + text[end:]
    pieces = sorted(_LATE_PROTO + piece[1:] if piece.startswith(_PROTO) else piece for piece in pieces)
    return ",".join([piece[1:] for piece in pieces])


def read_token(token: str) -> Match:
    """The terms of `word` or `field=value`; an opaque one where it is not understood; none for an empty mask."""
    name, equals, value = token.partition("=")
    name = name.strip()
    if name in NOT_MATCH:
        raise LooseOrderError
    if not equals:
        return _WORDS.get(name) or (((name, 0, 0),) if name else ())
    try:
        term = _read_term(ALIASES.get(name, name), value.strip())
    except (ValueError, KeyError):
        return ((f"{name}={value}", 0, 0),)
    return (term,) if term[2] else ()


def _read_term(name: str, text: str) -> Term:  # noqa: PLR0911 - one way for each notation of a part of a field
    if name == "dl_vlan":
        vid = number(text)
        return _UNTAGGED if vid == _TCI else ("vlan_tci", _CFI | _fits(vid, _VID), _CFI | _VID)
    if name == "vlan_vid":
        return _read_vid(text)
    if name in ("dl_vlan_pcp", "vlan_pcp"):
        return "vlan_tci", _CFI | _fits(number(text), 7) << 13, _CFI | _PCP
    if name == "nw_tos":
        return "nw_tos", _fits(number(text), 0xFF) & 0xFC, 0xFC
    if name == "ip_dscp":
        return "nw_tos", _fits(number(text), 0x3F) << 2, 0xFC
    if name in ("nw_ecn", "ip_ecn"):
        return "nw_tos", _fits(number(text), 3), 3
    value, mask = read_field(name, text)
    if name == "vlan_tci" and mask & _CFI and not value & _CFI:
        mask &= _CFI | _VID  # no header, hence no priority: OpenFlow 1.1 and later have no other way to say it
        value &= mask
    return name, value, mask


def _read_vid(text: str) -> Term:
    """`vlan_vid=0x1007[/MASK]`, of OpenFlow 1.2: bit 12 says that there is a tag, and nothing else does."""
    before, slash, after = text.partition("/")
    mask = number(after) if slash else _CFI | _VID
    value = _fits(number(before), _CFI | _VID) & mask
    if mask > _CFI | _VID or not mask & _CFI or (value and not value & _CFI):
        raise ValueError(text)
    return "vlan_tci", value, mask


def _fits(value: int, limit: int) -> int:
    if not 0 <= value <= limit:
        raise ValueError(value)
    return value


def _merge(terms: list[Term]) -> Match:
    """Two notations of one field (VLAN and its priority, DSCP and ECN) as one term."""
    merged: dict[str, Term] = {}
    for field, value, mask in terms:
        _, other_value, other_mask = merged.get(field, (field, 0, 0))
        merged[field] = (field, value | other_value, mask | other_mask)
    return tuple(merged[field] for field in sorted(merged))


def _show_piece(term: Term) -> str:
    field, value, mask = term
    if not mask:
        name = field.partition("=")[0]
        family = next((each for each in ("ct_", "tun_") if field.startswith(each)), "")
        return _RANK.get(name, _RANK[family]) + field
    if field == "vlan_tci":
        return _RANK[field] + _show_vlan(value, mask)
    if field == "nw_tos":
        both = [f"nw_tos={value & 0xFC}"] * (mask & 0xFC == 0xFC) + [f"nw_ecn={value & 3}"] * (mask & 3 == 3)
        return _RANK[field] + ",".join(both)
    if field == "eth_type" and mask == _TCI:
        kind = _KIND_NAME.get(value)
        return _RANK["eth_type"] + kind if kind else f"{_RANK['dl_type']}dl_type={value:#06x}"
    return _RANK[field] + show_field(field, value, mask)


def _show_vlan(value: int, mask: int) -> str:
    vid, pcp = mask & _VID, mask & _PCP
    if value & _CFI and vid in (0, _VID) and pcp in (0, _PCP) and (vid or pcp):
        both = [f"dl_vlan={value & _VID}"] * bool(vid) + [f"dl_vlan_pcp={value >> 13}"] * bool(pcp)
        return ",".join(both)
    return show_field("vlan_tci", value, mask)


assert set(WIDTH) <= set(_ORDER)  # noqa: S101 - a field of the model without a place would be found by the first flow
