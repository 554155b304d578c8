"""The oracle: every packet, every conntrack answer, every subset of writes for every pass, on the concrete classifier.

Only for tables and plans that are small. It knows the rule about cached megaflows: in an atomic step a pass sees older
tables than the pass before it only if some packet from the same port came into that pass in the same state when the
tables were old.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import product

import msgspec

from hitless.core.model.flow import EST, INV, NEW, REL, RPL, TRK, Conjunction, Flow, FlowKey
from hitless.core.plan.flows import AddFlow, FlowOp
from hitless.core.verify.classifier import Tables, Tracked, evaluate
from hitless.core.verify.lookup import Found
from hitless.core.verify.packet import Fields
from hitless.core.verify.transition import witness as concrete
from hitless.core.verify.transition.packets import CONSTANT
from hitless.core.verify.transition.region import fields_of
from hitless.core.verify.transition.verdict import Batch, Kind, Witness
from hitless.core.verify.transition.witness import Run, Watched, effect, orphaned

_RELATED = TRK | NEW | REL  # the one kind of new connection that may have a mark
_LIVE = [(TRK | EST | reply, mark) for reply in (0, RPL) for mark in (0, 1, 2)]
ANSWERS = [(TRK | INV, 0), (TRK | NEW, 0), (_RELATED, 1), (_RELATED, 2), *_LIVE]
"""What conntrack may say, as far as the small tables can tell."""
VALUES: Mapping[str, Sequence[int]] = {"in_port": (2, 9), "nw_src": (0, 1, 2, 3), "tp_dst": (0, 1)}
PACKETS = [dict(zip(VALUES, each, strict=True)) for each in product(*VALUES.values())]
PASSES = 3

SEEN_AT_ONCE: tuple[Kind, ...] = ("loss", "leak", "third", "poison", "ambiguous", "orphan")

Asked = tuple[object, ...]
Frozen = tuple[int, int, tuple[tuple[str, int], ...]]


def unlike(flows: Sequence[Flow]) -> list[dict[str, int]]:
    """The packets, one of each kind that the matches and the ports they came in by tell apart."""
    terms = {term for flow in flows for term in flow.match if term[0] in VALUES}
    found: dict[tuple[object, ...], dict[str, int]] = {}
    for packet in PACKETS:
        holds = tuple(packet[field] & mask == value for field, value, mask in sorted(terms))
        found.setdefault((packet["in_port"], holds), packet)
    return [*found.values()]


def aimed(witness: Witness) -> Iterator[Witness]:
    """The packet with every other end: no table asks for it, but the replies come from there."""
    for nw_dst, tp_src in product(VALUES["nw_src"], VALUES["tp_dst"]):
        yield msgspec.structs.replace(witness, packet={**witness.packet, "nw_dst": nw_dst, "tp_src": tp_src})


def versions(before: Mapping[FlowKey, Flow], batch: Batch) -> tuple[list[dict[FlowKey, Flow]], dict[FlowKey, Flow]]:
    """Tables that may be seen while a batch is written, the old ones first, and those after it."""
    done = dict(before)
    for op in batch.ops:
        _write(done, op)
    if batch.atomic:
        return [dict(before), done], done
    found = {}
    for chosen in product(*_results(before, done, batch)):
        tables = {**before, **dict(chosen)}
        left = {key: flow for key, flow in tables.items() if flow is not None}
        found[frozenset(left.items())] = left
    return [*found.values()], done


def _results(
    before: Mapping[FlowKey, Flow], done: Mapping[FlowKey, Flow], batch: Batch
) -> Iterator[list[tuple[FlowKey, Flow | None]]]:
    for key in dict.fromkeys(op.flow.key for op in batch.ops):
        results = {before.get(key), done.get(key)}
        mine = [op for op in batch.ops if op.flow.key == key]
        present = {before[key].cookie} if key in before else set()
        present |= {op.flow.cookie for op in mine if isinstance(op, AddFlow)}
        for op in mine:
            if isinstance(op, AddFlow):
                results.add(op.flow)
            elif op.flow.cookie in present:
                results.add(None)
        yield [(key, flow) for flow in results]


def _write(tables: dict[FlowKey, Flow], op: FlowOp) -> None:
    if isinstance(op, AddFlow):
        tables[op.flow.key] = op.flow
    elif tables.get(op.flow.key) is not None and tables[op.flow.key].cookie == op.flow.cookie:
        del tables[op.flow.key]


class Brute:
    """Everything that can happen under a plan, by kind."""

    def __init__(self, before: Sequence[Flow], plan: Sequence[Batch]) -> None:
        flows = [*before, *(op.flow for batch in plan for op in batch.ops)]
        self.fields = fields_of(flows)
        self._conjunctions = any(isinstance(action, Conjunction) for flow in flows for action in flow.actions)
        tables = {flow.key: flow for flow in before}
        self._start = Known([*tables.values()])
        self._steps: list[tuple[bool, list[Known]]] = []
        for batch in plan:
            seen, tables = versions(tables, batch)
            self._steps.append((batch.atomic, [Known([*each.values()]) for each in seen]))
        self._final = [*tables.values()]
        self._end = Known(self._final)
        self._caches: dict[int, set[Frozen]] = {}
        self._packets = unlike(flows)
        self.has_rivals = False

    def kinds(self) -> set[Kind]:
        """The kinds of which there is a violation. Notes in `has_rivals` whether equals decide differently anywhere."""
        found: set[Kind] = set()
        for packet in self._packets:
            for answer in ANSWERS:
                witness = Witness(packet, *answer)
                ends = [self._run((tables,), witness)[0] for tables in (self._start, self._end)]
                self.has_rivals |= any(each.disputed for each in ends)
                betweens = [run for seen in self._steps for run in self._runs(seen, witness)]
                fates = {(each.sent, each.commits, each.disputed, each.orphans): each for each in betweens}
                for between in fates.values():
                    self.has_rivals |= between.disputed
                    found.update(self._judge(ends[0], between, ends[1], witness))
                if all(len(each.trail.passes) == 1 for each in (*ends, *betweens)):
                    break  # nobody asks conntrack
        return found

    def _judge(self, before: Run, between: Run, after: Run, witness: Witness) -> Iterator[Kind]:
        for kind in SEEN_AT_ONCE:
            if concrete.shows(kind, before, between, after):
                yield kind
        read = self.fields.read
        marks = {mark for _, mark in between.commits - before.commits - after.commits if mark}
        ends = [*aimed(witness)]
        if any(concrete.mark_stays(self._final, each, mark, read) for mark in marks for each in ends):
            yield "poison-stays"
        leaked = concrete.shows("leak", before, between, after) and any(not mark for _, mark in between.commits)
        survives = concrete.connection_survives
        if leaked and any(survives(self._final, each, between.trail, read) for each in ends):
            yield "leaked-connection"

    def _runs(self, step: tuple[bool, list[Known]], witness: Witness) -> Iterator[Run]:
        atomic, seen = step
        left: list[tuple[int, ...]] = [(each,) for each in range(len(seen))]
        while left:
            choice = left.pop()
            run, frozen = self._run([seen[each] for each in choice], witness)
            if atomic and not self._allowed(choice, frozen, self._cached(seen)):
                continue
            if max(each.version for each in run.trail.passes) >= len(choice) and len(choice) < PASSES:
                left += [(*choice, each) for each in range(len(seen))]
            else:
                yield run

    def _cached(self, seen: list[Known]) -> set[Frozen]:
        """States in which a pass began after one that saw the old tables, with its number in front."""
        held = self._caches.get(id(seen))
        if held is not None:
            return held
        found = self._caches[id(seen)] = set[Frozen]()
        for generation in range(1, PASSES):
            for packet, answer in product(self._packets, ANSWERS):
                for choice in product((0, 1), repeat=generation - 1):
                    whole = (*choice, 0)
                    _, frozen = self._run([seen[each] for each in whole], Witness(packet, *answer))
                    if self._allowed(whole, {each for each in frozen if each[0] < generation}, found):
                        found.update(each for each in frozen if each[0] == generation)
        return found

    @staticmethod
    def _allowed(choice: Sequence[int], frozen: set[Frozen], cached: set[Frozen]) -> bool:
        """Whether no pass sees older tables than the one before it, but for what is cached."""
        falls = [number for number in range(1, len(choice)) if choice[number] < choice[number - 1]]
        return all(each in cached for each in frozen if each[0] in falls)

    def _run(self, tables: Sequence[Known], witness: Witness) -> tuple[Run, set[Frozen]]:
        """What becomes of a packet, and the states in which its later passes begin."""
        asked: list[tuple[Known, int, dict[str, int]]] = []
        views = [View(each, asked) for each in tables]
        answer = Tracked(witness.state, witness.mark)
        trail = evaluate(views, witness.packet, lambda _packet, _zone: answer)
        read = self.fields.read
        disputed = any(effect(rival, read) != effect(step.flow, read) for step in trail.steps for rival in step.rivals)
        orphans = frozenset(
            number for where, table, packet in asked if self._conjunctions for number in where.orphans(table, packet)
        )
        frozen: set[Frozen] = set()
        at = 0
        for each in trail.passes:
            _, table, fields = asked[at]
            at += len(each.steps)
            if each.version:
                live = self.fields.live.get(table, frozenset())
                kept = tuple(sorted((name, fields.get(name, 0)) for name in live if name in CONSTANT))
                frozen.add((each.version, table, (("in_port", fields["in_port"]), *kept)))
        return Run(trail, disputed, orphans), frozen


class Known(Tables):
    """Tables that are asked the same a hundred times, and look it up once."""

    def __init__(self, flows: Collection[Flow]) -> None:
        super().__init__(flows)
        self._watched = Watched(flows)
        self._found: dict[Asked, Found] = {}
        self._orphans: dict[Asked, frozenset[int]] = {}

    def lookup(self, table: int, packet: Fields) -> Found:
        key = (table, *packet.items())
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = super().lookup(table, packet)
        return found

    def orphans(self, table: int, packet: Fields) -> frozenset[int]:
        """Conjunctions that are complete for a packet and have no accept flow."""
        key = (table, *packet.items())
        found = self._orphans.get(key)
        if found is None:
            found = self._orphans[key] = frozenset(orphaned(self._watched, table, packet))
        return found


class View(Tables):
    """The same tables, telling one list what they were asked."""

    def __init__(self, tables: Known, asked: list[tuple[Known, int, dict[str, int]]]) -> None:
        self._tables_behind, self._asked = tables, asked

    def lookup(self, table: int, packet: Fields) -> Found:
        self._asked.append((self._tables_behind, table, dict(packet)))
        return self._tables_behind.lookup(table, packet)
