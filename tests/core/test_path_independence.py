"""Level-triggered: the order, number and grouping of events decide when a node acts, never where it ends."""

from __future__ import annotations

import random
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.cluster import ME, PEER, both, key, progress, record

from hitless.core.ipsec import handover
from hitless.core.ipsec.state import Event, KeysFiled, Observed, State
from hitless.core.model.view import KeySeen, NodeSeen, ProgressSeen, Recorded, StoreEvent, View, fold
from hitless.core.verify.model import Action, HandoverModel, Scope, World
from hitless.core.verify.node import Ident

# One list of events for every record of the store, each in its own order.
RECORDS: tuple[tuple[StoreEvent, ...], ...] = (
    (NodeSeen(Recorded(ME, 1)),),
    (NodeSeen(Recorded(PEER, 2)), NodeSeen(Recorded(record("b", 2), 14))),
    (KeySeen(key(1, 11)),),
    (KeySeen(key(2, 12)),),
    (
        ProgressSeen(progress("b", 11, (1,))),
        ProgressSeen(progress("b", 12, (1, 2))),
        ProgressSeen(progress("b", 14, (2,), counter=2)),
    ),
)


@st.composite
def arrivals(draw: st.DrawFn) -> list[StoreEvent]:
    """An interleaving that keeps each record's own order, with some events delivered twice."""
    left = [list(each) for each in RECORDS]
    found: list[StoreEvent] = []
    while any(left):
        queue = draw(st.sampled_from([each for each in left if each]))
        found.extend([queue.pop(0)] * draw(st.integers(1, 2)))
    return found


def canonical(view: View) -> object:
    return view.revision, dict(view.nodes), dict(view.keys), dict(view.progress)


@given(arrivals())
def test_any_order_folds_to_the_same_view(events: list[StoreEvent]) -> None:
    def folded(sequence: Sequence[StoreEvent]) -> View:
        view = View()
        for each in sequence:
            view = fold(view, each)
        return view

    assert canonical(folded(events)) == canonical(folded([each for one in RECORDS for each in one]))


@given(arrivals(), st.data())
def test_any_order_and_splitting_asks_for_the_same_in_the_end(events: list[StoreEvent], data: st.DataObject) -> None:
    """Effects are not carried out here: what the last call asks for follows from the state alone."""
    local: list[Event] = [Observed(both(1), {}), KeysFiled(frozenset({1, 2}))]
    state, asked, rest = State(me=ME), (), [*local, *events]
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        state, asked = handover.step(state, rest[:size], 50.0)  # type: ignore[assignment]
        rest = rest[size:]
    at_once, expected = handover.step(State(me=ME), [*local, *(each for one in RECORDS for each in one)], 50.0)
    assert canonical(state.view) == canonical(at_once.view)
    assert asked == expected
    assert handover.step(state, [], 50.0) == (state, asked), "asking again changes nothing"


MODEL = HandoverModel(Scope(newest=3, crashes=1))
START = next(iter(MODEL.init()))


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32))
def test_two_nodes_end_in_the_same_state_whatever_the_schedule(seed: int) -> None:
    """A closed loop: two real protocols, a store, kernels; any schedule, a crash anywhere, two rotations."""
    dice, world = random.Random(seed), START  # noqa: S311 - a schedule
    for _ in range(dice.randint(0, 120)):
        world = MODEL.next(world, dice.choice(list(MODEL.actions(world))))
    ended = _ended(world)
    expected = _ended(MODEL.next(MODEL.next(START, Action("load", 0, 2)), Action("load", 1, 2)))
    assert _held(ended) == _held(expected)
    # A crash between the journal and the kernel costs an incarnation; both ends must have followed it.
    assert _idents(ended, 0, "out") == _idents(ended, 1, "in")
    assert _idents(ended, 1, "out") == _idents(ended, 0, "in")
    for at in (0, 1):
        node = MODEL.node(ended, at)
        assert node.pinned == {(ref.peer, ref.spi) for ref, _ in node.kernel if ref.way == "out"}


def _held(world: World) -> list[set[tuple[str, str, int]]]:
    return [
        {(ref.way, ref.peer, ident.generation) for ref, ident in MODEL.node(world, at).kernel} for at in (0, 1)
    ]


def _idents(world: World, at: int, way: str) -> set[Ident]:
    return {ident for ref, ident in MODEL.node(world, at).kernel if ref.way == way}


def _ended(world: World) -> World:
    while True:
        world = MODEL.settled(world)
        loads = [each for each in MODEL.actions(world) if each.what == "load"]
        if not loads:
            return world
        world = MODEL.next(world, loads[-1])
