"""A plan as a value: what would be written to one bridge, why, which packets notice, and the verdict of the check.

A plan is for the bridge as it was: its digest covers every flow of every table and every port's number. Nothing here
changes anything.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from typing import Final, Literal

import msgspec

from hitless.agent.firewall.guard import Guard, Told
from hitless.agent.firewall.picture import Picture
from hitless.agent.firewall.rounds import Firewall, Plan
from hitless.core.firewall.compile import Origin, origins, remote_members
from hitless.core.firewall.rules import member_cookie
from hitless.core.model.flow import Connection, Flow
from hitless.core.model.security import Intent
from hitless.core.plan.flows import AddFlow, Bundle
from hitless.drivers.ovs.apply import lines
from hitless.drivers.ovs.codec import format_flow

_PIPELINE: Final = Origin("pipeline", "what all ports share")


class Wanted(msgspec.Struct, frozen=True):
    """How many flows change for one thing: a rule by GROUP/NAME, a port, a member. `place` is FILE:LINE, or empty."""

    kind: str
    name: str
    place: str = ""
    added: int = 0
    replaced: int = 0
    deleted: int = 0


class Noticed(msgspec.Struct, frozen=True):
    """Packets whose fate differs: what they have in common, where they went and go, and one of them."""

    packets: str
    was: str
    becomes: str
    witness: str


class SavedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan file.

    `made` is in seconds since 1970. `digest` is of what the plan depends on (SHA-256, hexadecimal).
    `batches` are flow-mods as `ovs-ofctl --bundle` reads them, each batch one atomic bundle with a barrier after it.
    `cut` are live connections that end, `freed` marked ones that are allowed again.
    """

    node: str
    bridge: str
    made: float
    generation: str
    digest: str
    batches: tuple[tuple[str, ...], ...]
    verdict: Told
    wanted: tuple[Wanted, ...] = ()
    noticed: tuple[Noticed, ...] = ()
    cut: tuple[Connection, ...] = ()
    freed: tuple[Connection, ...] = ()
    kind: Literal["hitless-firewall-plan"] = "hitless-firewall-plan"

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that say which plan it is."""
        return hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:16]


def make(firewall: Firewall, intent: Intent, before: Intent | None, node: str, bridge: str) -> SavedPlan:
    """Look, compile, compare and judge. `before` is the intent that was in force last: it names what goes.

    Raises SwitchError, KeyTakenError, TagError.
    """
    firewall.look()
    picture = firewall.picture
    plan = firewall.plan(intent)
    judged = Guard()(picture, plan.bundle)
    live = firewall.tracked(plan)
    cut = firewall.revoked(intent, plan, live)
    doomed = frozenset(cut)
    return SavedPlan(
        node=node,
        bridge=bridge,
        made=time.time(),
        generation=plan.generation,
        digest=digest(picture, plan),
        batches=tuple(tuple(lines(each)) for each in judged.batches),
        verdict=judged.told,
        wanted=_wanted(plan.bundle, picture, [each for each in (before, intent) if each is not None]),
        noticed=noticed(picture, plan),
        cut=cut,
        freed=tuple(each for each in live if each.mark and each not in doomed),
    )


def digest(picture: Picture, plan: Plan) -> str:
    """What a plan depends on: every flow, every port's number and tag, the fail mode, and what was to be written."""
    found = hashlib.sha256("\n".join(lines(plan.bundle)).encode())
    for flow in sorted(map(format_flow, (*picture.ours.values(), *picture.others.values()))):
        found.update(f"{flow}\n".encode())
    if picture.bridge is not None:
        for each in sorted(picture.bridge.interfaces, key=lambda each: each.name):
            found.update(f"{each.name} {each.ofport} {each.tag}\n".encode())
        found.update(picture.bridge.fail_mode.encode())
    return found.hexdigest()


# --- why ----------------------------------------------------------------------------------------------------


def _wanted(bundle: Bundle, picture: Picture, intents: Iterable[Intent]) -> tuple[Wanted, ...]:
    cookies = {op.flow.cookie for op in bundle}
    known: dict[int, Origin] = {}
    for intent in intents:
        known |= origins(intent)
        if cookies - known.keys():
            known |= _members(intent)
    counts: dict[Origin, list[int]] = {}
    for op in bundle:
        column = 2 if not isinstance(op, AddFlow) else int(op.flow.key in picture.ours)
        counts.setdefault(known.get(op.flow.cookie, _PIPELINE), [0, 0, 0])[column] += 1
    rows = [_row(origin, *numbers) for origin, numbers in counts.items()]
    return tuple(sorted(rows, key=lambda each: (each.kind, each.name)))


def _row(origin: Origin, added: int, replaced: int, deleted: int) -> Wanted:
    return Wanted(origin.kind, origin.name, ", ".join(map(str, origin.places)), added, replaced, deleted)


def _members(intent: Intent) -> dict[int, Origin]:
    return {
        member_cookie(network.name, member): Origin("member", f"{member.prefix} of {remote} on network {network.name}")
        for network in intent.networks.values()
        for remote, members in remote_members(intent, network.scope).items()
        for member in members
    }


# --- who notices --------------------------------------------------------------------------------------------


def noticed(picture: Picture, plan: Plan) -> tuple[Noticed, ...]:
    """Packets whose verdict differs between the tables now and those after the plan."""
    before = {**picture.others, **picture.ours}
    after = {**picture.others, **plan.compiled.flows}
    return differences(before.values(), after.values()) if plan.bundle else ()


def differences(before: Iterable[Flow], after: Iterable[Flow]) -> tuple[Noticed, ...]:
    """The engine's cubes as text; one that says so where a limit kept it from telling."""
    from hitless.core.verify.transition.changes import changes
    from hitless.core.verify.transition.telling import told
    from hitless.core.verify.transition.verdict import LimitError

    try:
        cubes = changes(before, after)
    except (LimitError, MemoryError) as error:
        return (Noticed(f"not told: {error}", "", "", ""),)
    return tuple(dict.fromkeys(Noticed(each.packets, each.was, each.becomes, told(each.witness)) for each in cubes))
