"""What a transition check is asked and what it answers: proved, refuted with a story, or which limit was hit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

import msgspec

from hitless.core.model.flow import Flow, FlowKey
from hitless.core.plan.flows import FlowOp

Kind = Literal[
    "leaked-connection", "leak", "poison-stays", "loss", "third", "poison", "ambiguous", "orphan"
]  # fmt: skip

KINDS: Final[tuple[Kind, ...]] = (
    "leaked-connection", "leak", "poison-stays", "loss", "third", "poison", "ambiguous", "orphan",
)  # fmt: skip
"""In the order in which they are asked: what outlives the plan before what passes, security before service."""
ALL: Final[frozenset[str]] = frozenset(KINDS)


class Batch(msgspec.Struct, frozen=True):
    """Operations that are written together; a revalidator barrier stands between two batches.

    An `atomic` one is an ordered bundle: a look-up sees all of it or nothing. Otherwise every subset of its
    operations, in every order, may be what a look-up sees meanwhile.
    """

    ops: tuple[FlowOp, ...]
    atomic: bool = True


class Limits(msgspec.Struct, frozen=True):
    """Where a check gives up and says so.

    `nodes` of decision diagrams (16 bytes each, and as much again for what indexes them); `passes` of one packet
    through the tables; `alternatives` are orders of writes to one key within a batch; `witnesses` that are tried
    before a connection's fate is left open.
    """

    nodes: int = 1 << 24
    passes: int = 6
    alternatives: int = 64
    witnesses: int = 32


class Seen(msgspec.Struct, frozen=True):
    """Which tables a pass saw: all batches before `batch` (from 1), and of that one what `applied` says.

    `applied` are keys with the flow that was there then, None for none; keys of the batch that are not named were as
    before it.
    """

    batch: int
    applied: tuple[tuple[FlowKey, Flow | None], ...] = ()


class Witness(msgspec.Struct, frozen=True):
    """One packet as fields, what conntrack answers for it (state and mark), and what each of its passes saw."""

    packet: Mapping[str, int]
    state: int
    mark: int
    seen: tuple[Seen, ...] = ()


class Proved(msgspec.Struct, frozen=True):
    """No in-between state shows any of the asked properties violated. `covered` says of what that was shown."""

    covered: str


class Counterexample(msgspec.Struct, frozen=True):
    """A packet and a moment that neither end wants, replayed on the concrete classifier.

    `steps` are the look-ups of the packet in that moment, as text. `edge` are the writes that suffice: each of the
    first was there, each of the second was not; ordering the second before the first (or writing both at once)
    closes this window.
    """

    kind: Kind
    story: tuple[str, ...]
    witness: Witness
    steps: tuple[str, ...]
    edge: tuple[tuple[FlowOp, ...], tuple[FlowOp, ...]] = ((), ())


class Unknown(msgspec.Struct, frozen=True):
    """Neither shown nor refuted; `limit` says what stood in the way."""

    limit: str


Verdict = Proved | Counterexample | Unknown


class LimitError(Exception):
    """Inside the check: a limit was hit. Becomes `Unknown`."""


class DisagreementError(Exception):
    """The symbolic and the concrete evaluation differ: a defect of this program, never of the plan."""

    def __init__(self, detail: str) -> None:
        super().__init__(
            f"transition-check-disagreement: the check found a counterexample that its own replay does not show "
            f"({detail}). This is a defect of the check: do not rely on its verdicts, and report the plan"
        )
        self.code = "transition-check-disagreement"
