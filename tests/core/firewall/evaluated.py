"""Compiled tables asked about a case of the reference: what goes in, what conntrack answers, what has to come out."""

from __future__ import annotations

from tests.core.firewall.reference import Case, State

from hitless.core.firewall.compile import Compiled, Local, compile_flows
from hitless.core.firewall.identity import KnownIds
from hitless.core.model.flow import EST, INV, NEW, REL, RPL, TRK
from hitless.core.model.security import Intent
from hitless.core.verify.classifier import NORMAL, Sent, Tables, Tracked, Trail, evaluate
from hitless.core.verify.packet import Fields, Link, ip_fields, nd_fields

OUTSIDE = 8  # a port of the bridge that no intent names
STATE: dict[State, int] = {
    "new": TRK | NEW,
    "established": TRK | EST,
    "reply": TRK | EST | RPL,
    "related": TRK | REL,  # an ICMP error about the connection
    "invalid": TRK | INV,
}


def compiled(intent: Intent, local: Local, known: KnownIds = KnownIds()) -> Compiled:  # noqa: B008 - it is frozen
    return compile_flows(intent, local, known)


def fields(case: Case, local: Local) -> dict[str, int]:
    """The packet as it enters: from the port's number, or from outside with its network's tag."""
    if case.source is not None:
        link = Link(local.ofports[case.source.name], case.source_mac, case.destination_mac)
    else:
        assert case.destination is not None
        link = Link(OUTSIDE, case.source_mac, case.destination_mac, local.tags[case.destination.network])
    if case.target:
        return nd_fields(case.packet, link, case.target, case.link_layer)
    return ip_fields(case.packet, link)


def answer(case: Case) -> Tracked:
    return Tracked(STATE[case.state], int(case.marked))


def run(tables: Tables, case: Case, local: Local) -> Trail:
    def track(_packet: Fields, _zone: int) -> Tracked:
        return answer(case)

    return evaluate([tables], fields(case, local), track)


def arrival(case: Case, local: Local) -> frozenset[Sent]:
    """What comes out if it is allowed."""
    if case.destination is not None and case.destination.port_security:
        return frozenset({Sent(local.ofports[case.destination.name])})
    if case.source is None:
        assert case.destination is not None
        return frozenset({Sent(NORMAL, local.tags[case.destination.network])})
    if case.destination is not None:
        return frozenset({Sent(local.ofports[case.destination.name])})
    if local.uplinks:
        return frozenset(Sent(port, local.tags[case.source.network]) for port in local.uplinks)
    return frozenset({Sent(NORMAL)})
