"""What is known to go wrong with such tables, one test each."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.firewall.evaluated import compiled

from hitless.core.firewall.compile import Local
from hitless.core.firewall.decide import Packet
from hitless.core.firewall.pipeline import rule_priority
from hitless.core.model.flow import EST, NEW, RPL, TRK, Conjunction, Flow, Resubmit, exact
from hitless.core.model.security import (
    AddressPair,
    Intent,
    Network,
    Port,
    Remote,
    Rule,
    SecurityGroup,
)
from hitless.core.verify.classifier import NORMAL, Commit, Sent, Tables, Tracked, Trail, evaluate
from hitless.core.verify.packet import Fields, Link, arp_fields, ip_fields

replace = msgspec.structs.replace
WEB, APP, VIRTUAL, OUTSIDE = (f"02:00:00:00:00:{last}" for last in ("01", "02", "77", "99"))
GROUPS = {
    "web": SecurityGroup("web", (
        Rule("ingress", "ipv4", 6, remote=Remote("group", "app")),
        Rule("egress", "ipv4", 6))),
    "app": SecurityGroup("app", (Rule("egress", "ipv4", 6), Rule("ingress", "ipv4", 17))),
}  # fmt: skip
PORTS = {
    "web-1": Port("web-1", "blue", WEB, ("10.0.0.1",), ("web",)),
    "app-1": Port("app-1", "blue", APP, ("10.0.0.2",), ("app",)),
}
INTENT = Intent(groups=GROUPS, ports=PORTS, networks={"blue": Network("blue")})
HERE = Local({"web-1": 1, "app-1": 2}, {"blue": 7})
REQUEST = Packet("ipv4", 6, "10.0.0.2", "10.0.0.1", 40000, 80)
REPLY = Packet("ipv4", 6, "10.0.0.1", "10.0.0.2", 80, 40000)
FROM_APP, FROM_WEB = Link(2, APP, WEB), Link(1, WEB, APP)


def flows(intent: Intent = INTENT, local: Local = HERE) -> list[Flow]:
    return list(compiled(intent, local).flows.values())


def run(tables: list[Flow], packet: Fields, state: int = TRK | NEW, mark: int = 0) -> Trail:
    return evaluate([Tables(tables)], packet, lambda _packet, _zone: Tracked(state, mark))


def test_the_example_works() -> None:
    assert run(flows(), ip_fields(REQUEST, FROM_APP)).sent == (Sent(1),)
    assert run(flows(), ip_fields(replace(REQUEST, protocol=17), FROM_APP)).sent == ()


def test_an_orphan_planted_by_hand_denies_what_is_allowed_and_is_seen() -> None:
    """Both clauses of an id without its accept flow, at the priority of a denial that nobody has."""
    above = rule_priority(0, "deny", stateless=False)
    planted = [
        Flow(82, above, (exact("eth_type", 0x800), exact(field, value)), (Conjunction(99, clause, 2),))
        for clause, (field, value) in enumerate((("nw_src", 0x0A000002), ("reg5", 1)), 1)
    ]
    trail = run([*flows(), *planted], ip_fields(REQUEST, FROM_APP))
    assert trail.sent == ()
    decided = [step.flow for step in trail.steps if step.table == 82]
    assert [flow.priority for flow in decided if flow] == [0]  # the catch-all, though a rule allows it


@pytest.mark.parametrize("number", [0, 1])
def test_an_accept_flow_for_id_0_would_let_everything_in(number: int) -> None:
    planted = Flow(82, 99, (exact("conj_id", number), exact("eth_type", 0x800)), (Resubmit(92),))
    trail = run([*flows(), planted], ip_fields(replace(REQUEST, protocol=17), Link(8, OUTSIDE, WEB)))
    assert trail.sent == ((Sent(1),) if number == 0 else ())


def test_a_frame_with_a_vlan_header_does_not_leave_an_access_port() -> None:
    trail = run(flows(), ip_fields(REQUEST, replace(FROM_APP, vlan=8)))
    assert (trail.sent, [step.table for step in trail.steps]) == ((), [0, 60])
    assert run(flows(), ip_fields(REQUEST, replace(FROM_APP, vlan=7))).sent == ()


def test_a_reply_of_a_cut_connection_is_denied_though_a_rule_allows_that_direction() -> None:
    """web may open TCP to anybody; that must not carry replies of a connection that was cut."""
    packet = ip_fields(REPLY, replace(FROM_WEB, destination=OUTSIDE))
    assert run(flows(), packet, TRK | EST | RPL, mark=0).ports == {NORMAL}
    assert run(flows(), packet, TRK | EST | RPL, mark=1).sent == ()
    assert run(flows(), packet, TRK | EST, mark=1).commits == (Commit(7, 0),)


def test_a_connection_is_marked_when_denied_and_healed_when_allowed_again() -> None:
    denied = replace(INTENT, groups={**GROUPS, "web": SecurityGroup("web")})
    assert run(flows(denied), ip_fields(REQUEST, FROM_APP), TRK | EST).commits == (Commit(7, 1),)
    assert run(flows(denied), ip_fields(REQUEST, FROM_APP), TRK | EST, mark=1).commits == ()
    healed = run(flows(), ip_fields(REQUEST, FROM_APP), TRK | EST, mark=1)
    assert (healed.sent, healed.commits) == ((Sent(1),), (Commit(7, 0),))


def test_a_packet_that_meets_old_and_new_tables_keeps_its_port_and_its_zone() -> None:
    """Recirculation reads the version anew: what was allowed by both is not lost between them."""
    more = replace(INTENT, groups={**GROUPS, "app": replace(GROUPS["app"], rules=(Rule("egress", "ipv4", 6),))})
    old, new = Tables(flows()), Tables(flows(more))
    for versions in ([old, new], [new, old]):
        trail = evaluate(versions, ip_fields(REQUEST, FROM_APP))
        assert (trail.sent, trail.commits) == ((Sent(1),), (Commit(7),))


@pytest.mark.parametrize(
    ("sender", "mac", "passes"),
    [("10.0.0.2", "", True), ("0.0.0.0", "", True), ("10.0.0.1", "", False), ("10.0.0.2", OUTSIDE, False)],  # noqa: S104
)
def test_arp_speaks_for_its_own_port_alone(sender: str, mac: str, passes: bool) -> None:
    trail = run(flows(), arp_fields(FROM_APP, 1, sender, "10.0.0.1", mac))
    assert trail.sent == ((Sent(1),) if passes else ())


def test_ports_that_share_a_virtual_mac_filter_each_for_itself() -> None:
    pair = (AddressPair("10.0.0.50", VIRTUAL),)
    third = Port("app-2", "blue", "02:00:00:00:00:03", ("10.0.0.3",), ("app",))
    ports = {"web-1": replace(PORTS["web-1"], pairs=pair), "app-1": replace(PORTS["app-1"], pairs=pair), "app-2": third}
    tables = flows(replace(INTENT, ports=ports), Local({"web-1": 1, "app-1": 2, "app-2": 3}, {"blue": 7}))
    packet = Packet("ipv4", 6, "10.0.0.3", "10.0.0.50", 40000, 80)
    assert run(tables, ip_fields(packet, Link(3, third.mac, VIRTUAL))).sent == (Sent(1),)
    assert run(tables, ip_fields(replace(packet, protocol=17), Link(8, OUTSIDE, VIRTUAL))).sent == (Sent(2),)


def test_a_stateless_rule_does_not_get_in_front_of_a_denial() -> None:
    """A deny of tier 0 is asked before a stateless allow of tier 7, also before anything is tracked."""
    open_ = SecurityGroup("open", (Rule("ingress", "ipv4", 6, tier=7, stateless=True),))
    shut = SecurityGroup("shut", (Rule("ingress", "ipv4", 6, tier=0, action="deny", remote=Remote("group", "app")),))
    for groups, passes in ((("open",), True), (("open", "shut"), False)):
        web = replace(PORTS["web-1"], groups=groups)
        intent = replace(INTENT, groups={**GROUPS, "open": open_, "shut": shut}, ports={**PORTS, "web-1": web})
        assert bool(run(flows(intent), ip_fields(REQUEST, Link(8, OUTSIDE, WEB))).sent) == passes
