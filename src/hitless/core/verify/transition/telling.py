"""Packets, flows and what became of them, in words."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address

from hitless.core.model.flow import (
    EST,
    INV,
    IPV4,
    IPV6,
    NEW,
    REL,
    RPL,
    Action,
    Ct,
    Flow,
    Opaque,
    Output,
    Resubmit,
    SetField,
)
from hitless.core.model.security import ICMP, ICMPV6, WITH_PORTS
from hitless.core.verify.classifier import NORMAL, Trail
from hitless.core.verify.transition.verdict import Witness


def steps(trail: Trail) -> tuple[str, ...]:
    """Every look-up as a line."""
    found = []
    for number, each in enumerate(trail.passes, 1):
        for step in each.steps:
            flow = step.flow
            decided = "a miss"
            if flow is not None:
                decided = f"priority {flow.priority} {match_text(flow.match)} → {text_of(flow.actions)}"
            found.append(f"pass {number}, table {step.table}: {decided}")
    return tuple(found)


def told(witness: Witness) -> str:
    """A packet as a person says it."""
    packet = witness.packet
    parts = [f"in_port={packet.get('in_port', 0)}"]
    if tag := packet.get("vlan_tci", 0) & 0x0FFF:
        parts.append(f"vlan={tag}")
    ethertype = packet.get("eth_type", 0)
    if ethertype in {IPV4, IPV6}:
        make, source, destination = (
            (IPv4Address, "nw_src", "nw_dst") if ethertype == IPV4 else (IPv6Address, "ipv6_src", "ipv6_dst")
        )
        parts.append(f"{make(packet.get(source, 0))} → {make(packet.get(destination, 0))}")
        protocol = packet.get("nw_proto", 0)
        parts.append(f"protocol {protocol}")
        if protocol in WITH_PORTS:
            parts.append(f"port {packet.get('tp_src', 0)} → {packet.get('tp_dst', 0)}")
        elif protocol in {ICMP, ICMPV6}:
            parts.append(f"type {packet.get('icmp_type', 0)} code {packet.get('icmp_code', 0)}")
    else:
        parts.append(f"eth_type={ethertype:#06x}")
    parts += [f"{field}={mac_text(packet[field])}" for field in ("dl_src", "dl_dst") if field in packet]
    return f"{', '.join(parts)}, {state_text(witness.state)}" + (f", mark {witness.mark}" if witness.mark else "")


def state_text(state: int) -> str:
    """What conntrack says, in a word."""
    kinds = (("invalid", INV), ("new", NEW), ("established", EST), ("reply", RPL), ("related", REL))
    return " ".join(name for name, bit in kinds if state & bit) or "untracked"


def went(sent: Iterable[tuple[int, int]], commits: Collection[tuple[int, int | None]]) -> str:
    """Where a packet went."""
    ports = [f"{'NORMAL' if port == NORMAL else f'port {port}'}" + (f" with tag {vlan}" if vlan else "")
             for port, vlan in sorted(sent)]  # fmt: skip
    held = [f"marks its connection {mark}" for _, mark in sorted(commits, key=repr) if mark is not None]
    held += ["commits its connection" for _, mark in commits if mark is None]
    return ", ".join([f"goes to {' and '.join(ports)}" if ports else "is dropped", *held])


def mac_text(number: int) -> str:
    """aa:bb:cc:dd:ee:ff."""
    return ":".join(f"{number:012x}"[at : at + 2] for at in range(0, 12, 2))


def place(flow: Flow) -> str:
    """A flow as an owner finds it."""
    return f"the flow in table {flow.table} with priority {flow.priority} and match {match_text(flow.match)}"


def match_text(match: Iterable[tuple[str, int, int]]) -> str:
    """A match as text; only for people."""
    found = []
    for field, value, mask in match:
        full = mask & (mask + 1) == 0 and mask.bit_length() in {2, 8, 16, 32, 48, 64, 128}
        found.append(f"{field}={value:#x}" if full else f"{field}={value:#x}/{mask:#x}")
    return ",".join(found) or "(everything)"


@lru_cache
def text_of(actions: tuple[Action, ...]) -> str:
    """Actions as short text; only for people."""
    return ", ".join(_action_text(each) for each in actions) or "drop"


def _action_text(action: Action) -> str:
    match action:
        case Resubmit(table):
            return f"to table {table}"
        case Output(port):
            return f"output {port}"
        case Ct(zone, commit, table, mark):
            words = [*(["commit"] if commit else []), f"zone {zone}", *([] if mark is None else [f"mark {mark}"])]
            return f"ct({', '.join([*words, *([] if table is None else [f'then table {table}'])])})"
        case SetField(field, value):
            return f"{field}={value:#x}"
        case Opaque(text):
            return text
        case _:
            return type(action).__name__.lower()
