"""The transition check: proved, refuted with a packet and a story, or unknown with the limit that was hit.

    >>> from hitless.core.model.flow import Flow, Output, exact
    >>> from hitless.core.plan.flows import AddFlow, DelFlow
    >>> old = Flow(0, 5, (exact("in_port", 1),), (Output(2),))
    >>> new = Flow(0, 6, (exact("in_port", 1),), (Output(2),))
    >>> found = check([old], [Batch((DelFlow(old),)), Batch((AddFlow(new),))])
    >>> print(type(found).__name__, found.kind)
    Counterexample loss
    >>> check([old], [Batch((AddFlow(new), DelFlow(old)))]).covered
    'one atomic bundle of 2 changed flows, which a packet meets in one pass at most: it sees all of it or nothing'
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from hitless.core.model.flow import EST, TRK, Flow, exact
from hitless.core.verify.classifier import NORMAL
from hitless.core.verify.transition.evaluation import Evaluation
from hitless.core.verify.transition.packets import MIRRORED, MakeAlgebra, Node, oxidd
from hitless.core.verify.transition.queries import EQUALS, Lasting
from hitless.core.verify.transition.region import Touched, passes_that_meet
from hitless.core.verify.transition.telling import steps, told, went
from hitless.core.verify.transition.verdict import (
    ALL,
    KINDS,
    Batch,
    Counterexample,
    DisagreementError,
    Kind,
    LimitError,
    Limits,
    Proved,
    Unknown,
    Verdict,
    Witness,
)
from hitless.core.verify.transition.versions import Timeline
from hitless.core.verify.transition.witness import Run

_FEW_NODES = 1 << 18
_FEW_KEYS = 48  # that are told apart one by one, where a pass may see two of a kind
_AIMED = ("nw_dst", "ipv6_dst")
"""Where a packet is sent to is often of no account to it, and all to its reply."""
_MIRRORS = (*MIRRORED, *((other, one) for one, other in MIRRORED))
_UNREACHED = Proved("no packet that enters by table 0 reaches a flow that changes")
_SAYS: dict[Kind, str] = {
    "leaked-connection": "a connection that is denied before and after the plan is let in between, and lives on",
    "leak": "a packet that is denied before and after the plan passes in between",
    "poison-stays": "a connection that is allowed after the plan is marked in between, and nothing takes the mark away",
    "loss": "a packet that passes before and after the plan is lost in between",
    "third": "a packet goes in between where it goes neither before nor after the plan",
    "poison": "a connection is committed or marked in between as it is neither before nor after the plan",
    "ambiguous": "in between, flows that are equal by the rules decide differently",
    "orphan": "in between, a conjunction is complete and its accept flow is not there",
}


def check(
    before: Iterable[Flow], plan: Sequence[Batch], *, properties: frozenset[str] = ALL, limits: Limits = Limits(),  # noqa: B008 - it is frozen
    quiet: frozenset[int] = frozenset(), algebra: MakeAlgebra = oxidd,
) -> Verdict:  # fmt: skip
    """Whether any in-between state of a plan violates a property (`verdict.KINDS`). The ends may differ as wanted.

    `quiet` are ports that nothing comes in by while the plan is written: such as one that is attached only afterwards.
    Raises DisagreementError where the check contradicts its own replay, which is a defect of this program.
    """
    try:
        before = [*before]
        timeline = Timeline(before, plan, limits)
        if not timeline.turns:
            return Proved("the plan changes nothing that a packet could tell")
        alone = len(timeline.turns) == 1 and timeline.is_atomic(1)
        touched = _touched(timeline) if alone else None
        if touched is not None and touched.wild is None and not any(touched.meets):
            return _UNREACHED
        if touched is not None and touched.is_last_met(-1):
            return Proved(f"one atomic bundle of {len(timeline.touched)} changed flows, which a packet meets in one "
                          "pass at most: it sees all of it or nothing")  # fmt: skip
        evaluate: _Evaluate = lambda nodes, apart: Evaluation(  # noqa: E731
            Timeline(before, plan, limits, apart) if apart else timeline, limits, algebra, nodes, touched, quiet, apart
        )  # fmt: skip
        return _evaluated(properties, limits, evaluate)
    except LimitError as error:
        return Unknown(str(error))


_Evaluate = Callable[[int, frozenset[int]], Evaluation]


def _evaluated(properties: frozenset[str], limits: Limits, evaluate: _Evaluate) -> Verdict:
    """Over decision diagrams: first in a small space, which is made in no time, then in all that is allowed."""
    for nodes in sorted({min(_FEW_NODES, limits.nodes), limits.nodes}):
        try:
            found = evaluate(nodes, frozenset())
            twice = frozenset(found.outcome.twice)
            if twice and sum(key[0] in twice for key in found.timeline.touched) <= _FEW_KEYS:
                found = evaluate(nodes, twice)
            return _Judge(found).verdict(properties)
        except MemoryError:
            continue
    return Unknown(f"more than {limits.nodes} nodes of decision diagrams: split the plan")


def _touched(timeline: Timeline) -> Touched:
    """In which passes a packet can meet the change."""
    flows = [*timeline.before.values(), *(flow for flow in timeline.after.values() if flow is not None)]
    return passes_that_meet(flows, timeline.touched)


class _Judge:
    """Asks an evaluation for every kind of violation."""

    def __init__(self, of: Evaluation) -> None:
        self._of = of

    def verdict(self, properties: frozenset[str]) -> Verdict:
        """The first violation in the order of KINDS; unknown where something stood in the way of a proof."""
        hidden = self._of.queries.open_to()
        understood = ~self._of.outcome.impossible
        for why, node in hidden.items():
            understood = understood & ~node if why != EQUALS else understood
        shown = understood & ~hidden.get(EQUALS, self._of.space.false)
        open_kinds = []
        for kind in KINDS:
            if kind in properties:
                found = self._ask(kind, understood if kind == "ambiguous" else shown)
                if isinstance(found, Counterexample):
                    return found
                open_kinds += [] if found is None else [found.limit]
        if hidden or open_kinds:
            return Unknown("; ".join([*sorted(hidden), *open_kinds]))
        if not self._of.outcome.looked:
            return _UNREACHED
        count = len(self._of.timeline.touched)
        return Proved(f"{len(self._of.timeline.turns)} steps over {count} changed flows, every packet that can meet "
                      "one, in every order that the steps leave open, pass by pass")  # fmt: skip

    def _ask(self, kind: Kind, shown: Node) -> Counterexample | Unknown | None:
        if kind == "poison-stays":
            return self._lasting(kind, self._of.queries.stays(), shown)
        if kind == "leaked-connection":
            return self._lasting(kind, self._of.queries.survives(), shown)
        node = self._of.queries.question(kind) & shown
        return None if node == self._of.space.false else self._report(kind, self._of.pick(node))

    def _lasting(self, kind: Kind, lasting: Lasting, shown: Node) -> Counterexample | Unknown | None:
        """What a packet's own direction shows is reported; what replies may show is tried, packet by packet."""
        none = self._of.space.false
        if lasting.shown & shown != none:
            return self._report(kind, self._of.pick(lasting.shown & shown))
        asked, doubt = lasting.asked & shown, False
        for _ in range(self._of.limits.witnesses):
            if asked == none:
                break
            found = self._of.pick(asked)
            fixed = {field: value for field, value in found.packet.items() if field not in _AIMED}
            answers = lasting.answers & self._of.space.answering(fixed)
            if answers == none:
                asked = asked & ~self._of.space.like(fixed)
                continue
            answers = answers & self._from_there(found)
            if answers == none:
                asked = asked & ~self._of.space.like(found.packet)
                continue
            answer = self._of.pick(answers).packet
            free = {field: answer[mirror] for field, mirror in _MIRRORS if field not in fixed and mirror in answer}
            aimed = {**dict.fromkeys(_AIMED, 0), **fixed, **free}
            for packet in (aimed, found.packet):
                witness = msgspec.structs.replace(found, packet=packet)
                if self._of.space.like(packet) & asked != none and self._of.replay(witness).shows(kind, found.seen):
                    return self._report(kind, witness)
            asked, doubt = asked & ~self._of.space.like(found.packet), True
        if asked == none and not doubt:
            return None
        return Unknown(f"{kind}: packets whose replies show it could neither be found nor excluded "
                       f"({self._of.limits.witnesses} were tried)")  # fmt: skip

    def _from_there(self, found: Witness) -> Node:
        """Packets from where this one goes when it is part of a live connection after the plan; NORMAL is anywhere."""
        live = msgspec.structs.replace(found, state=TRK | EST, mark=0)
        replay = self._of.replay(live)
        ports = {port for port, _ in (*replay.after.sent, *replay.between(found.seen).sent)}
        if NORMAL in ports or not ports or "in_port" not in self._of.space.codings:
            return self._of.space.true
        node = self._of.space.false
        for port in ports:
            node = node | self._of.space.term(exact("in_port", port))
        return node

    def _report(self, kind: Kind, found: Witness) -> Counterexample:
        replay = self._of.replay(found)
        between = replay.between(found.seen)
        runs = (replay.before, between, replay.after)
        if not replay.shows(kind, found.seen):
            fates = ", then ".join(went(each.sent, each.commits) for each in runs)
            raise DisagreementError(f"{kind}: {told(found)}; {fates}")
        depth = max(each.version for each in between.trail.passes) + 1
        found = msgspec.structs.replace(found, seen=found.seen[:depth])
        return Counterexample(kind, self._story(kind, found, runs), found, steps(between.trail),
                              replay.edge(kind, found.seen))  # fmt: skip

    def _story(
        self, kind: Kind, found: Witness, runs: tuple[Run, Run, Run]
    ) -> tuple[str, ...]:
        lines = [_SAYS[kind], f"packet: {told(found)}", f"before the plan it {went(runs[0].sent, runs[0].commits)}"]
        total = len(self._of.timeline.plan)
        for number, seen in enumerate(found.seen, 1):
            size = len(self._of.timeline.turn(seen.batch))
            lines.append(f"while batch {seen.batch} of {total} is written, its pass {number} sees "
                         f"{len(seen.applied)} of the batch's {size} changes")  # fmt: skip
        lines.append(f"then it {went(runs[1].sent, runs[1].commits)}")
        lines.append(f"after the plan it {went(runs[2].sent, runs[2].commits)}")
        return tuple(f"{number}. {line}" for number, line in enumerate(lines, 1))
