"""How often a node's security state was changed, counted by the kernel itself.

The kernel announces every change of an SA or a policy to whoever listens (multicast groups of NETLINK_XFRM). Counting
the announcements needs no word of the agent: zero means that nothing was written.
"""

from __future__ import annotations

import socket
import struct
from typing import Final, Self

from hitless.lab.probe import namespace

_NETLINK_XFRM: Final = 6  # linux/netlink.h
_GROUPS: Final = 1 << 2 | 1 << 3  # XFRMNLGRP_SA 3, XFRMNLGRP_POLICY 4 (linux/xfrm.h), as a mask
_HEADER: Final = struct.Struct("=IHHII")  # struct nlmsghdr
_BUFFER_BYTES: Final = 8 << 20  # some 10,000 announcements between two looks
_RCVBUFFORCE: Final = 33  # SO_RCVBUFFORCE


class Announcements:
    """Listens from construction on, in the named network namespace. `count` includes everything so far."""

    def __init__(self, name: str) -> None:
        with namespace.enter(name):
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _NETLINK_XFRM)
        self._socket.setsockopt(socket.SOL_SOCKET, _RCVBUFFORCE, _BUFFER_BYTES)
        self._socket.bind((0, _GROUPS))
        self._count = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def count(self) -> int:
        """All changes announced since construction. OSError (ENOBUFS) where the kernel had to drop some."""
        while True:
            try:
                datagram = self._socket.recv(1 << 16)
            except BlockingIOError:
                return self._count
            self._count += messages(datagram)

    def close(self) -> None:
        self._socket.close()


def messages(datagram: bytes) -> int:
    """How many netlink messages a datagram holds."""
    count, at = 0, 0
    while at + _HEADER.size <= len(datagram):
        length = _HEADER.unpack_from(datagram, at)[0]
        if length < _HEADER.size:
            break
        count += 1
        at += (length + 3) & ~3  # NLMSG_ALIGN
    return count
