"""What a change does to packets, as cubes: each holds its witness, and says something about every field it names."""

from __future__ import annotations

import re

import pytest
from tests.core.firewall.draw import Draw

from hitless.core.firewall.compile import compile_flows
from hitless.core.firewall.identity import KnownIds, read_ids
from hitless.core.verify.transition.changes import changes

EMPTY = re.compile(r"=(,|$)|is not (,|$)")


@pytest.mark.parametrize("seed", range(3))
def test_a_port_that_comes_is_told_in_cubes_that_are_not_empty(seed: int) -> None:
    draw = Draw(seed)
    policy = draw.intent()
    local = draw.local(policy)
    fewer = dict(local.ofports)
    gone = fewer.pop(min(fewer))
    without = type(local)(fewer, local.tags, local.uplinks)
    old = compile_flows(policy, without, KnownIds()).flows
    new = compile_flows(policy, local, read_ids(old.values())).flows
    found = changes(old.values(), new.values())
    assert found
    assert not [each.packets for each in found if EMPTY.search(each.packets)]
    assert any(f"in_port={gone}" in each.packets for each in found)
    assert all(each.was != each.becomes for each in found)
