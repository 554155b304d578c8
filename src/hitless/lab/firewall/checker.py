"""Every pair of ports asked of every state that the tables were in.

Traffic shows what happened to some streams; this shows what would have happened to all. `examine` asks each sampled
state what two policies agree on: `dead` is allowed by both and dropped, `wrongly_open` is denied by both and passes.
States between two samples are not seen, so the numbers are lower bounds.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from typing import Literal

import msgspec

from hitless.core.firewall.decide import Packet, Policy
from hitless.core.model.flow import EST, NEW, RPL, TRK
from hitless.core.model.security import Direction, Ethertype, Intent
from hitless.core.verify.classifier import NORMAL, Tables, Tracked, evaluate
from hitless.core.verify.packet import Link, ip_fields
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.sampler import Sampler

State = Literal["new", "established", "reply"]

SOURCE_PORT = 40_000  # of every question: an ephemeral port that no rule is about
EXAMPLES_LIMIT = 20
_STATES: Mapping[State, int] = {"new": TRK | NEW, "established": TRK | EST, "reply": TRK | EST | RPL}


class Service(msgspec.Struct, frozen=True):
    """What is asked for: protocol number and destination port."""

    protocol: int
    port: int
    ethertype: Ethertype = "ipv4"


class Question(msgspec.Struct, frozen=True):
    """A connection that may or may not be: from a port, to a port, by the first packet of the original direction."""

    source: str
    destination: str
    packet: Packet


class Wire(msgspec.Struct, frozen=True):
    """Where a port is: its OpenFlow number and MAC."""

    ofport: int
    mac: str


class Finding(msgspec.Struct, frozen=True):
    """A question that a state of the tables answered wrongly, `seconds` after the sampler's start."""

    what: Literal["dead", "wrongly-open"]
    question: Question
    state: State
    seconds: float


class Examined(msgspec.Struct, frozen=True):
    """`dead` and `wrongly_open` are the highest counts of questions in any one state, out of those asked.

    `samples` dumps were taken, `tables` different states were seen in them and examined.
    """

    samples: int
    tables: int
    longest_gap_seconds: float
    must_pass: int
    must_drop: int
    dead: int
    wrongly_open: int
    examples: tuple[Finding, ...] = ()


def questions(intent: Intent, ports: Collection[str], services: Iterable[Service]) -> tuple[Question, ...]:
    """Every service from every port to every other of its network, by the first address of the family."""
    wanted = tuple(services)
    found = []
    for source, destination in ((a, b) for a in sorted(ports) for b in sorted(ports) if a != b):
        ends = intent.ports[source], intent.ports[destination]
        if ends[0].network != ends[1].network:
            continue
        for service in wanted:
            here, there = (_address(end.addresses, service.ethertype) for end in ends)
            if here and there:
                packet = Packet(service.ethertype, service.protocol, here, there, SOURCE_PORT, service.port)
                found.append(Question(source, destination, packet))
    return tuple(found)


def agreed(asked: Iterable[Question], old: Intent, new: Intent) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """What both policies allow, and what both deny; a port that one of them does not know is left out."""
    before, after = Policy(old), Policy(new)
    must_pass: list[Question] = []
    must_drop: list[Question] = []
    for question in asked:
        if any(end not in each.ports for end in (question.source, question.destination) for each in (old, new)):
            continue
        verdicts = {_allows(policy, question) for policy in (before, after)}
        if len(verdicts) == 1:
            (must_pass if True in verdicts else must_drop).append(question)
    return tuple(must_pass), tuple(must_drop)


def wires(ground: FirewallGround) -> Mapping[str, Wire]:
    """The ports of a ground."""
    ofports = ground.ofports()
    return {name: Wire(ofports[name], port.mac) for name, port in ground.ports.items()}


def examine(
    sampler: Sampler,
    wiring: Mapping[str, Wire],
    must_pass: Collection[Question],
    must_drop: Collection[Question],
) -> Examined:
    """Ask every state that was sampled; an answer takes about 0.1 ms.

    Allowed connections are asked for their first packet, a later one and a reply; denied ones for their first packet
    and a later one: they have no replies.
    """
    dead: list[list[Finding]] = []
    opened: list[list[Finding]] = []
    for sample in sampler.samples:
        tables = sample.tables()
        dead.append([
            Finding("dead", question, state, sample.seconds)
            for question in must_pass
            for state in [_first(tables, wiring, question, ("new", "established", "reply"), wanted=False)]
            if state
        ])  # fmt: skip
        opened.append([
            Finding("wrongly-open", question, state, sample.seconds)
            for question in must_drop
            for state in [_first(tables, wiring, question, ("new", "established"), wanted=True)]
            if state
        ])  # fmt: skip
    return Examined(
        samples=sampler.dumps,
        tables=len(sampler.samples),
        longest_gap_seconds=sampler.longest_gap_seconds,
        must_pass=len(must_pass),
        must_drop=len(must_drop),
        dead=max(map(len, dead), default=0),
        wrongly_open=max(map(len, opened), default=0),
        examples=tuple(each for found in (dead, opened) for each in list(chain(*found))[:EXAMPLES_LIMIT]),
    )


def passes(tables: Tables, wiring: Mapping[str, Wire], question: Question, state: State) -> bool:
    """Whether a packet of the connection, in this state and unmarked, reaches the other end."""
    ends = wiring[question.source], wiring[question.destination]
    packet = question.packet
    if state == "reply":
        ends = ends[1], ends[0]
        packet = Packet(
            packet.ethertype, packet.protocol, packet.destination, packet.source,
            packet.destination_port, packet.source_port,
        )  # fmt: skip
    fields = ip_fields(packet, Link(ends[0].ofport, ends[0].mac, ends[1].mac))
    tracked = Tracked(_STATES[state])
    trail = evaluate((tables,), fields, lambda _packet, _zone: tracked)
    return ends[1].ofport in trail.ports or NORMAL in trail.ports


def _first(
    tables: Tables, wiring: Mapping[str, Wire], question: Question, states: Sequence[State], *, wanted: bool
) -> State | None:
    """The first state in which the answer is `wanted`."""
    return next((state for state in states if passes(tables, wiring, question, state) == wanted), None)


def _allows(policy: Policy, question: Question) -> bool:
    ends: tuple[tuple[str, Direction], ...] = ((question.source, "egress"), (question.destination, "ingress"))
    return all(policy.decide(policy.intent.ports[end], way, question.packet).allowed for end, way in ends)


def _address(addresses: Iterable[str], ethertype: Ethertype) -> str:
    found = (each for each in addresses if (":" in each) == (ethertype == "ipv6"))
    return next(found, "").split("/")[0]
