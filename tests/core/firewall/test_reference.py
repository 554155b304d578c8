"""The page about the pipeline is made of flows that the compiler makes. `pytest --regenerate` writes it anew."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import pytest
from tests.core.firewall.draw import Draw

from hitless.core.firewall import pipeline as p
from hitless.core.firewall.compile import Local, compile_flows
from hitless.core.firewall.identity import KnownIds
from hitless.core.model.flow import Flow
from hitless.core.model.security import (
    TIERS,
    AddressGroup,
    Intent,
    Network,
    Port,
    Range,
    Remote,
    Rule,
    SecurityGroup,
    Verdict,
)
from hitless.drivers.ovs.codec import format_flow

PAGE: Final = Path(__file__).parents[3] / "docs/reference/pipeline.md"
EXAMPLES, EXAMPLES_OF_RULES = 3, 9  # flows shown of one priority, and of all rules of a table
RULE: Final = "rules"  # stands for every priority that a rule can have

# Table, name, what it is for, and what its priorities mean.
TABLES: Final[tuple[tuple[int, str, str, Mapping[int | str, str]], ...]] = (
    (p.ENTRY, "entry", "Where every packet begins. Somebody else's flows may stand above ours.", {
        1: "on to classification"}),
    (p.CANARY, "canary", "Nobody comes here. Its one flow goes when `ovs-vswitchd` restarts, and is looked for.", {
        0: "is there"}),
    (p.CLASSIFY, "classify", "Who sends, and to whom: sets `reg5` (port) and `reg6` (network).", {
        100: "from a port of ours, without a VLAN header: its egress rules, or none where port security is off",
        99: "from a port of ours with a VLAN header: an attempt to leave the network, dropped",
        90: "from outside with the network's tag, to a MAC of ours",
        85: "from outside without a tag, to a MAC of ours; denied where two networks have that MAC",
        0: "no business of ours: NORMAL"}),
    (p.EGRESS_BASE, "egress base", "What a port may call itself, and what it may always say. Then tracking.", {
        110: "tracked by somebody before: forgotten, and looked at anew",
        95: "ARP, RARP, neighbour and listener discovery about itself",
        80: "DHCP as a client",
        70: "DHCP as a server, router advertisements: denied",
        65: "one of its own pairs of MAC and source address: asked about",
        0: "spoofed: denied"}),
    (p.EGRESS_RULES, "egress rules", "Whether a rule of the sending port lets the packet out.", {
        p.INVALID: "conntrack cannot make sense of it: denied",
        p.DECIDED: "replies, and what is related, of a connection that is not cut: out",
        p.DECIDED - 1: "replies, and what is related, of a cut connection: denied, whatever the rules say",
        p.KEPT: "a live connection of a port whose groups keep them: out, whatever the rules say now",
        RULE: "rules; see below",
        p.UNTRACKED: "no rule said anything before tracking (ports with stateless rules): tracked, and asked again",
        0: "no rule: denied"}),
    (p.EGRESS_ACCEPTED, "egress accepted", "The sender may. Is the receiver one of ours?", {
        100: "yes: its ingress rules; where several ports claim the MAC, each is asked",
        90: "no, and it begins a connection: entered",
        85: "no, and it carries on a connection that was cut: the mark is taken away",
        80: "no"}),
    (p.INGRESS_BASE, "ingress base", "What every port hears, and tracking of what comes from outside.", {
        100: "ARP, neighbour and router discovery, answers of DHCP servers: delivered",
        92: "not tracked, to a port with stateless rules: asked before tracking",
        90: "not tracked: tracked",
        80: "tracked by the sending port: asked",
        0: "neither IP nor ARP: denied"}),
    (p.INGRESS_RULES, "ingress rules", "Whether a rule of the receiving port lets the packet in. As table 72.", {
        p.INVALID: "conntrack cannot make sense of it: denied",
        p.DECIDED: "replies, and what is related, of a connection that is not cut: in",
        p.DECIDED - 1: "replies, and what is related, of a cut connection: denied, whatever the rules say",
        p.KEPT: "a live connection of a port whose groups keep them: in, whatever the rules say now",
        RULE: "rules; see below",
        p.UNTRACKED: "no rule said anything before tracking (ports with stateless rules): tracked, and asked again",
        0: "no rule: denied"}),
    (p.HOOK_EGRESS, "hook", "First packets of connections that leave; a place for somebody else's flows.", {0: "out"}),
    (p.INGRESS_ACCEPTED, "ingress accepted", "The receiver may: to its port.", {
        100: "with the network's tag: taken off, and on",
        90: "begins a connection: entered, delivered",
        85: "carries on a connection that was cut: the mark is taken away, delivered",
        80: "delivered"}),
    (p.DENIED, "denied", "The one place where a connection is marked.", {
        90: "carries on a connection that is not marked yet: marked, which ends its replies too",
        0: "dropped"}),
    (p.OUT, "out", "An accepted packet leaves.", {
        12: "to a port without security, by its MAC",
        10: "to the uplinks, with the network's tag, where uplinks are named",
        0: "NORMAL"}),
)  # fmt: skip

EXAMPLE: Final = Intent(
    groups={
        "web": SecurityGroup("web", (
            Rule("ingress", "ipv4", 6, Range(8000, 8010), remote=Remote("group", "app")),
            Rule("ingress", "ipv4", 6, Range(22, 22), remote=Remote("address-group", "office"), tier=2),
            Rule("ingress", "ipv4", 1, icmp_type=8, remote=Remote("prefix", "192.0.2.0/24")),
            Rule("egress", "ipv4", 6, Range(25, 25), action="deny"),
            Rule("egress", "ipv4"))),
        "app": SecurityGroup("app", (
            Rule("egress", "ipv4", 17, Range(53, 53), stateless=True),
            Rule("ingress", "ipv4", 17, source_ports=Range(53, 53), stateless=True),
            Rule("egress", "ipv4", remote=Remote("group", "web"))), revoked="keep")},
    address_groups={"office": AddressGroup("office", ("198.51.100.0/24",))},
    ports={
        "web-1": Port("web-1", "blue", "fa:16:3e:00:00:01", ("10.0.0.11",), ("web",)),
        "app-1": Port("app-1", "blue", "fa:16:3e:00:00:02", ("10.0.0.21", "2001:db8::21"), ("app",)),
        "router": Port("router", "blue", "fa:16:3e:00:00:03", ("10.0.0.1",), port_security=False)},
    networks={"blue": Network("blue")},
)  # fmt: skip
BRIDGE: Final = Local({"web-1": 1, "app-1": 2, "router": 3}, {"blue": 7}, uplinks=(9,))

INTRODUCTION: Final = """\
# The pipeline

Made from `core/firewall/`: every flow below is one that the compiler makes for three ports of the network `blue` \
(tag 7, uplink 9): `web-1` (OpenFlow port 1, group `web`), `app-1` (2, group `app`), `router` (3, port security off). \
Cookies are left out, and of one priority at most three flows are shown.

```
0 ─ 60 classify ─┬─ 71 egress base ─ ct ─ 72 egress rules ─ 73 local? ─┬─ 91 ─ 94 out
                 └─ 81 ingress base ─ ct ─ 82 ingress rules ─ 92 in    └─ 81 (a port of this bridge)
                                 denied anywhere: 93
```

| where | what |
|---|---|
| `reg4` | the stamp of the last change that needed one. Just after it, 120 in 72 and 82 sends old stamps to table 0 |
| `reg5` | OpenFlow number of the port whose rules are asked |
| `reg6` | the network's VLAN tag, which is also the conntrack zone |
| `reg7` | the conjunction that decided, for those who look |
| `ct_mark` | 1: allowed once, denied since; the next allowed packet takes it away |
| cookie | `0x6874` and 48 bits of hash of the rule, port, network or member that wants the flow |
"""


def of_rules(priority: int) -> bool:
    return p.RULES <= priority < p.RULES + 3 * TIERS


def page() -> str:
    found = compile_flows(EXAMPLE, BRIDGE, KnownIds()).flows.values()
    parts = [INTRODUCTION, *(_table(*each, found) for each in TABLES), _rules()]
    return "\n".join(parts)


def _table(
    number: int, name: str, purpose: str, priorities: Mapping[int | str, str], found: Iterable[Flow]
) -> str:
    lines = [f"## {number} {name}", "", purpose, ""]
    for priority, meaning in priorities.items():
        rules = priority == RULE
        flows = [flow for flow in found if flow.table == number]
        flows = [flow for flow in flows if (of_rules(flow.priority) if rules else flow.priority == priority)]
        flows.sort(key=lambda each: (-each.priority, each.match))
        assert flows, f"no example of table {number}, priority {priority}"
        text = [_text(each) for each in flows[: EXAMPLES_OF_RULES if rules else EXAMPLES]]
        lines += [f"**{_span() if rules else priority}**: {meaning}", "", "```", *text, "```", ""]
    return "\n".join(lines)


def _text(flow: Flow) -> str:
    return format_flow(Flow(flow.table, flow.priority, flow.match, flow.actions))


def _span() -> str:
    return f"{p.RULES} to {p.RULES + 3 * TIERS - 1}"


def _rules() -> str:
    kinds: tuple[tuple[str, Verdict, bool], ...] = (
        ("deny", "deny", False), ("allow, stateless", "allow", True), ("allow", "allow", False)
    )  # fmt: skip
    head = ["## Priorities of rules", "", "Tier 0 is asked first. 4 is the default.", ""]
    tiers = " | ".join(str(tier) for tier in range(TIERS))
    rows = [f"| tier | {tiers} |", "|---" * (TIERS + 1) + "|"]
    for label, action, stateless in kinds:
        numbers = [str(p.rule_priority(tier, action, stateless=stateless)) for tier in range(TIERS)]
        rows.append(f"| {label} | {' | '.join(numbers)} |")
    tail = [
        "",
        "A rule whose other end is a group is three kinds of flows: one for each member, shared by all ports of the",
        "network and with every conjunction that any of them needs; one for each port and service; and one for each",
        "port that acts when both hold.",
        "",
    ]
    return "\n".join([*head, *rows, *tail])


def test_the_page_is_what_the_compiler_makes(pytestconfig: pytest.Config) -> None:
    text = page()
    if pytestconfig.getoption("--regenerate"):
        PAGE.write_text(text, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == text


def test_every_table_is_described() -> None:
    assert {number for number, *_ in TABLES} == p.TABLES


@pytest.mark.parametrize("seed", range(20))
def test_every_priority_of_any_policy_is_described(seed: int) -> None:
    described = {(number, priority) for number, _, _, priorities in TABLES for priority in priorities}
    draw = Draw(seed)
    intent = draw.intent()
    for flow in compile_flows(intent, draw.local(intent), KnownIds()).flows.values():
        is_rule = flow.table in p.RULE_TABLE.values() and of_rules(flow.priority)
        assert (flow.table, RULE if is_rule else flow.priority) in described
