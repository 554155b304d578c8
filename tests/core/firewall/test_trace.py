"""Compiled tables in a real switch: `ofproto/trace` takes a packet through the same flows to the same ends."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.core.firewall.draw import Draw
from tests.core.firewall.evaluated import STATE, answer, compiled, fields, run
from tests.core.verify.traced import TracedSwitch, traced_switch

from hitless.core.firewall.pipeline import RULE_TABLE
from hitless.core.model.flow import Flow, Resubmit, exact
from hitless.core.model.security import Direction
from hitless.core.verify.classifier import NORMAL, Tables, evaluate

POLICIES, PACKETS = 12, 100


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedSwitch]:
    with traced_switch(tmp_path_factory.mktemp("ovs")) as started:
        yield started


@pytest.mark.parametrize("seed", range(1000, 1000 + POLICIES))
def test_the_switch_takes_the_same_way(switch: TracedSwitch, seed: int) -> None:
    draw = Draw(seed)
    intent = draw.intent()
    local = draw.local(intent)
    flows = compiled(intent, local).flows.values()
    switch.load(flows)
    tables = Tables(flows)
    for _ in range(PACKETS):
        case = draw.case(intent, local)
        if case.marked:
            continue  # trace has no word for the mark that ct() answers; see below
        trail = run(tables, case, local)
        traced = switch.trace(fields(case, local), [answer(case)] * 4)
        assert traced.is_what(trail), f"{case}\n{trail}\n{traced.text}"
        assert bool(traced.sent) == bool(trail.sent) or NORMAL in trail.ports


@pytest.mark.parametrize("seed", range(2000, 2000 + POLICIES // 2))
def test_the_switch_takes_the_same_way_with_marks(switch: TracedSwitch, seed: int) -> None:
    """Tracked packets with marks, put straight into the tables of rules, which have no other way in."""
    draw = Draw(seed)
    intent = draw.intent()
    local = draw.local(intent)
    into = [Flow(0, 9, (exact("metadata", table),), (Resubmit(table),), table) for table in RULE_TABLE.values()]
    flows = [*compiled(intent, local).flows.values(), *into]
    switch.load(flows)
    tables = Tables(flows)
    for _ in range(PACKETS):
        case = draw.case(intent, local)
        direction: Direction = "egress" if case.source else "ingress"
        port = case.source or case.destination
        assert port is not None
        tracked = {"ct_state": STATE[case.state], "ct_mark": int(case.marked), "metadata": RULE_TABLE[direction]}
        registers = {"reg5": local.ofports[port.name], "reg6": local.tags[port.network], "vlan_tci": 0}
        packet = {**fields(case, local), **tracked, **registers}
        trail = evaluate([tables], packet)
        traced = switch.trace(packet)
        assert traced.is_what(trail), f"{case}\n{trail}\n{traced.text}"
