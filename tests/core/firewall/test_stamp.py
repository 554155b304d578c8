"""A change under a stamp: whatever a packet meets in the middle of it, it is treated by one policy alone."""

from __future__ import annotations

import msgspec
import pytest
from tests.core.firewall.draw import Draw
from tests.core.firewall.evaluated import answer, fields
from tests.core.firewall.reference import Case

from hitless.core.firewall.compile import Local, compile_flows
from hitless.core.firewall.identity import KnownIds, read_ids
from hitless.core.firewall.stamp import entry, read_stamp, stamped
from hitless.core.model.flow import Flow, FlowKey
from hitless.core.model.security import Intent
from hitless.core.plan.flows import AddFlow, Bundle, diff
from hitless.core.verify.classifier import Commit, Sent, Tables, Tracked, evaluate
from hitless.core.verify.packet import Fields
from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.verdict import Batch, Proved

PACKETS = 60
SAFE = frozenset({"leaked-connection", "leak", "poison-stays", "loss", "third", "ambiguous", "orphan"})

Held = dict[FlowKey, Flow]


def applied(held: Held, bundle: Bundle) -> Held:
    """The tables after a bundle."""
    found = dict(held)
    for op in bundle:
        if isinstance(op, AddFlow):
            found[op.flow.key] = op.flow
        else:
            found.pop(op.flow.key, None)
    return found


def change(draw: Draw) -> tuple[Intent, Local, Held, Intent, Local, Bundle]:
    """A policy in force, another one, and the difference."""
    old, new = draw.intent(), draw.intent()
    here, there = draw.local(old), draw.local(new)
    held = dict(compile_flows(old, here, KnownIds()).flows)
    wanted = compile_flows(new, there, read_ids(held.values())).flows
    return old, here, held, new, there, diff(wanted, held, {})


def treated(versions: list[Tables], case: Case, local: Local) -> tuple[frozenset[Sent], frozenset[Commit]]:
    def track(_packet: Fields, _zone: int) -> Tracked:
        return answer(case)

    trail = evaluate(versions, fields(case, local), track)
    return frozenset(trail.sent), frozenset(trail.commits)


@pytest.mark.parametrize("seed", range(3000, 3040))
def test_a_packet_is_treated_by_one_policy_alone(seed: int) -> None:
    draw = Draw(seed)
    old, here, held, new, there, bundle = change(draw)
    first, second = stamped(bundle, read_stamp(held.values()))
    between = applied(held, first)
    before, during, after = Tables(held.values()), Tables(between.values()), Tables(applied(between, second).values())
    for _ in range(PACKETS):
        policy, local = (old, here) if draw.chance(0.5) else (new, there)
        case = draw.case(policy, local)
        mixed = treated([before, during, during, during], case, local)
        assert mixed in (treated([before], case, local), treated([during], case, local)), case
        assert treated([during, after, after, after], case, local) == treated([after], case, local)


def test_without_a_stamp_some_packet_is_treated_by_neither() -> None:
    """Or the test above could not fail."""
    mixes = 0
    for seed in range(3000, 3040):
        draw = Draw(seed)
        old, here, held, new, there, bundle = change(draw)
        before, after = Tables(held.values()), Tables(applied(held, bundle).values())
        for _ in range(PACKETS):
            policy, local = (old, here) if draw.chance(0.5) else (new, there)
            case = draw.case(policy, local)
            ends = (treated([before], case, local), treated([after], case, local))
            mixes += treated([before, after, after, after], case, local) not in ends
    assert mixes


@pytest.mark.parametrize("seed", range(3000, 3012))
def test_the_check_proves_it(seed: int) -> None:
    _, _, held, _, _, bundle = change(Draw(seed))
    first, second = stamped(bundle, read_stamp(held.values()))
    found = check(held.values(), [Batch(first), Batch(second)], properties=SAFE)
    assert isinstance(found, Proved), found
    # An agent that dies between the two leaves what looks for the old stamp; its successor takes it away.
    alone = check(applied(held, first).values(), [Batch(second)], properties=SAFE)
    assert isinstance(alone, Proved), alone


def test_stamps_alternate_and_are_read_back() -> None:
    held: Held = {entry(0).key: entry(0)}
    seen = []
    for _ in range(4):
        first, second = stamped((), read_stamp(held.values()))
        assert len({op.flow.key for op in (*first, *second)}) == 3
        held = applied(applied(held, first), second)
        assert list(held) == [entry(0).key]
        seen.append(read_stamp(held.values()))
    assert seen == [1, 2, 1, 2]


def test_an_unchanged_policy_keeps_the_stamp() -> None:
    draw = Draw(1)
    policy = draw.intent()
    local = msgspec.structs.replace(draw.local(policy), stamp=2)
    held = compile_flows(policy, local, KnownIds()).flows
    assert read_stamp(held.values()) == 2
    assert not diff(compile_flows(policy, local, read_ids(held.values())).flows, held, {})
