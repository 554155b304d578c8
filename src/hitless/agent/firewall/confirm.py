"""A change that is taken back unless a person confirms it: for whoever changes the node they are connected through.

Before the first write, what the bridge holds of ours is kept in the state directory (`reversal.json`), then that a word
is awaited (`confirmation.json`), and a process is started that outlives all others and takes the change back
(`reverter.py`). `hitless-confirm-until` in the bridge's `external_ids` tells those who have another state directory.

Whoever decides does it under `confirm.lock`, by writing the outcome into `confirmation.json` in one step, and removes
the way back. So a change is kept or taken back, once: by the person who confirms, by the reverter, or where that is
dead by the command that waits, the next `hitless apply`, or an agent. A confirmation that comes late, but before
anybody has taken the change back, still counts: who says a word is not locked out.

An agent that starts decides nothing. It leaves the bridge alone while a word is awaited. What was taken back is not
done again because the documents still say it: `hitless-taken-back` names that intent, and the agent goes by the one of
before until the documents say something else or a person applies it once more.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import structlog

from hitless.agent.firewall import facts, locks, memory
from hitless.agent.statefile import StateFileError, boot_id
from hitless.core.model.security import Intent

if TYPE_CHECKING:
    from hitless.agent.firewall.guard import Judged
    from hitless.agent.firewall.picture import Picture
    from hitless.agent.firewall.rounds import Firewall
    from hitless.core.plan.flows import Bundle

UNTIL = "hitless-confirm-until"
TAKEN_BACK = "hitless-taken-back"
_CONFIRMATION, _REVERSAL, _KEPT = "confirmation.json", "reversal.json", "kept-intent.json"
_PATIENCE_SECONDS = 60.0  # for another's decision: it may be writing many flows
_STRANGE_SECONDS = 60.0  # after its time, a change whose way back is not here is nobody's any longer


class Confirmation(msgspec.Struct, frozen=True):
    """A word that is awaited for a plan (its identity), or what has become of it where there is an `outcome`.

    `until` is for people, in seconds since 1970; what counts is `boot_until`, in seconds of CLOCK_BOOTTIME of this
    `boot`. `command` ends with what `--confirm` or `--take-back` has to be added to. `trouble` says why the change
    could not be taken back when it was due. `generation` is the intent that would be taken back.
    """

    plan: str
    generation: str
    command: str
    seconds: float
    until: float
    boot: str
    boot_until: float
    trouble: str = ""
    outcome: Literal["", "confirmed", "taken-back", "not-made"] = ""
    decided: float = 0.0
    flow_mods: int = 0
    cut: int = 0

    @property
    def text(self) -> str:
        """The value of `hitless-confirm-until`."""
        return f"{self.until:.3f}:{self.plan}"

    @property
    def left_seconds(self) -> float:
        """How long a word is still awaited; 0 or less where it is over. A reboot ends it."""
        if self.boot != boot_id():
            return 0.0
        return self.boot_until - time.clock_gettime(time.CLOCK_BOOTTIME)


class Reversal(msgspec.Struct, frozen=True):
    """What it takes to go back: our flows as they were, what `external_ids` said, and the intent if one is known."""

    plan: str
    flows: tuple[str, ...]
    external_ids: dict[str, str]
    intent: Intent | None = None


class ReversalError(Exception):
    """A change cannot be taken back. `judged` is what the check says against it, if it was that."""

    def __init__(self, code: str, message: str, judged: Judged | None = None) -> None:
        super().__init__(message)
        self.code, self.judged = code, judged


# --- what is awaited ----------------------------------------------------------------------------------------


def last(directory: Path) -> Confirmation | None:
    """What was awaited last, decided or not. Raises StateFileError."""
    return memory.read_json(directory / _CONFIRMATION, Confirmation)


def awaited(directory: Path) -> Confirmation | None:
    """What is awaited, in time or overdue. Raises StateFileError."""
    found = last(directory)
    return found if found is not None and not found.outcome else None


def elsewhere(picture: Picture, directory: Path) -> float | None:
    """Until when (seconds since 1970) a word is awaited of which this state directory knows nothing; None if none."""
    until, _, plan = picture.said(UNTIL).partition(":")
    found = last(directory)
    with contextlib.suppress(ValueError):
        if plan and (found is None or found.plan != plan):
            return float(until)
    return None


def lost(picture: Picture, plan: str, generation: str) -> Confirmation | None:
    """What the bridge alone says is awaited for this plan: the state directory has lost it."""
    until, _, found = picture.said(UNTIL).partition(":")
    with contextlib.suppress(ValueError):
        if found == plan:
            return Confirmation(plan, generation, "", 0.0, float(until), "", 0.0)
    return None


def reverter(directory: Path) -> int:
    """The process that will take the change back; 0 where none does."""
    found = locks.holder(directory / locks.REVERTER)
    return 0 if found is None else found.pid


def sentence(found: Confirmation, directory: Path) -> str:
    """What is awaited, until when, who will take it back, and what a person can do."""
    left, pid, when = found.left_seconds, reverter(directory), clock(found.until)
    what = f"a change waits for its confirmation until {when}, {left:.0f} s more; process {pid} takes it back then"
    if left <= 0:
        what = f"a change was not confirmed until {when}, and is not taken back yet; process {pid} is at it"
    if not pid:
        then = "no process is there to take it back: the next `hitless apply`, or an agent, does"
        what = f"{what.rpartition(';')[0]}; {then}"
    return f"{what}{_choices(found)}"


def _choices(found: Confirmation) -> str:
    trouble = f", but could not: {found.trouble}" if found.trouble else ""
    return f"{trouble}; keep it: {found.command} --confirm; take it back now: {found.command} --take-back"


def clock(seconds: float) -> str:
    """A time since 1970 for people, in their zone."""
    return time.strftime("%Y-%m-%d %H:%M:%S %Z", time.localtime(seconds))


# --- before and after the first write -----------------------------------------------------------------------


@contextlib.contextmanager
def deciding(directory: Path, what: Literal["agent", "apply", "reverter"]) -> Iterator[None]:
    """Alone with what is awaited. Raises HeldError, StateFileError."""
    me = locks.Holder(what, os.getpid(), str(directory.absolute()))
    with locks.held(directory / locks.CONFIRM, me, "what becomes of a change", _PATIENCE_SECONDS):
        yield


def keep(picture: Picture, directory: Path, plan: str, generation: str, command: str, seconds: float) -> Confirmation:
    """Write down how to go back, then that a word is awaited; under the lock. Raises StateFileError."""
    from hitless.drivers.ovs.codec import format_flow

    said = {key: picture.said(key) for key in (facts.INTENT, facts.COMMITTED)}
    flows = tuple(map(format_flow, picture.ours.values()))
    memory.write_json(directory / _REVERSAL, Reversal(plan, flows, said, memory.read_intent(directory)))
    found = _from_now(Confirmation(plan, generation, command, seconds, 0.0, boot_id(), 0.0), seconds)
    memory.write_json(directory / _CONFIRMATION, found)
    return found


def begin(picture: Picture, directory: Path, found: Confirmation) -> Confirmation:
    """The time runs from now on; under the lock. Raises StateFileError, SwitchError."""
    found = _from_now(found, found.seconds)
    memory.write_json(directory / _CONFIRMATION, found)
    picture.remember({UNTIL: found.text})
    return found


def hurry(directory: Path, plan: str) -> None:
    """The time is over now; under the lock. Raises StateFileError."""
    found = awaited(directory)
    if found is not None and found.plan == plan:
        memory.write_json(directory / _CONFIRMATION, _from_now(found, 0.0))


def drop(picture: Picture, directory: Path, found: Confirmation) -> None:
    """Nothing was written, so there is nothing to take back; under the lock. Raises StateFileError, SwitchError."""
    _decide(directory, msgspec.structs.replace(found, outcome="not-made"))
    picture.remember({UNTIL: ""})


def _from_now(found: Confirmation, seconds: float) -> Confirmation:
    until = time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
    return msgspec.structs.replace(found, until=time.time() + seconds, boot_until=until)


# --- the decision -------------------------------------------------------------------------------------------


def confirm(picture: Picture, directory: Path, found: Confirmation) -> None:
    """Keep the change; under the lock. Raises StateFileError, SwitchError."""
    _decide(directory, msgspec.structs.replace(found, outcome="confirmed"))
    picture.remember({UNTIL: ""})


def kept(directory: Path, plan: str) -> Reversal | None:
    """How to go back from a plan; None where that was not written down here."""
    found = memory.read_json(directory / _REVERSAL, Reversal)
    return found if found is not None and found.plan == plan else None


def take_back(firewall: Firewall, directory: Path, found: Confirmation, reversal: Reversal | None) -> Confirmation:
    """Write the way back, then decide; under the lock. What keeps it from that is noted in the file.

    Raises ReversalError, SwitchError, StateFileError.
    """
    from hitless.core.firewall.identity import TagError
    from hitless.core.plan.flows import KeyTakenError
    from hitless.ports import SwitchError

    try:
        mods, cut = _go_back(firewall, directory, reversal, found.generation)
    except (ReversalError, SwitchError, KeyTakenError, TagError) as error:
        firewall.picture.forget()
        with contextlib.suppress(StateFileError):
            if found.trouble != str(error):
                memory.write_json(directory / _CONFIRMATION, msgspec.structs.replace(found, trouble=str(error)))
        if isinstance(error, KeyTakenError | TagError):
            raise ReversalError(error.code, f"the change cannot be taken back: {error}") from error
        raise
    return _decide(directory, msgspec.structs.replace(found, outcome="taken-back", flow_mods=mods, cut=cut, trouble=""))


def way_back(picture: Picture, reversal: Reversal) -> Bundle:
    """What turns our flows into those that were kept, under the stamp of now. Raises KeyTakenError."""
    from hitless.core.firewall.stamp import entry, read_stamp
    from hitless.core.plan.flows import by_key, diff
    from hitless.drivers.ovs.codec import parse

    wanted = by_key(map(parse, reversal.flows))
    first = entry(read_stamp(picture.ours.values()))
    return diff({**wanted, first.key: first} if first.key in wanted else wanted, picture.ours, picture.others)


def _go_back(firewall: Firewall, directory: Path, reversal: Reversal | None, generation: str) -> tuple[int, int]:
    from hitless.agent.firewall.guard import Guard

    if reversal is None:
        raise ReversalError("reversal-missing", f"{directory} does not hold the way back, so the change stays")
    firewall.look()
    picture, cut = firewall.picture, 0
    judged = Guard()(picture, way_back(picture, reversal))
    if not judged.accepted:
        raise ReversalError("reversal-refused", f"the way back is not sound any longer: {judged.told.about}", judged)
    for batch in judged.batches:
        picture.apply(batch)
        picture.barrier()
    if reversal.intent is not None:
        plan = firewall.plan(reversal.intent)
        doomed = firewall.revoked(reversal.intent, plan, firewall.tracked(plan))
        if doomed:
            picture.switch.cut(doomed)
        cut = len(doomed)
    picture.remember({**reversal.external_ids, UNTIL: "", TAKEN_BACK: generation})
    if reversal.intent is not None:  # after the bridge: a full disk keeps nobody from going back
        memory.write_intent(directory, reversal.intent)
        memory.write_json(directory / _KEPT, reversal.intent)
    return sum(map(len, judged.batches)), cut


def _decide(directory: Path, found: Confirmation) -> Confirmation:
    found = msgspec.structs.replace(found, decided=time.time())
    memory.write_json(directory / _CONFIRMATION, found)
    (directory / _REVERSAL).unlink(missing_ok=True)
    return found


# --- what an agent makes of it ------------------------------------------------------------------------------


def governing(firewall: Firewall, directory: Path, wanted: Intent) -> tuple[Intent | None, dict[str, str]]:
    """What an agent is to go by, where its documents want something, and conditions. None: leave the bridge alone.

    A change that is overdue, and whose reverter is dead, is taken back first. Raises SwitchError, StateFileError.
    """
    picture = firewall.picture
    if picture.said(UNTIL):
        why = _unfinished(firewall, directory)
        if why:
            return None, {"confirmation-pending": why}
    generation = firewall.generation(wanted)
    if picture.said(TAKEN_BACK) != generation:
        return wanted, {}
    before = memory.read_json(directory / _KEPT, Intent)
    return before, {"change-taken-back": f"intent {generation} was not confirmed in time"
                    f"{'' if before else ', and the one of before is not in the state directory'}"}  # fmt: skip


def _unfinished(firewall: Firewall, directory: Path) -> str:
    until = elsewhere(firewall.picture, directory)
    if until is not None and time.time() < until + _STRANGE_SECONDS:
        return "a change waits for its confirmation, and its way back is in another state directory"
    found = awaited(directory)
    if found is not None and (found.left_seconds > 0 or reverter(directory)):
        return f"until {clock(found.until)}{_choices(found)}"  # the same each time: a condition is not news twice
    try:
        with deciding(directory, "agent"):
            found = awaited(directory)
            if found is not None:
                take_back(firewall, directory, found, kept(directory, found.plan))
                structlog.get_logger().warning("change-taken-back", generation=found.generation)
                return ""
    except locks.HeldError as error:
        return str(error)
    except ReversalError as error:
        return f"{error}{_choices(msgspec.structs.replace(found, trouble=''))}" if found is not None else str(error)
    # Decided, with the word about it still there; or nobody's.
    structlog.get_logger().warning("confirmation-ended", until=firewall.picture.said(UNTIL))
    firewall.picture.remember({UNTIL: ""})
    return ""
