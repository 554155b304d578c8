"""The generic explorer, on models small enough to count by hand."""

from __future__ import annotations

from collections.abc import Iterator

from hitless.core.verify.explore import (
    Always,
    Counterexample,
    Eventually,
    Properties,
    Proved,
    Sometimes,
    Unknown,
    explore,
)


class Graph:
    """A model given as edges: state -> {action: state}."""

    def __init__(self, edges: dict[int, dict[str, int]], faults: tuple[str, ...] = ()) -> None:
        self.edges, self.faults = edges, faults

    def init(self) -> Iterator[int]:
        yield 0

    def trace(self, state: int, after: int) -> list[tuple[str, int]]:
        return [next((action, to) for action, to in self.edges[state].items() if to == after)]

    def ahead(self, state: int, whole: bool = False) -> tuple[list[int], list[int]]:  # noqa: ARG002 - nothing left out
        moves = [(action, after) for action, after in self.edges.get(state, {}).items() if after != state]
        usual = [after for action, after in moves if action not in self.faults]
        return usual, [after for action, after in moves if action in self.faults]


DIAMOND = Graph({0: {"left": 1, "right": 2}, 1: {"on": 3}, 2: {"on": 3}, 3: {"stay": 3}})


def test_counts_states_edges_and_depth() -> None:
    assert explore(DIAMOND, Properties[int]()) == Proved(states=4, edges=4, depth=2)


def test_a_counterexample_is_a_shortest_one() -> None:
    graph = Graph({0: {"long": 1, "short": 3}, 1: {"on": 2}, 2: {"on": 4}, 3: {"on": 4}})
    properties: Properties[int] = Properties(always=[Always("never 4", lambda s: "is 4" if s == 4 else "")])
    found = explore(graph, properties)
    assert isinstance(found, Counterexample)
    assert (found.property, found.detail, found.start) == ("never 4", "is 4", 0)
    assert found.steps == (("short", 3), ("on", 4))


def test_sometimes_guards_against_a_model_in_which_nothing_happens() -> None:
    seen: Properties[int] = Properties(sometimes=[Sometimes("3", lambda s: s == 3)])
    assert explore(DIAMOND, seen) == Proved(4, 4, 2, ("3",))
    unseen: Properties[int] = Properties(sometimes=[Sometimes("9", lambda s: s == 9)])
    found = explore(DIAMOND, unseen)
    assert isinstance(found, Counterexample)
    assert (found.property, found.steps) == ("9", ())


def test_a_wedge_is_found_and_a_fault_is_no_way_out_of_it() -> None:
    edges = {0: {"on": 1, "crash": 2}, 1: {"back": 0}, 2: {"spin": 3}, 3: {"spin": 2, "crash": 1}}
    ends: Eventually[int] = Eventually("ends", lambda s: s == 1)
    found = explore(Graph(edges, ("crash",)), Properties(eventually=ends))
    assert isinstance(found, Counterexample)
    assert (found.property, found.steps) == ("ends", (("crash", 2),))
    assert isinstance(explore(Graph(edges), Properties(eventually=ends)), Proved)


def test_a_goal_is_found_beside_the_first_step() -> None:
    """The first steps go in a circle; each other way out has to be tried, more than once."""
    graph = Graph({0: {"on": 1}, 1: {"back": 0, "out": 2}, 2: {"back": 1, "out": 3}})
    ends: Eventually[int] = Eventually("ends", lambda s: s == 3)
    assert isinstance(explore(graph, Properties(eventually=ends)), Proved)


def test_nothing_is_put_off_for_ever() -> None:
    """A model that would rather go in a circle than say what else there is."""

    class Dizzy(Graph):
        def ahead(self, state: int, whole: bool = False) -> tuple[list[int], list[int]]:
            usual, faulty = super().ahead(state)
            return (usual if whole else usual[:1]), faulty

    circle = Dizzy({0: {"round": 1, "out": 3}, 1: {"round": 2, "out": 3}, 2: {"round": 0, "out": 3}})
    properties: Properties[int] = Properties(always=[Always("never 3", lambda s: "is 3" if s == 3 else "")])
    found = explore(circle, properties)
    assert isinstance(found, Counterexample)
    assert found.steps[-1] == ("out", 3)


def test_states_that_look_alike_are_judged_once() -> None:
    judged: list[int] = []

    def note(state: int) -> str:
        judged.append(state)
        return ""

    properties = Properties(always=[Always("noted", note)], seen=lambda state: state % 2)
    assert isinstance(explore(DIAMOND, properties), Proved)
    assert judged == [0, 1]


def test_gives_up_at_its_limit_by_name() -> None:
    found = explore(DIAMOND, Properties[int](), states_limit=2)
    assert isinstance(found, Unknown)
    assert found.limit == "states_limit=2"
