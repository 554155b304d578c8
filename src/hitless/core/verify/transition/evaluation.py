"""A plan evaluated for all packets: tables encoded, packets sent through them, and one of a set picked out."""

from __future__ import annotations

from collections.abc import Iterable

from hitless.core.model.flow import (
    Action,
    Ct,
    Flow,
    Match,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    SetField,
    exact,
)
from hitless.core.verify.transition.classes import Pattern
from hitless.core.verify.transition.lookup import Effects, Table
from hitless.core.verify.transition.packets import CONSTANT, MakeAlgebra, Node, Space
from hitless.core.verify.transition.passes import Run
from hitless.core.verify.transition.queries import Queries
from hitless.core.verify.transition.region import (
    Touched,
    fields_of,
    is_harmless,
    leads_on,
    near,
    touched_cubes,
)
from hitless.core.verify.transition.verdict import LimitError, Limits, Witness
from hitless.core.verify.transition.versions import Timeline
from hitless.core.verify.transition.witness import Replay, fields_only

_VID = 0x0FFF
_MANY_CUBES = 2_000  # beyond, it costs more to say which packets are near than to take all


class Evaluation:
    """The evaluation over decision diagrams."""

    def __init__(
        self, timeline: Timeline, limits: Limits, algebra: MakeAlgebra, nodes: int, met: Touched | None = None,
        quiet: frozenset[int] = frozenset(), apart: frozenset[int] = frozenset(),
    ) -> None:  # fmt: skip
        self.timeline, self.limits = timeline, limits
        touched = timeline.touched
        versions = timeline.versions()
        still = [flow for key, flow in timeline.before.items() if key not in touched]
        self.fields = fields_of([*still, *(each.flow for each in versions)])
        cubes = touched_cubes(touched, self.fields.written)
        if any(timeline.is_atomic(step) for step in range(1, len(timeline.turns) + 1)):
            cubes = frozenset({()})  # what a cache may hold was put there by any packet
        if any(moves_on(flow) for flow in still) or any(moves_on(each.flow) for each in versions):
            cubes = frozenset({()})  # what is not understood may change any field
        flows = near(still, cubes)
        every = [*flows, *(each.flow for each in versions)]
        count = len(timeline.turns)
        self.space = Space(algebra, patterns_of(every, quiet), count, timeline.orders, limits.passes, nodes)
        effects = Effects(self.fields.read)
        self._tables: dict[int, Table] = {}
        for flow in flows:
            self._table(flow.table, effects).add(flow, None)
        for version in versions:
            self._table(version.flow.table, effects).add(version.flow, version.presence)
        atomic = self.space.false
        for step in range(1, count + 1):
            if timeline.is_atomic(step):
                atomic = atomic | self.space.steps(step, step)
        run = Run(self.space, self._tables, effects, self.fields, atomic,
                  (lambda _generation: False) if met is None else met.is_last_met, apart)  # fmt: skip
        where = self.space.domain & self._near(cubes)
        for port in quiet:
            where = where & ~self.space.term(exact("in_port", port))
        self.outcome = run.packets(where, limits.passes)
        self.queries = Queries(self.space, self.outcome)

    def _table(self, number: int, effects: Effects) -> Table:
        if number not in self._tables:
            self._tables[number] = Table(number, self.space, effects)
        return self._tables[number]

    def _near(self, cubes: frozenset[Match]) -> Node:
        if () in cubes or len(cubes) > _MANY_CUBES:
            return self.space.true
        found = self.space.false
        for cube in cubes:
            found = found | self.space.match(cube)
        return found

    def replay(self, found: Witness) -> Replay:
        """The same packet on the concrete classifier."""
        return Replay(self.timeline, self.fields, found)

    def pick(self, node: Node) -> Witness:
        """One packet of a set, a likely one where there is one, with the moment and what its passes see."""
        picked = self.space.algebra.pick(self.space.likely(node))
        if picked is None:
            raise LimitError("an empty set was asked for a packet")
        packet, step, orders = self.space.decode(picked)
        seen = tuple(self.timeline.seen(step, order) for order in orders)
        return Witness(fields_only(packet), packet["ct_state"], packet["ct_mark"], seen)


def moves_on(flow: Flow) -> bool:
    """Whether look-ups come after an action of the flow that is not understood."""
    return any(
        isinstance(action, Opaque) and not is_harmless(action) and leads_on(action, flow.actions[place + 1 :])
        for place, action in enumerate(flow.actions)
    )


def patterns_of(flows: Iterable[Flow], quiet: Iterable[int]) -> dict[str, set[Pattern]]:
    """Every value and mask that distinguishes packets: those of matches, and those that actions compare with."""
    found: dict[str, set[Pattern]] = {"in_port": set(), "vlan_tci": set(), "ct_mark": set()}
    found["in_port"].update(exact("in_port", port)[1:] for port in quiet)
    lists: dict[int, tuple[Action, ...]] = {}
    for flow in flows:
        lists[id(flow.actions)] = flow.actions
        for field, value, mask in flow.match:
            if mask and field not in CONSTANT:
                found.setdefault(field, set()).add((value, mask))
    actions = {action for each in lists.values() for action in each}
    if any(isinstance(each, Output) and isinstance(each.port, str) for each in actions):
        written = {each.value for each in actions if isinstance(each, SetField) and each.field in CONSTANT}
        found["in_port"].update(exact("in_port", value)[1:] for value in {*written, 0})
    for action in actions:
        match action:
            case Output(int(port)):
                found["in_port"].add(exact("in_port", port)[1:])
            case Ct(mark=int(mark)):
                found["ct_mark"].add(exact("ct_mark", mark)[1:])
            case PushVlan(tag) | SetField("vlan_tci", tag):
                found["vlan_tci"].update(((tag & _VID, _VID), (0, _VID)))
            case PopVlan():
                found["vlan_tci"].add((0, _VID))
            case _:
                pass
    return {field: patterns for field, patterns in found.items() if patterns}
