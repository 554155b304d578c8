"""The handover as a model for the explorer: what comes next in a world, fast, and everything that is asked of it.

What a node does alone adds a constant to the world, which is computed once for each state of that node with its queue.
So `handover.step` runs some thousand times for millions of worlds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import permutations

from hitless.core.verify import judge
from hitless.core.verify.alone import FREE, LED_LIMIT, Alone
from hitless.core.verify.explore import Always, Eventually, Properties, Sometimes
from hitless.core.verify.moves import FAULTS, Action, Scope
from hitless.core.verify.packed import MEMBER, NODE, NODE_BITS, Pool

__all__ = ["ALWAYS", "FAULTS", "Action", "HandoverModel", "Scope", "World"]
World = int
ALWAYS = ("decryptable", "no key reuse", "sound")


class HandoverModel(Alone):
    """The model of one scope. Worlds mean something only to the model that made them."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._quiet_stores: dict[int, bool] = {}
        self._faces: Pool[judge.Face] = Pool(lambda face: face, NODE_BITS)
        self._face_of: dict[int, int] = {}
        self._done: dict[tuple[int, int], bool] = {}

    def ahead(self, world: World, whole: bool = False) -> tuple[Sequence[World], Sequence[World]]:
        """What `next` makes of all `actions`, followed through what goes first and alone; but not the world itself.

        Where not `whole`, all that one node may do goes first if it can.
        """
        usual: list[World] = []
        tick = 0
        later: list[Action] = []
        calm = self.is_calm(world)
        reduce = calm and not whole
        store = world >> self.layout.store_shift
        quiet = self._quiet_stores.get(store)
        if quiet is None:
            held = self._stores.values[store]
            quiet = self._quiet_stores[store] = not (held.tombstones or held.silent)
        for at, shift, plans in self._spots:
            member = world >> shift & MEMBER
            plan = plans.get(member)
            if plan is None:
                plan = plans[member] = self.plan(member, at)
            if reduce and plan.first and (plan.first == FREE or self.is_apart(world, at, plan)):
                first = [world + add for add in plan.adds] or [self.next(world, plan.writes[0])]
                return [self.led_on(each) for each in first], ()
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
        if calm:
            return [self.led_on(each) for each in usual], ()
        faulty = [self.next(world, each) for each in self.faulty(world)]
        return usual, [self.led_on(each) if self.is_calm(each) else each for each in faulty]

    def trace(self, world: World, after: World) -> list[tuple[Action, World]]:
        """What leads from a world to one of those `ahead`: an action, and what goes first and alone thereafter."""
        ways = [[(action, self.next(world, action))] for action in self.actions(world)]
        for _ in range(LED_LIMIT):
            for way in ways:
                if way[-1][1] == after:
                    return way
            ways = [[*way, *self._led(way[-1][1])] for way in ways if self.is_calm(way[-1][1])]
        raise AssertionError("not ahead of it")

    def _led(self, world: World) -> list[tuple[Action, World]]:
        """What goes first and alone, if anything."""
        for at, shift, _ in self._spots:
            plan = self.plan(world >> shift & MEMBER, at)
            if plan.news:
                return [(Action("deliver", at), world + plan.news)]
            if plan.single and (plan.first == FREE or self.is_apart(world, at, plan)):
                action = next(self.private(world, at))
                return [(action, self.next(world, action))]
        return []

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
            if budget and (self.scope.restores or fault != "remove"):
                yield f"all is well after a {fault}", partial(self._well_after, fault, budget)
        if self.scope.expiries:
            yield "all is well without a heartbeat", lambda world: bool(self.store(world).silent)
        if self.scope.removals:
            yield "a removed node is cut off", lambda world: bool(self.removed(world))

    def _deleted_old(self, world: World) -> bool:
        members = (self.node(world, at) for at in range(self.scope.nodes))
        return any(node.retired for node in members)

    def _well_after(self, fault: str, budget: int, world: World) -> bool:
        """All nodes are back, and so are their records."""
        return self.faults_left(world)[fault] < budget and not self.removed(world)
