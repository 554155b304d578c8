"""One packet at one moment, on the concrete classifier: whether it shows what it was found for, told as a story.

Nothing is reported that this replay does not show. It shares no code with the symbolic evaluation: the tables of each
pass are written out, and core/verify/classifier.py evaluates them for one packet.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import msgspec

from hitless.core.model.flow import (
    EST,
    RPL,
    TRK,
    Action,
    Conjunction,
    Flow,
    FlowKey,
    Match,
    SetField,
)
from hitless.core.plan.flows import AddFlow, DelFlow, FlowOp
from hitless.core.verify.classifier import NORMAL, Tables, Tracked, Trail, evaluate
from hitless.core.verify.lookup import Found
from hitless.core.verify.packet import VLAN_PRESENT, Fields
from hitless.core.verify.transition.packets import CONSTANT, MIRRORED
from hitless.core.verify.transition.region import CT_FIELDS
from hitless.core.verify.transition.region import Fields as Looked
from hitless.core.verify.transition.verdict import Kind, Seen, Witness
from hitless.core.verify.transition.versions import Timeline, Turn

_OUTSIDE = 0xFFF0  # a port number that no flow names: where a packet comes in that left by NORMAL


class Watched(Tables):
    """Tables that remember what they were asked."""

    def __init__(self, flows: Collection[Flow]) -> None:
        super().__init__(flows)
        self.flows = flows
        self.asked: list[tuple[int, dict[str, int]]] = []

    def lookup(self, table: int, packet: Fields) -> Found:
        """As ever."""
        self.asked.append((table, dict(packet)))
        return super().lookup(table, packet)


class Run(msgspec.Struct, frozen=True):
    """What became of a packet. `disputed`: equals could have decided otherwise; `orphans`: ids without accept flow.

    `asked` are all look-ups: a table, and the packet's fields then.
    """

    trail: Trail
    disputed: bool
    orphans: frozenset[int]
    asked: tuple[tuple[int, dict[str, int]], ...] = ()

    @property
    def sent(self) -> frozenset[tuple[int, int]]:
        return frozenset((each.port, each.vlan) for each in self.trail.sent)

    @property
    def commits(self) -> frozenset[tuple[int, int | None]]:
        return frozenset((each.zone, each.mark) for each in self.trail.commits)


def run(passes: Sequence[Collection[Flow]], witness: Witness, read: Collection[str]) -> Run:
    """A packet through the tables of each pass; the last ones stay. `read` are fields that any table looks at."""
    watched = [Watched(flows) for flows in passes]
    answer = Tracked(witness.state, witness.mark)
    trail = evaluate(watched, witness.packet, lambda _packet, _zone: answer)
    disputed = any(effect(rival, read) != effect(step.flow, read) for step in trail.steps for rival in step.rivals)
    orphans = {number for tables in watched for asked in tables.asked for number in orphaned(tables, *asked)}
    asked = tuple(each for tables in watched for each in tables.asked)
    return Run(trail, disputed, frozenset(orphans), asked)


class Replay:
    """A plan for one packet and its replies: only the flows that they can meet, by fields that nothing changes."""

    def __init__(self, timeline: Timeline, fields: Looked, witness: Witness) -> None:
        self.read, self.witness = fields.read, witness
        both = (witness.packet, mirrored(witness.packet))
        fixed = {*witness.packet} - fields.written - {*CT_FIELDS, "in_port", "vlan_tci"}

        def keeps(match: Match) -> bool:
            return any(
                not any(f in fixed and (packet.get(f, 0) ^ value) & mask for f, value, mask in match) for packet in both
            )

        self.timeline = timeline.narrowed(keeps)
        self.final = [*self.timeline.final().values()]
        self.before = run([[*self.timeline.before.values()]], witness, self.read)
        self.after = run([self.final], witness, self.read)

    def between(self, seen: Sequence[Seen]) -> Run:
        """What the packet does when its passes see these tables."""
        return run([[*self.timeline.at(each).values()] for each in seen], self.witness, self.read)

    def shows(self, kind: Kind, seen: Sequence[Seen]) -> bool:
        """Whether that violates a property."""
        between = self.between(seen)
        if not shows(kind, self.before, between, self.after):
            return False
        if kind == "poison-stays":
            marks = {mark for _, mark in between.commits - self.before.commits - self.after.commits if mark}
            return any(mark_stays(self.final, self.witness, mark, self.read) for mark in marks)
        if kind == "leaked-connection":
            entered = any(not mark for _, mark in between.commits)
            return entered and connection_survives(self.final, self.witness, between.trail, self.read)
        return True

    def edge(self, kind: Kind, seen: Sequence[Seen]) -> tuple[tuple[FlowOp, ...], tuple[FlowOp, ...]]:
        """The fewest writes that must be there, and then the fewest that must be missing, for this to go wrong.

        Greedy. All passes are taken to see the same; empty where that alone shows nothing.
        """
        for each in seen:
            if self.shows(kind, (each,)):
                return self._shrunk(kind, each)
        return (), ()

    def _shrunk(self, kind: Kind, seen: Seen) -> tuple[tuple[FlowOp, ...], tuple[FlowOp, ...]]:
        asked = [*self.before.asked, *self.between((seen,)).asked, *self.after.asked]
        turns = self.timeline.turn(seen.batch)
        near = [key for key in turns if any(_touches(key, *each) for each in asked)]
        every = {key: turns[key].alternatives[-1] for key in near}
        given = dict(seen.applied)
        applied = {key: flow for key, flow in given.items() if key in every}
        if not self.shows(kind, (_seen(seen.batch, applied),)):
            return (), ()
        for key in [*applied]:
            fewer = {other: flow for other, flow in applied.items() if other != key}
            if self.shows(kind, (_seen(seen.batch, fewer),)):
                applied = fewer
        first = dict(applied)
        missing = {key: flow for key, flow in every.items() if key not in applied}
        for key, flow in [*missing.items()]:
            if self.shows(kind, (_seen(seen.batch, {**applied, key: flow}),)):
                applied[key] = flow
                del missing[key]
        return _ops(turns, first), _ops(turns, missing)


def _touches(key: FlowKey, table: int, packet: Fields) -> bool:
    """Whether a key may decide a look-up; as an accept flow, too."""
    return key[0] == table and all(f == "conj_id" or packet.get(f, 0) & mask == value for f, value, mask in key[2])


def effect(flow: Flow | None, read: Collection[str]) -> tuple[Action, ...]:
    """What a flow does, without notes in registers that nothing reads."""
    actions = flow.actions if flow else ()
    return tuple(
        each for each in actions
        if not (isinstance(each, SetField) and each.field in CONSTANT and each.field not in read)
    )  # fmt: skip


def orphaned(tables: Watched, table: int, packet: Mapping[str, int]) -> Iterator[int]:
    """Conjunctions that are complete for a packet, above what decides it, without one of their accept flows."""
    met = [flow for flow in tables.flows if flow.table == table and meets(flow, packet)]
    soft = [flow for flow in met if flow.is_soft]
    floor = max((flow.priority for flow in met if not flow.is_soft), default=-1)
    for priority in sorted({flow.priority for flow in soft if flow.priority > floor}, reverse=True):
        clauses: dict[int, set[int]] = {}
        wanted: dict[int, int] = {}
        for each in (action for flow in soft if flow.priority == priority for action in flow.actions):
            if isinstance(each, Conjunction):
                clauses.setdefault(each.id, set()).add(each.clause)
                wanted[each.id] = each.clauses
        complete = [number for number, found in clauses.items() if len(found) == wanted[number]]
        found = [(number, tables.accepted(table, packet, number)) for number in complete]
        for number, flow in found:
            if flow is None or not any(field == "conj_id" and value for field, value, _ in flow.match):
                yield number
        if any(flow is not None for _, flow in found):
            return


def meets(flow: Flow, packet: Fields) -> bool:
    """Whether a flow matches a packet; a field that is absent reads as 0."""
    return all(packet.get(field, 0) & mask == value for field, value, mask in flow.match)


def shows(kind: Kind, before: Run, between: Run, after: Run) -> bool:
    """Whether what happens in between is what a property forbids. Of what lasts, the part that is seen at once."""
    if kind == "ambiguous":
        return between.disputed and not before.disputed and not after.disputed
    if kind == "orphan":
        return bool(between.orphans) and not before.orphans and not after.orphans
    both = before.sent & after.sent
    if kind == "loss":
        return bool(before.sent and after.sent and not between.sent) or bool(both - between.sent)
    if kind in {"leak", "leaked-connection"}:
        return bool(between.sent) and not before.sent and not after.sent
    if kind == "third":
        return bool((before.sent or after.sent) and between.sent - before.sent - after.sent)
    return bool(between.commits - before.commits - after.commits)


def replies(witness: Witness, trail: Trail, state: int, mark: int) -> Iterator[Witness]:
    """The answer to a packet, from wherever it went."""
    packet = mirrored(witness.packet)
    zones = {each.zone for each in trail.commits}
    for sent in trail.sent:
        ports = (sent.port,) if sent.port != NORMAL else (_OUTSIDE,)
        tags = {0, *((VLAN_PRESENT | tag) for tag in (*zones, sent.vlan) if tag)}
        for port in ports:
            for tag in sorted(tags):
                yield Witness({**packet, "in_port": port, "vlan_tci": tag}, state, mark)


def mirrored(packet: Fields) -> dict[str, int]:
    """A packet with its ends exchanged."""
    swapped = dict(packet)
    for one, other in MIRRORED:
        if one in packet or other in packet:
            swapped[one], swapped[other] = packet.get(other, 0), packet.get(one, 0)
    return swapped


def mark_stays(tables: Sequence[Flow], witness: Witness, mark: int, read: Collection[str]) -> bool:
    """Whether a marked connection is worse off for good: nothing heals it, and one of its directions is denied."""
    own = msgspec.structs.replace(witness, state=TRK | EST, mark=mark)
    forward = run([tables], own, read)
    free = run([tables], msgspec.structs.replace(own, mark=0), read)
    if not free.sent or any(each not in (None, mark) for _, each in forward.commits):
        return False
    if not forward.sent:
        return True
    return any(
        run([tables], msgspec.structs.replace(reply, mark=0), read).sent and not run([tables], reply, read).sent
        for reply in replies(witness, free.trail, TRK | EST | RPL, mark)
    )


def connection_survives(tables: Sequence[Flow], witness: Witness, leaked: Trail, read: Collection[str]) -> bool:
    """Whether a connection that should not be goes on: its own direction passes, or replies do and nothing cuts it."""
    forward = run([tables], msgspec.structs.replace(witness, state=TRK | EST, mark=0), read)
    if forward.sent:
        return True
    if any(mark for _, mark in forward.commits):
        return False
    return any(run([tables], reply, read).sent for reply in replies(witness, leaked, TRK | EST | RPL, 0))


def _seen(batch: int, applied: Mapping[FlowKey, Flow | None]) -> Seen:
    return Seen(batch, tuple(applied.items()))


def _ops(turns: Mapping[FlowKey, Turn], keys: Mapping[FlowKey, Flow | None]) -> tuple[FlowOp, ...]:
    found: list[FlowOp] = []
    for key, flow in keys.items():
        old = turns[key].alternatives[0]
        if flow is not None:
            found.append(AddFlow(flow))
        elif old is not None:
            found.append(DelFlow(old))
    return tuple(found)


def fields_only(packet: Mapping[str, int]) -> dict[str, int]:
    """A decoded packet without what conntrack says of it."""
    return {field: value for field, value in packet.items() if field not in CT_FIELDS}
