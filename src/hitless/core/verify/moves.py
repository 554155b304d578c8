"""The handover between nodes that share a store: what can happen, and what becomes of it.

Every node runs the real `handover.step`. The store is a log: what is written is queued for every node and delivered
one by one, as late as can be. A node decides only when it has nothing left to do, and whatever was delivered
meanwhile is decided upon together; so single, coalesced and late delivery are all in it. Effects are carried out one
at a time, and anything may happen in between: that is what makes an install slow, and a crash possible anywhere.

A global state, a *world*, is one integer: nodes, queues, the store and what is left of the faults are each kept once
and stand in it by number. Every transition of a node is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from hitless.core.ipsec.state import Install, Rules
from hitless.core.model.node import NodeRecord, Progress
from hitless.core.model.view import Listed, RecordAbsent, StoreEvent
from hitless.core.verify import node as nodes
from hitless.core.verify.log import RELIST, Batch, Queue, Store, cut, key_record
from hitless.core.verify.node import Node
from hitless.core.verify.packed import FAULTS_BITS, NODE_BITS, QUEUE_BITS, STORE_BITS, Layout, Pool

World = int
"""Nodes with their queues, the store, the faults left, packed as `packed.Layout` says."""


class Scope(msgspec.Struct, frozen=True):
    """What may happen. Keys are rotated up to generation `newest`; faults happen at most so often, anywhere.

    `crashes` of the agent, `reboots` of the machine, `refusals` of an install, `wipes` of the store, `vanishings` of an
    SA, `deletions` of a node's record (which it writes again), `expiries` of a heartbeat, `removals` of a node (which
    may be restored at any moment, if it `restores`), `moves` of a node to another underlay address. `together` is how
    many of all these at most.

    `prompt` nodes publish at once what they have to say. Others say no sooner than a drain later that the list of peers
    they wait for has changed: the other extreme. With two nodes the two are one (`node.said_at`). `reduce` visits only
    one order of what commutes (`alone.py`).

    `cold` starts with nodes that have registered and done nothing else; otherwise all is steady on generation 1.
    """

    nodes: int = 2
    newest: int = 2
    crashes: int = 0
    reboots: int = 0
    refusals: int = 0
    wipes: int = 0
    vanishings: int = 0
    deletions: int = 0
    expiries: int = 0
    removals: int = 0
    moves: int = 0
    together: int = 99
    restores: bool = True
    cold: bool = False
    prompt: bool = False
    reduce: bool = True
    rules: Rules = Rules(retry_limit_seconds=0.5)

    def budgets(self) -> tuple[int, ...]:
        """How often each of `FAULTS` may happen."""
        local = (self.crashes, self.reboots, self.refusals, self.vanishings, self.moves)
        return (*local, self.wipes, self.deletions, self.expiries, self.removals)


class Action(NamedTuple):
    """Something that happens, to which node (-1: to all)."""

    what: str
    node: int = -1
    number: int = 0


FAULTS = ("crash", "reboot", "refuse", "vanish", "move", "wipe", "delete", "expire", "remove")
_TICK = Action("tick")
_SIMPLE: dict[str, Callable[[Node], Node]] = {
    "decide": nodes.decide,
    "refuse": nodes.refuse,
    "tick": nodes.tick,
    "notice": nodes.notice,
}
_RESTARTS: dict[str, Callable[[Node, Listed], Node]] = {
    "crash": nodes.restart,
    "reboot": nodes.reboot,
    "move": nodes.readdress,
}


class Moves:
    """The model of one scope. Worlds mean something only to the model that made them."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.names = tuple(f"n{each + 1}" for each in range(scope.nodes))
        self.layout = Layout(scope.nodes)
        self._nodes: Pool[Node] = Pool(nodes.key, NODE_BITS)
        self._queues: Pool[Queue] = Pool(lambda queue: queue, QUEUE_BITS)
        self._stores: Pool[Store] = Pool(lambda store: store, STORE_BITS)
        self._faults: Pool[tuple[int, ...]] = Pool(lambda left: left, FAULTS_BITS)
        self._puts: Pool[nodes.Put | None] = Pool(lambda value: value, STORE_BITS)
        self._batches: Pool[Batch] = Pool(lambda batch: batch, STORE_BITS)
        self._moves: dict[tuple[object, ...], tuple[int, int]] = {}
        self._commits: dict[tuple[int, int], tuple[int, int]] = {}
        self._queued: dict[tuple[int, int], int] = {}
        self._deciding: dict[int, tuple[str, ...]] = {}
        # Number 0 is nothing: nothing on its way, nothing to write, nothing to see.
        self._queues.number(()), self._puts.number(None), self._batches.number(())

    # --- reading a world ----------------------------------------------------------------------------------

    def node(self, world: World, at: int) -> Node:
        return self._nodes.values[self.layout.node(world, at)]

    def queue(self, world: World, at: int) -> Queue:
        return self._queues.values[self.layout.queue(world, at)]

    def store(self, world: World) -> Store:
        return self._stores.values[self.layout.store(world)]

    def faults_left(self, world: World) -> dict[str, int]:
        """By name; `FAULTS` that none is left of are there as well."""
        return dict(zip(FAULTS, self._faults.values[self.layout.faults(world)], strict=False))

    # --- the model ----------------------------------------------------------------------------------------

    def init(self) -> Iterator[World]:
        scope = self.scope
        first, store, rules = frozenset({1}), Store(1, 0), scope.rules
        if scope.prompt:
            rules = msgspec.structs.replace(rules, publish_interval_seconds=0.0)
        store, _ = store.put(key_record(1))
        members = []
        for at, name in enumerate(self.names):
            members.append(nodes.fresh(nodes.record(name, at + 1), rules, first))
            store, _ = store.put(members[-1].state.me)
        world = self.layout.with_store(0, self._stores.number(store))
        for at, each in enumerate(members):
            world = self._with_node(world, at, nodes.restart(each, store.listed()))
        world = world if scope.cold else self.settled(world)
        yield self.layout.with_faults(world, self._faults.number((*scope.budgets(), scope.together)))

    def settled(self, world: World) -> World:
        """Where a world comes to rest when no fault happens and no key is loaded."""
        while True:
            calm = [each for each in self.usual(world) if each.what != "load"]
            after = self.next(world, calm[0])
            if after == world:
                return world
            world = after

    def actions(self, world: World) -> Iterator[Action]:
        yield from self.usual(world)
        yield from self.faulty(world)

    def usual(self, world: World) -> Iterator[Action]:
        """What happens without a fault; a tick comes last."""
        for at in range(self.scope.nodes):
            yield from self.private(world, at)
        for at in range(self.scope.nodes):
            yield from self.shared(world, at)
        yield _TICK

    def private(self, world: World, at: int) -> Iterator[Action]:
        """What a node can do by itself, as far as it and its queue are concerned. It may still write to the store."""
        offers = self._offers(self.layout.node(world, at))
        for what in offers:
            yield Action(what, at)
        if self.layout.queue(world, at) and "perform" not in offers:
            # While effects are pending nothing is decided, so what arrives then may as well arrive after them.
            yield Action("deliver", at)
            if RELIST in self.queue(world, at)[1:]:
                yield Action("reconnect", at)

    def shared(self, world: World, at: int) -> Iterator[Action]:
        """What depends on the store as well."""
        node, store, name = self.node(world, at), self.store(world), self.names[at]
        held = max(node.file)
        if held < self.scope.newest:
            registered = max((each for each, _ in store.keys), default=0)
            # A generation is counted up when its first key is loaded: nobody can skip one that does not exist.
            for generation in range(held + 1, min(self.scope.newest, max(registered, held) + 1) + 1):
                yield Action("load", at, generation)
        if node.barred and not node.pending and not store.bars(node.state.me):
            yield Action("notice", at)
        if self.scope.restores and name in dict(store.tombstones):
            yield Action("restore", at)
        if name in store.silent:
            yield Action("beat", at)

    def faulty(self, world: World) -> Iterator[Action]:
        left = self._faults.values[self.layout.faults(world)]
        if not left[-1]:
            return
        may = {what for what, budget in zip(FAULTS, left, strict=False) if budget}
        store = self.store(world)
        for at in range(self.scope.nodes):
            node, here = self.node(world, at), self.names[at] in dict(store.nodes)
            for what in may.intersection(_RESTARTS):
                yield Action(what, at)
            if "refuse" in may and node.pending and isinstance(node.pending[0].effect, Install):
                yield Action("refuse", at)
            if "vanish" in may:
                yield from (Action("vanish", at, each) for each in range(len(node.kernel)))
            if "expire" in may and self.names[at] not in store.silent:
                yield Action("expire", at)
            if here:
                yield from (Action(what, at) for what in ("delete", "remove") if what in may)
        if "wipe" in may:
            yield Action("wipe")

    def next(self, world: World, action: Action) -> World:  # noqa: PLR0911 - one flat case per action
        what, at = action.what, action.node
        if what in FAULTS:
            world = self._spend(world, what)
        match what:
            case "tick":
                for each in range(self.scope.nodes):
                    world = self._local(world, Action(what, each))
                return world
            case "deliver":
                return self._deliver(world, at)
            case "reconnect":
                return self._reconnected(world, at)
            case "load":
                if action.number not in dict(self.store(world).keys):
                    world = self._written(world, at, key_record(action.number))
                return self._local(world, action)
            case "crash" | "reboot" | "move":
                return self._restarted(world, action)
            case "wipe" | "delete" | "expire" | "remove" | "restore" | "beat":
                return self._stored(world, what, self.names[at])
            case _:
                return self._local(world, action)

    # --- one node -----------------------------------------------------------------------------------------

    def _offers(self, number: int) -> tuple[str, ...]:
        offers = self._deciding.get(number)
        if offers is None:
            node = self._nodes.values[number]
            offers = ("perform",) if node.pending else ("decide",) if nodes.can_decide(node) else ()
            self._deciding[number] = offers
        return offers

    def _local(self, world: World, action: Action) -> World:
        at = action.node
        number, put = self._move(self.layout.node(world, at), action.what, action.number)
        world = self.layout.with_node(world, at, number)
        if put == 0:
            return world
        registers = isinstance(self._puts.values[put], NodeRecord)
        return self._registered(world, at) if registers else self._committed(world, at, put)

    def _move(self, number: int, what: str, argument: int | Batch = 0) -> tuple[int, int]:
        """The node's number afterwards, and that of what it writes."""
        key = (number, what, argument)
        done = self._moves.get(key)
        if done is None:
            after, put = self._moved(self._nodes.values[number], what, argument)
            done = self._moves[key] = (self._nodes.number(after), self._puts.number(put))
        return done

    def _moved(self, node: Node, what: str, argument: int | Batch) -> tuple[Node, nodes.Put | None]:
        if isinstance(argument, tuple):
            return nodes.hear(node, argument), None
        match what:
            case "perform":
                return nodes.perform(node)
            case "load":
                return nodes.load(node, argument), None
            case "vanish":
                return nodes.vanish(node, sorted(ref for ref, _ in node.kernel)[argument]), None
            case _ if what in _RESTARTS:
                return _RESTARTS[what](node, self._stores.values[argument].listed()), None
            case _:
                return _SIMPLE[what](node), None

    # --- nodes and the store ------------------------------------------------------------------------------

    def _restarted(self, world: World, action: Action) -> World:
        at = action.node
        world = self._local(world, Action(action.what, at, self.layout.store(world)))
        # The new agent has just listed the store: nothing written earlier is news to it.
        return self._registered(self.layout.with_queue(world, at, 0), at)

    def _deliver(self, world: World, at: int) -> World:
        batch, *rest = self.queue(world, at)
        if batch == RELIST:
            return self._reconnected(world, at)
        world = self.layout.with_queue(world, at, self._queues.number(tuple(rest)))
        world = self._hear(world, at, batch)
        return self._registered(world, at) if RecordAbsent(self.names[at]) in batch else world

    def _hear(self, world: World, at: int, batch: tuple[StoreEvent, ...]) -> World:
        return self.layout.with_node(world, at, self._move(self.layout.node(world, at), "hear", batch)[0])

    def _reconnected(self, world: World, at: int) -> World:
        """A node finds another log: it reads it as it is now, and writes what it knows and misses there."""
        world = self.layout.with_queue(world, at, 0)
        return self._registered(self._hear(world, at, (self.store(world).listed(),)), at)

    def _registered(self, world: World, at: int) -> World:
        """What a node writes where a log lacks it: its keys' records and its own, unless it was removed."""
        node, store = self.node(world, at), self.store(world)
        for generation in sorted(node.state.held - {each for each, _ in store.keys}):
            world = self._written(world, at, key_record(generation))
        barred = store.bars(node.state.me)
        if store.lacks(node.state.me) and not barred:
            world = self._written(world, at, node.state.me)
        return self._with_node(world, at, msgspec.structs.replace(node, barred=barred))

    def _written(self, world: World, at: int, value: nodes.Put) -> World:
        return self._committed(world, at, self._puts.number(value))

    def _committed(self, world: World, at: int, put: int) -> World:
        key = (self.layout.store(world), put)
        value = self._puts.values[put]
        done = self._commits.get(key)
        if done is None:
            assert value is not None  # noqa: S101 - number 0 is never written
            store, batch = self.store(world).put(value)
            done = self._commits[key] = (self._stores.number(store), self._batches.number(batch))
        world = self.layout.with_store(world, done[0])
        # A node's own progress comes back to it as well; it knows it already.
        return self._queue(world, done[1], but=at if isinstance(value, Progress) else -1)

    def _queue(self, world: World, batch: int, but: int = -1) -> World:
        for each in range(self.scope.nodes) if batch else ():
            if each != but:
                key = (self.layout.queue(world, each), batch)
                longer = self._queued.get(key)
                if longer is None:
                    queue = (*self._queues.values[key[0]], self._batches.values[batch])
                    longer = self._queued[key] = self._queues.number(queue)
                world = self.layout.with_queue(world, each, longer)
        return world

    def _announced(self, world: World, store: Store, batch: Batch) -> World:
        world = self.layout.with_store(world, self._stores.number(store))
        return self._queue(world, self._batches.number(batch))

    def _stored(self, world: World, what: str, name: str) -> World:
        store = self.store(world)
        match what:
            case "wipe":
                for at in range(self.scope.nodes):
                    world = self.layout.with_queue(world, at, self._queues.number(cut(self.queue(world, at))))
                return self._announced(world, Store(store.epoch + 1, 0, silent=store.silent), ())
            case "delete":
                return self._announced(world, *store.without(name))
            case "remove":
                return self._announced(world, *store.buried(name))
            case "restore":
                return self._announced(world, store.restored(name), ())
            case "beat":
                return self._announced(world, store._replace(silent=store.silent - {name}), ())
            case _:
                return self._expired(world, store._replace(silent=store.silent | {name}), name)

    def _expired(self, world: World, store: Store, name: str) -> World:
        """A heartbeat ends. Only the historic mistake binds the node's record to it; a view is told of nothing else."""
        if self.scope.rules.absent == "delete" and name in dict(store.nodes):
            return self._announced(world, *store.without(name))
        return self._announced(world, store, ())

    def _with_node(self, world: World, at: int, node: Node) -> World:
        return self.layout.with_node(world, at, self._nodes.number(node))

    def _spend(self, world: World, what: str) -> World:
        left = list(self._faults.values[self.layout.faults(world)])
        left[FAULTS.index(what)] -= 1
        left[-1] -= 1
        return self.layout.with_faults(world, self._faults.number(tuple(left)))
