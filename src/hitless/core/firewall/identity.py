"""Identities that are never reused: conjunction ids, cookies, VLAN tags (which are conntrack zones).

All three are hashes of what they stand for, probed onward on a collision, so that any process computes the same ones
from the same policy. Where probing made a difference the bridge itself is the memory: an accept flow's cookie says
whose id it carries, and `external_ids` keeps the tags.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Set

import msgspec

from hitless.core.firewall.pipeline import COOKIE_PREFIX
from hitless.core.model.flow import Conjunction, Flow
from hitless.core.model.security import Direction, Ethertype, Network, Remote, Verdict

_ID_BITS, _COOKIE_BITS = 32, 48
_TAGS = 4094  # IEEE 802.1Q: 0 and 4095 are reserved


class ConjunctionKey(msgspec.Struct, frozen=True, order=True):
    """What a conjunction id stands for: the rules of a group with one remote and one class of protocol."""

    group: str
    direction: Direction
    ethertype: Ethertype
    remote_kind: str
    remote: str
    protocol: int  # -1: any
    tier: int
    action: Verdict
    stateless: bool

    @property
    def text(self) -> str:
        """The content that is hashed; changing its form changes every id."""
        return "/".join(str(each) for each in msgspec.structs.astuple(self))

    @property
    def owner(self) -> Remote:
        return Remote(self.remote_kind, self.remote)  # type: ignore[arg-type]


class KnownIds(msgspec.Struct, frozen=True):
    """What the bridge says about ids: whose they are (by cookie), and which appear at all; plus those still resting.

    `orphans` are in clauses of ours alone: somebody deleted the accept flow that said whose they are.
    """

    by_cookie: Mapping[int, int] = {}
    in_use: Set[int] = frozenset()
    resting: Set[int] = frozenset()
    orphans: Set[int] = frozenset()


def cookie(kind: str, name: str) -> int:
    """Our prefix and 48 bits of hash of a logical object; never the prefix alone."""
    return (COOKIE_PREFIX << _COOKIE_BITS) | (_hash(f"cookie/{kind}/{name}", _COOKIE_BITS) or 1)


def conjunction_cookie(key: ConjunctionKey) -> int:
    """The cookie of a conjunction's accept flows: leads from the flow to its rules, and from the bridge to the id."""
    return cookie("conjunction", key.text)


def read_ids(flows: Iterable[Flow]) -> KnownIds:
    """Ids in matches and in actions, of ours and of others; 0 is nobody's (it is the field's default value)."""
    by_cookie: dict[int, int] = {}
    told, clauses = set[int](), set[int]()
    for flow in flows:
        ours = flow.cookie >> _COOKIE_BITS == COOKIE_PREFIX
        for field, value, _ in flow.match:
            if field == "conj_id":
                told.add(value)
                if value and ours:
                    by_cookie[flow.cookie] = value
        (clauses if ours else told).update(each.id for each in flow.actions if isinstance(each, Conjunction))
    return KnownIds(by_cookie, frozenset(told | clauses), orphans=frozenset(clauses - told))


def assign_ids(keys: Iterable[ConjunctionKey], known: KnownIds) -> dict[ConjunctionKey, int]:
    """An id for each key: the one that the bridge has for it, else its hash, probed past every other id; never 0.

    An orphan that is a key's hash is that key's, so that its clauses stay and only the accept flow comes back.
    """
    assigned: dict[ConjunctionKey, int] = {}
    taken = {0}
    ordered = sorted(set(keys))
    for key in ordered:
        held = known.by_cookie.get(conjunction_cookie(key), 0)
        if held not in taken:
            assigned[key] = held
            taken.add(held)
    avoid = taken | known.in_use | known.resting
    orphans = known.orphans - known.resting
    for key in ordered:
        if key not in assigned:
            number = _hash(f"conjunction/{key.text}", _ID_BITS)
            while number in avoid and (number not in orphans or number in taken):
                number = (number + 1) % (1 << _ID_BITS)
            assigned[key] = number
            taken.add(number)
            avoid.add(number)
    return assigned


class TagError(Exception):
    """No VLAN tag is left, or two owners want one. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


def assign_tags(
    networks: Iterable[Network], kept: Mapping[str, int], foreign: Set[int] = frozenset()
) -> dict[str, int]:
    """A tag for each network: the one it asks for, else the one it has, else its hash, probed. Raises TagError.

    `kept` is what `external_ids` remembers, also of networks that are gone; `foreign` are tags of ports of others.
    """
    ordered = sorted(networks, key=lambda each: each.name)
    tags = {each.name: each.tag for each in ordered if each.tag}
    if len(set(tags.values())) < len(tags):
        raise TagError("tag-taken", "two networks ask for one VLAN tag, which is also their conntrack zone")
    for name, tag in sorted(kept.items()):
        if name not in tags and tag in tags.values():
            if any(each.name == name for each in ordered):
                raise TagError("tag-taken", f"VLAN tag {tag} belongs to network {name} on this node and is never "
                               "renumbered while it lives; give the other network another tag")  # fmt: skip
            continue
        tags.setdefault(name, tag)
    wanted = {each.name: tags[each.name] for each in ordered if each.name in tags}
    avoid = {*tags.values(), *foreign}
    for each in ordered:
        if each.name in wanted:
            continue
        if len(avoid) >= _TAGS:
            raise TagError("no-tag-left", "all 4,094 VLAN tags of this node are in use; remove networks not needed")
        tag = _hash(f"tag/{each.name}", _ID_BITS) % _TAGS
        while tag + 1 in avoid:
            tag = (tag + 1) % _TAGS
        wanted[each.name] = tag + 1
        avoid.add(tag + 1)
    return wanted


def _hash(text: str, bits: int) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> (64 - bits)
