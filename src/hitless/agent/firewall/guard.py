"""The check before each write: nothing is written to a bridge that is not proved to be sound on the way.

A difference of tables is judged against what the bridge holds now: as one bundle, and where that lets a packet meet a
mix of old and new tables, under a new stamp (`core/firewall/stamp.py`), which ties its passes together. Where neither
is proved, nothing is written, the old tables stay in force and a condition says why. That goes for `Unknown` as well:
a limit that was hit is no licence, and there is no switch that turns the check off, because whatever falls back to
nothing does so on the day on which it is needed (docs/adr/0020-nothing-unproved-is-written.md). A first programming,
and one after ovs-vswitchd has lost the tables, never comes to that: see `_from_nothing`.

The engine is loaded when there is something to judge: an unchanged restart does not pay for it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from hitless.core.firewall.stamp import read_stamp, stamped
from hitless.core.model.flow import Ct, Flow, Opaque, exact
from hitless.core.plan.flows import Bundle, FlowOp

if TYPE_CHECKING:
    from hitless.agent.firewall.picture import Picture
    from hitless.core.verify.transition.verdict import Verdict

Word = Literal["proved", "refuted", "unknown"]

_CODES: Final[dict[Word, str]] = {"proved": "", "refuted": "plan-refuted", "unknown": "plan-unknown"}
_ENTRY: Final = 0  # where every packet begins, in any pipeline
_TOP: Final = 65535
_RESERVED: Final = 0xFF00  # OFPP_MAX: what is above are no ports that come and go
_IN: Final = ", in the flow of "
_SHOWN: Final = 3  # flows that are named
_STAYS: Final = "nothing is written, the old tables stay"


# A mark on a connection that is to be denied anyway, or that its next packet takes away, harms nobody: our tables mark
# in one place and heal in two. A mark that stays is asked for, and so is the loss of a packet that should have passed.
ASKED: Final = frozenset({"leaked-connection", "leak", "poison-stays", "loss", "third", "ambiguous", "orphan"})
_NONE: Final[frozenset[str]] = frozenset()


class Told(msgspec.Struct, frozen=True):
    """A verdict as a plan file keeps it.

    `about` is what was covered, what went wrong in one line, or which limit was hit; `story` are numbered sentences,
    `steps` the look-ups of the witness. `first` are writes that were there without any of `missing`, as flow-mods:
    ordering the missing ones first, or all in one bundle, closes this window.
    """

    verdict: Word
    about: str
    kind: str = ""
    story: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    first: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


class Judged(msgspec.Struct, frozen=True):
    """What may be written, bundle by bundle with a barrier in between; nothing of it where it is not `accepted`."""

    told: Told
    batches: tuple[Bundle, ...]
    accepted: bool


class Guard:
    """Judges what a process is about to write, and remembers its last refusal: the same question is asked for ever."""

    def __init__(self, *, accept_unknown: bool = False) -> None:
        self._accept_unknown = accept_unknown
        self._refused: tuple[object, Judged] | None = None

    def __call__(self, picture: Picture, bundle: Bundle) -> Judged:
        """Whether and how a bundle may be written to the bridge as it was last seen."""
        ports = frozenset(each.ofport for each in picture.bridge.interfaces) if picture.bridge else frozenset()
        asked = bundle, picture.ours, picture.others, ports
        if self._refused is not None and self._refused[0] == asked:
            return self._refused[1]
        found = judge((*picture.ours.values(), *picture.others.values()), bundle, ports)
        if found.told.verdict == "unknown" and self._accept_unknown:
            found = msgspec.structs.replace(found, accepted=True)
        self._refused = None if found.accepted else (asked, found)
        return found


def code(told: Told) -> str:
    """The condition of a verdict that keeps a bundle from being written."""
    return _CODES[told.verdict]


def unverified(_picture: Picture, bundle: Bundle) -> Judged:
    """Where nobody is asked: replays of historic mistakes, and tests of something else."""
    return Judged(Told("proved", "not asked"), (bundle,), accepted=True)


def judge(before: Collection[Flow], bundle: Bundle, ports: Collection[int]) -> Judged:
    """The first way that is proved; else one whose verdict is unknown; else the refutation of the single bundle.

    `before` is all that the bridge holds, `ports` are the OpenFlow numbers that it has.
    """
    if not bundle or _from_nothing(before):
        covered = "nothing there leads to a second pass, so a packet meets all of the old tables or all of the new"
        return Judged(Told("proved", covered), (bundle,) if bundle else (), accepted=True)
    closed = _closed([*before, *(op.flow for op in bundle)], ports)
    found: list[Judged] = []
    for batches in ((bundle,), stamped(bundle, read_stamp(before))):
        told = _with_places(told_of(check_batches((*before, *closed), batches, atomic=True, properties=ASKED)), before)
        found.append(Judged(told, batches, accepted=told.verdict == "proved"))
        if told.verdict == "proved":
            return found[-1]
    return next((each for each in found if each.told.verdict == "unknown"), found[0])


def check_batches(
    before: Iterable[Flow], batches: Sequence[Sequence[FlowOp]], *, atomic: bool, properties: frozenset[str] = _NONE
) -> Verdict:
    """The engine's verdict, on all properties where none is named. Its own defect is `Unknown`: it says nothing."""
    from hitless.core.verify.transition.check import check
    from hitless.core.verify.transition.verdict import ALL, Batch, DisagreementError, Unknown

    try:
        return check(before, [Batch(tuple(each), atomic) for each in batches], properties=properties or ALL)
    except DisagreementError as error:
        return Unknown(str(error))


def told_of(verdict: Verdict) -> Told:
    """A verdict in words."""
    from hitless.core.verify.transition.verdict import Counterexample, Proved
    from hitless.drivers.ovs.apply import lines

    if isinstance(verdict, Proved):
        return Told("proved", verdict.covered)
    if isinstance(verdict, Counterexample):
        about = verdict.story[0].removeprefix("1. ")
        first, missing = verdict.edge
        return Told("refuted", about, verdict.kind, verdict.story, verdict.steps,
                    tuple(lines(first)), tuple(lines(missing)))  # fmt: skip
    return Told("unknown", verdict.limit)


def sentence(told: Told) -> str:
    """A verdict that keeps a bundle from being written, as a condition says it."""
    parts = "make the change in smaller parts, or look at it with `hitless plan`"
    if told.verdict != "unknown":
        return f"{'; '.join(told.story) or told.about}: {_STAYS}; {parts}"
    if _IN in told.about:
        parts = "smaller parts do not help: remove that flow, or take the risk with `hitless apply --accept-unknown`"
    return f"not proved, {told.about}: {_STAYS}; {parts}"


def _with_places(told: Told, flows: Iterable[Flow]) -> Told:
    """A verdict that fails on actions which are not understood, with the flows that have them."""
    if told.verdict != "unknown":
        return told
    found = [
        f"{_IN}table {flow.table}, priority {flow.priority}, cookie {flow.cookie:#x}"
        for flow in flows
        if any(isinstance(each, Opaque) and each.text in told.about for each in flow.actions)
    ]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return msgspec.structs.replace(told, about=f"{told.about}{''.join(found[:_SHOWN])}{more}")


def _from_nothing(before: Iterable[Flow]) -> bool:
    """Whether no flow that is there hands a packet on to another pass.

    Then a packet that meets an old table is done there, and one that met a new table goes on in new ones: a verdict
    that was cached for a pass after `ct()` can only come from tables that have a `ct()`. One atomic bundle is sound.
    """
    return not any(
        isinstance(action, Opaque) or (isinstance(action, Ct) and action.table is not None)
        for flow in before
        for action in flow.actions
    )


def _closed(flows: Iterable[Flow], ports: Collection[int]) -> list[Flow]:
    """What the bridge says of the world, as flows: nothing comes in by a port that it does not have.

    Without them a port that was unplugged would be taken for one that might still send. A bridge always has its own.
    """
    named = {value for flow in flows for field, value, _ in flow.match if field == "in_port" and value < _RESERVED}
    absent = sorted(named.difference(ports)) if ports else []
    return [Flow(_ENTRY, _TOP, (exact("in_port", each),)) for each in absent]
