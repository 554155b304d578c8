"""Random small tables and plans, from few values, so that flows, writes and packets meet."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from hitless.core.model.flow import (
    EST,
    NEW,
    RPL,
    TRK,
    Action,
    Conjunction,
    Ct,
    CtClear,
    Flow,
    Normal,
    Output,
    Resubmit,
    SetField,
    Term,
    exact,
)
from hitless.core.plan.flows import AddFlow, DelFlow, FlowOp
from hitless.core.verify.transition.verdict import Batch

LAST_TABLE = 2
IDS = (7, 9)
_LEVELS = (10, 20)  # of their clauses, in clear tables
_BLOCK: Term = ("nw_src", 0, 0xFFFFFFFE)
_STATES: tuple[Term, ...] = (
    ("ct_state", TRK, TRK), ("ct_state", 0, TRK), ("ct_state", TRK | EST, TRK | EST | RPL),
    ("ct_state", TRK | NEW, TRK | NEW),
)  # fmt: skip


OPERATIONS = 8  # at most, of one plan: subsets of more cannot be tried


class Small:
    """One source of randomness. Three in four have no two flows of equal priority that could decide differently."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._clear = seed % 4 > 0
        places = sorted({*range(1, 40)} - {*_LEVELS})
        self._priorities = {table: self._random.sample(places, len(places)) for table in range(LAST_TABLE + 1)}

    def tables(self) -> list[Flow]:
        found = [flow for table in range(LAST_TABLE + 1) for flow in self._table(table)]
        return [*{flow.key: flow for flow in found}.values()]

    def plan(self, before: list[Flow]) -> list[Batch]:
        """Some flows go, some come, some change; in one bundle, in several, or with no order at all."""
        chance = self._random
        wanted = [flow for flow in before if chance.random() < 0.75]
        wanted += [flow for flow in self.tables() if chance.random() < 0.35]
        after = {flow.key: flow for flow in wanted}
        old = {flow.key: flow for flow in before}
        ops: list[FlowOp] = [AddFlow(flow) for key, flow in after.items() if old.get(key) != flow]
        ops += [DelFlow(flow) for key, flow in old.items() if key not in after]
        chance.shuffle(ops)
        ops = ops[:OPERATIONS]
        if chance.random() < 0.4:
            return [Batch(tuple(ops))]
        found = []
        while ops:
            atomic = chance.random() < 0.5
            size = chance.randrange(1, 5 if atomic else 3)
            taken, ops = ops[:size], ops[size:]
            if not atomic and chance.random() < 0.15:
                taken += [AddFlow(Flow(*taken[0].flow.key, self._actions(taken[0].flow.table)))]
            found.append(Batch(tuple(taken), atomic))
        return found

    def one_table(self) -> tuple[list[Flow], Batch]:
        """Flows of one table that only drop and send, with different priorities, and writes to them in no order."""
        chance = self._random
        ends: list[dict[int, Flow]] = []
        for _ in range(2):
            actions = [((), (Output(2),), (Output(3),), (Output(4),))[chance.randrange(4)] for _ in range(5)]
            flows = [Flow(0, priority, self._match(0, 0.7), each) for priority, each in enumerate(actions, 1)]
            ends.append({flow.priority: flow for flow in flows if chance.random() < 0.8})
        before, after = ends
        # The same priority twice would be equals: those of one end only have priorities of their own.
        wanted = [msgspec.structs.replace(flow, priority=flow.priority + 10) for flow in after.values()]
        ops: list[FlowOp] = [*map(AddFlow, wanted)]
        ops += [DelFlow(flow) for flow in before.values() if chance.random() < 0.7]
        chance.shuffle(ops)
        return [*before.values()], Batch(tuple(ops), atomic=False)

    def _table(self, table: int) -> list[Flow]:
        chance = self._random
        places = [self._priority(table, range(1, 12)) for _ in range(chance.randrange(1, 4))]
        found = [Flow(table, priority, self._match(table), self._actions(table)) for priority in places]
        if table and chance.random() < 0.5:
            for _ in range(chance.randrange(2, 5)):
                ids = chance.sample(IDS, 1 if self._clear else chance.randrange(1, 3))
                clauses = tuple(Conjunction(number, chance.randrange(1, 3), 2) for number in ids)
                level = _LEVELS[IDS.index(ids[0])] if self._clear else chance.choice((3, 3, 3, 4))
                found.append(Flow(table, level, self._match(table), clauses))
            for number in IDS:
                if chance.random() < 0.7:
                    match = tuple(sorted((exact("conj_id", number), *self._match(table, 0.2))))
                    found.append(Flow(table, self._priority(table, (3, 3, 5, 1)), match, self._actions(table)))
        if chance.random() < 0.5:
            found.append(Flow(table, 0, (), self._actions(table)))
        return found

    def _priority(self, table: int, rough: Sequence[int]) -> int:
        return self._priorities[table].pop() if self._clear else self._random.choice(rough)

    def _match(self, table: int, likely: float = 0.5) -> tuple[Term, ...]:
        chance = self._random
        terms: list[Term] = []
        if chance.random() < likely:
            terms.append(chance.choice((exact("nw_src", 1), exact("nw_src", 0), _BLOCK, ("nw_src", 1, 1))))
        if chance.random() < likely / 2:
            terms.append(exact("tp_dst", 1))
        if chance.random() < likely / 3:
            terms.append(exact("in_port", 2))
        if table and chance.random() < likely:
            terms.append(chance.choice((exact("reg5", 1), exact("reg5", 2), ("reg5", 2, 2))))
        if table and chance.random() < likely:
            terms.append(chance.choice(_STATES))
        if table and chance.random() < likely / 3:
            terms.append(chance.choice((exact("ct_mark", 0), exact("ct_mark", 1), exact("ct_zone", 5))))
        return tuple(sorted(terms))

    def _actions(self, table: int) -> tuple[Action, ...]:
        chance = self._random
        on = Resubmit(chance.randrange(table + 1, LAST_TABLE + 1)) if table < LAST_TABLE else Normal()
        then = chance.randrange(min(table + 1, LAST_TABLE), LAST_TABLE + 1)
        ct = Ct(zone=chance.choice((5, "NXM_NX_REG6[0..15]")), table=then)
        mark = Ct(zone=5, commit=True, mark=chance.choice((None, 0, 1)))
        set5 = SetField("reg5", chance.choice((1, 2)))
        own = (SetField("reg5", 2), Output("NXM_NX_REG5[]"))
        tracked: list[tuple[Action, ...]] = [(ct,), (set5, ct)] if table < LAST_TABLE else [()]
        choices: list[tuple[Action, ...]] = [
            (), (Output(2),), (Normal(),), own, (on,), (set5, on), (set5, SetField("reg6", 5), on), *tracked,
            (mark,), (mark, Output(2)), (CtClear(), on), (SetField("reg5", 2, 2), on), (on, set5, on),
            (set5, on, Output(2)), (SetField("reg7", 1), on),
        ]  # fmt: skip
        if table == 0 and chance.random() < 0.5:
            return (set5, Ct(zone=5, table=then))
        return chance.choice(choices)
