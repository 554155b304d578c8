"""Walks every state of a model, breadth first, and says whether its properties hold.

A *model* says where it starts, what can happen in a state, and what comes of it. Three kinds of properties are
asked. `Always` holds in every state. `Sometimes` holds in at least one: it guards against a model in which nothing
happens. `Eventually` means *no wedge*: from every state, if faults stop, the goal can be reached; it is
backward reachability over the edges that are not faults. The search is breadth first with parent pointers, so a
counterexample is a shortest one.

Pure and generic: a state is any hashable value, and nothing here knows what it stands for.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Generic, Protocol, TypeVar

import msgspec

S = TypeVar("S", bound=Hashable)
A = TypeVar("A")

STATES_LIMIT = 2_000_000
"""Beyond this many states an exploration gives up: about 1 GB with states of a few machine words."""


class Model(Protocol[S, A]):
    """What can happen. The same state must always offer the same actions in the same order."""

    def init(self) -> Iterable[S]:
        """The states to start from."""
        ...

    def actions(self, state: S) -> Iterable[A]:
        """Everything that can happen in this state."""
        ...

    def next(self, state: S, action: A) -> S:
        """What the state becomes; the state itself where the action changes nothing."""
        ...


class Always(Generic[S]):
    """Holds in every state. `check` returns what is wrong, or ""."""

    def __init__(self, name: str, check: Callable[[S], str]) -> None:
        self.name, self.check = name, check


class Sometimes(Generic[S]):
    """Holds in at least one state."""

    def __init__(self, name: str, holds: Callable[[S], bool]) -> None:
        self.name, self.holds = name, holds


class Eventually(Generic[S, A]):
    """From every state a goal can be reached without a fault."""

    def __init__(self, name: str, goal: Callable[[S], bool], is_fault: Callable[[A], bool]) -> None:
        self.name, self.goal, self.is_fault = name, goal, is_fault


class Properties(Generic[S, A]):
    """What is asked of a model. One goal at most."""

    def __init__(
        self,
        always: Sequence[Always[S]] = (),
        sometimes: Sequence[Sometimes[S]] = (),
        eventually: Eventually[S, A] | None = None,
    ) -> None:
        self.always, self.sometimes, self.eventually = tuple(always), tuple(sometimes), eventually


class Proved(msgspec.Struct, frozen=True):
    """All properties hold in all states; `depth` is the longest of the shortest paths."""

    states: int
    edges: int
    depth: int
    seen: tuple[str, ...] = ()


class Counterexample(msgspec.Struct, Generic[S, A], frozen=True):
    """A property that does not hold. `steps` lead from `start` to the state that shows it, each with what it becomes.

    For an `Always`, `detail` says what is wrong in the last state. For an `Eventually`, the last state is one from
    which the goal cannot be reached any more. For a `Sometimes` there is no path to show: `steps` is empty.
    """

    property: str
    detail: str
    states: int
    start: S
    steps: tuple[tuple[A, S], ...] = ()


class Unknown(msgspec.Struct, frozen=True):
    """The exploration gave up; nothing wrong had been found until then."""

    limit: str
    states: int
    depth: int


class _Graph(Generic[S, A]):
    """States by number, in breadth-first order, with the way they were first reached."""

    def __init__(self) -> None:
        self.states: list[S] = []
        self.number: dict[S, int] = {}
        self.parent = array("l")
        self.via: list[A | None] = []
        self.depth = array("l")
        # Edges that are not faults, grouped by source: targets[first[n] : first[n + 1]].
        self.first = array("l", [0])
        self.targets = array("l")

    def add(self, state: S, parent: int, via: A | None) -> int:
        number = len(self.states)
        self.number[state] = number
        self.states.append(state)
        self.parent.append(parent)
        self.via.append(via)
        self.depth.append(0 if parent < 0 else self.depth[parent] + 1)
        return number

    def counterexample(self, number: int, name: str, detail: str) -> Counterexample[S, A]:
        steps: list[tuple[A, S]] = []
        at = number
        while self.parent[at] >= 0:
            via = self.via[at]
            if via is not None:
                steps.append((via, self.states[at]))
            at = self.parent[at]
        return Counterexample(name, detail, len(self.states), self.states[at], tuple(reversed(steps)))


def explore(
    model: Model[S, A], properties: Properties[S, A], states_limit: int = STATES_LIMIT
) -> Proved | Counterexample[S, A] | Unknown:
    """Visit every reachable state. Memory grows with the states, time with the edges."""
    graph: _Graph[S, A] = _Graph()
    unseen = list(properties.sometimes)
    for start in model.init():
        if start not in graph.number:
            graph.add(start, -1, None)
    edges, at = 0, 0
    while at < len(graph.states):
        state = graph.states[at]
        for always in properties.always:
            detail = always.check(state)
            if detail:
                return graph.counterexample(at, always.name, detail)
        if unseen:
            unseen = [each for each in unseen if not each.holds(state)]
        edges += _expand(model, graph, at, properties.eventually)
        if len(graph.states) > states_limit:
            return Unknown(f"states_limit={states_limit}", len(graph.states), graph.depth[at])
        at += 1
    return _conclude(graph, properties, unseen, edges)


def _expand(model: Model[S, A], graph: _Graph[S, A], at: int, eventually: Eventually[S, A] | None) -> int:
    state, number, edges = graph.states[at], graph.number, 0
    for action in model.actions(state):
        after = model.next(state, action)
        if after == state:
            continue
        edges += 1
        target = number.get(after)
        if target is None:
            target = graph.add(after, at, action)
        if eventually is not None and not eventually.is_fault(action):
            graph.targets.append(target)
    graph.first.append(len(graph.targets))
    return edges


def _conclude(
    graph: _Graph[S, A], properties: Properties[S, A], unseen: list[Sometimes[S]], edges: int
) -> Proved | Counterexample[S, A]:
    if properties.eventually is not None:
        wedged = _wedged(graph, properties.eventually.goal)
        if wedged >= 0:
            detail = "from here the goal cannot be reached, even if nothing fails any more"
            return graph.counterexample(wedged, properties.eventually.name, detail)
    if unseen:
        return Counterexample(unseen[0].name, "never happens", len(graph.states), graph.states[0])
    seen = tuple(each.name for each in properties.sometimes)
    return Proved(len(graph.states), edges, max(graph.depth, default=0), seen)


def _wedged(graph: _Graph[S, A], goal: Callable[[S], bool]) -> int:
    """The first state from which no goal is reachable; -1 where there is none."""
    live = bytearray(goal(state) for state in graph.states)
    first, targets = graph.first, graph.targets
    changed = True
    while changed:  # most edges lead forward in breadth-first order: a few backward sweeps are enough
        changed = False
        for at in range(len(live) - 1, -1, -1):
            if not live[at] and any(live[target] for target in targets[first[at] : first[at + 1]]):
                live[at] = changed = True
    return live.find(0)
