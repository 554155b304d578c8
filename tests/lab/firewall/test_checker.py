"""The sampler sees every state that lasts, and the checker says which of them drop or let through too much."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from tests.lab.firewall.conftest import PORTS

from hitless.core.firewall.compile import Compiled, Local, compile_flows
from hitless.core.firewall.identity import KnownIds
from hitless.core.firewall.pipeline import EGRESS_RULES, TABLES
from hitless.core.firewall.terms import mac_number
from hitless.core.model.flow import Flow, Output, exact
from hitless.core.model.security import TCP, UDP, Intent, Network, Port, Range, Remote, Rule, SecurityGroup
from hitless.core.plan.flows import AddFlow, DelFlow
from hitless.drivers.ovs.driver import OvsSwitch
from hitless.lab.firewall.checker import Examined, Service, agreed, examine, questions, wires
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.sampler import Sampler

SERVICES = (Service(UDP, 7000), Service(TCP, 7000), Service(UDP, 7000, "ipv6"))
NAMES = tuple(port.name for port in PORTS)


def policy(*more: Rule) -> Intent:
    """All ports in one group that may send anything, and receive UDP to 7000 from each other over IPv4."""
    inside = Rule("ingress", "ipv4", UDP, Range(7000, 7000), remote=Remote("group", "web"))
    rules = (Rule("egress", "ipv4"), Rule("egress", "ipv6"), inside, *more)
    ports = {port.name: Port(port.name, "net", port.mac, port.addresses, ("web",)) for port in PORTS}
    return Intent({"web": SecurityGroup("web", rules)}, {}, ports, {"net": Network("net", tag=9)})


ALSO_TCP = Rule("ingress", "ipv4", TCP, Range(7000, 7000))


@pytest.fixture
def switch(ground: FirewallGround) -> OvsSwitch:
    """The driver on a bridge without flows."""
    ground.ofctl("del-flows")
    return OvsSwitch(ground.bridge, tables=TABLES, database=ground.switch.database, run_dir=ground.switch.run_dir)


def compiled(ground: FirewallGround) -> Compiled:
    return compile_flows(policy(), Local(ground.ofports(), {"net": 9}), KnownIds())


def examined(ground: FirewallGround, sampler: Sampler) -> Examined:
    must_pass, must_drop = agreed(questions(policy(), NAMES, SERVICES), policy(), policy())
    assert (len(must_pass), len(must_drop)) == (6, 12)
    return examine(sampler, wires(ground), must_pass, must_drop)


def test_two_policies_agree_on_what_neither_of_them_changes() -> None:
    asked = questions(policy(), NAMES, SERVICES)
    assert len(asked) == 6 * len(SERVICES)
    must_pass, must_drop = agreed(asked, policy(), policy(ALSO_TCP))
    assert {(each.packet.protocol, each.packet.ethertype) for each in must_pass} == {(UDP, "ipv4")}
    assert {(each.packet.protocol, each.packet.ethertype) for each in must_drop} == {(UDP, "ipv6")}


def test_a_port_that_one_policy_does_not_know_is_not_asked() -> None:
    less = msgspec.structs.replace(policy(), ports={name: policy().ports[name] for name in NAMES[:2]})
    must_pass, must_drop = agreed(questions(policy(), NAMES, SERVICES), policy(), less)
    assert {each.source for each in (*must_pass, *must_drop)} == {"a", "b"}


def test_ports_of_different_networks_are_not_asked() -> None:
    elsewhere = msgspec.structs.replace(policy().ports["c"], network="other")
    apart: Mapping[str, Port] = {**policy().ports, "c": elsewhere}
    found = questions(msgspec.structs.replace(policy(), ports=apart), NAMES, SERVICES)
    assert {(each.source, each.destination) for each in found} == {("a", "b"), ("b", "a")}


def test_tables_that_do_right_are_neither_dead_nor_open(ground: FirewallGround, switch: OvsSwitch) -> None:
    switch.apply(tuple(AddFlow(flow) for flow in compiled(ground).flows.values()))
    with Sampler(ground) as sampler:
        sampler.stop()
    result = examined(ground, sampler)
    assert (result.tables, result.dead, result.wrongly_open) == (1, 0, 0)
    assert result.samples > 1
    assert result.longest_gap_seconds > 0.0


def test_a_state_that_passed_by_is_seen_and_judged(ground: FirewallGround, switch: OvsSwitch) -> None:
    flows = compiled(ground).flows.values()
    # The accept flow of one port's conjunction, and a flow that lets everything of port a in at b.
    accept = next(flow for flow in flows if any(term[0] == "conj_id" for term in flow.match))
    port_a, port_b = ground.ofports()["a"], ground.ofports()["b"]
    from_a_to_b = (exact("dl_dst", mac_number(PORTS[1].mac)), exact("reg5", port_a))
    hole = Flow(EGRESS_RULES, 200, from_a_to_b, (Output(port_b),), cookie=0x68740000000000FF)
    switch.apply(tuple(AddFlow(flow) for flow in flows))
    with Sampler(ground) as sampler:
        for change in ((DelFlow(accept),), (AddFlow(accept),), (AddFlow(hole),), (DelFlow(hole),)):
            sampler.wait_for_sample()
            switch.apply(change)
        sampler.stop()
    result = examined(ground, sampler)
    assert result.tables == 3  # whole, without the accept flow, with the hole: what comes back is nothing new
    assert result.dead == 2  # from both other ports to the one
    assert {each.state for each in result.examples if each.what == "dead"} == {"new"}
    assert result.wrongly_open == 2  # TCP and UDP over IPv6, from a to b
    assert {(each.question.source, each.question.destination) for each in result.examples if each.what != "dead"} == {
        ("a", "b")
    }


def test_replies_that_die_are_seen_where_requests_pass(ground: FirewallGround, switch: OvsSwitch) -> None:
    flows = compiled(ground).flows.values()
    switch.apply(tuple(AddFlow(flow) for flow in flows))
    dead_replies = Flow(EGRESS_RULES, 200, (("ct_state", 0x28, 0x28),), (), cookie=0x68740000000000FF)
    switch.apply((AddFlow(dead_replies),))
    with Sampler(ground) as sampler:
        sampler.stop()
    result = examined(ground, sampler)
    assert result.dead == result.must_pass
    assert {each.state for each in result.examples} == {"reply"}


def test_a_switch_that_is_down_is_a_gap_and_no_failure(ground: FirewallGround) -> None:
    with Sampler(ground) as sampler:
        sampler.wait_for_sample()
        before = sampler.dumps
        ground.kill_switch()
        sampler.wait_for_sample()
        ground.start_switch()
        sampler.stop()
    assert sampler.dumps > before
