"""The flows of rules: plain ones, and conjunctions where the other end is a group.

A rule whose remote is a group is a product, members times services, and conjunctions keep it a sum: a flow for each
member says clause 1, a flow for each port and service says clause 2, and one accept flow for each port acts when both
hold. Member flows are shared by all ports of a network; each carries *all* ids that any port there needs, from the
first write on, because an add with an equal match replaces.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache

import msgspec

from hitless.core.firewall import pipeline as p
from hitless.core.firewall.base import Attached
from hitless.core.firewall.identity import ConjunctionKey, conjunction_cookie, cookie
from hitless.core.firewall.terms import address, eth, family, mac_number, service
from hitless.core.model.flow import Action, Conjunction, Flow, FlowKey, Match, SetField, exact
from hitless.core.model.security import Direction, Intent, Rule, SecurityGroup, Verdict

_THEN = {"egress": p.EGRESS_ACCEPTED, "ingress": p.INGRESS_ACCEPTED}
_MEMBERS, _SERVICES, _CLAUSES = 1, 2, 2


class Member(msgspec.Struct, frozen=True, order=True):
    """An address or prefix of a remote group. `mac` is set where the prefix alone would be everybody (length 0)."""

    prefix: str
    mac: str = ""


def conjunction_key(group: str, rule: Rule) -> ConjunctionKey:
    """The conjunction that a rule with a group as its remote is part of."""
    return ConjunctionKey(
        group=group,
        direction=rule.direction,
        ethertype=rule.ethertype,
        remote_kind=rule.remote.kind,
        remote=rule.remote.name,
        protocol=-1 if rule.protocol is None else rule.protocol,
        tier=rule.tier,
        action=rule.action,
        stateless=is_stateless(rule),
    )


def is_conjunctive(rule: Rule) -> bool:
    """Whether the rule's remote is a set of members."""
    return rule.remote.kind in {"group", "address-group"}


def is_stateless(rule: Rule) -> bool:
    """Whether what the rule lets through is not tracked. A deny asks what begins a connection or carries it on."""
    return rule.stateless and rule.action == "allow"


def rule_cookie(group: str, rule: Rule) -> int:
    """Leads from a flow back to its rule."""
    return cookie("rule", f"{group}/{rule.identity}")


def member_cookie(network: str, member: Member) -> int:
    """Leads from a shared flow back to the member."""
    return cookie("member", f"{network}/{member.prefix}/{member.mac}")


def members_of(intent: Intent, scope: str) -> dict[str, tuple[Member, ...]]:
    """Every group's members within a scope of networks: the addresses of its ports and their allowed pairs."""
    found: dict[str, set[Member]] = {}
    for port in intent.ports.values():
        if not port.port_security or intent.networks[port.network].scope != scope:
            continue
        mine = {Member(each) for each in port.addresses}
        for pair in port.pairs:
            mine.add(Member(pair.prefix, (pair.mac or port.mac) if pair.prefix.endswith("/0") else ""))
        for group in port.groups:
            found.setdefault(group, set()).update(mine)
    return {group: tuple(sorted(members)) for group, members in found.items()}


class Ruled(msgspec.Struct, frozen=True):
    """A group's rules, prepared once for all of its ports: what each flow matches beside the port."""

    plain: tuple[tuple[int, int, Match, Rule], ...]  # priority, cookie, terms, rule
    services: tuple[tuple[int, int, Match, ConjunctionKey], ...]

    @property
    def keys(self) -> frozenset[ConjunctionKey]:
        return frozenset(each[-1] for each in self.services)


def prepare(group: SecurityGroup) -> Ruled:
    """Everything about a group's rules that does not depend on a port."""
    plain, services = [], []
    for rule in group.rules:
        priority = p.rule_priority(rule.tier, rule.action, stateless=is_stateless(rule))
        owner = rule_cookie(group.name, rule)
        if is_conjunctive(rule):
            key = conjunction_key(group.name, rule)
            services += [(priority, owner, terms, key) for terms in service(rule)]
            continue
        side = "src" if rule.direction == "ingress" else "dst"
        remote = address(rule.remote.name, side) if rule.remote.kind == "prefix" else ()
        plain += [(priority, owner, (*remote, *terms), rule) for terms in service(rule)]
    return Ruled(tuple(plain), tuple(services))


@lru_cache
def _asked(
    direction: Direction, action: Verdict, *, stateless: bool, before: bool
) -> tuple[tuple[Match, tuple[Action, ...]], ...]:
    """In which states a rule is asked, and what follows when it decides.

    Ports with stateless rules ask all their rules also `before` tracking, in their order: one that is not stateless
    says then that the packet is to be tracked, and is asked again.
    """
    then = p.go(_THEN[direction] if action == "allow" else p.DENIED)
    if stateless:
        return (((), then),)
    tracked = ((p.TRACKED,), then)
    return (tracked, ((p.NOT_TRACKED,), (p.track(p.RULE_TABLE[direction]),))) if before else (tracked,)


def flows(
    attached: Sequence[Attached], ruled: Mapping[str, Ruled], ids: Mapping[ConjunctionKey, int]
) -> Iterator[Flow]:
    """Plain, service and accept flows of every port. Where rules want the same flow, the smallest cookie has it."""
    for each in attached:
        if each.port.port_security:
            mine = [ruled[group] for group in each.port.groups]
            plain = _plain(each, mine)
            yield from plain.values()
            # Where a plain rule stands in the same place, its verdict is the same, whoever the other end is.
            yield from (flow for flow in _services(each, mine, ids) if flow.key not in plain)
            for key in frozenset().union(*(rules.keys for rules in mine)):
                yield from _accept(each, key, ids[key])


def _plain(each: Attached, mine: Sequence[Ruled]) -> dict[FlowKey, Flow]:
    here, found = p.port_term(each.ofport), dict[FlowKey, Flow]()
    for priority, owner, terms, rule in (one for rules in mine for one in rules.plain):
        before = rule.direction in each.stateless
        for state, then in _asked(rule.direction, rule.action, stateless=is_stateless(rule), before=before):
            flow = p.flow(p.RULE_TABLE[rule.direction], priority, (here, *state, *terms), then, owner)
            held = found.get(flow.key)
            if held is None or owner < held.cookie:
                found[flow.key] = flow
    return found


def _services(each: Attached, mine: Sequence[Ruled], ids: Mapping[ConjunctionKey, int]) -> Iterator[Flow]:
    here, found = p.port_term(each.ofport), dict[FlowKey, tuple[int, set[int]]]()
    for priority, owner, terms, wanted in (one for rules in mine for one in rules.services):
        before = wanted.direction in each.stateless
        for state, _ in _asked(wanted.direction, wanted.action, stateless=wanted.stateless, before=before):
            key = (p.RULE_TABLE[wanted.direction], priority, p.match(here, *state, *terms))
            least, numbers = found.setdefault(key, (owner, set()))
            numbers.add(ids[wanted])
            if owner < least:
                found[key] = (owner, numbers)
    for (table, priority, match), (owner, numbers) in found.items():
        yield Flow(table, priority, match, _conjunctions(numbers, _SERVICES), owner)


def _accept(each: Attached, key: ConjunctionKey, number: int) -> Iterator[Flow]:
    here = (exact("conj_id", number), p.port_term(each.ofport), eth(key.ethertype))
    table, priority = p.RULE_TABLE[key.direction], p.rule_priority(key.tier, key.action, stateless=key.stateless)
    before = key.direction in each.stateless
    for state, then in _asked(key.direction, key.action, stateless=key.stateless, before=before):
        actions = (SetField("reg7", number), *then)
        yield p.flow(table, priority, (*here, *state), actions, conjunction_cookie(key))


def member_flows(
    network: str, tag: int, wanted: Iterable[ConjunctionKey], members: Mapping[str, Sequence[Member]],
    ids: Mapping[ConjunctionKey, int],
) -> Iterator[Flow]:  # fmt: skip
    """The shared flows of one network, each with every id wanted there. `members` by `KIND:NAME` of the remote."""
    lists: dict[FlowKey, tuple[int, set[int]]] = {}
    here = p.network_term(tag)
    for key in wanted:
        table, priority = p.RULE_TABLE[key.direction], p.rule_priority(key.tier, key.action, stateless=key.stateless)
        side = "src" if key.direction == "ingress" else "dst"
        number, ethertype = ids[key], eth(key.ethertype)
        for member in members.get(f"{key.remote_kind}:{key.remote}", ()):
            if family(member.prefix) != key.ethertype:
                continue
            terms: Match = (here, ethertype, *address(member.prefix, side))
            if member.mac:
                terms += (exact(f"dl_{side}", mac_number(member.mac)),)
            place = (table, priority, p.match(*terms))
            lists.setdefault(place, (member_cookie(network, member), set()))[1].add(number)
    for (table, priority, match), (owner, numbers) in lists.items():
        yield Flow(table, priority, match, _conjunctions(numbers, _MEMBERS), owner)


def _conjunctions(numbers: Iterable[int], clause: int) -> tuple[Action, ...]:
    return tuple(Conjunction(number, clause, _CLAUSES) for number in sorted(numbers))
