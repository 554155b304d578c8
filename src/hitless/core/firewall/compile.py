"""From an intent and a bridge's facts to the whole desired table set: one pure function.

The result depends on nothing else: not on the order of groups, ports or rules, not on an earlier run. Compiling the
same policy twice, anywhere, gives equal flows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import msgspec

from hitless.core.firewall import base, rules
from hitless.core.firewall.base import Attached
from hitless.core.firewall.identity import ConjunctionKey, KnownIds, assign_ids, conjunction_cookie, cookie
from hitless.core.firewall.rules import Member
from hitless.core.model.flow import Flow, FlowKey
from hitless.core.model.security import Intent, Place, Port


class Local(msgspec.Struct, frozen=True):
    """What this bridge has: port name → OpenFlow number, network → VLAN tag, uplinks' numbers, the stamp in force."""

    ofports: Mapping[str, int]
    tags: Mapping[str, int]
    uplinks: tuple[int, ...] = ()
    stamp: int = 0


class Origin(msgspec.Struct, frozen=True):
    """What a cookie stands for, and where that was said."""

    kind: str
    name: str
    places: tuple[Place, ...] = ()


class Compiled(msgspec.Struct, frozen=True):
    """The desired tables of a bridge."""

    flows: Mapping[FlowKey, Flow]
    ids: Mapping[ConjunctionKey, int]
    attached: tuple[Attached, ...]


def attach(intent: Intent, local: Local) -> tuple[Attached, ...]:
    """The intent's ports that this bridge has, by name."""
    here = (intent.ports[name] for name in sorted(intent.ports.keys() & local.ofports.keys()))
    return tuple(_attached(port, intent, local) for port in here)


def _attached(port: Port, intent: Intent, local: Local) -> Attached:
    groups = [intent.groups[name] for name in port.groups]
    return Attached(
        port=port,
        ofport=local.ofports[port.name],
        tag=local.tags[port.network],
        stateless=frozenset(rule.direction for group in groups for rule in group.rules if rules.is_stateless(rule)),
        kept=bool(groups) and all(group.revoked == "keep" for group in groups),
    )


def compile_flows(intent: Intent, local: Local, known: KnownIds) -> Compiled:
    """Everything that this bridge's tables shall hold of ours. `known` is what the bridge says about ids."""
    attached = attach(intent, local)
    used = sorted({group for each in attached for group in each.port.groups})
    ruled = {name: rules.prepare(intent.groups[name]) for name in used}
    ids = assign_ids({key for each in ruled.values() for key in each.keys}, known)
    found = {flow.key: flow for flow in base.flows(attached, local.uplinks, local.stamp)}
    found.update((flow.key, flow) for flow in rules.flows(attached, ruled, ids))
    found.update((flow.key, flow) for flow in _members(intent, attached, ruled, ids))
    return Compiled(found, ids, attached)


def _members(
    intent: Intent,
    attached: tuple[Attached, ...],
    ruled: Mapping[str, rules.Ruled],
    ids: Mapping[ConjunctionKey, int],
) -> Iterator[Flow]:
    wanted: dict[tuple[str, int], set[ConjunctionKey]] = {}
    for each in attached:
        for group in each.port.groups:
            wanted.setdefault((each.port.network, each.tag), set()).update(ruled[group].keys)
    scopes = {intent.networks[network].scope for network, _ in wanted}
    of_scope = {scope: remote_members(intent, scope) for scope in scopes}
    for (network, tag), keys in sorted(wanted.items(), key=lambda item: item[0]):
        yield from rules.member_flows(network, tag, sorted(keys), of_scope[intent.networks[network].scope], ids)


def remote_members(intent: Intent, scope: str) -> dict[str, tuple[Member, ...]]:
    """What every remote stands for within a scope, by `KIND:NAME`."""
    found = {f"group:{name}": members for name, members in rules.members_of(intent, scope).items()}
    for name, group in intent.address_groups.items():
        found[f"address-group:{name}"] = tuple(sorted({Member(prefix) for prefix in group.prefixes}))
    return found


def origins(intent: Intent) -> dict[int, Origin]:
    """What each cookie can stand for: port, network, rule, conjunction. Members and the pipeline say it themselves."""
    found: dict[int, Origin] = {}
    for port in intent.ports.values():
        found[cookie("port", port.name)] = Origin("port", port.name, (port.place,))
    for network in intent.networks.values():
        found[cookie("network", network.name)] = Origin("network", network.name, (network.place,))
    together: dict[ConjunctionKey, list[Place]] = {}
    for group in intent.groups.values():
        for rule in group.rules:
            name = f"{group.name}/{rule.identity}"
            found[rules.rule_cookie(group.name, rule)] = Origin("rule", name, (rule.place,))
            if rules.is_conjunctive(rule):
                together.setdefault(rules.conjunction_key(group.name, rule), []).append(rule.place)
    for key, places in together.items():
        found[conjunction_cookie(key)] = Origin("conjunction", key.text, tuple(places))
    return found
