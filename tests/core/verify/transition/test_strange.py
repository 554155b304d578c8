"""Bridges of others: whatever stands in a dump, the check answers, and never contradicts its own replay."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from hitless.core.model.flow import Flow
from hitless.core.plan.flows import AddFlow, DelFlow
from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.verdict import Batch
from hitless.drivers.ovs.codec import parse

BLOCKS, PLANS = 4, 1_000
MATCHES = (
    "in_port=1", "in_port=2", "ip", "ipv6", "tcp", "udp6", "icmp", "arp", "ip,nw_dst=10.0.0.0/8",
    "ipv6,ipv6_dst=fe80::/10", "ip,nw_src=10.0.0.1/255.0.255.0", "tcp,tp_dst=80", "tcp,tp_dst=0x50/0xfff0",
    "ct_state=+trk", "ct_state=-trk", "ct_state=+new+trk", "ct_state=+est-rel+rpl", "ct_mark=0x1", "ct_mark=0x1/0x3",
    "ct_zone=5", "ct_label=0x1", "metadata=0x5", "tun_id=0x5", "tun_src=1.2.3.4", "reg5=0x1", "reg5=0x2", "reg9=0x1",
    "dl_vlan=5", "conj_id=7", "vlan_tci=0x1000/0x1000", "conj_id=8", "nw_frag=later", "tcp,tcp_flags=+syn-ack",
    "pkt_mark=1", "skb_priority=0x1", "mpls,mpls_label=5", "dl_dst=01:00:00:00:00:00/01:00:00:00:00:00",
    "dl_type=0x88cc", "xreg0=0x5", "igmp",
)  # fmt: skip
ACTIONS = (
    "output:1", "output:2", "NORMAL", "resubmit(,1)", "resubmit(,2)", "ct(table=1)", "ct(table=2,zone=5)",
    "ct(commit)", "ct(commit,zone=NXM_NX_REG6[0..15],exec(set_field:0x1->ct_mark))",
    "ct(table=1,zone=NXM_NX_REG6[0..15])", "ct(commit,nat(src=10.0.0.1))", "ct(table=1,nat)", "set_field:0x1->reg5",
    "set_field:0x2->reg5", "set_field:0x5->reg6", "set_field:0x5->metadata", "set_field:0x5->tun_id",
    "set_field:0x1/0x1->reg5", "set_field:0x1->reg9", "pop_vlan", "push_vlan:0x8100,set_field:4101->vlan_vid",
    "move:NXM_OF_IN_PORT[]->NXM_NX_REG5[0..15]", "learn(table=1,in_port=1)", "group:1",
    "multipath(eth_src,50,modulo_n,4,0,NXM_NX_REG5[])", "ct_clear", "output:NXM_NX_REG5[]", "dec_ttl",
    "output:NXM_NX_CT_MARK[]", "IN_PORT", "controller:65535", "controller(pause)", "note:00", "LOCAL", "set_queue:3",
    "clone(output:1)", "pop_mpls:0x0800", "resubmit(1,2)", "set_field:10.0.0.1->nw_src", "set_field:0x1->pkt_mark",
)  # fmt: skip


class Draw:
    """One source of randomness."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._conjunctions = self._random.random() < 0.5

    def flow(self) -> Flow:
        chance = self._random
        match = {each.partition("=")[0]: each for each in chance.sample(MATCHES, chance.choice((0, 1, 1, 2, 3)))}
        actions = ",".join(chance.sample(ACTIONS, chance.choice((1, 1, 2, 3))))
        if self._conjunctions and chance.random() < 0.4:
            actions = f"conjunction({chance.choice((7, 8))},{chance.choice((1, 2))}/2)"
            match.pop("conj_id", None)
        words = (f"table={chance.choice((0, 0, 1, 2))}", f"priority={chance.choice((1, 5, 5, 10))}", *match.values())
        return parse(f"{','.join(words)} actions={actions}")

    def plan(self) -> tuple[list[Flow], list[Batch]]:
        chance = self._random
        before = [self.flow() for _ in range(chance.randrange(1, 10))]
        batches = []
        for _ in range(chance.randrange(1, 4)):
            ops = [DelFlow(chance.choice(before)) if chance.random() < 0.5 else AddFlow(self.flow()) for _ in range(2)]
            batches.append(Batch(tuple(ops), atomic=chance.random() < 0.5))
        return before, batches


@pytest.mark.parametrize("block", range(BLOCKS))
def test_any_tables_and_any_plan_have_a_verdict(block: int) -> None:
    seen: Counter[str] = Counter()
    for seed in range(block * PLANS, (block + 1) * PLANS):
        seen[type(check(*Draw(seed).plan())).__name__] += 1
    assert len(seen) == 3, seen
