"""A plan of lines to a verdict, with what has to be said beside it.

Open vSwitch carries out one flow-mod in one version of its tables, however many flows it hits (ofproto/ofproto.c:
`delete_flows_start__` and `modify_flows_start__` change rules for `ofm->version`, which `handle_flow_mod__` then makes
the current one). So a line that stands alone between barriers is atomic. Beside other lines it is not: the check knows
batches that are written at once and batches that are written in any order, and no unit in between. There each flow it
hits counts as a write of its own, which is never more lenient than Open vSwitch, and a refutation says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from hitless.agent.firewall.dumps import PARTIAL
from hitless.agent.firewall.flowmods import Line
from hitless.agent.firewall.guard import Told, told_of
from hitless.agent.firewall.uncovered import uncovered
from hitless.core.model.flow import Flow
from hitless.core.verify.transition.check import check
from hitless.core.verify.transition.verdict import Batch, DisagreementError, Unknown, Verdict

Lines = Sequence[Sequence[Line]]

_WIDTH = 120


class Answer(msgspec.Struct, frozen=True):
    """`notes` are about lines of the plan, `not_covered` is what a proof leaves open."""

    told: Told
    notes: tuple[str, ...] = ()
    not_covered: tuple[str, ...] = ()


def judge_lines(
    before: Sequence[Flow], batches: Lines, *, atomic: bool, partial: bool = False, ends: int = 0
) -> Answer:
    """The verdict on all batches, each a bundle where `atomic`.

    `partial`: a dump may be a part of the tables. `ends` flows of `before` have a timeout.
    """
    told = Told("unknown", PARTIAL) if partial else told_of(_verdict(before, batches, atomic=atomic))
    notes = (*_idle(batches), *(_several(batches) if told.verdict == "refuted" and not atomic else ()))
    if told.verdict != "proved":
        return Answer(told, notes)
    left = uncovered(before, (op for batch in batches for line in batch for op in line.ops))
    timed = (f"{ends} flows of the dump have a timeout and may end by themselves",) if ends else ()
    return Answer(told, notes, (*left, *timed))


def _verdict(before: Sequence[Flow], batches: Lines, *, atomic: bool) -> Verdict:
    try:
        return check(before, [*_units(batches, atomic=atomic)])
    except DisagreementError as error:
        return Unknown(str(error))


def _units(batches: Lines, *, atomic: bool) -> Iterator[Batch]:
    for batch in batches:
        writing = [line.ops for line in batch if line.ops]
        if writing:
            alone = len(writing) == 1 and len(writing[0]) > 1
            yield Batch(tuple(op for ops in writing for op in ops), atomic or alone)


def _idle(batches: Lines) -> Iterator[str]:
    for batch in batches:
        for line in batch:
            if not line.ops:
                yield f"line {line.number}: `{_short(line.text)}` matches no flow, and does nothing"


def _several(batches: Lines) -> Iterator[str]:
    for batch in batches:
        for line in batch:
            if len(line.ops) > 1 and sum(bool(each.ops) for each in batch) > 1:
                yield (f"line {line.number}: `{_short(line.text)}` counts as {len(line.ops)} writes here, which Open "
                       "vSwitch does in one step; so it counts with `---` before and after it")  # fmt: skip


def _short(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
