"""A policy of a few ports in groups that allow each other, compiled; and the historic way of writing it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping

import msgspec

from hitless.core.firewall.compile import Local, compile_flows
from hitless.core.firewall.identity import KnownIds, read_ids
from hitless.core.firewall.replay import bundles
from hitless.core.model.flow import Flow, FlowKey
from hitless.core.model.security import Intent, Network, Port, Range, Remote, Rule, SecurityGroup
from hitless.core.plan.flows import AddFlow, FlowOp, diff
from hitless.core.verify.transition.verdict import Batch

Tables = Mapping[FlowKey, Flow]
GROUPS = ("app", "cache", "db", "web")
HERE, UPLINK = 8, 99
LOCAL = Local({f"p{number}": number + 1 for number in range(HERE)}, {"net": 7}, (UPLINK,))


def port(number: int, group: str) -> Port:
    return Port(f"p{number}", "net", f"02:00:00:00:00:{number:02x}", (f"10.0.0.{number + 1}",), (group,))


def intent() -> Intent:
    """Eight ports here, two elsewhere. Each group allows TCP from itself and from the next one, and all egress."""
    groups = {}
    for number, name in enumerate(GROUPS):
        remotes = [Remote("group", GROUPS[(number + other) % len(GROUPS)]) for other in range(2)]
        rules = [Rule("egress", "ipv4")]
        rules += [Rule("ingress", "ipv4", 6, Range(22, 22), remote=Remote("prefix", "10.0.0.0/8"))]
        rules += [Rule("ingress", "ipv4", 6, Range(1000 + 10 * at, 1005 + 10 * at), remote=remote)
                  for at, remote in enumerate(remotes)]  # fmt: skip
        groups[name] = SecurityGroup(name, tuple(rules))
    ports = [port(number, GROUPS[number % len(GROUPS)]) for number in range(HERE + 2)]
    return Intent(groups=groups, ports={each.name: each for each in ports}, networks={"net": Network("net", tag=7)})


def with_port(policy: Intent, new: Port) -> Intent:
    return msgspec.structs.replace(policy, ports={**policy.ports, new.name: new})


def without_rules(policy: Intent, group: str, count: int) -> Intent:
    """The last rules of a group taken away."""
    left = msgspec.structs.replace(policy.groups[group], rules=policy.groups[group].rules[:-count])
    return msgspec.structs.replace(policy, groups={**policy.groups, group: left})


def tables(policy: Intent, local: Local = LOCAL, known: KnownIds = KnownIds()) -> Tables:  # noqa: B008 - it is frozen
    return compile_flows(policy, local, known).flows


def bundle(old: Tables, new: Tables) -> list[Batch]:
    """What the product writes."""
    return [Batch(diff(new, old, {}))]


def written(start: Tables, ops: Iterable[Iterable[FlowOp]]) -> dict[FlowKey, Flow]:
    """Tables after operations in their order."""
    done = dict(start)
    for batch in ops:
        for op in batch:
            if isinstance(op, AddFlow):
                done[op.flow.key] = op.flow
            elif op.flow.key in done and done[op.flow.key].cookie == op.flow.cookie:
                del done[op.flow.key]
    return done


def historic(ids: str) -> tuple[Tables, list[Batch]]:
    """Tables of the historic agent, and its restart in another order of ports; `ids` "fresh" or "reused"."""
    policy, names = intent(), sorted(LOCAL.ofports)
    start = written({}, bundles(policy, LOCAL, KnownIds(), {}, names, "fresh"))
    order = random.Random(1).sample(names, len(names))  # noqa: S311 - any order will do
    restart = bundles(policy, LOCAL, read_ids(start.values()), start, order, ids)  # type: ignore[arg-type]
    return start, [Batch(each) for each in restart]
