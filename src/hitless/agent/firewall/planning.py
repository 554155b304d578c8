"""A plan as a value: what would be written to one bridge, why, which packets notice, and the verdict of the check.

A plan is for the bridge as it was: its basis covers every flow of every table and every port's number. Its digest
covers all that the file says, so that what was read is what is carried out. Nothing here changes anything.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from hitless.agent.firewall.guard import Guard, Judged, Told
from hitless.agent.firewall.picture import Picture
from hitless.agent.firewall.rounds import Firewall, Plan
from hitless.core.firewall.compile import Origin, origins, remote_members
from hitless.core.firewall.rules import member_cookie
from hitless.core.model.flow import Connection, Flow
from hitless.core.model.security import Intent
from hitless.core.plan.flows import AddFlow, Bundle
from hitless.drivers.ovs.apply import lines
from hitless.drivers.ovs.codec import format_flow

if TYPE_CHECKING:
    from hitless.core.verify.transition.cubes import Cube

CUBES: Final = 20
"""Kinds of packets that are told unless more are asked for."""
_LOCAL: Final = 65534  # OFPP_LOCAL as 16 bits, by which the node itself sends
_PIPELINE: Final = Origin("pipeline", "what all ports share")


class ChangedError(Exception):
    """A plan file does not say what was written into it."""


class Wanted(msgspec.Struct, frozen=True):
    """How many flows change for one thing: a rule by GROUP/NAME, a port, a member. `place` is FILE:LINE, or empty."""

    kind: str
    name: str
    place: str = ""
    added: int = 0
    replaced: int = 0
    deleted: int = 0


class Fate(msgspec.Struct, frozen=True):
    """Packets for one end, where they went and go."""

    packets: str
    was: str
    becomes: str


class Noticed(msgspec.Struct, frozen=True):
    """Packets whose fate differs: what they have in common, where they went and go, and one of them.

    Where `sources` are named, a packet is of one of them; where `targets` are, of one of those, each with its own fate.
    `live` says what becomes of established connections: `cut`, `freed`, `moved`, or empty where none is concerned.
    `returns`: some would leave by the port they came in by, and those are dropped before and after. Without a witness
    nothing can be told, and `packets` says why.
    """

    packets: str
    was: str = ""
    becomes: str = ""
    witness: str = ""
    sources: tuple[str, ...] = ()
    targets: tuple[Fate, ...] = ()
    live: str = ""
    returns: bool = False


class SavedPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A plan file.

    `made` is in seconds since 1970. `basis` is a digest of what the plan depends on, `digest` of all the file says but
    itself (SHA-256, hexadecimal): it shows that a file was changed, not by whom one was made.
    `batches` are flow-mods as `ovs-ofctl --bundle` reads them, each batch one atomic bundle with a barrier after it.
    `noticed` is not all that there is where there is `more`. `cut` are live connections that end, `freed` marked ones
    that are allowed again.
    """

    node: str
    bridge: str
    made: float
    generation: str
    basis: str
    batches: tuple[tuple[str, ...], ...]
    verdict: Told
    wanted: tuple[Wanted, ...] = ()
    noticed: tuple[Noticed, ...] = ()
    more: bool = False
    cut: tuple[Connection, ...] = ()
    freed: tuple[Connection, ...] = ()
    kind: Literal["hitless-firewall-plan"] = "hitless-firewall-plan"
    digest: str = ""

    @property
    def identity(self) -> str:
        """16 hexadecimal digits that say which plan it is."""
        return self.digest[:16]

    def sealed(self) -> SavedPlan:
        """The same with the digest that belongs to it."""
        said = msgspec.json.encode(msgspec.structs.replace(self, digest=""))
        return msgspec.structs.replace(self, digest=hashlib.sha256(said).hexdigest())


def make(
    firewall: Firewall, intent: Intent, before: Intent | None, node: str, bridge: str, cubes: int = CUBES
) -> SavedPlan:
    """Look, compile, compare and judge. `before` is the intent that was in force last: it names what goes.

    At most so many `cubes` of packets are told.

    Raises SwitchError, KeyTakenError, TagError.
    """
    firewall.look()
    picture = firewall.picture
    plan = firewall.plan(intent)
    judged = Guard()(picture, plan.bundle)
    live = firewall.tracked(plan)
    cut = firewall.revoked(intent, plan, live)
    doomed = frozenset(cut)
    told, more = noticed(picture, plan, cubes)
    return SavedPlan(
        node=node,
        bridge=bridge,
        made=time.time(),
        generation=plan.generation,
        basis=basis(picture, plan),
        batches=written(judged),
        verdict=judged.told,
        wanted=_wanted(plan.bundle, picture, [each for each in (before, intent) if each is not None]),
        noticed=told,
        more=more,
        cut=cut,
        freed=tuple(each for each in live if each.mark and each not in doomed),
    ).sealed()


def written(judged: Judged) -> tuple[tuple[str, ...], ...]:
    """What a verdict allows, batch by batch, as a plan says it."""
    return tuple(tuple(lines(each)) for each in judged.batches)


def read(data: bytes) -> SavedPlan:
    """A plan file's contents. Raises msgspec.MsgspecError where it is none, ChangedError where it was changed."""
    found = msgspec.json.decode(data, type=SavedPlan)
    # White space aside it is what was written, byte by byte: a second field of one name would hide from a reader.
    if found.digest != found.sealed().digest or msgspec.json.format(data, indent=-1) != msgspec.json.encode(found):
        raise ChangedError
    return found


def basis(picture: Picture, plan: Plan) -> str:
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


def noticed(picture: Picture, plan: Plan, cubes: int) -> tuple[tuple[Noticed, ...], bool]:
    """Packets whose fate differs between the tables now and those after the plan; whether there are more."""
    if not plan.bundle:
        return (), False
    before = {**picture.others, **picture.ours}
    after = {**picture.others, **plan.compiled.flows}
    interfaces = picture.bridge.interfaces if picture.bridge else ()
    ports = {_LOCAL: "LOCAL"} | {each.ofport: each.name for each in interfaces if each.ofport > 0}
    return differences(before.values(), after.values(), cubes, ports)


def differences(
    before: Iterable[Flow], after: Iterable[Flow], most: int, ports: Mapping[int, str]
) -> tuple[tuple[Noticed, ...], bool]:
    """The engine's cubes as text; one that says so where something kept it from telling. `ports` have names."""
    from hitless.core.verify.transition.changes import changes
    from hitless.core.verify.transition.verdict import DisagreementError, LimitError

    try:
        found = changes(before, after, most=most + 1, ports=frozenset(ports))
    except (LimitError, MemoryError, DisagreementError) as error:
        return (Noticed(f"not told: {error}"),), False
    known = [each for each in found if not each.untold]
    some = (*known[:most], *(each for each in found if each.untold))
    return tuple(_said(each, ports) for each in some), len(known) > most


def _length(text: str) -> tuple[int, str]:
    """Puts names in the order of their numbers: tap9 before tap10."""
    return len(text), text


def _said(cube: Cube, ports: Mapping[int, str]) -> Noticed:
    from hitless.core.verify.transition.cubes import box_text, sent_text, sent_texts
    from hitless.core.verify.transition.telling import told

    if cube.untold:
        return Noticed(cube.packets)
    sources = sorted((box_text(each, ports) for each in cube.sources), key=_length)
    targets = [Fate(box_text(each.box, ports), sent_text(each.was, ports), sent_text(each.becomes, ports))
               for each in cube.targets]  # fmt: skip
    came = f"in_port={cube.witness.packet.get('in_port', 0)}"
    name = ports.get(cube.witness.packet.get("in_port", 0))
    witness = told(cube.witness)
    return Noticed(
        packets=cube.common(ports),
        was=sent_texts([each.was for each in cube.targets], ports),
        becomes=sent_texts([each.becomes for each in cube.targets], ports),
        witness=f"in_port={name}{witness.removeprefix(came)}" if name else witness,
        sources=tuple(sources) if len(sources) > 1 else (),
        targets=tuple(sorted(targets, key=lambda each: _length(each.was + each.becomes))) if len(targets) > 1 else (),
        live=cube.live,
        returns=cube.returns,
    )
