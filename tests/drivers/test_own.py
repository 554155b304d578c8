"""Ownership is judged from the object alone; whoever else's numbers come near, a trait or a range keeps them apart."""

from __future__ import annotations

import pytest
from tests.drivers.things import BASE, policy, sa

from hitless.core.model.sa import ObservedPolicy, ObservedSa, Template
from hitless.drivers.xfrm.own import Owner


@pytest.mark.parametrize(
    ("thing", "ours"),
    [
        (ObservedSa(sa(1)), True),
        (ObservedSa(sa(1, reqid=BASE)), True),
        (ObservedSa(sa(1, reqid=BASE + 0xFFFFF)), True),
        (ObservedSa(sa(1, reqid=BASE + 0x100000)), False),
        (ObservedSa(sa(1, reqid=BASE - 1)), False),
        (ObservedSa(sa(1, reqid=1)), False),
        (ObservedSa(sa(1, spi=2**24)), True),
        (ObservedSa(sa(1, spi=2**24 - 1)), False),
        (ObservedSa(sa(1), foreign_traits=("mark",)), False),
        (ObservedPolicy(policy(1)), True),
        (ObservedPolicy(policy(1, template=None, action="block")), True),
        (ObservedPolicy(policy(1, index=9)), False),
        (ObservedPolicy(policy(1, index=0x69000001)), False),
        (ObservedPolicy(policy(1, template=Template("192.0.2.9", "192.0.2.1", 1, "tunnel"))), False),
        (ObservedPolicy(policy(1), ("optional-template",)), False),
    ],
)  # fmt: skip
def test_ownership(thing: ObservedSa | ObservedPolicy, ours: bool) -> None:
    assert Owner().owns(thing) is ours


def test_the_reqid_range_can_be_moved() -> None:
    assert not Owner(reqid_base=0x10000000).owns(ObservedSa(sa(1)))
    assert Owner(reqid_base=0x10000000).owns(ObservedSa(sa(1, reqid=0x10000005)))
