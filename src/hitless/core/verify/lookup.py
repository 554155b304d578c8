"""Open vSwitch's look-up of one packet in one table, with what is surprising in it (lib/classifier.c).

Flows with equal masks form a subtable, in which a flow hides every flow with the same match and a lower priority. A
flow with `conjunction` actions matches softly: when all clauses of an id are there at one priority, the table is asked
again with `conj_id` set, among all hard flows of any priority, and that answer is final. So a complete conjunction
without its accept flow finds the table's catch-all and shadows the conjunctions below it. An id whose second look-up
finds nothing ends its clause flow: the ids behind it in the action list are not tried.

Between flows of equal priority that both match, and between conjunctions that are complete at one priority, the order
is Open vSwitch's own affair. One answer is given, and the others as `rivals`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from hitless.core.model.flow import Conjunction, Flow, FlowKey
from hitless.core.verify.packet import Fields


class Found(msgspec.Struct, frozen=True):
    """The flow that decides, None on a table miss; `rivals` could decide as well, for all that is promised."""

    flow: Flow | None = None
    rivals: tuple[Flow | None, ...] = ()


class _Subtable:
    """Flows with equal masks: by their values, each value's flows from the highest priority down."""

    def __init__(self, masks: tuple[tuple[str, int], ...]) -> None:
        self.masks = masks
        self.chains: dict[tuple[int, ...], list[Flow]] = {}
        self.top = -1

    def add(self, flow: Flow) -> None:
        chain = self.chains.setdefault(tuple(value for _, value, _ in flow.match), [])
        chain[:] = sorted((each for each in (*chain, flow)), key=lambda each: -each.priority)
        self.top = max(self.top, flow.priority)

    def chain(self, packet: Fields) -> list[Flow] | None:
        return self.chains.get(tuple([packet.get(field, 0) & mask for field, mask in self.masks]))


class _Soft:
    """A clause flow that matched, with the flows that its match hides below it."""

    def __init__(self, chain: list[Flow]) -> None:
        self._hidden = iter(chain)
        self.flow = next(self._hidden)

    def below(self) -> Flow | None:
        found = next(self._hidden, None)
        self.flow = found or self.flow
        return found


class _Table:
    """One table's subtables, from the highest top priority down; equal ones in the order of their first flow."""

    def __init__(self, flows: Iterable[Flow]) -> None:
        found: dict[tuple[tuple[str, int], ...], _Subtable] = {}
        for flow in flows:
            masks = tuple((field, mask) for field, _, mask in flow.match)
            found.setdefault(masks, _Subtable(masks)).add(flow)
        self._subtables = sorted(found.values(), key=lambda each: -each.top)

    def lookup(self, packet: Fields) -> Found:
        """The whole of classifier_lookup__: hard over soft at equal priority, soft ones settled from the top down."""
        first, *others = self._settle(packet, *self._matches(packet))
        return Found(first, tuple(each for each in dict.fromkeys(others) if each != first))

    def accepted(self, packet: Fields, number: int) -> Flow | None:
        """What the second look-up finds for a conjunction that is complete."""
        hard, _ = self._matches({**packet, "conj_id": number})
        return hard[0] if hard else None

    def _settle(self, packet: Fields, hard: Sequence[Flow], soft: Sequence[_Soft]) -> list[Flow | None]:
        """What decides, and behind it what could decide in another order of equals."""
        floor = hard[0].priority if hard else -1
        soft = [each for each in soft if each.flow.priority > floor]
        if not soft:
            return [*hard] or [None]
        top = max(each.flow.priority for each in soft)
        level = [each for each in soft if each.flow.priority == top]
        completed, order = _complete([each.flow for each in level])
        outcomes = {number: self._matches({**packet, "conj_id": number})[0] for number in completed}
        decided = [flow for number in order for flow in outcomes[number]][:1]
        others = [flow for found in outcomes.values() for flow in found]
        if decided and all(outcomes.values()):
            return [*decided, *others]
        # Nothing may come of this priority: what its clause flows hid comes to light.
        rest = [each for each in soft if each.flow.priority != top]
        for each in level:
            uncovered, best = each.below(), hard[0].priority if hard else -1
            if uncovered is not None and uncovered.is_soft:
                rest.append(each)
            elif uncovered is not None and uncovered.priority >= best:
                hard = [*(hard if uncovered.priority == best else ()), uncovered]
        lower = self._settle(packet, hard, rest)
        return [*decided, *lower, *others]

    def _matches(self, packet: Fields) -> tuple[list[Flow], list[_Soft]]:
        """The hard flows of the highest priority that has one, and the clause flows that were met on the way."""
        hard: list[Flow] = []
        soft: list[_Soft] = []
        floor = -1
        for subtable in self._subtables:
            if subtable.top < floor:
                break
            chain = subtable.chain(packet)
            if chain is None or chain[0].priority < floor:
                continue
            if chain[0].is_soft:
                soft.append(_Soft(chain))
            elif chain[0].priority > floor:
                hard, floor = [chain[0]], chain[0].priority
            else:
                hard.append(chain[0])
        return hard, soft


def _complete(level: Sequence[Flow]) -> tuple[frozenset[int], list[int]]:
    """The ids whose clauses are all there, and those that get their second look-up, in the order in which they do."""
    every: dict[int, int] = {}
    clauses: dict[int, int] = {}
    order: list[int] = []
    for flow in level:
        ended = False
        for each in flow.actions:
            if not isinstance(each, Conjunction) or each.clauses > len(level):
                continue
            bits = -1 << each.clauses, 1 << (each.clause - 1)  # an id is complete when no bit is missing
            every[each.id] = every.get(each.id, bits[0]) | bits[1]
            if not ended:
                clauses[each.id] = clauses.get(each.id, bits[0]) | bits[1]
                if clauses[each.id] == -1:
                    order.append(each.id)
                    ended = True  # whatever it finds, the ids behind it are not tried
    return frozenset(number for number, found in every.items() if found == -1), order


class Tables:
    """Flows, indexed for look-ups. An add with an equal key replaces, as in OpenFlow; the last one stays."""

    def __init__(self, flows: Iterable[Flow]) -> None:
        tables: dict[int, dict[FlowKey, Flow]] = {}
        for flow in flows:
            tables.setdefault(flow.table, {})[flow.key] = flow
        self._tables = {number: _Table(found.values()) for number, found in tables.items()}

    def lookup(self, table: int, packet: Fields) -> Found:
        """What decides a packet in one table; nothing on a miss, which drops."""
        found = self._tables.get(table)
        return found.lookup(packet) if found else Found()

    def accepted(self, table: int, packet: Fields, number: int) -> Flow | None:
        """What a conjunction that is complete for a packet leads to."""
        found = self._tables.get(table)
        return found.accepted(packet, number) if found else None
