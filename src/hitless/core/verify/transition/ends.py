"""The tables before a change and after it, each evaluated for all packets that can meet the change.

There is no in-between and no cache here: what a packet meets of the change says all about it. So only the flows near
the change are encoded, and time is no variable.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import product
from typing import Final

from hitless.core.model.flow import NEW, TRK, Conjunction, Flow, FlowKey, Match, exact
from hitless.core.verify.classifier import Tables, Tracked, evaluate
from hitless.core.verify.transition.cubes import Key, Sent
from hitless.core.verify.transition.evaluation import moves_on, patterns_of
from hitless.core.verify.transition.lookup import Effects, Table
from hitless.core.verify.transition.packets import Node, Space, oxidd
from hitless.core.verify.transition.passes import Outcome, Run
from hitless.core.verify.transition.region import (
    Fields,
    near,
    touched_cubes,
)
from hitless.core.verify.transition.verdict import LimitError, Limits, Witness
from hitless.core.verify.transition.witness import fields_only

_MANY: Final = 2_000  # cubes beyond which it costs more to say which packets are near than to take all
_EQUALS: Final = "flows that are equal by the rules decide differently"
Flows = Mapping[FlowKey, Flow]


class Ends:
    """Where packets go before and after.

    `was` and `becomes` are sets by where, `domain` all packets that there are, `blurred` those of which the outcome is
    not known, by why.
    """

    def __init__(
        self, old: Flows, new: Flows, touched: frozenset[FlowKey], fields: Fields, ports: Collection[int],
        limits: Limits, nodes: int,
    ) -> None:  # fmt: skip
        self._fields = fields
        self._tables: list[Tables] = []
        cubes = reach(old, new, touched, fields.written)
        self._ends = [near(end.values(), cubes) for end in (old, new)]
        every = [*self._ends[0], *self._ends[1]]
        self.space = Space(oxidd, patterns_of(every, ports), 1, 1, limits.passes, nodes)
        self.domain = self.space.domain
        if ports:
            self.domain = self.domain & self._any(self.space.term(exact("in_port", port)) for port in ports)
        where = self.domain
        if () not in cubes and len(cubes) <= _MANY:
            where = where & self._any(self.space.match(cube) for cube in cubes)
        outcomes = self._outcomes(where, {key[0] for key in touched}, limits.passes)
        self.was, self.becomes = ({**each.sent, **_opaque(each)} for each in outcomes)
        self.blurred = self._blurred(outcomes)

    def _any(self, nodes: Iterable[Node]) -> Node:
        found = self.space.false
        for node in nodes:
            found = found | node
        return found

    def _outcomes(self, where: Node, touched: Collection[int], passes: int) -> list[Outcome]:
        effects = Effects(self._fields.read)
        shared: dict[int, Table] = {}
        ends: list[dict[int, Table]] = []
        for flows in self._ends:
            tables: dict[int, Table] = {}
            for flow in flows:
                if ends and flow.table not in touched:
                    continue  # the same as before
                into = tables if flow.table in touched else shared
                if flow.table not in into:
                    into[flow.table] = Table(flow.table, self.space, effects)
                into[flow.table].add(flow, None)
            ends.append(tables)
        never = self.space.false
        runs = [Run(self.space, {**shared, **tables}, effects, self._fields, never, lambda _: False) for tables in ends]
        return [run.packets(where, passes) for run in runs]

    def _blurred(self, outcomes: Iterable[Outcome]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        for each in outcomes:
            for why, node in ((_EQUALS, each.equals), *each.unclear.items()):
                here = node & self.domain
                if here != self.space.false:
                    found[why] = found.get(why, self.space.false) | here
        return found

    def pick(self, node: Node) -> Witness:
        """One packet of a set: the first of a connection, and a likely one, where there is one."""
        new = node & self.space.term(("ct_state", TRK | NEW, 0xFF))
        picked = self.space.algebra.pick(self.space.likely(new if new != self.space.false else node))
        if picked is None:
            raise LimitError("an empty set was asked for a packet")
        packet = self.space.decode(picked)[0]
        return Witness(fields_only(packet), packet["ct_state"], packet["ct_mark"])

    def replayed(self, witness: Witness) -> tuple[Sent, Sent]:
        """Where the concrete classifier sends a packet, before and after; the tags as they are on the wire."""
        answer = Tracked(witness.state, witness.mark)
        self._tables = self._tables or [Tables(flows) for flows in self._ends]
        trails = [evaluate([each], witness.packet, lambda _packet, _zone: answer) for each in self._tables]
        was, becomes = (tuple(sorted({(each.port, each.vlan) for each in trail.sent})) for trail in trails)
        return was, becomes


def _opaque(outcome: Outcome) -> dict[Key, Node]:
    return {why.removeprefix("the action "): node for why, node in outcome.opaque.items()}


# --- which packets can meet a change ------------------------------------------------------------------------


def reach(old: Flows, new: Flows, touched: Collection[FlowKey], written: Collection[str]) -> frozenset[Match]:
    """What is common to the packets that meet the change, as matches; `()` where that may be any packet.

    A clause, or an accept flow, is of account only to packets that meet all clauses of the conjunction.
    """
    if any(moves_on(flow) for end in (old, new) for flow in end.values()):
        return frozenset({()})
    hard = {(key[0], key[2]) for end in (old, new) for key, flow in end.items() if not flow.is_soft}
    ids: set[tuple[int, int]] = set()
    plain: list[FlowKey] = []
    for key in touched:
        numbers = _numbers(key, old.get(key), new.get(key), hard)
        ids.update((key[0], number) for number in numbers)
        plain += [] if numbers else [key]
    found = set(touched_cubes(plain, written))
    if ids:
        clauses = _clauses((*old.values(), *new.values()), ids, written)
        found.update(cube for table, number in ids for cube in _complete(clauses.get((table, number), {})))
    return frozenset(found)


def _numbers(key: FlowKey, before: Flow | None, after: Flow | None, hard: Collection[tuple[int, Match]]) -> set[int]:
    """The conjunctions that a touched flow is about, where it is about nothing else."""
    for field, value, _ in key[2]:
        if field == "conj_id" and value:
            return {value}
    flows = [flow for flow in (before, after) if flow is not None]
    if (key[0], key[2]) in hard or not all(flow.is_soft for flow in flows):
        return set()  # a clause hides a flow of the same match from second look-ups
    ends = [set() if flow is None else {*flow.actions} for flow in (before, after)]
    return {each.id for each in ends[0] ^ ends[1] if isinstance(each, Conjunction)}


_Clauses = dict[tuple[int, int], dict[int, set[Match]]]


def _clauses(flows: Iterable[Flow], ids: Collection[tuple[int, int]], written: Collection[str]) -> _Clauses:
    found: _Clauses = {}
    known: dict[Match, Match] = {}
    for flow in flows:
        if not flow.is_soft:
            continue
        for each in flow.actions:
            if isinstance(each, Conjunction) and (flow.table, each.id) in ids:
                if flow.match not in known:
                    (known[flow.match],) = touched_cubes([flow.key], written)
                by_clause = found.setdefault((flow.table, each.id), {})
                by_clause.setdefault(each.clause, set()).add(known[flow.match])
    return found


def _complete(clauses: Mapping[int, Collection[Match]]) -> Iterator[Match]:
    """One match of each clause; of the fewest alone where these are too many."""
    count = 1
    for each in clauses.values():
        count *= len(each)
    if count > _MANY:
        yield from max(clauses.values(), key=lambda each: (() not in each, min(map(len, each)), -len(each)))
        return
    for chosen in product(*clauses.values()):
        terms = {term for match in chosen for term in match}
        fields: dict[str, tuple[int, int]] = {}
        for field, value, mask in terms:
            held = fields.get(field, (0, 0))
            if (held[0] ^ value) & held[1] & mask:
                break
            fields[field] = held[0] | value, held[1] | mask
        else:
            yield tuple(sorted((field, *each) for field, each in fields.items()))
