"""OpenFlow flows as values: a normalised match, typed actions, and who wants it.

A match is a sorted tuple of terms `(field, value, mask)`, so that equal matches are equal values: Open vSwitch's own
normalisation (prerequisites spelled out as `eth_type` and `nw_proto`, masked bits zero, no aliases) is part of the
type. Field names are those of ovs-fields(7), with `eth_type` for `dl_type` and `vlan_tci` for all of VLAN.
"""

from __future__ import annotations

from typing import Final

import msgspec

Term = tuple[str, int, int]
"""Field, value, mask; the value has no bit outside the mask."""
Match = tuple[Term, ...]
FlowKey = tuple[int, int, Match]
"""Table, priority, match: what makes a flow this flow (OpenFlow: an add with an equal key replaces)."""

# Bits of each field (ovs-fields(7)). A field that is not here is not understood and stays opaque.
WIDTH: Final = {
    "in_port": 32, "reg0": 32, "reg1": 32, "reg2": 32, "reg3": 32, "reg4": 32, "reg5": 32, "reg6": 32, "reg7": 32,
    "metadata": 64, "tun_id": 64, "conj_id": 32, "ct_state": 8, "ct_zone": 16, "ct_mark": 32, "ct_label": 128,
    "dl_src": 48, "dl_dst": 48, "eth_type": 16, "vlan_tci": 16, "nw_src": 32, "nw_dst": 32, "ipv6_src": 128,
    "ipv6_dst": 128, "nw_proto": 8, "nw_tos": 8, "nw_ttl": 8, "nw_frag": 2, "ipv6_label": 20, "tp_src": 16,
    "tp_dst": 16, "tcp_flags": 12, "icmp_type": 8, "icmp_code": 8, "arp_op": 16, "arp_spa": 32, "arp_tpa": 32,
    "arp_sha": 48, "arp_tha": 48, "nd_target": 128, "nd_sll": 48, "nd_tll": 48, "pkt_mark": 32,
}  # fmt: skip

# Bits of ct_state (lib/packets.h, CS_*).
NEW, EST, REL, RPL, INV, TRK = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

IPV4, ARP, RARP, IPV6 = 0x0800, 0x0806, 0x8035, 0x86DD


class SetField(msgspec.Struct, frozen=True, tag="set-field"):
    """`set_field:VALUE->FIELD`; `mask` 0 stands for the whole field."""

    field: str
    value: int
    mask: int = 0


class Resubmit(msgspec.Struct, frozen=True, tag="resubmit"):
    """`resubmit(,TABLE)`."""

    table: int


class Ct(msgspec.Struct, frozen=True, tag="ct"):
    """`ct(...)`. `zone` is a number, or a subfield as text such as `NXM_NX_REG6[0..15]`.

    With `table` the packet comes back there as a new translation. `mark` is what `exec` writes into ct_mark.
    """

    zone: int | str = 0
    commit: bool = False
    table: int | None = None
    mark: int | None = None


class CtClear(msgspec.Struct, frozen=True, tag="ct-clear"):
    """`ct_clear`."""


class Output(msgspec.Struct, frozen=True, tag="output"):
    """`output:PORT`; a port number, or a subfield as text such as `NXM_NX_REG5[]`."""

    port: int | str


class Normal(msgspec.Struct, frozen=True, tag="normal"):
    """`NORMAL`: the bridge's own learning switch."""


class PopVlan(msgspec.Struct, frozen=True, tag="pop-vlan"):
    """`pop_vlan`."""


class PushVlan(msgspec.Struct, frozen=True, tag="push-vlan"):
    """`push_vlan:0x8100,set_field:(0x1000|TAG)->vlan_vid`, which Open vSwitch keeps as these two actions."""

    tag: int


class Conjunction(msgspec.Struct, frozen=True, tag="conjunction"):
    """`conjunction(ID,CLAUSE/CLAUSES)`, clauses from 1."""

    id: int
    clause: int
    clauses: int


class Opaque(msgspec.Struct, frozen=True, tag="opaque"):
    """An action of somebody else's flow that is kept as its text."""

    text: str


Action = SetField | Resubmit | Ct | CtClear | Output | Normal | PopVlan | PushVlan | Conjunction | Opaque


class Flow(msgspec.Struct, frozen=True):
    """One flow. No actions means drop."""

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...] = ()
    cookie: int = 0

    @property
    def key(self) -> FlowKey:
        return self.table, self.priority, self.match

    @property
    def is_soft(self) -> bool:
        """Whether it is a clause of conjunctions, which decides nothing by itself (ovs-fields(7))."""
        return bool(self.actions) and isinstance(self.actions[0], Conjunction)


def exact(field: str, value: int) -> Term:
    """A term on all bits of a field."""
    return field, value, (1 << WIDTH[field]) - 1


def ct_state(*, on: int = 0, off: int = 0) -> Term:
    """Flags that must be set and flags that must not be."""
    return "ct_state", on, on | off


class Interface(msgspec.Struct, frozen=True):
    """A port of the bridge. `name` is the interface's name or, where it has one, its `external_ids:iface-id`.

    `ofport` is the OpenFlow port number; `tag` the VLAN of an access port, 0 for none or a trunk.
    """

    name: str
    ofport: int
    tag: int = 0


class BridgeState(msgspec.Struct, frozen=True):
    """What a bridge holds: all flows of all tables, ours and others', its ports, and what we remember in OVSDB."""

    flows: tuple[Flow, ...]
    interfaces: tuple[Interface, ...] = ()
    external_ids: tuple[tuple[str, str], ...] = ()
    fail_mode: str = ""
    restore_wait: bool = False


class Connection(msgspec.Struct, frozen=True):
    """A tracked connection: its original direction, as conntrack keeps it. ICMP has type and code in the ports' place.

    Addresses are in their normal text form. `icmp_id` is conntrack's identifier of an echo.
    """

    zone: int
    protocol: int
    source: str
    destination: str
    source_port: int = 0
    destination_port: int = 0
    icmp_id: int = 0
    mark: int = 0
    ipv6: bool = False
