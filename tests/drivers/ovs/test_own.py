"""Ownership is judged from the flow alone."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from tests.drivers.ovs.things import OURS, flow

from hitless.core.firewall.identity import cookie
from hitless.core.firewall.pipeline import TABLES
from hitless.core.model.flow import Flow
from hitless.drivers.ovs.codec import parse_dump
from hitless.drivers.ovs.own import owns


def test_ours() -> None:
    assert owns(flow(72), TABLES)
    assert owns(Flow(0, 1, (), (), cookie("port", "p1")), TABLES)


@pytest.mark.parametrize("foreign", [0, 5, 0x6873 << 48, 0x6875 << 48, 0x6874, OURS >> 1, 2**64 - 1])
def test_another_cookie_is_not_ours(foreign: int) -> None:
    assert not owns(Flow(72, 1, (), (), foreign), TABLES)


def test_another_table_is_not_ours() -> None:
    assert not owns(flow(200), TABLES)
    assert not owns(flow(72), frozenset({71}))


def test_nothing_of_neutron_is_ours() -> None:
    flows = parse_dump(Path(__file__).with_name("neutron.txt").read_text(encoding="utf-8"))
    assert flows
    assert {each.table for each in flows} & TABLES
    assert not [each for each in flows if owns(each, TABLES)]
    assert all(owns(msgspec.structs.replace(each, cookie=OURS | 1), TABLES) for each in flows)
