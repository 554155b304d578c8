"""Values of match fields as Open vSwitch's flow text writes them (ovs-fields(7), lib/match.c, lib/meta-flow.c).

A field has a notation: a number in decimal or in hexadecimal, an address, or flags by name. Each notation reads
`VALUE` and `VALUE/MASK` into two integers and writes them back exactly as `ovs-ofctl dump-flows` does. Reading also
normalises: bits outside the mask become zero, a mask of all ones is the same as none.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import msgspec

from hitless.core.model.flow import WIDTH

LOCAL: Final = 65534  # OFPP_LOCAL of OpenFlow 1.0, as OVSDB's `ofport` has it (ovs-fields(7), in_port)
LAST_PORT: Final = 0xFEFF  # OFPP_MAX of OpenFlow 1.0 is the first that no port has

_CT_STATE: Final = ("new", "est", "rel", "rpl", "inv", "trk", "snat", "dnat")  # lib/packets.h, CS_*
_TCP: Final = ("fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]")

_BASES: Final = frozenset("bBoO")
_FRAGMENTS: Final = {"no": (0, 3), "yes": (1, 1), "first": (1, 3), "later": (3, 3), "not_later": (0, 2)}
_FRAGMENT_NAME: Final = {pair: name for name, pair in _FRAGMENTS.items()} | {(0, 1): "no", (2, 2): "later"}


class Notation(msgspec.Struct, frozen=True):
    """How a field is read, `read(value)`, and written without a mask, `show(value)`, and with one, `masked(v, m)`."""

    read: Callable[[str], int]
    show: Callable[[int], str]
    masked: Callable[[int, int], str]
    read_mask: Callable[[str], int]


def number(text: str) -> int:
    """Decimal or 0x..., without a sign. Raises ValueError, also for what is a number to Python only (`1_0`, `0b1`)."""
    if not text.isalnum() or text[1:2] in _BASES:
        raise ValueError(text)
    return int(text, 0)


def _ipv4(text: str) -> int:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET, text), "big")
    except OSError as error:
        raise ValueError(text) from error


def _ipv6(text: str) -> int:
    try:
        return int.from_bytes(socket.inet_pton(socket.AF_INET6, text), "big")
    except OSError as error:
        raise ValueError(text) from error


def _prefix(read: Callable[[str], int], bits: int) -> Callable[[str], int]:
    def mask(text: str) -> int:
        if not text.isdigit():
            return read(text)
        length = int(text)
        if length > bits:
            raise ValueError(text)
        return (1 << bits) - (1 << (bits - length))

    return mask


def _show_ipv4(value: int) -> str:
    return socket.inet_ntop(socket.AF_INET, value.to_bytes(4, "big"))


def _show_ipv6(value: int) -> str:
    return socket.inet_ntop(socket.AF_INET6, value.to_bytes(16, "big"))


def _cidr(show: Callable[[int], str], bits: int) -> Callable[[int, int], str]:
    def masked(value: int, mask: int) -> str:
        host = mask ^ ((1 << bits) - 1)
        length = bits - host.bit_length()
        return f"{show(value)}/{length if host & (host + 1) == 0 else show(mask)}"

    return masked


def _mac(text: str) -> int:
    parts = text.split(":")
    if len(parts) != 6 or not all(1 <= len(part) <= 2 for part in parts):
        raise ValueError(text)
    return int("".join(part.zfill(2) for part in parts), 16)


def _show_mac(value: int) -> str:
    digits = f"{value:012x}"
    return ":".join([digits[i : i + 2] for i in range(0, 12, 2)])


def _hex(value: int) -> str:
    """As C's %#x: zero has no prefix."""
    return f"{value:#x}" if value else "0"


def _plain(show: Callable[[int], str], show_mask: Callable[[int], str] | None = None) -> Notation:
    return Notation(number, show, lambda value, mask: f"{show(value)}/{(show_mask or show)(mask)}", number)


def _port(text: str) -> int:
    port = LOCAL if text.upper() == "LOCAL" else number(text)
    if port > LAST_PORT and port != LOCAL:
        raise ValueError(text)
    return port


def _show_port(value: int) -> str:
    return "LOCAL" if value == LOCAL else str(value)


_DECIMAL: Final = _plain(str)
_HEX: Final = _plain(_hex)
_TRANSPORT: Final = Notation(number, str, lambda value, mask: f"{value:#x}/{mask:#x}", number)
_TCI: Final = _plain(lambda value: f"{value:#06x}")
_LABEL: Final = _plain(lambda value: f"{value:#07x}")
_MAC: Final = Notation(_mac, _show_mac, lambda value, mask: f"{_show_mac(value)}/{_show_mac(mask)}", _mac)
_IPV4: Final = Notation(_ipv4, _show_ipv4, _cidr(_show_ipv4, 32), _prefix(_ipv4, 32))
_IPV6: Final = Notation(_ipv6, _show_ipv6, _cidr(_show_ipv6, 128), _prefix(_ipv6, 128))
_PORT: Final = Notation(_port, _show_port, lambda value, mask: f"{value}/{mask:#x}", number)

_FLAGS: Final = {"ct_state": _CT_STATE, "tcp_flags": _TCP}
NOTATION: Final[dict[str, Notation]] = (
    dict.fromkeys(("conj_id", "ct_zone", "nw_proto", "nw_ttl", "arp_op"), _DECIMAL)
    | dict.fromkeys((f"reg{index}" for index in range(8)), _HEX)
    | dict.fromkeys(("pkt_mark", "ct_mark", "ct_label", "tun_id", "metadata"), _HEX)
    | dict.fromkeys(("dl_src", "dl_dst", "arp_sha", "arp_tha", "nd_sll", "nd_tll"), _MAC)
    | dict.fromkeys(("nw_src", "nw_dst", "arp_spa", "arp_tpa"), _IPV4)
    | dict.fromkeys(("ipv6_src", "ipv6_dst", "nd_target"), _IPV6)
    | dict.fromkeys(("tp_src", "tp_dst", "icmp_type", "icmp_code"), _TRANSPORT)
    | {"in_port": _PORT, "vlan_tci": _TCI, "ipv6_label": _LABEL, "eth_type": _TCI}
)


def read_field(field: str, text: str) -> tuple[int, int]:
    """Value and mask of a known field. Raises ValueError for text that is none (also one that does not fit)."""
    full = (1 << WIDTH[field]) - 1
    if field in _FLAGS:
        value, mask = _read_flags(_FLAGS[field], text)
    elif field == "nw_frag":
        if text not in _FRAGMENTS:
            raise ValueError(text)
        return _FRAGMENTS[text]
    else:
        notation = NOTATION[field]
        before, slash, after = text.partition("/")
        value, mask = notation.read(before), notation.read_mask(after) if slash else full
    if not 0 <= value <= full or not 0 <= mask <= full:
        raise ValueError(text)
    return value & mask, mask


def show_field(field: str, value: int, mask: int) -> str:
    """`NAME=VALUE[/MASK]` of a known field as a dump has it, without prerequisites and shorthands."""
    if field in _FLAGS:
        return f"{field}={_show_flags(_FLAGS[field], value, mask)}"
    if field == "nw_frag":
        return f"nw_frag={_FRAGMENT_NAME[value, mask]}"
    if mask == (1 << WIDTH[field]) - 1:
        return f"{field}={NOTATION[field].show(value)}"
    return f"{field}={NOTATION[field].masked(value, mask)}"


def _read_flags(names: tuple[str, ...], text: str) -> tuple[int, int]:
    """`+a-b`, `a|b` (all of them, exactly), `0x21/0x23` or a number (exactly)."""
    full = (1 << len(names)) - 1
    if text[:1] in "+-":
        value = mask = 0
        for word in text.replace("+", " +").replace("-", " -").split():
            bit = 1 << names.index(word[1:])
            if mask & bit:
                raise ValueError(text)  # Open vSwitch takes each flag once
            mask |= bit
            value |= bit if word[0] == "+" else 0
        return value, mask
    if not text[:1].isdigit():
        return sum(1 << names.index(word) for word in text.split("|")), full
    before, slash, after = text.partition("/")
    return number(before), number(after) & full if slash else full


def _show_flags(names: tuple[str, ...], value: int, mask: int) -> str:
    full = (1 << len(names)) - 1
    if mask & full == full:
        return "|".join([name for bit, name in enumerate(names) if value >> bit & 1]) or "0"
    signs = [("+" if value >> bit & 1 else "-") + name for bit, name in enumerate(names) if mask >> bit & 1]
    return "".join(signs)
