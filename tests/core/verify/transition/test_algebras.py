"""Other ways to the same answers: another library of decision diagrams, and a solver that knows no diagrams."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import z3  # type: ignore[import-untyped]  # it ships no types
from dd import bdd
from dd.autoref import BDD, Function
from tests.core.verify.transition import policies
from tests.core.verify.transition.small import Small

from hitless.core.model.flow import Flow, FlowKey, Output
from hitless.core.plan.flows import AddFlow
from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.packets import Algebra
from hitless.core.verify.transition.verdict import KINDS, Batch, Counterexample, Kind, Unknown

PLANS, TABLES = 40, 60


class Kept(bdd.BDD):
    """Its destructor would insist that nothing refers to a node any more, in whatever order the collector goes."""

    def __del__(self) -> None:
        pass


class Pure:
    """The algebra of `dd`, in plain Python."""

    def __init__(self, variables: int) -> None:
        self._bdd = BDD()
        self._bdd._bdd.__class__ = Kept  # type: ignore[type-abstract]  # as it is itself
        self._bdd.configure(reordering=False)
        self._bdd.declare(*(f"v{number}" for number in range(variables)))
        self.true, self.false = self._bdd.true, self._bdd.false

    def var(self, number: int) -> Function:
        return self._bdd.var(f"v{number}")

    def exists(self, node: Function, variables: Function) -> Function:
        return self._bdd.exist(self._bdd.support(variables), node)

    def pick(self, node: Function) -> dict[int, bool] | None:
        found = self._bdd.pick(node)
        return None if found is None else {int(name[1:]): value for name, value in found.items()}


def pure(variables: int, _nodes: int) -> Algebra:
    return Pure(variables)  # type: ignore[return-value]


def test_another_library_says_the_same_of_random_plans() -> None:
    for seed in range(PLANS):
        small = Small(seed)
        before = small.tables()
        plan = small.plan(before)
        for kind in KINDS:
            asked = frozenset({kind})
            ours, theirs = check(before, plan, properties=asked), check(before, plan, properties=asked, algebra=pure)
            assert type(ours) is type(theirs), f"plan {seed}, {kind}: {ours} {theirs}"


@pytest.mark.parametrize("kind", ["loss", "leak", "poison"])
def test_another_library_says_the_same_of_the_historic_restart(kind: Kind) -> None:
    before, plan = policies.historic("reused")
    ours = check(before.values(), plan, properties=frozenset({kind}))
    theirs = check(before.values(), plan, properties=frozenset({kind}), algebra=pure)
    assert type(ours) is type(theirs) is Counterexample


class Solver:
    """One table of hard flows with different priorities, and writes in no order, as a formula."""

    def __init__(self, before: Sequence[Flow], batch: Batch) -> None:
        self._old = {flow.key: flow for flow in before}
        self._new = dict(self._old)
        for op in batch.ops:
            if isinstance(op, AddFlow):
                self._new[op.flow.key] = op.flow
            else:
                self._new.pop(op.flow.key, None)
        self._fields = {name: z3.BitVec(name, 32) for name in ("in_port", "nw_src", "tp_dst")}

    def violates(self, kind: str) -> bool:
        keys = sorted(self._old.keys() | self._new.keys(), key=lambda key: -key[1])
        seen = {key: z3.Bool(f"seen{number}") for number, key in enumerate(keys)}
        old, new = (self._port(keys, dict.fromkeys(keys, z3.BoolVal(now))) for now in (False, True))
        between = self._port(keys, seen)
        dropped = z3.BitVecVal(0, 32)
        solver = z3.Solver()
        if kind == "loss":
            solver.add(old != dropped, new != dropped, z3.Or(between == dropped, z3.And(old == new, between != old)))
        elif kind == "leak":
            solver.add(old == dropped, new == dropped, between != dropped)
        else:
            solver.add(z3.Or(old != dropped, new != dropped), between != dropped, between != old, between != new)
        return bool(solver.check() == z3.sat)

    def _port(self, keys: Sequence[FlowKey], seen: dict[FlowKey, z3.BoolRef]) -> z3.BitVecRef:
        port = z3.BitVecVal(0, 32)
        for key in reversed(keys):
            matches = [self._fields[field] & mask == value for field, value, mask in key[2]]
            for tables, now in ((self._old, z3.Not(seen[key])), (self._new, seen[key])):
                if key in tables:
                    port = z3.If(z3.And(now, *matches), self._sent(tables[key]), port)
        return port

    def _sent(self, flow: Flow) -> z3.BitVecRef:
        for action in flow.actions:
            if isinstance(action, Output) and isinstance(action.port, int):
                # A packet does not leave by the port it came in by.
                port = z3.BitVecVal(action.port, 32)
                return z3.If(self._fields["in_port"] == port, z3.BitVecVal(0, 32), port)
        return z3.BitVecVal(0, 32)


def test_a_solver_says_the_same_of_one_table() -> None:
    found = {"loss": 0, "leak": 0, "third": 0}
    for seed in range(TABLES):
        small = Small(seed)
        before, batch = small.one_table()
        for kind in found:
            ours = check(before, [batch], properties=frozenset({kind}))
            assert not isinstance(ours, Unknown)
            wanted = Solver(before, batch).violates(kind)
            assert isinstance(ours, Counterexample) == wanted, f"tables {seed}, {kind}"
            found[kind] += wanted
    assert all(count >= 5 for count in found.values()), found
