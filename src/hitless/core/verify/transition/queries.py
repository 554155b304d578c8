"""The questions: where what happens in between is what neither end does.

Each is a set of packets, moments and orders, made of the one evaluation: its value in the first moment is what the
tables before the plan do, its value in the last one what those after it do. Packets for which the rules of OpenFlow
leave the outcome open at an end, or in between, are set apart (`open_to`), for about them nothing can be shown.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import Final, NamedTuple, TypeVar

from hitless.core.model.flow import EST, RPL, TRK
from hitless.core.verify.transition.packets import Node, Space
from hitless.core.verify.transition.passes import Outcome, changed
from hitless.core.verify.transition.verdict import Kind

EQUALS: Final = "flows that are equal by the rules decide differently, at an end or in between"
Key = TypeVar("Key", bound=Hashable)
_LIVE = TRK | EST


class Lasting(NamedTuple):
    """Where a packet's own direction shows what lasts, where only replies can, and the replies that do."""

    shown: Node
    asked: Node
    answers: Node


class Queries:
    """What of an outcome violates which property."""

    def __init__(self, space: Space, outcome: Outcome) -> None:
        self._space, self._outcome = space, outcome
        self._first, self._last = space.end(after=False), space.end(after=True)
        self._sent_before = self._at(outcome.sent, self._first)
        self._sent_after = self._at(outcome.sent, self._last)
        self._commits_before = self._at(outcome.commits, self._first)
        self._commits_after = self._at(outcome.commits, self._last)
        self._between = self._any(outcome.sent.values())
        self._passes_before = self._any(self._sent_before.values())
        self._passes_after = self._any(self._sent_after.values())

    def question(self, kind: Kind) -> Node:
        """What shows a violation at once. (No table of methods: a circle of references would keep the diagrams.)"""
        match kind:
            case "loss":
                return self._loss()
            case "leak":
                return self._leak()
            case "third":
                return self._third()
            case "poison":
                return self._poison()
            case "ambiguous":
                return self._odd(self._outcome.equals)
            case _:
                return self._odd(self._outcome.orphans)

    def _at(self, sets: Mapping[Key, Node], moment: Node) -> dict[Key, Node]:
        return {key: self._space.at(node, moment) for key, node in sets.items()}

    def _any(self, nodes: Iterable[Node]) -> Node:
        found = self._space.false
        for node in nodes:
            found = found | node
        return found

    def _loss(self) -> Node:
        found = self._passes_before & self._passes_after & self._space.domain & ~self._between
        for key, node in self._outcome.sent.items():
            found = found | self._sent_before[key] & self._sent_after[key] & ~node & self._space.domain
        return found

    def _leak(self) -> Node:
        return self._between & ~self._passes_before & ~self._passes_after

    def _third(self) -> Node:
        found = self._space.false
        for key, node in self._outcome.sent.items():
            found = found | node & ~self._sent_before[key] & ~self._sent_after[key]
        return found & (self._passes_before | self._passes_after)

    def _poison(self) -> Node:
        return self._any(self.new_commits().values())

    def new_commits(self) -> dict[tuple[int, int | None], Node]:
        """What is committed in between and by neither end, by zone and mark."""
        found = {}
        for key, node in self._outcome.commits.items():
            found[key] = node & ~self._commits_before[key] & ~self._commits_after[key]
        return found

    def _odd(self, node: Node) -> Node:
        return node & ~self._space.at(node, self._first) & ~self._space.at(node, self._last)

    def stays(self) -> Lasting:
        """Marks that outlive the plan."""
        shown = asked = answers = self._space.false
        for (_, mark), node in self.new_commits().items():
            if not mark:
                continue
            allowed = self._space.answered(self._passes_after, _LIVE, 0)
            passes = self._space.answered(self._passes_after, _LIVE, mark)
            heals = self._marked_after(mark, lambda each, mark=mark: each not in (None, mark))  # type: ignore[misc]
            shown = shown | node & allowed & ~passes & ~heals
            asked = asked | node & allowed & passes & ~heals
            free, held = (self._space.answered(self._passes_after, _LIVE | RPL, each) for each in (0, mark))
            answers = answers | free & ~held
        return Lasting(shown, asked, answers)

    def survives(self) -> Lasting:
        """Connections of leaked packets after the plan."""
        committed = self._any(node for (_, mark), node in self._outcome.commits.items() if not mark)
        leaked = self._leak() & committed
        passes = self._space.answered(self._passes_after, _LIVE, 0)
        cut = self._marked_after(0, bool)
        answers = self._space.answered(self._passes_after, _LIVE | RPL, 0)
        return Lasting(leaked & passes, leaked & ~passes & ~cut, answers)

    def _marked_after(self, held: int, wanted: Callable[[int | None], bool]) -> Node:
        """Live connections with the mark `held` that after the plan get another that is wanted."""
        found = self._any(node for (_, mark), node in self._commits_after.items() if wanted(mark))
        return self._space.answered(found, _LIVE, held)

    def open_to(self) -> dict[str, Node]:
        """Packets of which the outcome is not known, by why."""
        none = self._space.false
        # What was not understood, or decided by equals, may lead to what changes.
        found = {why: self._space.whenever(node) for why, node in self._outcome.unclear.items()}
        found[EQUALS] = self._space.whenever(self._outcome.equals)
        blind = {why: node for why, node in self._outcome.opaque.items() if node != none}
        changes = self._changed() if blind else none
        found.update((why, self._space.whenever(node) & changes) for why, node in blind.items())
        return {why: node for why, node in found.items() if node != none}

    def _changed(self) -> Node:
        """Packets that meet a look-up whose outcome is not the same at all times."""
        found = self._space.false
        for where, looked in self._outcome.looked:
            found = found | self._space.whenever(where & changed(self._space, looked))
        return found
