"""The classifier against the real one: random tables, random packets, and `ofproto/trace` as the judge."""

from __future__ import annotations

import random
from collections.abc import Iterator

import msgspec
import pytest
from tests.core.verify.traced import PORTS, Traced, TracedSwitch, could_be, traced_switch

from hitless.core.model.flow import (
    EST,
    INV,
    IPV4,
    IPV6,
    NEW,
    REL,
    RPL,
    TRK,
    Action,
    Conjunction,
    Ct,
    CtClear,
    Flow,
    Normal,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    Term,
    ct_state,
    exact,
)
from hitless.core.verify.classifier import Sent, Tables, Tracked, Trail, evaluate
from hitless.drivers.ovs.codec import parse

replace = msgspec.structs.replace
ROUNDS, PACKETS = 60, 100  # 6,000 packets
LAST_TABLE = 6
STATES = (TRK | NEW, TRK | EST, TRK | EST | RPL, TRK | INV, TRK | NEW | REL, TRK | EST | REL | RPL)
TAGGED: Term = ("vlan_tci", 0x1005, 0x1FFF)
IDS = (7, 9, 11, 4_000_000_000)


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedSwitch]:
    with traced_switch(tmp_path_factory.mktemp("ovs")) as started:
        yield started


class Draw:
    """Random flows and packets from few values, so that they meet."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret
        self._cookie = 0

    def packet(self) -> dict[str, int]:
        pick = self._random.choice
        found = {"in_port": pick((1, 2)), "vlan_tci": pick((0, 0, 0x1005)), "dl_dst": pick((2, 3))}
        found["reg5"] = pick((0, 3))
        if self._random.random() < 0.2:
            return {**found, "eth_type": IPV6, "nw_proto": 58, "icmp_type": pick((135, 136)), "ipv6_src": pick((1, 2))}
        found |= {"eth_type": IPV4, "nw_proto": pick((6, 17)), "tp_dst": pick((80, 81, 8080))}
        return {**found, "nw_src": pick((0x0A000001, 0x0A000002, 0x0B000001))}

    def state(self) -> Tracked:
        return Tracked(self._random.choice(STATES))

    def flows(self) -> list[Flow]:
        """Every table has plain flows, some have conjunctions, with or without accept flows and a catch-all."""
        found = {flow.key: flow for table in range(LAST_TABLE + 1) for flow in self._table(table)}
        return list(found.values())

    def _table(self, table: int) -> Iterator[Flow]:
        chance = self._random
        for _ in range(chance.randrange(1, 7)):
            terms = (exact("eth_type", IPV4), *self._terms()) if chance.random() < 0.8 else self._link_terms()
            yield self._flow(table, terms, self._actions(table, terms))
        for _ in range(chance.randrange(0, 12)):
            ids = chance.sample(IDS, chance.randrange(1, 4))
            clauses = {number: 2 if number < 11 else 3 for number in ids}
            wanted = tuple(Conjunction(n, chance.randrange(1, clauses[n] + 1), clauses[n]) for n in ids)
            terms = (exact("eth_type", IPV4), *self._terms())
            yield self._flow(table, terms, wanted, priority=chance.choice((4, 4, 4, 6)))
        for number in (*IDS, 0):
            if chance.random() < (0.5 if number else 0.05):
                terms = (exact("conj_id", number), exact("eth_type", IPV4))
                yield self._flow(table, terms, self._actions(table, terms))
        if chance.random() < 0.6:
            yield self._flow(table, (), self._actions(table, ()), priority=0)

    def _terms(self) -> Iterator[Term]:
        chance = self._random
        if chance.random() < 0.5:
            yield chance.choice((("nw_src", 0x0A000000, 0xFF000000), exact("nw_src", 0x0A000001), ("nw_src", 0, 1)))
        if chance.random() < 0.5:
            yield exact("nw_proto", 6)
            if chance.random() < 0.6:
                yield chance.choice((exact("tp_dst", 80), ("tp_dst", 80, 0xFFFE), ("tp_dst", 8080, 0xFFF0)))
        if chance.random() < 0.3:
            yield exact("reg5", chance.choice((0, 3)))
        if chance.random() < 0.3:
            yield chance.choice((ct_state(on=TRK), ct_state(off=TRK), ct_state(on=TRK | EST, off=RPL)))
        if chance.random() < 0.1:
            yield exact("ct_zone", 5)

    def _link_terms(self) -> tuple[Term, ...]:
        return (self._random.choice((exact("in_port", 1), exact("dl_dst", 2), ("vlan_tci", 0, 0x1FFF), TAGGED)),)

    def _actions(self, table: int, terms: tuple[Term, ...]) -> tuple[Action, ...]:
        chance = self._random
        on = [Resubmit(chance.randrange(table + 1, LAST_TABLE + 1))] if table < LAST_TABLE else []
        choices: list[list[Action]] = [
            [], [Output(chance.randrange(1, PORTS + 1))], [Output("NXM_NX_REG5[]")], [Normal()], [*on],
            [SetField("reg5", 4), *on, Output("NXM_NX_REG5[]")], [SetField("reg5", 0x10, 0xF0), *on], [CtClear(), *on],
            [SetField("reg6", 5), *on, *on],
            [PushVlan(9), Output(5)], [PushVlan(9), *on],
        ]  # fmt: skip
        if TAGGED in terms:  # Open vSwitch refuses pop_vlan for anything else
            choices += [[PopVlan(), *on], [PopVlan(), Output(6), *on]]
        if exact("eth_type", IPV4) in terms:  # Open vSwitch refuses ct() for anything else
            mark = chance.choice((None, 0, 1))
            commit = Ct(zone=chance.choice((5, "NXM_NX_REG6[0..15]")), commit=True, mark=mark)
            choices += [[commit], [commit, *on]]
            if table < LAST_TABLE:
                later = chance.randrange(table + 1, LAST_TABLE + 1)
                choices += [[Ct(zone=5, table=later)], [Ct(zone=5, table=later), *on], [Ct(zone=5, table=later)]]
        return tuple(chance.choice(choices))

    def _flow(self, table: int, terms: tuple[Term, ...], actions: tuple[Action, ...], priority: int = -1) -> Flow:
        self._cookie += 1
        chosen = priority if priority >= 0 else self._random.randrange(1, 9)
        return Flow(table, chosen, tuple(sorted(terms)), actions, self._cookie)


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_random_tables_decide_as_the_switch_does(switch: TracedSwitch, seed: int) -> None:
    draw = Draw(seed)
    flows = draw.flows()
    switch.load(flows)
    tables = Tables(flows)
    for _ in range(PACKETS):
        packet = draw.packet()
        answers = [draw.state() for _ in range(16)]
        heard = iter(answers)
        trail = evaluate([tables], packet, lambda _packet, _zone, heard=heard: next(heard))  # type: ignore[misc]
        traced = switch.trace(packet, answers)
        assert traced.is_what(trail) or parts_at_rivals(trail, traced), f"{packet}\n{trail}\n{traced.text}"


def parts_at_rivals(trail: Trail, traced: Traced) -> bool:
    """Whether the first look-up that differs is one where the order of equals decides, and the switch took a rival."""
    theirs = [step for each in traced.passes for step in each]
    for ours, step in zip(trail.steps, theirs, strict=False):
        if (ours.table, ours.flow.cookie if ours.flow else 0) != step:
            return could_be(ours, step)
    return False


# --- known hazards, each against the switch as well ----------------------------------------------------------------

TCP = (exact("eth_type", IPV4), exact("nw_proto", 6))
PACKET = {"in_port": 1, "eth_type": IPV4, "nw_proto": 6, "tp_dst": 80, "nw_src": 0x0A000001}


def table(*lines: str) -> list[Flow]:
    """Flows of table 0 as lines of a dump, with cookies from 1."""
    return [replace(parse(f"table=0, {line}"), cookie=number) for number, line in enumerate(lines, 1)]


def clauses(*ids: int, priority: int = 5) -> tuple[str, str]:
    """Both clauses of each id, all of which PACKET meets."""
    first, second = (",".join(f"conjunction({number},{clause}/2)" for number in ids) for clause in (1, 2))
    head = f"priority={priority}"
    return f"{head},ip,nw_src=10.0.0.1 actions={first}", f"{head},tcp,tp_dst=80 actions={second}"


HAZARDS = {
    "complete": ([*clauses(7), "priority=5,conj_id=7,ip actions=output:2", "priority=0 actions=output:3"], 3),
    "incomplete falls to lower priorities": (
        [clauses(7)[0], "priority=9,conj_id=7,ip actions=output:2", "priority=2 actions=output:3"], 3),
    "orphan finds the catch-all and shadows the conjunctions below": (
        [*clauses(7), *clauses(9, priority=4), "priority=4,conj_id=9,ip actions=output:2",
         "priority=0 actions=drop"], 6),
    "orphan without a catch-all acts as if it were not there": (
        [*clauses(7), "priority=4,conj_id=9,ip actions=output:2"], 0),
    "orphan over another conjunction of its priority": (
        [*clauses(7, 9), "priority=5,conj_id=9,ip actions=output:2", "priority=0 actions=drop"], 4),
    "the order of ids decides": (
        [*clauses(9, 7), "priority=5,conj_id=9,ip actions=output:2", "priority=5,conj_id=7,ip actions=output:3"], 3),
    "after a failed look-up the ids behind are not tried": (
        [*clauses(7, 9), "priority=5,conj_id=9,ip actions=output:2", "priority=4,udp actions=output:3"], 0),
    "hard over soft at equal priority": (
        [*clauses(7), "priority=5,conj_id=7,ip actions=output:2", "priority=5,tcp actions=output:3"], 4),
    "the second look-up is over all priorities": (
        [*clauses(7), "priority=1,conj_id=7,ip actions=output:2", "priority=3,tcp actions=output:3"], 4),
    "clauses of different priorities never meet": (
        [clauses(7)[0], clauses(7, priority=6)[1], "priority=5,conj_id=7,ip actions=output:2",
         "priority=0 actions=output:3"], 4),
    "id 0 matches every packet": (["priority=9,conj_id=0,ip actions=output:2", "priority=0 actions=drop"], 1),
    "a clause flow hides its equal below": (
        [*clauses(7), "priority=4,tcp,tp_dst=80 actions=output:2", "priority=1,conj_id=7,ip actions=output:3",
         "priority=0 actions=drop"], 4),
    "what a failed clause flow hid comes to light": (
        [clauses(7)[1], "priority=4,tcp,tp_dst=80 actions=output:2", "priority=0 actions=drop"], 2),
    "what a failed clause flow hid may be a clause flow": (
        [clauses(7)[1], *clauses(9, priority=4), "priority=4,conj_id=9,ip actions=output:2"], 4),
}  # fmt: skip


@pytest.mark.parametrize("name", HAZARDS)
def test_hazards_of_conjunctions(switch: TracedSwitch, name: str) -> None:
    lines, decides = HAZARDS[name]
    flows = table(*lines)
    switch.load(flows)
    found = Tables(flows).lookup(0, PACKET)
    assert (found.flow.cookie if found.flow else 0) == decides
    assert switch.trace(PACKET).passes == (((0, decides),),)


def test_equals_are_named() -> None:
    flows = table(*(f"priority={each} actions=drop" for each in ("5,tcp", "5,ip,nw_src=10.0.0.1", "0")))
    found = Tables(flows).lookup(0, PACKET)
    assert {found.flow, *found.rivals} == {*flows[:2]}


def test_rivals_of_a_conjunction_are_the_others_that_are_complete() -> None:
    flows = table(*clauses(7, 9), "priority=5,conj_id=9,ip actions=output:2", "priority=5,conj_id=7,ip actions=drop")
    found = Tables(flows).lookup(0, PACKET)
    assert (found.flow, found.rivals) == (flows[3], (flows[2],))


def test_a_flow_that_a_clause_hid_is_a_rival_of_its_equals() -> None:
    """An incomplete conjunction of the same match, higher up, hides it from the first look only."""
    clause = "priority=5,tcp actions=conjunction(7,1/2)"
    flows = table(clause, "priority=3,tcp actions=output:2", "priority=3,ip actions=drop")
    found = Tables(flows).lookup(0, PACKET)
    assert {found.flow, *found.rivals} == {*flows[1:]}


def test_an_add_replaces_the_flow_with_the_same_key() -> None:
    first, second = table("priority=5,tcp actions=output:2", "priority=5,tcp actions=output:3")
    assert evaluate([Tables([first, second])], PACKET).ports == {3}


def test_resubmits_without_end_drop_the_packet_whatever_was_done_before(switch: TracedSwitch) -> None:
    flows = table("priority=5,tcp actions=output:2,resubmit(,0)")
    switch.load(flows)
    trail = evaluate([Tables(flows)], PACKET)
    traced = switch.trace(PACKET)
    assert (trail.sent, traced.sent, trail.passes[0].too_deep) == ((), (), True)
    assert len(trail.steps) == len(traced.passes[0])


def test_after_recirculation_the_next_version_is_read() -> None:
    old = [*table("priority=5,tcp actions=set_field:7->reg6,ct(table=1,zone=NXM_NX_REG6[0..15])"), out(1, 2)]
    new = [out(0, 4), out(1, 3)]
    trail = evaluate([Tables(old), Tables(new)], PACKET, lambda _packet, zone: Tracked(TRK | EST, zone))
    assert trail.ports == {3}
    assert [(each.version, len(each.steps)) for each in trail.passes] == [(0, 1), (1, 1)]


def test_a_packet_does_not_leave_where_it_came_in(switch: TracedSwitch) -> None:
    flows = table("priority=5,tcp actions=set_field:1->reg5,output:NXM_NX_REG5[],output:1,output:2")
    switch.load(flows)
    trail = evaluate([Tables(flows)], PACKET)
    assert trail.sent == (Sent(2),)
    assert switch.trace(PACKET).is_what(trail)


def test_actions_of_others_that_are_not_understood_are_told() -> None:
    flows = table("priority=5,tcp actions=learn(table=9),output:2")
    trail = evaluate([Tables(flows)], PACKET)
    assert (trail.opaque, trail.ports) == (("learn(table=9)",), frozenset({2}))


def test_a_subfield_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="NXM_OF_ETH"):
        evaluate([Tables([Flow(0, 1, (), (Output("NXM_OF_ETH_SRC[]"),))])], PACKET)


def out(table_number: int, port: int) -> Flow:
    return Flow(table_number, 1, TCP, (Output(port),))
