"""Walks every state of a model, breadth first, and says whether its properties hold.

A *model* says where it starts, what can happen in a state, and what comes of it. Three kinds of properties are
asked. `Always` holds in every state. `Sometimes` holds in at least one good end: it guards against a model in which
nothing happens. `Eventually` means *no wedge*: from every state, if faults stop, the goal can be reached. The search
is breadth first with parent pointers, so a counterexample is a shortest one.

No edge is kept, only where each state was first reached from and what comes first of it without a fault. A wedge is
looked for by following those first steps: nearly always they lead to the goal. Where they do not, all the others are
asked for again.

Pure and generic: a state is any hashable value (a packed integer is the fastest), and nothing here knows what it
stands for.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence
from itertools import pairwise
from typing import Generic, Protocol, TypeVar

import msgspec

S = TypeVar("S", bound=Hashable)
A = TypeVar("A")
A_co = TypeVar("A_co", covariant=True)

STATES_LIMIT = 2_000_000
"""Beyond this many states an exploration gives up: about 500 MB with states of a few machine words."""


_UNKNOWN, _LIVE, _LOST = 0, 1, 2


class Model(Protocol[S, A_co]):
    """What can happen. The same state must always offer the same things in the same order."""

    def init(self) -> Iterable[S]:
        """The states to start from."""
        ...

    def ahead(self, state: S, whole: bool = False) -> tuple[Sequence[S], Sequence[S]]:
        """What the state may become next: without a fault, and by one. Never the state itself.

        The first of those without a fault should lead on, towards the goal. Where not `whole`, what may as well come
        later can be left out, where no fault is left. Where all that is left leads to states known already, the rest is
        asked for: so nothing is put off for ever along a circle.
        """
        ...

    def trace(self, state: S, after: S) -> Sequence[tuple[A_co, S]]:
        """The steps from a state to one of those `ahead`, each with what it becomes: only to tell a counterexample."""
        ...


class Always(Generic[S]):
    """Holds in every state. `check` returns what is wrong, or ""."""

    def __init__(self, name: str, check: Callable[[S], str]) -> None:
        self.name, self.check = name, check


class Sometimes(Generic[S]):
    """Holds in at least one of the states that are a goal (of all states, where there is no goal)."""

    def __init__(self, name: str, holds: Callable[[S], bool]) -> None:
        self.name, self.holds = name, holds


class Eventually(Generic[S]):
    """From every state a goal can be reached without a fault."""

    def __init__(self, name: str, goal: Callable[[S], bool]) -> None:
        self.name, self.goal = name, goal


class Properties(Generic[S]):
    """What is asked of a model. One goal at most.

    `seen` is the part of a state that the `Always` look at: states alike in it are judged once.
    """

    def __init__(
        self,
        always: Sequence[Always[S]] = (),
        sometimes: Sequence[Sometimes[S]] = (),
        eventually: Eventually[S] | None = None,
        seen: Callable[[S], Hashable] = lambda state: state,
    ) -> None:
        self.always, self.sometimes, self.eventually = tuple(always), tuple(sometimes), eventually
        self.seen = seen

    def goal(self, state: S) -> bool:
        """Whether the `Sometimes` are asked of this state."""
        return self.eventually is None or self.eventually.goal(state)


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


def explore(
    model: Model[S, A], properties: Properties[S], states_limit: int = STATES_LIMIT
) -> Proved | Counterexample[S, A] | Unknown:
    """Visit every reachable state. Memory grows with the states, time with the edges."""
    return _Walk(model, properties).run(states_limit)


class _Walk(Generic[S, A]):
    """One exploration: states in breadth-first order, each with where it was first reached from."""

    def __init__(self, model: Model[S, A], properties: Properties[S]) -> None:
        self.model, self.properties = model, properties
        self.number: dict[S, int] = {}
        self.states: list[S] = []
        self.parent = array("l")
        # Where the first step without a fault leads to; the state itself where there is none.
        self.onward = array("l")
        self.goals = bytearray()
        self.judged: set[Hashable] = set()
        self.unseen = list(properties.sometimes)
        self.edges = self.depth = 0
        # So many states are no deeper than the one that is visited: a step to one of them may close a circle.
        self.known = 0

    def run(self, states_limit: int) -> Proved | Counterexample[S, A] | Unknown:
        self._add(tuple(self.model.init()), -1)
        begin, end = 0, len(self.states)
        while begin < end:
            self.known = end
            for at in range(begin, end):
                found = self._visit(at)
                if found is not None:
                    return found
                if len(self.states) > states_limit:
                    return Unknown(f"states_limit={states_limit}", len(self.states), self.depth)
            begin, end = end, len(self.states)
            self.depth += begin < end
        return self._concluded()

    def _add(self, reached: Sequence[S], parent: int) -> None:
        number, states = self.number, self.states
        size = len(states)
        for state in reached:
            if number.setdefault(state, size) == size:
                states.append(state)
                self.parent.append(parent)
                size += 1

    def _visit(self, at: int) -> Counterexample[S, A] | None:
        state, properties = self.states[at], self.properties
        part = properties.seen(state)
        if part not in self.judged:
            self.judged.add(part)
            for always in properties.always:
                detail = always.check(state)
                if detail:
                    return self._shown(at, always.name, detail)
        good = properties.goal(state)
        self.goals.append(good)
        if good and self.unseen:
            self.unseen = [each for each in self.unseen if not each.holds(state)]
        usual, faulty = self.model.ahead(state)
        self._add(usual, at)
        if not faulty and all(self.number[after] < self.known for after in usual):
            usual, faulty = self.model.ahead(state, whole=True)
            self._add(usual, at)
        self.onward.append(self.number[usual[0]] if usual else at)
        if faulty:
            self._add(faulty, at)
        self.edges += len(usual) + len(faulty)
        return None

    def _concluded(self) -> Proved | Counterexample[S, A]:
        if self.properties.eventually is not None:
            wedged = self._wedged()
            if wedged >= 0:
                detail = "from here the goal cannot be reached, even if nothing fails any more"
                return self._shown(wedged, self.properties.eventually.name, detail)
        if self.unseen:
            return Counterexample(self.unseen[0].name, "never happens", len(self.states), self.states[0])
        seen = tuple(each.name for each in self.properties.sometimes)
        return Proved(len(self.states), self.edges, self.depth, seen)

    def _wedged(self) -> int:
        """The first state from which no goal is reachable; -1 where there is none."""
        live, onward = bytearray(self.goals), self.onward
        for start in range(len(live)):
            at, way = start, []
            while live[at] == _UNKNOWN:
                live[at] = _LOST  # met again, the way is a circle
                way.append(at)
                at = onward[at]
            if live[at] == _LIVE:
                for each in way:
                    live[each] = _LIVE
        lost = [at for at, how in enumerate(live) if how != _LIVE]
        changed = True
        while lost and changed:
            saved = {at for at in reversed(lost) if self._is_saved(at, live)}
            changed = bool(saved)
            lost = [at for at in lost if at not in saved]
        return lost[0] if lost else -1

    def _is_saved(self, at: int, live: bytearray) -> bool:
        usual, _ = self.model.ahead(self.states[at], whole=True)
        if any(after in self.number and live[self.number[after]] == _LIVE for after in usual):
            live[at] = _LIVE
            return True
        return False

    def _shown(self, number: int, name: str, detail: str) -> Counterexample[S, A]:
        path = [number]
        while self.parent[path[-1]] >= 0:
            path.append(self.parent[path[-1]])
        states = [self.states[each] for each in reversed(path)]
        steps = tuple(step for pair in pairwise(states) for step in self.model.trace(*pair))
        return Counterexample(name, detail, len(self.states), states[0], steps)
