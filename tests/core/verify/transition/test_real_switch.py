"""What a counterexample says is what a real `ovs-vswitchd` does with the tables of that moment."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.core.verify.traced import TracedSwitch, traced_switch
from tests.core.verify.transition import policies

from hitless.core.verify.classifier import Tables, Tracked, evaluate
from hitless.core.verify.packet import Fields
from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.verdict import Batch, Counterexample, Limits
from hitless.core.verify.transition.versions import Timeline


@pytest.fixture(scope="module")
def switch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TracedSwitch]:
    with traced_switch(tmp_path_factory.mktemp("ovs")) as started:
        yield started


@pytest.mark.parametrize("ids", ["reused", "fresh", "no order"])
def test_a_lost_packet_is_lost(switch: TracedSwitch, ids: str) -> None:
    before, plan = policies.historic("fresh" if ids == "no order" else ids)
    plan = [Batch(tuple(op for batch in plan for op in batch.ops), atomic=False)] if ids == "no order" else plan
    found = check(before.values(), plan, properties=frozenset({"loss"}))
    assert isinstance(found, Counterexample)
    tables = Timeline(before.values(), plan, Limits()).at(found.witness.seen[-1])
    packet = {field: value for field, value in found.witness.packet.items() if belongs(field, found.witness.packet)}
    answer = Tracked(found.witness.state, 0)
    trail = evaluate([Tables(tables.values())], packet, lambda _packet, _zone: answer)
    switch.load(tables.values())
    traced = switch.trace(packet, [answer] * 4)
    assert not traced.sent
    assert traced.is_what(trail), traced.text


def belongs(field: str, packet: Fields) -> bool:
    """Whether a TCP packet over IPv4 has the field: others are of protocols that it is not."""
    assert packet["eth_type"] == 0x0800
    return field.startswith(("in_port", "dl_", "eth_type", "nw_", "vlan", "tp_"))
