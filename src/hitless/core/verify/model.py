"""The handover as a model for the explorer: what comes next in a world, fast, and everything that is asked of it.

What a node does alone adds a constant to the world, which is computed once for each state of that node with its queue.
So `handover.step` runs some thousand times for millions of worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations
from typing import NamedTuple

from hitless.core.ipsec.state import Publish, Reincarnate
from hitless.core.model.view import RecordAbsent
from hitless.core.verify import judge
from hitless.core.verify import node as nodes
from hitless.core.verify.alone import Step, commutes
from hitless.core.verify.explore import Always, Eventually, Properties, Sometimes
from hitless.core.verify.log import RELIST, Batch
from hitless.core.verify.moves import FAULTS, Action, Moves, Scope
from hitless.core.verify.packed import MEMBER, NODE, NODE_BITS, Pool

__all__ = ["ALWAYS", "FAULTS", "Action", "HandoverModel", "Scope", "World"]
World = int
ALWAYS = ("decryptable", "no key reuse", "sound")


class _Plan(NamedTuple):
    """What each thing that one member does alone adds to a world, and a tick; `writes` touch the store as well."""

    adds: tuple[int, ...]
    tick: int
    writes: tuple[Action, ...]
    shares: bool
    alone: int
    publishes: bool


class HandoverModel(Moves):
    """The model of one scope. Worlds mean something only to the model that made them."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._plans: tuple[dict[int, _Plan], ...] = tuple({} for _ in self.names)
        self._spots = tuple(zip(range(scope.nodes), self.layout.shifts, self._plans, strict=True))
        self._quiet_stores: dict[int, bool] = {}
        self._calm: dict[int, bool] = {}
        self._faces: Pool[judge.Face] = Pool(lambda face: face, NODE_BITS)
        self._face_of: dict[int, int] = {}
        self._done: dict[tuple[int, int], bool] = {}

    def ahead(self, world: World) -> tuple[Sequence[World], Sequence[World]]:
        """The same worlds as `next` of all `actions`, but those that stay the same."""
        usual: list[World] = []
        tick = 0
        later: list[Action] = []
        calm = self._is_calm(world)
        store = world >> self.layout.store_shift
        quiet = self._quiet_stores.get(store)
        if quiet is None:
            held = self._stores.values[store]
            quiet = self._quiet_stores[store] = not (held.tombstones or held.silent)
        for at, shift, plans in self._spots:
            plan = plans.get(world >> shift & MEMBER)
            if plan is None:
                plan = self._plan(world, at)
            if calm and plan.alone:
                return (world + plan.alone,), ()
            if calm and plan.publishes and self._all_registered(store):
                return (self.next(world, plan.writes[0]),), ()
            for add in plan.adds:
                usual.append(world + add)  # noqa: PERF401 - a comprehension costs more than it saves for so few
            tick += plan.tick
            if plan.writes:
                later.extend(plan.writes)
            if plan.shares or not quiet:
                later.extend(self.shared(world, at))
        for action in later:
            after = self.next(world, action)
            if after != world:
                usual.append(after)
        if tick:
            usual.append(world + tick)
        return usual, () if calm else [self.next(world, each) for each in self.faulty(world)]

    def _is_calm(self, world: World) -> bool:
        """Whether no fault is left."""
        number = self.layout.faults(world)
        calm = self._calm.get(number)
        if calm is None:
            left = self._faults.values[number]
            calm = self._calm[number] = not left[-1] or not any(left[:-1])
        return calm

    def _plan(self, world: World, at: int) -> _Plan:
        adds, writes = [], []
        for action in self.private(world, at):
            if self._touches_store(world, action):
                writes.append(action)
            elif (after := self.next(world, action)) != world:
                adds.append(after - world)
        node = self.node(world, at)
        tick = self._local(world, Action("tick", at)) - world
        shares = max(node.file) < self.scope.newest or node.barred
        alone = adds[0] if len(adds) == 1 and not writes and self._may_go_alone(world, at, adds[0]) else 0
        publishes = len(writes) == 1 and not adds and self._may_publish_alone(world, at)
        plan = _Plan(tuple(adds), tick, tuple(writes), shares, alone, publishes)
        self._plans[at][world >> self.layout.shifts[at] & MEMBER] = plan
        return plan

    def _may_go_alone(self, world: World, at: int, add: int) -> bool:
        """See `alone`. `add` is the only thing that the node can do by itself in this world."""
        number = self.layout.node(world, at)
        before, after = self._nodes.values[number], self.node(world + add, at)
        delivers = not before.pending
        if not self.scope.reduce or judge.face(before) != judge.face(after) or (delivers and nodes.can_decide(before)):
            return False
        what: tuple[str, int | Batch] = ("hear", self.queue(world, at)[0]) if delivers else ("perform", 0)
        move: Step = lambda state: self._move(state, *what)[0]  # noqa: E731
        return commutes(number, move, self._meanwhile, partial(self._unfit, delivers))

    def _may_publish_alone(self, world: World, at: int) -> bool:
        """A word that waits to be said may as well be said and wait to be heard.

        Only between two nodes, so that it overtakes nobody's, and where no record but progress will be written.
        """
        node = self.node(world, at)
        if not self.scope.reduce or self.scope.nodes > 2 or self.scope.upsets() or not node.pending:
            return False
        number, after = self.layout.node(world, at), nodes.perform(node)[0]
        perform: Step = lambda state: self._move(state, "perform")[0]  # noqa: E731
        same = judge.face(node) == judge.face(after)
        return same and commutes(number, perform, self._meanwhile, partial(self._unfit, False))

    def _meanwhile(self, number: int) -> Iterator[Step]:
        """What may happen to a node that does nothing itself, and is told nothing."""
        yield lambda state: self._move(state, "tick")[0]
        for generation in range(max(self._nodes.values[number].file) + 1, self.scope.newest + 1):
            yield partial(lambda generation, state: self._move(state, "load", generation)[0], generation)

    def _unfit(self, delivers: bool, number: int) -> bool:
        node = self._nodes.values[number]
        return node.barred or (delivers and nodes.can_decide(node))

    def _all_registered(self, store: int) -> bool:
        return any(generation == self.scope.newest for generation, _ in self._stores.values[store].keys)

    def _touches_store(self, world: World, action: Action) -> bool:
        if action.what == "perform":
            return isinstance(self.node(world, action.node).pending[0].effect, Publish | Reincarnate)
        batch = () if action.what == "decide" else self.queue(world, action.node)[0]
        return action.what == "reconnect" or (
            action.what == "deliver" and (batch == RELIST or RecordAbsent(self.names[action.node]) in batch)
        )

    # --- what is asked ------------------------------------------------------------------------------------

    def undecryptable(self, world: World) -> str:
        """Something sent, or about to be, that its receiver cannot decrypt; "" if there is none."""
        found = (judge.undecryptable(a, b) for a, b in permutations(self.faces(world), 2))
        return next(filter(None, found), "")

    def reused(self, world: World) -> str:
        """An SA that exists a second time with the key it had; "" if there is none."""
        return next(filter(None, (each.reused for each in self.faces(world))), "")

    def wrong(self, world: World) -> str:
        """What one node did that it must never do: take back a word, delete what it sends with."""
        return next(filter(None, (each.unsound for each in self.faces(world))), "")

    def faces(self, world: World) -> list[judge.Face]:
        return [judge.face(self.node(world, at)) for at in range(self.scope.nodes)]

    def seen(self, world: World) -> int:
        """The faces of all nodes, by number: all that `undecryptable`, `reused` and `wrong` look at."""
        seen, known = 0, self._face_of
        for shift in self.layout.shifts:
            number = world >> shift & NODE
            if number not in known:
                known[number] = self._faces.number(judge.face(self._nodes.values[number]))
            seen = seen << NODE_BITS | known[number]
        return seen

    def done(self, world: World) -> bool:
        """Everybody that was not removed is on the newest key, and nobody has anything left to do or to hear."""
        if world & self.layout.all_queues:
            return False
        if any(self._deciding.get(self.layout.node(world, at)) for at in range(self.scope.nodes)):
            return False
        key = (world & self.layout.all_nodes, world >> self.layout.store_shift)
        found = self._done.get(key)
        if found is None:
            members = [self.node(world, at) for at in range(self.scope.nodes)]
            found = self._done[key] = judge.rests(members, self.removed(world), self.scope.newest)
        return found

    def removed(self, world: World) -> frozenset[str]:
        """Nodes for which a tombstone stands."""
        return frozenset(name for name, _ in self.store(world).tombstones)

    def properties(self, always: Sequence[str] = ALWAYS) -> Properties[World]:
        """Everything that is asked of the protocol, or only these of `ALWAYS`."""
        checks = dict(zip(ALWAYS, (self.undecryptable, self.reused, self.wrong), strict=True))
        return Properties(
            always=[Always(name, checks[name]) for name in always],
            sometimes=[Sometimes(name, holds) for name, holds in self._sometimes()],
            eventually=Eventually("no wedge", self.done),
            seen=self.seen,
        )

    def _sometimes(self) -> Iterator[tuple[str, Callable[[World], bool]]]:
        """What some good end has behind it: the scope is seen to be exercised."""
        rotates = self.scope.newest > 1
        yield "a rotation completes" if rotates else "all is well", lambda world: not self.removed(world)
        if rotates:
            yield "an old key is deleted", self._deleted_old
        budgets = dict(zip(FAULTS, self.scope.budgets(), strict=True))
        for fault, budget in budgets.items():
            if budget:
                yield f"all is well after a {fault}", partial(self._well_after, fault, budget)
        if self.scope.expiries:
            yield "all is well without a heartbeat", lambda world: bool(self.store(world).silent)
        if self.scope.removals:
            yield "a removed node is cut off", lambda world: bool(self.removed(world))

    def _deleted_old(self, world: World) -> bool:
        members = (self.node(world, at) for at in range(self.scope.nodes))
        return any(ident.generation == 1 for node in members for _, ident in node.spent)

    def _well_after(self, fault: str, budget: int, world: World) -> bool:
        """All nodes are back, and so are their records."""
        return self.faults_left(world)[fault] < budget and not self.removed(world)
