"""What the compiler promises whatever the policy: one answer for any order, the same again later, and exact deltas."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.firewall.draw import Draw

from hitless.core.firewall.compile import Local, compile_flows, origins
from hitless.core.firewall.identity import KnownIds, cookie, read_ids
from hitless.core.firewall.pipeline import COOKIE_PREFIX, TABLES, rule_priority
from hitless.core.firewall.rules import Member, member_cookie
from hitless.core.model.flow import Conjunction, Ct, Flow, FlowKey, Output, Resubmit, exact
from hitless.core.model.security import (
    AddressGroup,
    Intent,
    Network,
    Port,
    Remote,
    Rule,
    SecurityGroup,
)
from hitless.core.plan.flows import AddFlow, Bundle, DelFlow, by_key, diff

replace = msgspec.structs.replace
Flows = Mapping[FlowKey, Flow]
T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """A policy, the bridge it is for, and the randomness that made them."""

    intent: Intent
    local: Local
    source: random.Random


@st.composite
def policies(draw: st.DrawFn) -> Drawn:
    source = draw(st.randoms(use_true_random=False))
    chosen = Draw(source)
    intent = chosen.intent()
    return Drawn(intent, chosen.local(intent), source)


def flows(intent: Intent, local: Local, known: KnownIds = KnownIds()) -> Flows:  # noqa: B008 - it is frozen
    return compile_flows(intent, local, known).flows


def delta(before: Flows, after: Flows) -> Bundle:
    return diff(after, before, {})


@settings(max_examples=60, deadline=None)
@given(policies())
def test_order_means_nothing(drawn: Drawn) -> None:
    def shuffled(items: Iterable[T]) -> list[T]:
        found = list(items)
        drawn.source.shuffle(found)
        return found

    intent, local = drawn.intent, drawn.local
    other = Intent(
        groups={g.name: replace(g, rules=tuple(shuffled(g.rules))) for g in shuffled(intent.groups.values())},
        address_groups={
            each.name: replace(each, prefixes=tuple(shuffled(each.prefixes)))
            for each in shuffled(intent.address_groups.values())
        },
        ports={
            each.name: replace(
                each, groups=tuple(shuffled(each.groups)), addresses=tuple(shuffled(each.addresses)),
                pairs=tuple(shuffled(each.pairs)),
            )
            for each in shuffled(intent.ports.values())
        },
        networks=dict(shuffled(intent.networks.items())),
    )  # fmt: skip
    bridge = replace(local, ofports=dict(shuffled(local.ofports.items())), tags=dict(shuffled(local.tags.items())))
    assert flows(other, bridge) == flows(intent, local)


@settings(max_examples=60, deadline=None)
@given(policies(), st.booleans())
def test_an_unchanged_policy_compiles_to_nothing_to_do(drawn: Drawn, displaced: bool) -> None:
    """Also where ids had to give way to somebody else's flows, which may be gone meanwhile."""
    usual = compile_flows(drawn.intent, drawn.local, KnownIds())
    taken = frozenset({*usual.ids.values()}) if displaced else frozenset()
    first = compile_flows(drawn.intent, drawn.local, KnownIds(in_use=taken))
    assert not {*first.ids.values()} & taken
    again = compile_flows(drawn.intent, drawn.local, read_ids(first.flows.values()))
    assert again.flows == first.flows
    assert delta(first.flows, again.flows) == ()


@settings(max_examples=60, deadline=None)
@given(policies())
def test_every_flow_is_ours_sound_and_leads_back_to_its_owner(drawn: Drawn) -> None:
    found = compile_flows(drawn.intent, drawn.local, KnownIds())
    members = {
        member_cookie(network, Member(prefix, mac))
        for network in drawn.local.tags
        for port in drawn.intent.ports.values()
        for prefix in (*port.addresses, *(pair.prefix for pair in port.pairs), *listed(drawn.intent))
        for mac in ("", port.mac, *(pair.mac for pair in port.pairs))
    }
    known = origins(drawn.intent).keys() | members | {cookie("pipeline", name) for name in PIPELINE}
    ids = {*found.ids.values()}
    for key, flow in found.flows.items():
        assert key == flow.key
        assert flow.cookie in known
        assert flow.cookie >> 48 == COOKIE_PREFIX
        assert flow.table in TABLES
        assert flow.match == tuple(sorted(flow.match))
        assert all(value & ~mask == 0 and mask for _, value, mask in flow.match)
        assert {each.table for each in flow.actions if isinstance(each, Resubmit)} <= TABLES
        assert {each.id for each in flow.actions if isinstance(each, Conjunction)} <= ids
        assert {value for field, value, _ in flow.match if field == "conj_id"} <= ids
        assert is_accepted(flow), flow
        if any(isinstance(each, Ct) for each in flow.actions):  # Open vSwitch refuses ct() for what is not IP
            assert any(field == "eth_type" for field, _, _ in flow.match)


def is_accepted(flow: Flow) -> bool:
    """Whether its fields have their prerequisites (ovs-fields(7)); Open vSwitch refuses a bundle over one without."""
    exactly = {field: value for field, value, _ in flow.match}
    kind, protocol = exactly.get("eth_type"), exactly.get("nw_proto")
    needed = {
        "nw_": kind in {0x800, 0x86DD} if "nw_src" not in exactly and "nw_dst" not in exactly else kind == 0x800,
        "ipv6_": kind == 0x86DD,
        "arp_": kind in {0x806, 0x8035},
        "tp_": protocol in {6, 17, 132},
        "icmp_": (kind, protocol) in {(0x800, 1), (0x86DD, 58)},
        "nd_": kind == 0x86DD and protocol == 58 and exactly.get("icmp_type") in {135, 136},
    }
    return all(met for start, met in needed.items() if any(field.startswith(start) for field in exactly))


PIPELINE = (
    "canary", "entry", "other", "fresh", "spoofed", "invalid", "reply", "related", "cut-reply", "cut-related",
    "denied", "commit", "heal", "cut", "track", "out", "in", "untag", "drop", "tracked", "normal", "arp", "icmpv6",
    "dhcp", "dhcpv6", "dhcp-server-ban", "dhcpv6-server-ban", "router-advert-ban",
)  # fmt: skip


def listed(intent: Intent) -> list[str]:
    return [prefix for each in intent.address_groups.values() for prefix in each.prefixes]


def rule(**more: object) -> Rule:
    known = {"direction": "ingress", "ethertype": "ipv4", "protocol": 6, "remote": Remote("group", "app"), **more}
    return msgspec.convert(known, Rule, strict=False)


def port(number: int, *groups: str) -> Port:
    return Port(f"p{number}", "blue", f"02:00:00:00:00:0{number}", (f"10.0.0.{number}",), groups)


def office(*prefixes: str) -> dict[str, AddressGroup]:
    return {"office": AddressGroup("office", prefixes)}


HERE = Local({"p1": 1, "p2": 2}, {"blue": 11})
POLICY = Intent(
    groups={
        "app": SecurityGroup("app"),
        "web": SecurityGroup("web", (rule(), rule(protocol=17), rule(remote=Remote("address-group", "office")))),
        "db": SecurityGroup("db", (rule(tier=2), rule(direction="egress"))),
    },
    address_groups=office("10.0.0.0/24", "10.0.0.3"),
    ports={each.name: each for each in (port(1, "web"), port(2, "web", "db"), port(3, "app"))},
    networks={"blue": Network("blue")},
)


def test_a_new_member_changes_exactly_its_own_flows() -> None:
    before = flows(POLICY, HERE)
    changes = delta(before, flows(replace(POLICY, ports={**POLICY.ports, "p4": port(4, "app")}), HERE))
    assert all(isinstance(op, AddFlow) and op.flow.key not in before for op in changes)
    assert {op.flow.table: op.flow.match for op in changes} == {
        72: (exact("eth_type", 0x800), exact("nw_dst", 0x0A000004), exact("reg6", 11)),
        82: (exact("eth_type", 0x800), exact("nw_src", 0x0A000004), exact("reg6", 11)),
    }
    assert len(changes) == 3  # in 82 also those of db's tier
    assert {op.flow.cookie for op in changes} == {member_cookie("blue", Member("10.0.0.4"))}


def test_a_member_that_is_in_two_groups_has_one_flow_with_all_ids_and_loses_one_of_them() -> None:
    both = flows(POLICY, HERE)
    one = flows(replace(POLICY, address_groups=office("10.0.0.0/24")), HERE)
    (change,) = delta(both, one)
    assert isinstance(change, AddFlow)
    held = [each.id for each in both[change.flow.key].actions if isinstance(each, Conjunction)]
    left = [each.id for each in change.flow.actions if isinstance(each, Conjunction)]
    assert held == sorted(held)
    assert (len(held), len(left)) == (3, 2)  # the rules of web: two with app, one with office
    assert {*left} < {*held}


def test_removing_a_wide_prefix_keeps_the_flows_of_those_inside() -> None:
    before = flows(POLICY, HERE)
    (change,) = delta(before, flows(replace(POLICY, address_groups=office("10.0.0.3")), HERE))
    assert isinstance(change, DelFlow)
    assert ("nw_src", 0x0A000000, 0xFFFFFF00) in change.flow.match


def test_a_shared_flow_has_the_ids_of_every_port_of_the_network_whichever_is_asked_for_first() -> None:
    ids = compile_flows(POLICY, HERE, KnownIds()).ids
    wanted = {number for key, number in ids.items() if (key.group, key.remote, key.tier) == ("web", "app", 4)}
    terms = (exact("eth_type", 0x800), exact("nw_src", 0x0A000003), exact("reg6", 11))
    for ofports in ({"p1": 1, "p2": 2}, {"p2": 2, "p1": 1}, {"p1": 1}):
        shared = flows(POLICY, replace(HERE, ofports=ofports))[82, rule_priority(4, "allow", stateless=False), terms]
        assert wanted < {each.id for each in shared.actions if isinstance(each, Conjunction)}


def test_an_id_that_rests_is_not_taken_until_it_has_rested() -> None:
    usual = compile_flows(POLICY, HERE, KnownIds())
    resting = frozenset(usual.ids.values())
    assert not {*compile_flows(POLICY, HERE, KnownIds(resting=resting)).ids.values()} & resting
    assert compile_flows(POLICY, HERE, KnownIds()).ids == usual.ids


def test_a_port_that_leaves_takes_its_flows_along_and_no_others() -> None:
    before, after = flows(POLICY, HERE), flows(POLICY, replace(HERE, ofports={"p1": 1}))
    gone = by_key(op.flow for op in delta(before, after) if isinstance(op, DelFlow))
    assert before.keys() - gone.keys() == after.keys()
    for flow in gone.values():
        fields = {field: value for field, value, _ in flow.match}
        of_port = fields.get("reg5", fields.get("in_port")) == 2 or fields.get("dl_dst") == 0x020000000002
        of_db_alone = "reg6" in fields and isinstance(flow.actions[0], Conjunction)
        assert of_port or of_db_alone, flow


def test_networks_of_another_scope_share_no_members() -> None:
    apart = replace(port(3, "app"), network="far")
    networks = {"blue": Network("blue"), "far": Network("far", scope="elsewhere")}
    found = flows(replace(POLICY, ports={**POLICY.ports, "p3": apart}, networks=networks), HERE)
    assert not [flow for flow in found.values() if flow.table == 72 and exact("nw_dst", 0x0A000003) in flow.match]


@pytest.mark.parametrize("secured", [True, False])
def test_a_port_without_security_has_no_rules_and_no_tracking(secured: bool) -> None:
    alone = replace(port(1, *(("web",) if secured else ())), port_security=secured)
    found = flows(replace(POLICY, ports={**POLICY.ports, "p1": alone}), Local({"p1": 1}, {"blue": 11}))
    assert any(exact("reg5", 1) in flow.match for flow in found.values()) == secured
    assert any(Output(1) in flow.actions for flow in found.values()) != secured
