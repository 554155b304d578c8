"""What a person wrote, read as Open vSwitch 3.1 reads it, or refused.

A dump is in normal form; a line in a file is not. `ovs-ofctl` leaves out a field whose prerequisite is missing, takes
the last of two values and cuts off bits, with a warning at most (lib/ofp-match.c, ofputil_normalize_match). What it
would change is refused here with what to write instead, and so is a word or a value that it does not know. Fields and
actions that it knows and the model does not stay as their text: whoever judges them has to say that they do not know.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

import msgspec

from hitless.core.model.flow import ARP, IPV4, IPV6, RARP, WIDTH, Action, Conjunction, Ct, Match, Opaque, Term, exact
from hitless.drivers.ovs.actions import is_malformed, read_actions
from hitless.drivers.ovs.fields import number
from hitless.drivers.ovs.terms import ALIASES, NOT_MATCH, read_token

ANY_TABLE: Final = 255  # OFPTT_ALL
_U16, _U64 = (1 << 16) - 1, (1 << 64) - 1
_FLAGS: Final = frozenset({"send_flow_rem", "reset_counts", "no_packet_counts", "no_byte_counts"})
_WITHOUT_MASK: Final = frozenset(
    {"in_port", "eth_type", "nw_proto", "nw_ttl", "ct_zone", "icmp_type", "icmp_code", "arp_op", "conj_id"}
)
# Fields of ovs-fields(7) that the model does not have.
_FOREIGN: Final = re.compile(
    r"tun_\w+|reg(?:8|9|1[0-5])|xreg[0-7]|xxreg[0-3]|mpls_(?:label|tc|bos|ttl)|nsh_\w+|nd_(?:reserved|options_type)|"
    r"ct_(?:nw_src|nw_dst|nw_proto|ipv6_src|ipv6_dst|tp_src|tp_dst)|packet_type|actset_output|dp_hash|recirc_id|"
    r"skb_priority|in_port_oxm|gtpu_\w+|erspan_\w+"
)
# Two words for two parts of one field.
_PARTS: Final = tuple(
    {first, second}
    for some, others in ((("dl_vlan", "vlan_vid"), ("dl_vlan_pcp", "vlan_pcp")),
                         (("nw_tos", "ip_dscp"), ("nw_ecn", "ip_ecn")))
    for first in some for second in others
)  # fmt: skip
# What a field is called in packets of another kind, to ovs-ofctl (lib/ofp-match.c, ofputil_match_from_ofp10_match).
_IN_ARP: Final = {"nw_src": "arp_spa", "nw_dst": "arp_tpa", "nw_proto": "arp_op"}
_IN_ICMP: Final = {"tp_src": "icmp_type", "tp_dst": "icmp_code"}

Kinds = tuple[tuple[int, int | None], ...]

_TRANSPORT: Final = tuple((kind, proto) for kind in (IPV4, IPV6) for proto in (6, 17, 132))
_ICMP: Final = ((IPV4, 1), (IPV6, 58))
# Fields, beside which eth_type and nw_proto they stand, and the words for those.
_GROUPS: Final[tuple[tuple[str, Kinds, str], ...]] = (
    ("nw_src nw_dst", ((IPV4, None),), "`ip`"),
    ("ipv6_src ipv6_dst ipv6_label", ((IPV6, None),), "`ipv6`"),
    ("nw_proto nw_tos nw_ttl nw_frag", ((IPV4, None), (IPV6, None)), "`ip` or `ipv6`"),
    ("tp_src tp_dst", _TRANSPORT, "`tcp`, `udp` or `sctp` (or `tcp6`, `udp6`, `sctp6`)"),
    ("tcp_flags", ((IPV4, 6), (IPV6, 6)), "`tcp` or `tcp6`"),
    ("icmp_type icmp_code", _ICMP, "`icmp` or `icmp6`"),
    ("nd_target nd_sll nd_tll", ((IPV6, 58),), "`icmp6`"),
    ("arp_op arp_spa arp_tpa arp_sha arp_tha", ((ARP, None), (RARP, None)), "`arp`"),
)
_NEEDS: Final = {field: (kinds, words) for fields, kinds, words in _GROUPS for field in fields.split()}
_ND_TYPES: Final = {"nd_target": (135, 136), "nd_sll": (135,), "nd_tll": (136,)}


class Written(msgspec.Struct, frozen=True):
    """One line. What it does not say is None; `actions` of none is a line without `actions=`.

    `cookie_mask` 0 limits nothing. `said` are the words before the match; `foreign` the terms that are only text.
    """

    table: int | None
    priority: int | None
    cookie: int | None
    cookie_mask: int
    match: Match
    actions: tuple[Action, ...] | None
    said: frozenset[str]

    @property
    def foreign(self) -> tuple[str, ...]:
        return tuple(field for field, _, mask in self.match if not mask)


def read_written(text: str) -> Written:
    """A line without its verb. Raises ValueError with a sentence."""
    before, has_actions, actions_text = text.partition("actions=")
    head: dict[str, str] = {}
    tokens: list[str] = []
    for word in before.replace(",", " ").split():
        name, _, value = word.partition("=")
        if name not in NOT_MATCH:
            tokens.append(word)
        elif name in head:
            raise ValueError(f"`{name}` is said twice, and ovs-ofctl takes the last; say it once")
        else:
            head[name] = value
    actions = read_actions(actions_text.strip()) if has_actions else None
    if actions is not None and (wrong := wrong_action(actions)):
        raise ValueError(wrong)
    _refuse_ends(head)
    cookie, slash, mask = head.get("cookie", "").partition("/")
    match = read_terms(tokens)
    if actions and not _may_track(match) and any(map(_tracks, actions)):
        raise ValueError("`ct` needs `ip` or `ipv6` beside it: Open vSwitch refuses the flow without; add it")
    return Written(
        table=_small(head, "table", ANY_TABLE),
        priority=_small(head, "priority", _U16),
        cookie=_cookie(cookie) if "cookie" in head else None,
        cookie_mask=_cookie(mask) if slash else 0,
        match=match,
        actions=actions,
        said=frozenset(head),
    )


def read_terms(tokens: Iterable[str]) -> Match:
    """The match of words and `field=value`. Raises ValueError with a sentence."""
    found: dict[str, tuple[Term, str]] = {}
    for word in tokens:
        name = word.partition("=")[0]
        for term in _terms(word):
            field, value, mask = term
            _, old, old_mask = found.get(field, (term, name))[0]
            is_part = field in found and {name, found[field][1]} in _PARTS
            if (old, old_mask) != (value, mask) and (not is_part or (value ^ old) & mask & old_mask):
                raise ValueError(f"`{word}` contradicts what stands before it, and ovs-ofctl takes the last; say it "
                                 "once")  # fmt: skip
            found[field] = (field, value | old, mask | old_mask), name
    match = _renamed({field: term for field, (term, _) in found.items()})
    if needed := lacking(match):
        raise ValueError(needed)
    return match


def lacking(match: Match) -> str:
    """Which field of a match has no effect, for want of a prerequisite (ovs-fields(7)); empty where none."""
    exactly = {field: value for field, value, mask in match if mask}
    kind, protocol = exactly.get("eth_type", -1), exactly.get("nw_proto")
    for field, _, mask in match:
        if not mask or field not in _NEEDS:
            continue
        wanted, words = _NEEDS[field]
        if (kind, protocol) not in wanted and (kind, None) not in wanted:
            return f"`{field}` needs {words} beside it: without it Open vSwitch leaves the field out; add it"
        types = _ND_TYPES.get(field)
        if types and (exactly.get("icmp_type") not in types or exactly.get("icmp_code", 0)):
            some = " or ".join(f"`icmp_type={each}`" for each in types)
            return f"`{field}` needs {some} beside it: without it Open vSwitch leaves the field out; add it"
    return ""


def wrong_term(field: str) -> str:
    """What is wrong with a term that was kept as its text; empty where the model only does not have it."""
    name, equals, value = field.partition("=")
    canonical = ALIASES.get(name, name)
    if name == "in_port" and value[:1] not in "0123456789/" and value:
        return f"`{field}` names a port; give its number, as `ovs-ofctl --no-names dump-flows` prints it"
    if name in ("out_port", "out_group"):
        return f"`{name}` chooses flows by what they do, which is not looked at here; name them by match or cookie"
    if equals and _FOREIGN.fullmatch(canonical) and value:
        return ""
    if canonical in WIDTH or name.startswith(("dl_vlan", "vlan_", "ip_", "nw_")):
        return f"`{field}` has a value that Open vSwitch would refuse or change; correct it"
    return f"`{field}` is no word of ovs-fields(7) that a flow can be given; correct it"


def wrong_action(actions: tuple[Action, ...]) -> str:
    """Why Open vSwitch would refuse actions; empty where nothing is known to be wrong."""
    for action in actions:
        if isinstance(action, Opaque) and is_malformed(action.text):
            return (f"`{action.text}` is no action of ovs-actions(7), or has a value that does not fit; correct it, "
                    "with ports by number and fields as `ovs-ofctl --no-names dump-flows` prints them")  # fmt: skip
    soft = [isinstance(each, Conjunction) for each in actions]
    rest = [each for each in actions if not isinstance(each, Conjunction | Opaque)]
    if any(soft) and rest:
        return "`conjunction` stands with no other action than `note`; put them into a flow of their own"
    return ""


def _terms(word: str) -> Match:
    name, equals, value = word.partition("=")
    if word == "igmp":
        raise ValueError("`igmp` is printed by Open vSwitch 3.1 and not read by it; write `ip,nw_proto=2`")
    terms = read_token(word)
    if equals and not value:
        raise ValueError(f"`{word}` has no value; write `{name}=VALUE`")
    if terms and name == "vlan_tci" and "/" in value and _asks_priority_of_no_tag(value):
        raise ValueError(f"`{word}` asks for the priority of packets without a tag, which only OpenFlow 1.0 can say; "
                         "write `vlan_tci=0x0000/0x1fff`")  # fmt: skip
    if "/" in value and ALIASES.get(name, name) in _WITHOUT_MASK:
        raise ValueError(f"`{name}` takes no mask; give the whole value")
    for field, _, mask in terms:
        if not mask and (wrong := wrong_term(field)):
            raise ValueError(wrong)
    return terms


def _asks_priority_of_no_tag(text: str) -> bool:
    value, mask = (number(each) for each in text.split("/"))
    return bool(mask & 0xE000 and mask & 0x1000 and not value & 0x1000 and value & mask)


def _may_track(match: Match) -> bool:
    return any(term in match for term in (exact("eth_type", IPV4), exact("eth_type", IPV6)))


def _tracks(action: Action) -> bool:
    return isinstance(action, Ct) or (isinstance(action, Opaque) and action.text.startswith("ct("))


def _renamed(terms: dict[str, Term]) -> Match:
    """`arp,nw_src=...` is `arp_spa`, `icmp,tp_src=8` is `icmp_type`: whole values only."""
    kind, protocol = (terms.get(each, ("", -1, 0))[1] for each in ("eth_type", "nw_proto"))
    names: dict[str, str] = {}
    if kind in (ARP, RARP):
        names = _IN_ARP
    elif (kind, protocol) in _ICMP:
        names = _IN_ICMP
    found: dict[str, Term] = {}
    for field, (_, value, mask) in terms.items():
        name = names.get(field, field)
        if name != field and mask == (1 << WIDTH[field]) - 1 and value < 1 << WIDTH[name]:
            term = exact(name, value)
        else:
            term = (name if name in _IN_ARP.values() else field, value, mask)
        if found.setdefault(term[0], term) != term:
            raise ValueError(f"`{field}` is another word for `{name}` in such packets; say it once")
    return tuple(sorted(found.values()))


def _small(head: dict[str, str], name: str, limit: int) -> int | None:
    if name not in head:
        return None
    try:
        value = number(head[name])
    except ValueError:
        value = -1
    if not 0 <= value <= limit:
        raise ValueError(f"`{name}={head[name]}` is no number from 0 to {limit}; correct it")
    return value


def _cookie(text: str) -> int:
    try:
        return _U64 if text == "-1" else number(text) & _U64
    except ValueError:
        raise ValueError(f"`{text}` is no cookie; write a number, as in `cookie=0x5/-1`") from None


def _refuse_ends(head: dict[str, str]) -> None:
    for name in ("idle_timeout", "hard_timeout"):
        if head.get(name, "0") != "0":
            raise ValueError(f"`{name}={head[name]}`: a flow that ends by itself is not what a plan says; leave the "
                             "timeout out and delete the flow in a line of its own")  # fmt: skip
    if "check_overlap" in head:
        raise ValueError("`check_overlap` lets the switch refuse the flow; leave it out")
    for name in _FLAGS & head.keys():
        if head[name]:
            raise ValueError(f"`{name}` takes no value")
