"""Packets that a change lets fare differently, as values and in words.

A cube is a product: what its packets have in common, times whose they are, times whom they are for. Sources and
destinations are lists of boxes, because fields of one end belong together: a port sends with its own addresses only,
and what is for a MAC goes to that one's port.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import Final, Literal

import msgspec

from hitless.core.model.flow import ARP, EST, IPV4, IPV6, WIDTH
from hitless.core.model.security import ICMP, ICMPV6, TCP, UDP
from hitless.core.verify.classifier import NORMAL
from hitless.core.verify.packet import VLAN_PRESENT
from hitless.core.verify.transition.classes import Pattern
from hitless.core.verify.transition.telling import mac_text, state_text
from hitless.core.verify.transition.verdict import Witness

Key = tuple[int, int] | str
"""A port and a VLAN tag (-1: the one that the packet came with), or an action that is not understood."""
Sent = tuple[Key, ...]
"""Where packets go; empty: they are dropped."""
Names = Mapping[int, str]
"""OpenFlow ports that have a name."""
Live = Literal["", "cut", "freed", "moved"]

LIVE_TEXT: Final[Mapping[str, str]] = {
    "": "new connections only: no packet of a live one is among them",
    "cut": "live connections among them are cut",
    "freed": "live connections among them pass again",
    "moved": "live connections among them go on, elsewhere",
}
_VID: Final = 0x0FFF
_FEW: Final = 4  # prefixes of a range of addresses, up to which they are named and not its ends
_ADDRESSES: Final = {"nw_src": 32, "nw_dst": 32, "arp_spa": 32, "arp_tpa": 32,
                     "ipv6_src": 128, "ipv6_dst": 128, "nd_target": 128}  # fmt: skip
_MACS: Final = frozenset({"dl_src", "dl_dst", "arp_sha", "arp_tha", "nd_sll", "nd_tll"})
_KINDS: Final = {(IPV4, TCP): "tcp", (IPV6, TCP): "tcp6", (IPV4, UDP): "udp", (IPV6, UDP): "udp6",
                 (IPV4, ICMP): "icmp", (IPV6, ICMPV6): "icmp6", (ARP, None): "arp", (IPV4, None): "ip",
                 (IPV6, None): "ipv6"}  # fmt: skip


class Among(msgspec.Struct, frozen=True):
    """A field whose value is in one of these blocks (value, mask), or in none of them."""

    field: str
    blocks: tuple[Pattern, ...]
    outside: bool = False

    def holds(self, value: int) -> bool:
        """Whether it is so of a packet."""
        return any(value & mask == wanted for wanted, mask in self.blocks) != self.outside


_NOBODY: Final = Witness({}, 0, 0)
Box = tuple[Among, ...]
"""Packets of which all of it holds; a field that is not named may be anything."""


class Target(msgspec.Struct, frozen=True):
    """Packets for one end, where they went and where they go."""

    box: Box
    was: Sent
    becomes: Sent


class Cube(msgspec.Struct, frozen=True):
    """Packets that a change lets fare differently: every one with `shared`, one of `sources` and one of `targets`.

    `live` is what becomes of connections that are established when the change comes. `returns`: among them are packets
    that would leave by the port they came in by, and those are dropped, before and after. Where `untold` is not empty,
    it says of which packets nothing can be told, and the witness is none.
    """

    shared: Box = ()
    sources: tuple[Box, ...] = ((),)
    targets: tuple[Target, ...] = ()
    live: Live = ""
    returns: bool = False
    witness: Witness = _NOBODY
    untold: str = ""

    @property
    def packets(self) -> str:
        """All of it on one line."""
        return f"not told: {self.untold}" if self.untold else self.said()

    @property
    def was(self) -> str:
        """Where they went, in words."""
        return sent_texts([each.was for each in self.targets])

    @property
    def becomes(self) -> str:
        """Where they go, in words."""
        return sent_texts([each.becomes for each in self.targets])

    def said(self, names: Names = {}) -> str:  # noqa: B006 - nobody writes to it
        """As `packets`, with the names of ports."""
        ends = (("from", [*self.sources]), ("to", [each.box for each in self.targets]))
        parts = [self.common(names)]
        parts += [f"{word} {' or '.join(f'({box_text(each, names)})' for each in boxes)}"
                  for word, boxes in ends if len(boxes) > 1]  # fmt: skip
        return ", ".join(parts)

    def common(self, names: Names = {}) -> str:  # noqa: B006 - nobody writes to it
        """What holds of every packet, in words; a source or a destination that is the only one is part of it."""
        source = self.sources[0] if len(self.sources) == 1 else ()
        target = self.targets[0].box if len(self.targets) == 1 else ()
        return box_text((*self.shared, *source, *target), names)


def is_live(state: int) -> bool:
    """Whether conntrack knows the packet's connection from both sides."""
    return bool(state & EST)


# --- in words -----------------------------------------------------------------------------------------------


def sent_text(sent: Sent, names: Names = {}) -> str:  # noqa: B006 - nobody writes to it
    """Where packets go."""
    return " and ".join(_key_text(each, names) for each in sent) or "dropped"


def sent_texts(every: Iterable[Sent], names: Names = {}) -> str:  # noqa: B006 - nobody writes to it
    """Where packets go, each one of several places."""
    texts = [*dict.fromkeys(sent_text(each, names) for each in every)]
    return " or ".join((*texts[:1], *(text.removeprefix("port ") for text in texts[1:])))


def _key_text(key: Key, names: Names) -> str:
    if isinstance(key, str):
        return key
    port, tag = key
    text = "NORMAL" if port == NORMAL else f"port {names.get(port, port)}"
    return f"{text} tag {tag}" if tag > 0 else text


def box_text(box: Box, names: Names = {}) -> str:  # noqa: B006 - nobody writes to it
    """A box as a list of terms, in the words of ovs-fields(7) where there are."""
    exact = {each.field: each.blocks[0][0] for each in box if len(each.blocks) == 1 and not each.outside
             and each.blocks[0][1] == _whole(each.field)}  # fmt: skip
    kind, gone = _KINDS.get((exact.get("eth_type", 0), exact.get("nw_proto"))), {"eth_type", "nw_proto"}
    if kind is None and (kind := _KINDS.get((exact.get("eth_type", 0), None))):
        gone = {"eth_type"}
    parts = [kind] if kind else []
    parts += [_among_text(each, names) for each in box if not (kind and each.field in gone)]
    return ", ".join(parts) or "any packet"


def _whole(field: str) -> int:
    return (1 << WIDTH[field]) - 1


def _among_text(each: Among, names: Names) -> str:
    if each.field == "ct_state":
        return " or ".join(state_text(state) for state, _ in sorted(each.blocks, key=_new_first))
    if each.field == "ct_mark" and each.blocks == ((0, _whole("ct_mark")),):
        return "marked" if each.outside else "unmarked"
    texts = _vlans(each.blocks) if each.field == "vlan_tci" else _values(each.field, each.blocks, names)
    if each.field == "vlan_tci" and not each.outside:
        return " or ".join(texts)
    return f"{each.field}{' is not ' if each.outside else '='}{' or '.join(texts)}"


def _new_first(block: Pattern) -> tuple[bool, int]:
    return bool(block[0] & EST), block[0]


def _vlans(blocks: Iterable[Pattern]) -> list[str]:
    """The CFI bit of vlan_tci stands for a header, and without one all bits are zero (ovs-fields(7))."""
    found = []
    for value, mask in blocks:
        if mask & VLAN_PRESENT and not value:
            found.append("untagged")
        elif mask == VLAN_PRESENT:
            found.append("tagged")
        elif mask == VLAN_PRESENT | _VID:
            found.append(f"vlan {value & _VID}")
        elif mask == _VID:
            found.append(f"vlan {value}" if value else "untagged or vlan 0")
        else:
            found.append(f"vlan_tci={value:#06x}/{mask:#06x}")
    return found


def _values(field: str, blocks: Iterable[Pattern], names: Names) -> list[str]:
    """Blocks that are prefixes as values, prefixes and ranges; others as `VALUE/MASK`, as ovs-ofctl writes them."""
    found = []
    for first, last, mask in _ranges(field, blocks):
        if mask is not None:
            dotted = field in _MACS or field in _ADDRESSES
            found.append(f"{_value(field, first)}/{_value(field, mask) if dotted else f'{mask:#x}'}")
        elif field in _ADDRESSES:
            found += _prefixes(first, last, _ADDRESSES[field])
        elif field == "in_port" and last - first < 1 << 8:
            found += [names.get(port, str(port)) for port in range(first, last + 1)] if any(
                port in names for port in range(first, last + 1)) else [_from_to(field, first, last)]  # fmt: skip
        else:
            found.append(_from_to(field, first, last))
    return found


def _from_to(field: str, first: int, last: int) -> str:
    return _value(field, first) + (f"-{_value(field, last)}" if last > first else "")


def _ranges(field: str, blocks: Iterable[Pattern]) -> Iterator[tuple[int, int, int | None]]:
    """First and last value where a block, or several in a row, are all between them; else value and mask."""
    whole, ranges = _whole(field), list[tuple[int, int]]()
    for value, mask in sorted(blocks):
        size = (~mask & whole) + 1
        if size & size - 1:
            yield value, value, mask
        elif ranges and ranges[-1][1] == value - 1:
            ranges[-1] = (ranges[-1][0], value + size - 1)
        else:
            ranges.append((value, value + size - 1))
    for first, last in ranges:
        yield first, last, None


def _prefixes(first: int, last: int, width: int) -> list[str]:
    address = IPv4Address if width == 32 else IPv6Address
    found, low = list[str](), first
    while low <= last:
        bits = min(width, (low & -low).bit_length() - 1 if low else width)
        while low + (1 << bits) - 1 > last:
            bits -= 1
        found.append(f"{address(low)}" + (f"/{width - bits}" if bits else ""))
        low += 1 << bits
        if len(found) > _FEW:
            return [f"{address(first)}-{address(last)}"]
    return found


def _value(field: str, value: int) -> str:
    if field in _MACS:
        return mac_text(value)
    if field in _ADDRESSES:
        return str(IPv4Address(value) if _ADDRESSES[field] == 32 else IPv6Address(value))
    return str(value) if value < 1 << 16 and field != "eth_type" else f"{value:#x}"
