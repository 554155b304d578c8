"""Plans that are known to be bad are refuted, with a story; the bundles that the product writes are proved."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import msgspec
import pytest
from tests.core.verify.transition import policies

from hitless.core.firewall.compile import Local
from hitless.core.firewall.identity import read_ids
from hitless.core.model.flow import Conjunction, Ct, Flow, Opaque, Output, Resubmit, SetField, exact
from hitless.core.model.security import Port
from hitless.core.plan.flows import AddFlow, Bundle, DelFlow
from hitless.core.verify.transition.changes import changes
from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.packets import Algebra, oxidd
from hitless.core.verify.transition.verdict import ALL, Batch, Counterexample, Kind, Limits, Proved, Unknown
from hitless.drivers.ovs.codec import parse_dump

NEUTRON = Path(__file__).parents[3] / "drivers" / "ovs" / "neutron.txt"
NEW = Port("p20", "net", "02:00:00:00:00:20", ("10.0.0.200",), ("web",))


def refuted(before: policies.Tables, plan: list[Batch], kind: Kind) -> Counterexample:
    found = check(before.values(), plan, properties=frozenset({kind}))
    assert isinstance(found, Counterexample), found
    assert found.kind == kind
    assert found.story
    assert found.steps
    return found


@pytest.mark.parametrize("kind", ["loss", "poison", "poison-stays", "leak"])
def test_the_historic_restart_with_reused_ids(kind: Kind) -> None:
    before, plan = policies.historic("reused")
    refuted(before, plan, kind)


@pytest.mark.parametrize("kind", ["loss", "poison", "poison-stays"])
def test_the_historic_restart_with_fresh_ids(kind: Kind) -> None:
    before, plan = policies.historic("fresh")
    refuted(before, plan, kind)


@pytest.mark.parametrize("kind", ["leak", "leaked-connection", "third"])
def test_the_historic_restart_with_fresh_ids_leaks_nothing(kind: Kind) -> None:
    before, plan = policies.historic("fresh")
    assert isinstance(check(before.values(), plan, properties=frozenset({kind})), Proved)


def renumbered() -> tuple[policies.Tables, Bundle]:
    old = policies.tables(policies.intent())
    new = policies.tables(policies.intent(), known=read_ids(old.values()))
    assert old == new
    taken = msgspec.structs.replace(read_ids(old.values()), by_cookie={})
    (batch,) = policies.bundle(old, policies.tables(policies.intent(), known=taken))
    return old, batch.ops


def is_clause(flow: Flow) -> bool:
    return bool(flow.actions) and isinstance(flow.actions[0], Conjunction)


def accepts(flow: Flow) -> bool:
    return any(field == "conj_id" for field, _, _ in flow.match)


def test_clauses_before_their_accept_flows_lose_packets() -> None:
    before, ops = renumbered()
    clauses = [op for op in ops if isinstance(op, AddFlow) and is_clause(op.flow)]
    rest = [op for op in ops if op not in clauses]
    assert refuted(before, [Batch(tuple(clauses)), Batch(tuple(rest))], "loss").edge[0]
    refuted(before, [Batch(tuple(clauses)), Batch(tuple(rest))], "orphan")


def test_accept_flows_removed_before_their_clauses_lose_packets() -> None:
    before, ops = renumbered()
    first = [op for op in ops if isinstance(op, DelFlow) and accepts(op.flow)]
    rest = [op for op in ops if op not in first]
    refuted(before, [Batch(tuple(first)), Batch(tuple(rest))], "loss")


def test_the_missing_edge_of_writes_in_no_order() -> None:
    """One clause is there, another is not: the pair, and not the whole plan."""
    before, ops = renumbered()
    there, missing = refuted(before, [Batch(ops, atomic=False)], "loss").edge
    assert len(there) == 1
    assert len(missing) <= 2
    assert is_clause(there[0].flow)


def test_a_restart_that_changes_nothing() -> None:
    before = policies.tables(policies.intent())
    assert isinstance(check(before.values(), []), Proved)
    assert isinstance(check(before.values(), policies.bundle(before, before)), Proved)


def test_a_whole_renumbering_in_one_bundle() -> None:
    before, ops = renumbered()
    assert isinstance(check(before.values(), [Batch(ops)]), Proved)


@pytest.mark.parametrize("backwards", [False, True])
def test_members_and_rules_come_and_go(backwards: bool) -> None:
    base = policies.intent()
    small = policies.tables(base)
    fewer = (policies.without_rules(base, "web", 1), policies.without_rules(base, "db", 3))
    for other in (policies.with_port(base, NEW), *fewer):
        old, new = small, policies.tables(other)
        if backwards:
            old, new = new, old
        assert isinstance(check(old.values(), policies.bundle(old, new)), Proved)


def test_a_port_comes_whose_address_was_a_member_already() -> None:
    policy = policies.with_port(policies.intent(), NEW)
    old = policies.tables(policy)
    new = policies.tables(policy, Local({**policies.LOCAL.ofports, NEW.name: 50}, {"net": 7}, (policies.UPLINK,)))
    assert isinstance(check(old.values(), policies.bundle(old, new)), Proved)


def test_a_port_that_sends_before_it_is_known_can_use_its_address_too_early() -> None:
    """A packet classified as from a stranger, with a false MAC, meets rules that know its address by now."""
    local = Local({**policies.LOCAL.ofports, NEW.name: 50}, {"net": 7}, (policies.UPLINK,))
    old = policies.tables(policies.intent())
    new = policies.tables(policies.with_port(policies.intent(), NEW), local)
    found = refuted(old, policies.bundle(old, new), "leak")
    assert found.witness.packet["in_port"] == 50
    assert [len(each.applied) > 0 for each in found.witness.seen] == [False, True]
    (whole,) = policies.bundle(old, new)
    assert isinstance(check(old.values(), [whole], quiet=frozenset({50})), Proved)
    members = [op for op in whole.ops if is_clause(op.flow) and not any(term[0] == "reg5" for term in op.flow.match)]
    rest = [op for op in whole.ops if op not in members]
    member_last = [Batch(tuple(rest)), Batch(tuple(members))]
    assert isinstance(check(old.values(), member_last, properties=frozenset({"leak"})), Proved)


def neutron() -> list[Flow]:
    """The dump shows once what both ports have: here for the second port, too, and with a way in."""
    text = NEUTRON.read_text()
    second = [("in_port=1", "in_port=2"), ("reg5=0x1", "reg5=0x2"), ("0x1->reg5", "0x2->reg5"), (":00:01", ":00:02"),
              ("10.0.0.11", "10.0.0.12"), ("output:1", "output:2"), ("fe00:1", "fe00:2")]  # fmt: skip
    lines = [line for line in text.splitlines() if "reg" in line and "conj" not in line]
    more = "\n".join(lines)
    for one, other in second:
        more = more.replace(one, other)
    flows = {flow.key: flow for flow in (*parse_dump(more), *parse_dump(text))}
    return [Flow(0, 0, (), (Resubmit(60),)), *flows.values()]


def test_a_bridge_of_somebody_else() -> None:
    before = neutron()
    accept = [flow for flow in before if accepts(flow)]
    clause = [flow for flow in before if is_clause(flow)]
    assert accept
    gone = [*map(DelFlow, accept)], [*map(DelFlow, clause)]
    back = [*map(AddFlow, accept)], [*map(AddFlow, clause)]
    plan = [Batch(tuple(each)) for each in (*gone, *back)]
    assert isinstance(check(before, plan, properties=frozenset({"loss"})), Counterexample)
    assert isinstance(check(before, plan, properties=frozenset({"poison-stays"})), Counterexample)
    assert isinstance(check(before, plan, properties=frozenset({"leak"})), Proved)
    unreached = check(before[1:], plan)  # the dump has the firewall's tables alone
    assert unreached == Proved("no packet that enters by table 0 reaches a flow that changes")
    member = next(flow for flow in clause if any(field == "nw_src" for field, _, _ in flow.match))
    assert isinstance(check(before, [Batch((DelFlow(member),))]), Proved)


def test_what_is_not_understood_counts_only_where_it_can_matter() -> None:
    web, other = (exact("tp_dst", 80),), (exact("tp_dst", 443),)
    old = [Flow(0, 5, web, (Output(2),)), Flow(0, 5, other, (Output(3),))]
    moves = [Batch((AddFlow(Flow(0, 6, web, (Output(2),))),), atomic=False), Batch((DelFlow(old[0]),), atomic=False)]
    assert isinstance(check(old, moves), Proved)
    harmless = (Flow(0, 9, web, (Opaque("note:00.01"), Output(2))), Flow(0, 9, other, (Opaque("mystery(1)"),)))
    for stranger in harmless:
        assert isinstance(check([*old, stranger], moves), Proved)
    for text in ("learn(table=10)", "move:reg1->reg2"):
        found = check([*old, Flow(0, 9, web, (Opaque(text), Resubmit(1)))], moves)
        assert isinstance(found, Unknown)
        assert text in found.limit
    strange = Flow(0, 9, (("tp_dst", 80, 0xFFFF), ("tun_gbp_id=7", 0, 0)), (Output(4),))
    found = check([*old, strange], moves)
    assert isinstance(found, Unknown)
    assert "tun_gbp_id=7" in found.limit


@pytest.mark.parametrize("text", ["pop_mpls:0x0800", "controller(pause)", "decap()"])
def test_an_action_that_ends_a_pass_is_no_part_of_one(text: str) -> None:
    """What follows it reads the tables anew: an atomic bundle is met in two versions."""
    first = Flow(0, 5, (exact("in_port", 1),), (Opaque(text), Resubmit(5)))
    before = [first, Flow(5, 5, (), ())]
    plan = [Batch((AddFlow(Flow(0, 6, first.match, ())), AddFlow(Flow(5, 5, (), (Output(2),)))))]
    assert isinstance(check(before, plan), Unknown)


def test_ports_and_zones_are_taken_from_what_actions_write() -> None:
    def sends(port: int, subfield: str) -> list[Flow]:
        return [Flow(0, 5, (), (SetField("metadata", port), Resubmit(1))), Flow(1, 5, (), (Output(subfield),))]

    before, (between, _) = sends(2, "OXM_OF_METADATA[0..15]"), sends(3, "")
    there_and_back = [Batch((AddFlow(between),)), Batch((AddFlow(before[0]),))]
    assert isinstance(check(before, there_and_back), Counterexample)
    lost = Flow(0, 9, (exact("in_port", 7),), ())
    in_between = [Batch((AddFlow(lost),)), Batch((DelFlow(lost),))]
    found = check(sends(2, "NXM_NX_CT_MARK[]"), in_between)
    assert isinstance(found, Unknown)
    assert "NXM_NX_CT_MARK[]" in found.limit
    zoned = (Ct(zone="NXM_NX_CT_MARK[0..15]", table=2),)
    found = check([before[0], Flow(1, 5, (), zoned), Flow(2, 1, (), (Output(4),))], in_between)
    assert isinstance(found, Unknown)
    assert "NXM_NX_CT_MARK[0..15]" in found.limit
    high = [Flow(0, 5, (), (Ct(zone="NXM_NX_REG13[0..15]", commit=True), Output(2)))]
    assert isinstance(check(high, in_between), Counterexample)


def test_a_changed_flow_with_a_match_that_is_not_understood_is_unknown() -> None:
    strange = Flow(0, 6, (("in_port", 1, 0xFFFFFFFF), ("tun_src=10.0.0.1", 0, 0)), (Output(3),))
    found = check([Flow(0, 5, (exact("in_port", 1),), (Output(2),))], [Batch((AddFlow(strange),), atomic=False)])
    assert isinstance(found, Unknown)
    assert "tun_src=10.0.0.1" in found.limit


def asked_twice(zone: int | None = None) -> tuple[list[Flow], Batch]:
    """A pass asks table 1 with reg5=1 and with reg5=2; two writes of equal masks in no order turn each to port 3."""
    one, two, other = SetField("reg5", 1), SetField("reg5", 2), Resubmit(1)
    lead = (one, other, two, other) if zone is None else (one, Ct(zone=zone, table=1), two, Ct(zone=zone, table=1))
    old = [Flow(1, 5, (exact("reg5", value),), (Output(2),)) for value in (1, 2)]
    new = [AddFlow(msgspec.structs.replace(flow, actions=(Output(3),))) for flow in old]
    return [Flow(0, 5, (), lead), *old], Batch(tuple(new), atomic=zone is not None)


def test_a_pass_that_asks_a_table_twice_may_see_one_write_and_not_the_other() -> None:
    before, batch = asked_twice()
    assert isinstance(check(before, [batch], properties=frozenset({"loss"})), Proved)
    first = Flow(1, 5, (exact("reg5", 1),), ())
    drops = [AddFlow(first), AddFlow(msgspec.structs.replace(before[2], actions=()))]
    # One of them is there after each batch; in between neither may be, and the packet is lost.
    start = [*before[:1], first, before[2]]
    swap = Batch((AddFlow(before[1]), drops[1]), atomic=False)
    found = check(start, [swap], properties=frozenset({"loss"}))
    assert isinstance(found, Counterexample), found


def test_two_passes_at_once_may_see_different_tables() -> None:
    before, batch = asked_twice(zone=5)
    found = check(before, [batch])
    assert isinstance(found, Unknown), found
    assert "two ct() at once" in found.limit


def test_diagrams_go_with_the_answer() -> None:
    """Without a collector of cycles, which a command turns off: a check holds gigabytes, and an agent makes many."""
    made = []

    def algebra(variables: int, nodes: int) -> Algebra:
        found = oxidd(variables, nodes)
        made.append(weakref.ref(found))
        return found

    before, plan = policies.historic("reused")
    collects = gc.isenabled()
    gc.disable()
    try:
        check(before.values(), plan, algebra=algebra)
        assert made
        assert not any(each() for each in made)
    finally:
        if collects:
            gc.enable()


def test_limits_are_said_and_not_passed_over() -> None:
    before, ops = renumbered()
    found = check(before.values(), [Batch(ops, atomic=False)], limits=Limits(nodes=2_000))
    assert isinstance(found, Unknown)
    assert "2000 nodes" in found.limit
    found = check(before.values(), [Batch(ops, atomic=False)], properties=ALL - {"loss"}, limits=Limits(passes=1))
    assert isinstance(found, Unknown | Counterexample)


def test_what_a_new_member_changes_is_told_in_cubes() -> None:
    old = policies.tables(policies.intent())
    new = policies.tables(policies.with_port(policies.intent(), NEW))
    found = changes(old.values(), new.values())
    assert found
    for cube in found:
        assert cube.was == "dropped"
        assert cube.becomes.startswith("port ")
        assert "nw_src=10.0.0.200" in cube.packets
        assert cube.witness.packet["nw_src"] == 0x0A0000C8
    assert changes(old.values(), old.values()) == ()
