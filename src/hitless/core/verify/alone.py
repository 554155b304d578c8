"""Which moves of a node may go first and alone: a partial-order reduction that is checked, not assumed.

Two orders of moves that end in the same world need not both be visited. A node's move may go alone, before all that
anybody else does, when it commutes with everything else that may happen to the node meanwhile: the time that passes
and the keys it loads, as often and in whatever order. That is computed, on the node's own states. What other nodes
do only makes the node's queue longer. A fault commutes with nothing, so a move goes alone only when none is left.

And it must not hide what was wrong before it: the node shows the same face before and after. So IN installs,
switches and removals are never taken alone; what remains is an OUT install, and what a node at rest is told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

Step = Callable[[int], int]


def commutes(start: int, move: Step, others: Callable[[int], Iterable[Step]], unfit: Callable[[int], bool]) -> bool:
    """Whether `move` gives the same in whatever order with `others`, from `start` on (all are numbers of states).

    `others` are the steps that may come in between, by the state that they come in; `unfit` are the states in which
    something else is possible as well.
    """
    seen, left = {start}, [start]
    while left:
        at = left.pop()
        if unfit(at):
            return False
        moved = move(at)
        for other in others(at):
            between = other(at)
            if other(moved) != move(between):
                return False
            if between not in seen:
                seen.add(between)
                left.append(between)
    return True
