"""The handover between nodes that share a store, as a model for the explorer.

Every node runs the real `handover.step`. The store is a log: what is written is queued for every node and delivered
one by one, as late as can be. A node decides only when it has nothing left to do, and whatever was delivered
meanwhile is decided upon together; so single, coalesced and late delivery are all in it. Effects are carried out one
at a time, and anything may happen in between: that is what makes an install slow, and a crash possible anywhere.

A global state is a tuple of small integers: nodes, queues, the store and what is left of the faults are each kept
once, and every transition of a node is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from itertools import permutations
from typing import Generic, NamedTuple, TypeVar

import msgspec

from hitless.core.ipsec.state import Install, Rules
from hitless.core.model.node import KeyRecord, NodeRecord, Progress
from hitless.core.model.view import KeySeen, Listed, NodeSeen, ProgressSeen, RecordAbsent, Recorded, StoreEvent
from hitless.core.verify import node as nodes
from hitless.core.verify.explore import Always, Eventually, Properties, Sometimes
from hitless.core.verify.node import Ident, Node

V = TypeVar("V")
World = tuple[int, ...]
"""Nodes, then their queues, then the store, then the faults left: one number each."""


class Scope(msgspec.Struct, frozen=True):
    """What may happen. Keys are rotated up to generation `newest`; faults happen at most so often, anywhere.

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
    cold: bool = False
    rules: Rules = Rules(retry_limit_seconds=0.5)


class Action(NamedTuple):
    """Something that happens, to which node (-1: to all)."""

    what: str
    node: int = -1
    number: int = 0


FAULTS = ("crash", "reboot", "refuse", "wipe", "vanish", "delete")
_TICK = Action("tick")


class Store(NamedTuple):
    """The log's present contents. Revisions count node and key records only: nothing compares with others'."""

    epoch: int
    revision: int
    nodes: tuple[tuple[str, Recorded[NodeRecord]], ...] = ()
    keys: tuple[tuple[int, Recorded[KeyRecord]], ...] = ()
    progress: tuple[tuple[str, Progress], ...] = ()

    def listed(self) -> Listed:
        return Listed(
            epoch=f"e{self.epoch}",
            revision=self.revision,
            nodes=tuple(each for _, each in self.nodes),
            keys=tuple(each for _, each in self.keys),
            progress=tuple(each for _, each in self.progress),
        )

    def put(self, value: NodeRecord | KeyRecord | Progress) -> tuple[Store, StoreEvent | None]:
        """The contents afterwards and what watchers see; None where they would see no difference."""
        if isinstance(value, Progress):
            said = dict(self.progress)
            if said.get(value.name) == value:
                return self, None
            said[value.name] = value
            return self._replace(progress=tuple(sorted(said.items()))), ProgressSeen(value)
        revision = self.revision + 1
        if isinstance(value, NodeRecord):
            node = Recorded(value, revision)
            records = tuple(sorted({**dict(self.nodes), value.name: node}.items()))
            return self._replace(revision=revision, nodes=records), NodeSeen(node)
        key = Recorded(value, revision)
        keys = tuple(sorted({**dict(self.keys), value.generation: key}.items()))
        return self._replace(revision=revision, keys=keys), KeySeen(key)


class Relist(NamedTuple):
    """In a queue: the log is another one; list it, and register again."""


_RELIST = Relist()


class Pool(Generic[V]):
    """Values by number: each is kept once."""

    def __init__(self, key: Callable[[V], Hashable]) -> None:
        self._key, self._numbers, self.values = key, dict[Hashable, int](), list[V]()

    def number(self, value: V) -> int:
        key = self._key(value)
        number = self._numbers.setdefault(key, len(self.values))
        if number == len(self.values):
            self.values.append(value)
        return number


class HandoverModel:
    """The model of one scope. Worlds mean something only to the model that made them."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.names = tuple(f"n{each + 1}" for each in range(scope.nodes))
        self._n = scope.nodes
        self._nodes: Pool[Node] = Pool(_node_key)
        self._queues: Pool[tuple[StoreEvent | Relist, ...]] = Pool(lambda queue: queue)
        self._stores: Pool[Store] = Pool(lambda store: store)
        self._faults: Pool[tuple[int, ...]] = Pool(lambda left: left)
        self._offers: dict[int, tuple[str, ...]] = {}
        self._moves: dict[tuple[object, ...], tuple[int, nodes.Put | None]] = {}
        self._pair_ok: dict[tuple[int, int], str] = {}
        self._pair_fresh: dict[tuple[int, int], str] = {}
        self._done: dict[tuple[int, ...], bool] = {}

    # --- reading a world ----------------------------------------------------------------------------------

    def node(self, world: World, at: int) -> Node:
        return self._nodes.values[world[at]]

    def queue(self, world: World, at: int) -> tuple[StoreEvent | Relist, ...]:
        return self._queues.values[world[self._n + at]]

    def store(self, world: World) -> Store:
        return self._stores.values[world[-2]]

    def faults_left(self, world: World) -> dict[str, int]:
        return dict(zip(FAULTS, self._faults.values[world[-1]], strict=True))

    # --- the model ----------------------------------------------------------------------------------------

    def init(self) -> Iterator[World]:
        scope = self.scope
        first, store = frozenset({1}), Store(1, 0)
        store, _ = store.put(_key_record(1))
        members = []
        for at, name in enumerate(self.names):
            members.append(nodes.fresh(nodes.record(name, at + 1), scope.rules, first))
            store, _ = store.put(members[-1].state.me)
        started = [nodes.restart(each, store.listed()) for each in members]
        left = (scope.crashes, scope.reboots, scope.refusals, scope.wipes, scope.vanishings, scope.deletions)
        world = (
            *(self._nodes.number(each) for each in started),
            *(self._queues.number(()) for _ in started),
            self._stores.number(store),
            self._faults.number(left),
        )
        yield world if scope.cold else self.settled(world)

    def settled(self, world: World) -> World:
        """Where a world comes to rest when no fault happens and no key is loaded."""
        while True:
            calm = [each for each in self.actions(world) if each.what in ("decide", "perform", "deliver")]
            calm.append(_TICK)
            after = self.next(world, calm[0])
            if after == world:
                return world
            world = after

    def actions(self, world: World) -> Iterator[Action]:
        left = self._faults.values[world[-1]]
        for at in range(self._n):
            number = world[at]
            for what in self._offers.get(number) or self._offer(number):
                if what != "refuse" or left[2]:
                    yield Action(what, at)
            queue = self._queues.values[world[self._n + at]]
            if queue and not self._nodes.values[number].pending:
                # While effects are pending nothing is decided, so what arrives then may as well arrive after them.
                yield Action("deliver", at)
                if _RELIST in queue[1:]:
                    yield Action("reconnect", at)
            yield from self._loads(world, at)
            if left[0]:
                yield Action("crash", at)
            if left[1]:
                yield Action("reboot", at)
            if left[4]:
                refs = sorted(ref for ref, _ in self._nodes.values[number].kernel)
                yield from (Action("vanish", at, each) for each in range(len(refs)))
            if left[5] and self.names[at] in dict(self.store(world).nodes):
                yield Action("delete", at)
        if left[3]:
            yield Action("wipe")
        yield _TICK

    def next(self, world: World, action: Action) -> World:  # noqa: PLR0911 - one flat case per action
        match action.what:
            case "tick":
                ticked = (self._move(world[at], "tick")[0] for at in range(self._n))
                return (*ticked, *world[self._n :])
            case "deliver":
                return self._deliver(world, action.node)
            case "reconnect":
                return self._reconnected(world, action.node)
            case "load":
                return self._load(world, action)
            case "wipe":
                emptied = Store(self.store(world).epoch + 1, 0)
                queues = (self._queues.number(_cut(self.queue(world, at))) for at in range(self._n))
                spent = self._spend(world[-1], "wipe")
                return (*world[: self._n], *queues, self._stores.number(emptied), spent)
            case "delete":
                return self._deleted(world, action.node)
            case _:
                return self._local(world, action)

    # --- inside -------------------------------------------------------------------------------------------

    def _offer(self, number: int) -> tuple[str, ...]:
        node = self._nodes.values[number]
        offers: tuple[str, ...] = ("decide",) if nodes.can_decide(node) else ()
        if node.pending:
            offers = ("perform", "refuse") if isinstance(node.pending[0].effect, Install) else ("perform",)
        self._offers[number] = offers
        return offers

    def _loads(self, world: World, at: int) -> Iterator[Action]:
        held = max(self._nodes.values[world[at]].file)
        if held < self.scope.newest:
            registered = max((each for each, _ in self.store(world).keys), default=0)
            # A generation is counted up when its first key is loaded: nobody can skip one that does not exist.
            for generation in range(held + 1, min(self.scope.newest, max(registered, held) + 1) + 1):
                yield Action("load", at, generation)

    def _local(self, world: World, action: Action) -> World:
        at, what = action.node, action.what
        argument = world[-2] if what in ("crash", "reboot") else action.number
        number, put = self._move(world[at], what, argument)
        left = self._spend(world[-1], what) if what in FAULTS else world[-1]
        after = (*world[:at], number, *world[at + 1 : -1], left)
        if what in ("crash", "reboot"):
            # The new agent has just listed the store: nothing written earlier is news to it.
            after = _with(after, self._n + at, self._queues.number(()))
            after = after if put is not None else self._registered(after, at)
        return after if put is None else self._written(after, at, put)

    def _move(self, number: int, what: str, argument: int = 0) -> tuple[int, nodes.Put | None]:
        key = (number, what, argument)
        done = self._moves.get(key)
        if done is None:
            after, put = self._moved(self._nodes.values[number], what, argument)
            done = self._moves[key] = (self._nodes.number(after), put)
        return done

    def _moved(  # noqa: PLR0911 - one flat case per move
        self, node: Node, what: str, argument: int
    ) -> tuple[Node, nodes.Put | None]:
        match what:
            case "decide":
                return nodes.decide(node), None
            case "perform":
                return nodes.perform(node)
            case "refuse":
                return nodes.refuse(node), None
            case "tick":
                return nodes.tick(node), None
            case "load":
                return nodes.load(node, argument), None
            case "crash":
                return nodes.restart(node, self._stores.values[argument].listed()), None
            case "reboot":
                return nodes.reboot(node, self._stores.values[argument].listed())
            case "vanish":
                return nodes.vanish(node, sorted(ref for ref, _ in node.kernel)[argument]), None
            case _:
                raise AssertionError(f"no such action: {what}")

    def _deliver(self, world: World, at: int) -> World:
        queue = self._queues.values[world[self._n + at]]
        event, rest = queue[0], self._queues.number(queue[1:])
        world = _with(world, self._n + at, rest)
        if isinstance(event, Relist):
            return self._reconnected(world, at)
        world = _with(world, at, self._heard(world[at], event))
        return self._registered(world, at) if event == RecordAbsent(self.names[at]) else world

    def _deleted(self, world: World, at: int) -> World:
        """A node's record is gone from the store: deleted, or run out with a lease. The node will write it again."""
        store, name = self.store(world), self.names[at]
        left = tuple(each for each in store.nodes if each[0] != name)
        spent = self._spend(world[-1], "delete")
        world = (*world[:-2], self._stores.number(store._replace(nodes=left)), spent)
        for each in range(self._n):
            queue = (*self.queue(world, each), RecordAbsent(name))
            world = _with(world, self._n + each, self._queues.number(queue))
        return world

    def _heard(self, number: int, event: StoreEvent) -> int:
        key = (number, "hear", event)
        done = self._moves.get(key)
        if done is None:
            after = nodes.hear(self._nodes.values[number], [event])
            done = self._moves[key] = (self._nodes.number(after), None)
        return done[0]

    def _reconnected(self, world: World, at: int) -> World:
        """A node finds another log: it reads it as it is now, and writes what it knows and misses there."""
        world = _with(world, self._n + at, self._queues.number(()))
        world = _with(world, at, self._heard(world[at], self.store(world).listed()))
        return self._registered(world, at)

    def _registered(self, world: World, at: int) -> World:
        """What a node writes where a log lacks it: its keys' records and its own."""
        state, store = self.node(world, at).state, self.store(world)
        for generation in sorted(state.held - {each for each, _ in store.keys}):
            world = self._written(world, at, _key_record(generation))
        mine = dict(store.nodes).get(state.me.name)
        if mine is None or mine.record.incarnation != state.me.incarnation:
            world = self._written(world, at, state.me)
        return world

    def _load(self, world: World, action: Action) -> World:
        if action.number not in dict(self.store(world).keys):
            world = self._written(world, action.node, _key_record(action.number))
        return _with(world, action.node, self._move(world[action.node], "load", action.number)[0])

    def _written(self, world: World, at: int, value: NodeRecord | KeyRecord | Progress) -> World:
        store, event = self.store(world).put(nodes.plain(value) if isinstance(value, Progress) else value)
        if event is None:
            return world
        world = (*world[:-2], self._stores.number(store), world[-1])
        for each in range(self._n):
            # A node's own progress comes back to it as well; it knows it already.
            if each != at or not isinstance(value, Progress):
                world = _with(world, self._n + each, self._queues.number((*self.queue(world, each), event)))
        return world

    def _spend(self, number: int, what: str) -> int:
        left = list(self._faults.values[number])
        left[FAULTS.index(what)] -= 1
        return self._faults.number(tuple(left))

    # --- what is asked ------------------------------------------------------------------------------------

    def undecryptable(self, world: World) -> str:
        """Something on its way, or about to be sent, that its receiver cannot decrypt; "" if there is none."""
        return self._judged(world, self._pair_ok, _undecryptable)

    def reused(self, world: World) -> str:
        """An SA that exists a second time with the key it had, and was sent with before; "" if there is none."""
        return self._judged(world, self._pair_fresh, _reused)

    def _judged(self, world: World, known: dict[tuple[int, int], str], judge: Callable[[Node, Node], str]) -> str:
        for pair in permutations(world[: self._n], 2):
            found = known.get(pair)
            if found is None:
                found = known[pair] = judge(*(self._nodes.values[each] for each in pair))
            if found:
                return found
        return ""

    def wrong(self, world: World) -> str:
        """What one node did that it must never do: take back a word, delete what it sends with."""
        for at in range(self._n):
            pair = (world[at], -1)
            found = self._pair_ok.get(pair)
            if found is None:
                node = self._nodes.values[world[at]]
                found = self._pair_ok[pair] = node.wrong or nodes.unpinned(node)
            if found:
                return found
        return ""

    def done(self, world: World) -> bool:
        """Everybody is on the newest key, the old ones are gone everywhere, and nobody has anything left to do."""
        if any(self._queues.values[each] for each in world[self._n : 2 * self._n]):
            return False
        members = world[: self._n]
        found = self._done.get(members)
        if found is None:
            found = self._done[members] = self._rests([self._nodes.values[each] for each in members])
        return found

    def _rests(self, members: list[Node]) -> bool:
        newest = self.scope.newest
        for node in members:
            idents = {(ref.way, ident) for ref, ident in node.kernel}
            wanted = {
                (way, Ident(*_nonce(node, peer, way), newest)) for peer in members if peer is not node for way in _WAYS
            }
            if idents != wanted or node.pending or nodes.can_decide(node) or node.state.failures:
                return False
            pinned = {ref.peer for ref, _ in node.kernel if (ref.peer, ref.spi) in node.pinned and ref.way == "out"}
            if node.state.held != {newest} or node.file != {newest} or len(pinned) != len(members) - 1:
                return False
        return True

    def deleted_old(self, world: World) -> bool:
        """Whether a key of the first generation has been deleted somewhere."""
        return any(ident.generation == 1 for at in range(self._n) for _, ident in self.node(world, at).spent)

    def properties(self) -> Properties[World, Action]:
        """Everything that is asked of the protocol."""
        rotates = self.scope.newest > 1
        sometimes = [Sometimes("a rotation completes" if rotates else "all is well", self.done)]
        if rotates:
            sometimes.append(Sometimes("an old key is deleted", self.deleted_old))
        faults = self.faults_left(next(iter(self.init())))
        sometimes += [
            Sometimes(
                f"all is well after a {fault}",
                lambda world, fault=fault: self.faults_left(world)[fault] == 0 and self.done(world),  # type: ignore[misc]
            )
            for fault, budget in faults.items()
            if budget
        ]
        return Properties(
            always=[
                Always("decryptable", self.undecryptable),
                Always("no key reuse", self.reused),
                Always("sound", self.wrong),
            ],
            sometimes=sometimes,
            eventually=Eventually("no wedge", self.done, lambda action: action.what in FAULTS),
        )


_WAYS = ("in", "out")


def _nonce(node: Node, peer: Node, way: str) -> tuple[str, str, str, str]:
    a, b = (peer, node) if way == "in" else (node, peer)
    return a.name, a.state.me.incarnation.nonce, b.name, b.state.me.incarnation.nonce


def _undecryptable(sender: Node, receiver: Node) -> str:
    has = {ident for ref, ident in receiver.kernel if ref.way == "in"} | receiver.lost
    for ident in sender.flight:
        if ident.receiver == receiver.name and ident not in has:
            return f"{receiver.name} cannot decrypt what {sender.name} sends with generation {ident.generation}"
    return ""


def _reused(sender: Node, receiver: Node) -> str:
    for node in (sender, receiver):
        for ref, ident in node.kernel:
            if {ident.sender, ident.receiver} == {sender.name, receiver.name} and (ref.way, ident) in node.spent:
                return f"{node.name} has the {ref.way.upper()} state of generation {ident.generation} a second time"
    return ""


def _cut(queue: tuple[StoreEvent | Relist, ...]) -> tuple[StoreEvent | Relist, ...]:
    """A queue after its log was replaced: what the old log said may still arrive, then the end of it."""
    old = queue[: queue.index(_RELIST)] if _RELIST in queue else queue
    return (*old, _RELIST)


def _key_record(generation: int) -> KeyRecord:
    return KeyRecord(generation, generation, f"fingerprint-{generation}", "rfc4106(gcm(aes))-288-128")


def _with(world: World, at: int, number: int) -> World:
    return (*world[:at], number, *world[at + 1 :])


def _node_key(node: Node) -> Hashable:
    state = node.state
    view = state.view
    return (
        state.me,
        (view.epoch, view.synced, view.revision),
        frozenset(view.nodes.items()),
        frozenset(view.keys.items()),
        frozenset(view.progress.items()),
        (state.filed, state.held, state.observed, state.kernel, state.reincarnate, state.used),
        frozenset(state.pinned.items()),
        frozenset(state.failures.items()),
        frozenset(state.drains.items()),
        (state.published, state.published_at),
        (node.file, node.pending, node.kernel, node.pinned),
        (node.flight, node.lost, node.spent, node.journal, node.said, node.wrong),
    )
