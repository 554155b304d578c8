"""The handover, explored: the shipped rules are proved within each scope, the historic mistakes are refuted.

Every scope visits all interleavings of delivery (late, single, together), slow effects and time. Wider scopes than
these are walked at random, with fixed seeds: a walk proves nothing, but each ends with the question whether all is
well once faults stop.
"""

from __future__ import annotations

import random

import pytest

from hitless.core.ipsec.state import Rules
from hitless.core.verify.explore import Counterexample, Proved, Unknown, explore
from hitless.core.verify.model import FAULTS, Action, HandoverModel, Scope, World
from hitless.core.verify.story import story

ADVERTISE_FIRST = Rules(order="advertise-first", retry_limit_seconds=0.5)
ABSENT = Rules(absent="delete", retry_limit_seconds=0.5)
TIMER = Rules(cleanup="timer", cleanup_seconds=10.0, retry_limit_seconds=0.5)


def run(scope: Scope) -> tuple[HandoverModel, Proved | Counterexample[World, Action] | Unknown]:
    model = HandoverModel(scope)
    return model, explore(model, model.properties(), 300_000)


@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(Scope(), id="rotation"),
        pytest.param(Scope(crashes=1), id="rotation-with-a-crash"),
        pytest.param(Scope(refusals=1), id="rotation-with-a-failed-install"),
        pytest.param(Scope(newest=1, cold=True), id="join"),
        pytest.param(Scope(newest=1, cold=True, reboots=1), id="join-with-a-reboot"),
        pytest.param(Scope(newest=1, reboots=1, crashes=1), id="reboot-and-crash"),
        pytest.param(Scope(newest=1, reboots=1, refusals=1), id="reboot-and-failed-install"),
        pytest.param(Scope(newest=1, vanishings=1), id="an-sa-vanishes"),
        pytest.param(Scope(newest=1, vanishings=1, crashes=1), id="an-sa-vanishes-and-the-agent-dies"),
        pytest.param(Scope(newest=1, wipes=1), id="store-created-anew"),
        pytest.param(Scope(newest=1, deletions=1), id="record-deleted"),
        pytest.param(Scope(newest=1, deletions=1, crashes=1), id="record-deleted-and-agent-restarted"),
    ],
)
def test_the_shipped_rules_hold(scope: Scope) -> None:
    model, result = run(scope)
    told = "\n".join(story(model, result)) if isinstance(result, Counterexample) else str(result)
    assert isinstance(result, Proved), told


def test_advertising_before_installing_is_refuted() -> None:
    model, result = run(Scope(rules=ADVERTISE_FIRST))
    assert isinstance(result, Counterexample)
    assert result.property == "decryptable"
    told = story(model, result)
    assert len(told) <= 14, "the shortest story"
    promises = [line for line in told if "publishes that it receives generations 1 and 2" in line]
    assert promises
    assert any("is not in the kernel yet" in line for line in promises), "\n".join(told)
    assert told[-1].startswith("=> decryptable: ")


def test_deleting_what_is_absent_is_refuted() -> None:
    """The documented blackhole: a record vanishes and returns, and the same key starts again at 0 on one side."""
    model, result = run(Scope(newest=1, deletions=1, rules=ABSENT))
    assert isinstance(result, Counterexample)
    told = "\n".join(story(model, result))
    assert "the record of n1 vanishes from the store" in told or "the record of n2 vanishes" in told


def test_deleting_by_a_timer_is_refuted() -> None:
    model, result = run(Scope(rules=TIMER))
    assert isinstance(result, Counterexample)
    told = story(model, result)
    assert told[-2:] == (
        "8. n1 deletes its IN state of generation 1 from n2",
        "=> decryptable: n1 cannot decrypt what n2 sends with generation 1",
    )


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(Scope(newest=3, crashes=1, refusals=2, reboots=2), id="two-rotations-all-local-faults"),
        pytest.param(Scope(cold=True, newest=3, refusals=2, reboots=1), id="join-in-mid-rotation"),
        pytest.param(Scope(newest=2, wipes=1, crashes=1), id="rotation-in-a-new-store"),
        pytest.param(Scope(nodes=3, newest=3, crashes=1, refusals=1, reboots=1), id="three-nodes"),
    ],
)
def test_random_walks_end_well(scope: Scope, seed: int) -> None:
    model, dice = HandoverModel(scope), random.Random(seed)  # noqa: S311 - a schedule, not a secret
    start = next(iter(model.init()))
    for _ in range(12):
        world = start
        for _ in range(dice.randint(20, 160)):
            offered = list(model.actions(world))
            faults = [each for each in offered if each.what in FAULTS]
            usual = [each for each in offered if each.what not in FAULTS]
            world = model.next(world, dice.choice(faults if faults and dice.random() < 0.1 else usual))
            assert not model.undecryptable(world)
            assert not model.reused(world)
            assert not model.wrong(world)
        assert model.done(_finished(model, world))


def _finished(model: HandoverModel, world: World) -> World:
    """No more faults: every key is loaded, and everything that can happen happens."""
    while True:
        world = model.settled(world)
        assert not model.undecryptable(world)
        loads = [each for each in model.actions(world) if each.what == "load"]
        if not loads:
            return world
        world = model.next(world, loads[0])
