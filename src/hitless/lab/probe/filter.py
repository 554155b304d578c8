"""The capture's in-kernel filter: classic BPF that passes protected plaintext, and ESP only where it is counted.

Everything else is dropped before it costs a copy (socket(7), SO_ATTACH_FILTER; Documentation/networking/filter.rst).
Plaintext is a packet whose source or destination lies in a protected prefix and whose outer protocol is not ESP.
With `udp_port` only UDP to that port is protected (transport mode). ESP inside UDP (RFC 3948) is not used by the lab.
"""

from __future__ import annotations

import ctypes
import ipaddress
import socket
import struct
from collections.abc import Sequence

SNAP_BYTES = 96  # Ethernet, the longest IPv4 header, and the first 8 bytes behind it
ETHER_BYTES = 14
ESP, UDP = 50, 17

# linux/bpf_common.h
_LD_W, _LD_H, _LD_B = 0x20, 0x28, 0x30  # BPF_LD | size | BPF_ABS
_LD_H_IND, _LDX_IP_LENGTH = 0x48, 0xB1  # BPF_LD|H|IND; BPF_LDX|B|MSH: 4 * (byte & 15)
_AND, _JEQ, _RET = 0x54, 0x15, 0x06
_NEXT = ""

Line = tuple[int, int, str, str]  # code, operand, label if true, label if false


class _Program:
    """Lines with labels; a jump without a label falls through."""

    def __init__(self) -> None:
        self.lines: list[Line] = []
        self.labels: dict[str, int] = {}

    def emit(self, code: int, operand: int, yes: str = _NEXT, no: str = _NEXT) -> None:
        self.lines.append((code, operand, yes, no))

    def label(self, name: str) -> None:
        self.labels[name] = len(self.lines)

    def assemble(self) -> bytes:
        packed = []
        for position, (code, operand, yes, no) in enumerate(self.lines):
            jumps = [self.labels[name] - position - 1 if name else 0 for name in (yes, no)]
            packed.append(struct.pack("HBBI", code, *jumps, operand))
        return b"".join(packed)


def program(protected: Sequence[str], udp_port: int | None, esp: bool) -> bytes:
    """The filter for these prefixes, as an array of `struct sock_filter` for Ethernet frames."""
    networks = [ipaddress.ip_network(prefix) for prefix in protected]
    code = _Program()
    code.emit(_LD_H, 12)
    code.emit(_JEQ, 0x0800, "ip4")
    code.emit(_JEQ, 0x86DD, "ip6", "drop")
    for version, protocol, addresses in ((4, 23, (26, 30)), (6, 20, (22, 38))):
        code.label(f"ip{version}")
        code.emit(_LD_B, protocol)
        code.emit(_JEQ, ESP, "esp")
        if udp_port is not None:
            code.emit(_JEQ, UDP, _NEXT, "drop")
            _load_destination_port(code, version)
            code.emit(_JEQ, udp_port, _NEXT, "drop")
        for number, network in enumerate(n for n in networks if n.version == version):
            for offset in addresses:
                _match(code, network, offset, f"next-{version}-{number}-{offset}")
        code.emit(_RET, 0)
    code.label("esp")
    code.emit(_RET, SNAP_BYTES if esp else 0)
    code.label("plain")
    code.emit(_RET, SNAP_BYTES)
    code.label("drop")
    code.emit(_RET, 0)
    return code.assemble()


def _load_destination_port(code: _Program, version: int) -> None:
    if version == 4:
        code.emit(_LDX_IP_LENGTH, ETHER_BYTES)
        code.emit(_LD_H_IND, ETHER_BYTES + 2)
    else:
        code.emit(_LD_H, ETHER_BYTES + 40 + 2)


def _match(code: _Program, network: ipaddress.IPv4Network | ipaddress.IPv6Network, offset: int, otherwise: str) -> None:
    """Jump to `plain` where the address at `offset` lies in the network, else go on behind the match."""
    address, mask = network.network_address.packed, network.netmask.packed
    words = [i for i in range(0, len(mask), 4) if any(mask[i : i + 4])] or [0]
    for i in words:
        code.emit(_LD_W, offset + i)
        code.emit(_AND, int.from_bytes(mask[i : i + 4], "big"))
        code.emit(_JEQ, int.from_bytes(address[i : i + 4], "big"), "plain" if i == words[-1] else _NEXT, otherwise)
    code.label(otherwise)


def attach(sock: socket.socket, code: bytes) -> None:
    """Attach a program to a socket."""
    buffer = ctypes.create_string_buffer(code)
    head = struct.pack("HL", len(code) // 8, ctypes.addressof(buffer))  # struct sock_fprog
    sock.setsockopt(socket.SOL_SOCKET, 26, head)  # SO_ATTACH_FILTER; the kernel copies the program
