"""A scope of the handover as a model for SPIN, the model checker: a second opinion on what `explore` says.

What a node does upon one event, and the store upon one write, comes from the same `handover.step`: the transitions
that an exploration computed, as tables in a C header. How these make a whole is written anew in Promela: who may move
when, the queues (channels), who is told, faults and time, and the judgement on what can be decrypted. The search and
the storage are SPIN's own.

One state of SPIN is one world. Nodes and the store's contents are the explorer's numbers, a queue is a channel of
batches, what is left of the faults are counters, and every process is one loop of `d_step`s, so that it always stands
at the same place. Therefore both count the same states and edges, where nothing is reduced. Where SPIN comes to a
node's state, event or store that the explorer never met, *known* is violated.

What it takes to run it: `spin -a handover.pml && gcc -DSAFETY -DNOREDUCE -DBFS -o pan pan.c && ./pan -E`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec

from hitless.core.ipsec.state import BLOCK, Install
from hitless.core.model.node import NodeRecord, Progress
from hitless.core.model.view import Listed, RecordAbsent
from hitless.core.verify import judge
from hitless.core.verify.explore import STATES_LIMIT, Properties, Proved, Unknown, explore
from hitless.core.verify.log import Store, key_record
from hitless.core.verify.model import FAULTS, HandoverModel, Scope, World
from hitless.core.verify.node import Ident, Node
from hitless.core.verify.promela_text import HEADER, MODEL

Row = tuple[int, int, int, int, int]
"""What happens; to which node or store; with what; what it becomes; and what it writes or tells (0: nothing)."""

KINDS = (
    *("perform", "decide", "tick", "notice", "load", "hear", "relist", "crash", "reboot", "move", "refuse", "vanish"),
    *("wipe", "delete", "expire", "remove", "restore", "beat", "register", "write"),
)
_KIND = {kind: number for number, kind in enumerate(KINDS)}
_REGISTER = -1
_IDENTS_LIMIT = 64  # a set of identities is one machine word


class Promela(msgspec.Struct, frozen=True):
    """The two files of a model, to stand beside each other, and what the exploration counted with `reduce` off."""

    model: str
    tables: str
    counted: Proved


def to_promela(scope: Scope, limit: int = STATES_LIMIT) -> Promela | Unknown:
    """Explore a scope whole, whatever is wrong in it, and write down what its nodes did.

    Raises OverflowError where there are more identities than bits in a word, or more values than fit into a world.
    """
    recorded = _Recorded(msgspec.structs.replace(scope, reduce=False))
    counted = explore(recorded, Properties[World](), limit)
    if isinstance(counted, Unknown):
        return counted
    assert isinstance(counted, Proved)  # noqa: S101 - nothing is asked
    return Promela(recorded.model(), recorded.tables(), counted)


class _Recorded(HandoverModel):
    """A model that keeps in mind which nodes met which stores."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self._registering: set[tuple[int, int]] = set()
        self._storing: set[tuple[str, int, str]] = set()

    def _registered(self, world: World, at: int) -> World:
        self._registering.add((self.layout.node(world, at), self.layout.store(world)))
        return super()._registered(world, at)

    def _stored(self, world: World, what: str, name: str) -> World:
        self._storing.add((what, self.layout.store(world), name))
        return super()._stored(world, what, name)

    # --- the tables ---------------------------------------------------------------------------------------

    def _rows(self) -> Iterator[Row]:
        listed: dict[Listed, list[int]] = {}
        for each, store in enumerate(self._stores.values):
            listed.setdefault(store.listed(), []).append(each)
        for (number, what, argument), (after, put) in self._moves.items():
            assert isinstance(number, int)  # noqa: S101 - as `_move` keeps them
            assert isinstance(what, str)  # noqa: S101
            says = _REGISTER if isinstance(self._puts.values[put], NodeRecord) else put
            if isinstance(argument, int):
                yield _KIND[what], number, argument, after, says
            elif isinstance(argument, tuple) and isinstance(argument[0], Listed):
                yield from ((_KIND["relist"], number, log, after, _REGISTER) for log in listed[argument[0]])
            elif isinstance(argument, tuple):
                absent = RecordAbsent(self._nodes.values[number].name) in argument
                yield _KIND["hear"], number, self._batches.number(argument), after, _REGISTER if absent else 0
        for pair in self._registering:
            yield from self._registrations(*pair)
        for (contents, put), (after, batch) in self._commits.items():
            yield _KIND["write"], contents, put, after, batch
        for what, contents, name in self._storing:
            world = super()._stored(self.layout.with_store(0, contents), what, name)
            told = [self._batches.number(each) for each in self.queue(world, 0)]
            at = 0 if what == "wipe" else self.names.index(name)
            yield _KIND[what], contents, at, self.layout.store(world), told[0] if told else 0

    def _registrations(self, number: int, at_store: int) -> Iterator[Row]:
        """A node looks for what the store lacks of it, writes one thing and looks again."""
        while True:
            node, store = self._nodes.values[number], self._stores.values[at_store]
            barred = store.bars(node.state.me)
            after = self._nodes.number(msgspec.structs.replace(node, barred=barred))
            missing = sorted(node.state.held - {each for each, _ in store.keys})
            put = self._puts.number(key_record(missing[0])) if missing else 0
            if not put and store.lacks(node.state.me) and not barred:
                put = self._puts.number(node.state.me)
            yield _KIND["register"], number, at_store, after, put
            if not put:
                return
            number, at_store = after, self._commits[at_store, put][0]

    # --- the files ----------------------------------------------------------------------------------------

    def model(self) -> str:
        start, faults = next(iter(self.init())), (*self.scope.budgets(), self.scope.together)
        longest = max(1, *map(len, self._queues.values))  # a channel of length 0 would be a rendezvous
        kernel = max(len(node.kernel) for node in self._nodes.values)
        defined = {
            "NODES": self.scope.nodes,
            "LONGEST": longest,
            **{kind.upper(): number for kind, number in _KIND.items()},
            **{f"{fault.upper()}S": number for number, fault in enumerate(FAULTS)},
            "TOGETHER": len(FAULTS),
            "RESTORES": int(self.scope.restores),
        }
        return MODEL.format(
            defined="\n".join(f"#define {name} {value}" for name, value in defined.items()),
            nodes=_listed(self.layout.node(start, at) for at in range(self.scope.nodes)),
            store=self.layout.store(start),
            left=_listed(faults),
            loads="\n".join(f"  :: LOADS({each})" for each in range(2, self.scope.newest + 1)),
            vanishings="\n".join(f"  :: VANISHES({each})" for each in range(kernel)),
        )

    def tables(self) -> str:
        idents = _Idents()
        facts = [_listed(self._facts(number, node, idents)) for number, node in enumerate(self._nodes.values)]
        towards = [idents.bits(each for each in idents.numbers if each.receiver == name) for name in self.names]
        keys = [0, *(self._puts.number(key_record(each + 1)) for each in range(self.scope.newest))]
        return HEADER.format(
            nodes=self.scope.nodes,
            newest=self.scope.newest,
            rows=",\n".join(_listed(row) for row in sorted(set(self._rows()))),
            facts=",\n".join(facts),
            stores=",\n".join(_listed(self._held(store)) for store in self._stores.values),
            own=_listed(int(isinstance(put, Progress)) for put in self._puts.values),
            keys=_listed(keys),
            towards=_listed(f"{each}ULL" for each in towards),
        )

    def _facts(self, number: int, node: Node, idents: _Idents) -> Iterator[int | str]:
        face = judge.face(node)
        offers = self._deciding.get(number, ())
        aged = self._moves.get((number, "tick", 0), (number, 0))[0]
        yield from (self.names.index(node.name), node.state.me.incarnation.counter, self._rests(node))
        yield from (int("perform" in offers), int("decide" in offers), int(aged != number), int(node.barred))
        yield from (max(node.file), len(node.kernel))
        yield int(bool(node.pending) and isinstance(node.pending[0].effect, Install))
        yield from (int(bool(face.reused)), int(bool(face.unsound)))
        sets = (face.sends, face.receives, face.lost, face.again, face.remade)
        yield from (f"{idents.bits(each)}ULL" for each in sets)

    def _rests(self, node: Node) -> int:
        """The lives of all nodes, four bits each, among which this node has nothing left to do; 0: it has."""
        known = {name: each.record.incarnation for name, each in node.state.view.nodes.items()}
        known[node.name] = node.state.me.incarnation
        peers = [name for name in self.names if name != node.name]
        if node.pending or node.barred or node.state.failures or not known.keys() >= set(peers):
            return 0
        newest = self.scope.newest
        ways = [(node.name, peer, "out") for peer in peers] + [(peer, node.name, "in") for peer in peers]
        wanted = {(way, Ident(a, known[a].nonce, b, known[b].nonce, newest)) for a, b, way in ways}
        pinned = {peer: spi for peer, spi in node.pinned if spi != BLOCK}
        sent = {ref.peer for ref, _ in node.kernel if ref.way == "out" and pinned.get(ref.peer) == ref.spi}
        whole = {(ref.way, ident) for ref, ident in node.kernel} == wanted and node.state.held == node.file == {newest}
        if not whole or not set(peers) == sent == set(pinned):
            return 0
        return sum(known[name].counter << 4 * at for at, name in enumerate(self.names))

    def _held(self, store: Store) -> Iterator[int]:
        """Which keys are registered, whose record is there and whose heartbeat is not (sets of bits), tombstones."""
        yield sum(1 << each for each, _ in store.keys)
        yield sum(1 << self.names.index(name) for name, _ in store.nodes)
        yield sum(1 << self.names.index(name) for name in store.silent)
        stones = dict(store.tombstones)
        yield from (stones[name].record.incarnation.counter if name in stones else 0 for name in self.names)


class _Idents:
    """Sets of identities as sets of bits."""

    def __init__(self) -> None:
        self.numbers: dict[Ident, int] = {}

    def bits(self, idents: Iterable[Ident]) -> int:
        found = sum(1 << self.numbers.setdefault(each, len(self.numbers)) for each in idents)
        if len(self.numbers) > _IDENTS_LIMIT:
            raise OverflowError(f"more than {_IDENTS_LIMIT} different identities")
        return found


def _listed(values: Iterable[int | str]) -> str:
    return f"{{{', '.join(map(str, values))}}}"
