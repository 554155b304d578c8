"""A change that is taken back unless a person confirms it: for whoever changes the node they are connected through.

Before the first write, what the bridge holds of ours is kept in the state directory (`reversal.json`), and
`hitless-confirm-until` in the bridge's `external_ids` says until when, and for which plan, a word is awaited. Whoever
takes the change back needs nothing else: not the command that made it, not the documents.

What if that command is gone? A confirmation still counts until its time is over. After that the next `hitless apply`
takes the change back before it does anything else. An agent that starts takes nothing back: it makes the bridge what
the documents say, so a reversal would be undone in the same breath; it ends the waiting and says so.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from hitless.agent.firewall import facts, memory
from hitless.core.model.flow import Connection
from hitless.core.model.security import Intent

if TYPE_CHECKING:
    from hitless.agent.firewall.guard import Judged
    from hitless.agent.firewall.picture import Picture
    from hitless.agent.firewall.rounds import Firewall
    from hitless.core.plan.flows import Bundle

UNTIL = "hitless-confirm-until"
_FILE = "reversal.json"


class Pending(msgspec.Struct, frozen=True):
    """A confirmation that is awaited: until when (seconds since 1970), and for which plan (its digest)."""

    until: float
    plan: str

    @property
    def text(self) -> str:
        """The value of `hitless-confirm-until`."""
        return f"{self.until:.3f}:{self.plan}"


class Reversal(msgspec.Struct, frozen=True):
    """What it takes to go back: our flows as they were, what `external_ids` said, and the intent if one is known."""

    plan: str
    flows: tuple[str, ...]
    external_ids: dict[str, str]
    intent: Intent | None = None


def pending(picture: Picture) -> Pending | None:
    """What the bridge says is awaited; None where nothing is."""
    until, _, plan = picture.said(UNTIL).partition(":")
    try:
        return Pending(float(until), plan) if plan else None
    except ValueError:
        return None


def keep(picture: Picture, directory: Path, waits: Pending) -> None:
    """Write down how to go back, then that a word is awaited. Raises StateFileError, SwitchError."""
    from hitless.drivers.ovs.codec import format_flow

    said = {key: picture.said(key) for key in (facts.INTENT, facts.COMMITTED)}
    flows = tuple(map(format_flow, picture.ours.values()))
    memory.write_json(directory / _FILE, Reversal(waits.plan, flows, said, memory.read_intent(directory)))
    picture.remember({UNTIL: waits.text})


def kept(directory: Path, plan: str) -> Reversal | None:
    """How to go back from a plan; None where that was not written down here."""
    found = memory.read_json(directory / _FILE, Reversal)
    return found if found is not None and found.plan == plan else None


def way_back(picture: Picture, reversal: Reversal) -> Bundle:
    """What turns our flows into those that were kept, under the stamp of now. Raises KeyTakenError."""
    from hitless.core.firewall.stamp import entry, read_stamp
    from hitless.core.plan.flows import by_key, diff
    from hitless.drivers.ovs.codec import parse

    wanted = by_key(map(parse, reversal.flows))
    first = entry(read_stamp(picture.ours.values()))
    return diff({**wanted, first.key: first} if first.key in wanted else wanted, picture.ours, picture.others)


def go_back(firewall: Firewall, directory: Path, reversal: Reversal, judged: Judged) -> tuple[Connection, ...]:
    """Write the way back, end the waiting, repair; the connections that were cut by that. Raises SwitchError."""
    picture = firewall.picture
    for batch in judged.batches:
        picture.apply(batch)
        picture.barrier()
    cut: tuple[Connection, ...] = ()
    if reversal.intent is not None:
        plan = firewall.plan(reversal.intent)
        cut = firewall.revoked(reversal.intent, plan, firewall.tracked(plan))
        if cut:
            picture.switch.cut(cut)
        memory.write_intent(directory, reversal.intent)
    picture.remember({**reversal.external_ids, UNTIL: ""})
    return cut
