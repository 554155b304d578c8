"""Which moves of a node may go first: a partial-order reduction that is checked, not assumed.

Two orders of moves that end in the same world need not both be visited. All that a node can do by itself in a world
may go first, and nobody else's moves be followed from there, under three conditions.

*It commutes* with everything else that may happen to the node meanwhile: the time that passes and the keys it loads,
as often and in whatever order. That is computed, on the node's own states (`trial`). What other nodes do only makes
the node's queue longer. A fault commutes with nothing, so this is for worlds in which none is left.

*Nothing else becomes possible* for the node meanwhile: neither by the time that passes (`trial` again), nor because
it is told something. So it decides first only if it may be told something now, which is then followed as well, or if
the other node says nothing any more before it is told something itself (`Solo`).

*It hides nothing that is wrong.* What was wrong before the move is wrong after it: then whoever visits only the world
after it misses nothing. So what is sent must not become less. What can be received may become less (an IN state is
removed); it may become more (one is installed) only if the other node sends nothing of the kind before it is told
something itself. That is computed as well, by letting the other node go on without this one (`Solo`).

And *news that makes no difference* is told at once, also to a node that is about to do something: it commutes with all
that the node will do by itself until it is told more (`indifferent`), and nothing can be told before it.

A world in which one thing goes first and alone is not kept: what follows from it takes its place. Where several go
first, and all of them lead to worlds known before, everything is followed (`explore`): nobody is put off for ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from hitless.core.ipsec.state import Publish, Reincarnate
from hitless.core.model.view import RecordAbsent
from hitless.core.verify import judge
from hitless.core.verify.log import RELIST, Batch
from hitless.core.verify.moves import Action, Moves, Scope, World
from hitless.core.verify.node import Ident, Node
from hitless.core.verify.packed import MEMBER, NODE

Step = Callable[[int], int]
"""From the number of a node's state to that of another."""

FREE, APART = 1, 2
LED_LIMIT = 200
"""Moves in a row that go first: far more than a node ever has to do, and an end to a circle."""


class Solo(NamedTuple):
    """What a node may do before it is told something new: identities it sends, as bits; whether it says anything."""

    sends: int
    says: bool


class Looks(NamedTuple):
    """What a verdict hangs on: what a node sends and can receive, as bits, and whether anything is wrong with it."""

    sends: int
    receives: int
    wrong: int


class Plan(NamedTuple):
    """What each thing that one member does alone adds to a world, and a tick; `writes` touch the store as well.

    `first`: all of `adds` and `writes` may go first, `FREE` whatever others do, or where the other node is `APART`: it
    sends nothing of `gained`, and says nothing while this one is `open`, ready to decide and able to be told something.
    `single`: they are one. `news` is what it adds to be told what makes no difference.
    """

    adds: tuple[int, ...]
    tick: int
    writes: tuple[Action, ...]
    shares: bool
    news: int
    first: int = 0
    single: bool = False
    gained: int = 0
    open: bool = False


def trial(
    start: int,
    moves: Iterable[Step],
    others: Callable[[int], Iterable[Step]],
    offers: Callable[[int], object],
    looks: Callable[[int], Looks],
) -> int | None:
    """What `moves` let a node receive that it could not before, from `start` on, as bits.

    None where they may not go first. `others` are the steps that may come in between, by the state that they come in;
    `offers` is what a node can do by itself in a state.
    """
    moves, offered = tuple(moves), offers(start)
    seen, left, gained = {start}, [start], 0
    while left:
        at = left.pop()
        before, afterwards = looks(at), [move(at) for move in moves]
        if offers(at) != offered:
            return None
        for moved in map(looks, afterwards):
            if before.sends & ~moved.sends or before.wrong & ~moved.wrong:
                return None
            gained |= moved.receives & ~before.receives
        for other in others(at):
            between = other(at)
            if [other(moved) for moved in afterwards] != [move(between) for move in moves]:
                return None
            if between not in seen:
                seen.add(between)
                left.append(between)
    return gained


def indifferent(
    start: int, move: Step, others: Callable[[int], Iterable[Step]], alike: Callable[[int, int], bool]
) -> set[int] | None:
    """The states from `start` on, in all of which it makes no difference whether `move` comes before `others` or after.

    None where there is one in which it does. States that are `alike` offer the same and look the same.
    """
    seen, left = {start}, [start]
    while left:
        at = left.pop()
        moved = move(at)
        if not alike(at, moved):
            return None
        for other in others(at):
            between = other(at)
            if other(moved) != move(between):
                return None
            if between not in seen:
                seen.add(between)
                left.append(between)
    return seen


class Alone(Moves):
    """What each member may do by itself, and what of it goes first."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._plans: tuple[dict[int, Plan], ...] = tuple({} for _ in self.names)
        self._spots = tuple(zip(range(scope.nodes), self.layout.shifts, self._plans, strict=True))
        self._calm: dict[int, bool] = {}
        self._idents: dict[Ident, int] = {}
        self._looks: dict[int, Looks] = {}
        self._solos: tuple[dict[int, Solo | None], ...] = tuple({} for _ in self.names)
        self._idle: dict[tuple[int, Batch], bool] = {}
        self._all_registered: dict[int, bool] = {}

    def is_calm(self, world: World) -> bool:
        """Whether no fault is left."""
        number = self.layout.faults(world)
        calm = self._calm.get(number)
        if calm is None:
            left = self._faults.values[number]
            calm = self._calm[number] = not left[-1] or not any(left[:-1])
        return calm

    def led_on(self, world: World) -> World:
        """A calm world after all that goes first and alone."""
        for _ in range(LED_LIMIT if self.scope.reduce else 0):
            for at, shift, plans in self._spots:
                member = world >> shift & MEMBER
                plan = plans.get(member)
                if plan is None:
                    plan = plans[member] = self.plan(member, at)
                if plan.news:
                    world += plan.news
                    break
                if plan.single and (plan.first == FREE or self.is_apart(world, at, plan)):
                    world = world + plan.adds[0] if plan.adds else self.next(world, plan.writes[0])
                    break
            else:
                break
        return world

    def plan(self, member: int, at: int) -> Plan:
        """What is in store for a member: a node with its queue."""
        shift, number = self.layout.shifts[at], member & NODE
        world, node = member << shift, self._nodes.values[number]
        actions = tuple(self.private(world, at))
        writes = tuple(each for each in actions if self._touches_store(world, each))
        moved = [self.next(world, each) for each in actions if each not in writes]
        plan = Plan(
            adds=tuple(after - world for after in moved if after != world),
            tick=self._step("tick")(number) - number << shift,
            writes=writes,
            shares=max(node.file) < self.scope.newest or node.barred,
            news=self._deliver(world, at) - world if self._is_idle_news(world, at) else 0,
        )
        if not self.scope.reduce or not actions or (node.barred and not node.pending):
            return plan
        if len(plan.adds) < len(actions) and not _says(node):
            return plan
        batch = self.queue(world, at)[:1]
        steps = [self._step("hear", *batch) if each.what == "deliver" else self._step(each.what) for each in actions]
        gained = trial(number, steps, self._meanwhile, self._offers, self._look)
        if gained is None:
            return plan
        is_open = not batch and not node.pending
        first = APART if gained or is_open or writes else FREE
        return plan._replace(first=first, single=len(actions) == 1, gained=gained, open=is_open)

    def is_apart(self, world: World, at: int, plan: Plan) -> bool:
        """Whether the only other node does nothing meanwhile on which it hangs whether what is in store goes first."""
        store, other = world >> self.layout.store_shift, 1 - at
        registered = self._all_registered.get(store)
        if registered is None:
            keys = dict(self._stores.values[store].keys)
            registered = self._all_registered[store] = self.scope.newest in keys and self.scope.nodes == 2
        if not registered:
            return False
        solo = self._solo(world >> self.layout.shifts[other] & MEMBER, other)
        return solo is not None and not (solo.sends & plan.gained or (plan.open and solo.says))

    def _solo(self, member: int, at: int) -> Solo | None:
        """All keys are registered. None: the node may write a record or read the store; then nothing is known of it."""
        solos = self._solos[at]
        if member in solos:
            return solos[member]
        solos[member] = None  # met again on the way: a circle
        shift, number = self.layout.shifts[at], member & NODE
        world, node = member << shift, self._nodes.values[number]
        actions = tuple(self.private(world, at))
        writes = any(self._touches_store(world, each) for each in actions)
        if node.barred or (writes and not _says(node)):
            return None
        steps = (*self._meanwhile(number), *([self._step("perform")] if writes else []))
        after = {member - number + step(number) for step in steps}
        after |= {self.next(world, each) >> shift for each in actions if not writes}
        sends, says = self._look(number).sends, writes
        for each in after - {member}:
            solo = self._solo(each, at)
            if solo is None:
                return None
            sends, says = sends | solo.sends, says or solo.says
        solos[member] = found = Solo(sends, says)
        return found

    def _is_idle_news(self, world: World, at: int) -> bool:
        """Whether what a node is told next makes no difference to all that it can do before it is told more."""
        queue, number = self.queue(world, at), self.layout.node(world, at)
        if not self.scope.reduce or not queue or RELIST in queue or RecordAbsent(self.names[at]) in queue[0]:
            return False
        key = number, queue[0]
        if key not in self._idle:
            seen = indifferent(number, self._step("hear", queue[0]), self._whatever, self._are_alike)
            self._idle[key] = seen is not None
            self._idle.update(((each, queue[0]), True) for each in seen or ())
        return self._idle[key]

    def _are_alike(self, before: int, after: int) -> bool:
        same = self._offers(before) == self._offers(after) and self._look(before) == self._look(after)
        return same and not self._nodes.values[before].barred

    def _touches_store(self, world: World, action: Action) -> bool:
        if action.what == "perform":
            return isinstance(self.node(world, action.node).pending[0].effect, Publish | Reincarnate)
        batch = () if action.what == "decide" else self.queue(world, action.node)[0]
        return action.what == "reconnect" or (
            action.what == "deliver" and (batch == RELIST or RecordAbsent(self.names[action.node]) in batch)
        )

    # --- one node by itself -------------------------------------------------------------------------------

    def _step(self, what: str, argument: int | Batch = 0) -> Step:
        return lambda number: self._move(number, what, argument)[0]

    def _meanwhile(self, number: int) -> Iterator[Step]:
        """What may happen to a node that does nothing itself, and is told nothing."""
        yield self._step("tick")
        for generation in range(max(self._nodes.values[number].file) + 1, self.scope.newest + 1):
            yield self._step("load", generation)

    def _whatever(self, number: int) -> Iterator[Step]:
        """All that a node may do that is told nothing."""
        yield from self._meanwhile(number)
        yield from map(self._step, self._offers(number))

    def _look(self, number: int) -> Looks:
        found = self._looks.get(number)
        if found is None:
            face = judge.face(self._nodes.values[number])
            wrong = bool(face.reused) + 2 * bool(face.unsound)
            found = self._looks[number] = Looks(self._bits(face.sends), self._bits(face.receives | face.lost), wrong)
        return found

    def _bits(self, idents: Iterable[Ident]) -> int:
        return sum(1 << self._idents.setdefault(each, len(self._idents)) for each in idents)


def _says(node: Node) -> bool:
    """Whether the next thing that a node does is to say how far it is."""
    return bool(node.pending) and isinstance(node.pending[0].effect, Publish)
