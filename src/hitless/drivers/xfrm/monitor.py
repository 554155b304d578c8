"""The kernel's own announcements: SAs and policies that appear, change, vanish or expire.

Every announcement carries the netlink port of whoever caused it, so that a driver's owner can tell its own
changes (`XfrmDriver.port_id`) from others'. Only the heads of the messages are read; key material in them is
never looked at.
"""

from __future__ import annotations

import contextlib
import errno
from socket import ntohl

from hitless.drivers.xfrm import layout as wire
from hitless.drivers.xfrm.addresses import address_text
from hitless.drivers.xfrm.errors import XfrmError
from hitless.drivers.xfrm.socket import open_socket
from hitless.ports import Change

# An announcement of an SA takes about 2 KiB of buffer: this holds some 4,000 of them, one full rotation.
_RECEIVE_BYTES = 8 << 20
_PIECE_BYTES = 64 << 10
_NAMES = {
    wire.MSG_NEWSA: "sa-added", wire.MSG_UPDSA: "sa-updated", wire.MSG_DELSA: "sa-deleted",
    wire.MSG_EXPIRE: "sa-expired", wire.MSG_FLUSHSA: "sa-flushed",
    wire.MSG_NEWPOLICY: "policy-added", wire.MSG_UPDPOLICY: "policy-updated", wire.MSG_DELPOLICY: "policy-deleted",
    wire.MSG_POLEXPIRE: "policy-expired", wire.MSG_FLUSHPOLICY: "policy-flushed",
}  # fmt: skip


class XfrmMonitor:
    """Implements `Monitor` over the multicast groups SA, POLICY and EXPIRE of the calling thread's namespace.

    `what` is one of sa-added, sa-updated, sa-deleted, sa-flushed, sa-expired-soft, sa-expired-hard, the same
    with `policy-`, and overrun. `pid` is the netlink port that the cause wrote into its request: 0 for the kernel
    itself and for programs that leave it empty, as iproute2 does.
    """

    def __init__(self, receive_bytes: int = _RECEIVE_BYTES) -> None:
        """Raises XfrmError `xfrm-unavailable` where the kernel has no XFRM netlink."""
        groups = wire.GROUP_SA | wire.GROUP_POLICY | wire.GROUP_EXPIRE
        self._socket = open_socket(groups, receive_bytes)
        self._socket.setblocking(False)
        self._piece = bytearray(_PIECE_BYTES)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> tuple[Change, ...]:
        """Everything announced so far, without waiting."""
        changes: list[Change] = []
        # The kernel hands out at most what its buffer holds plus what arrives meanwhile; stop when it is empty.
        with contextlib.suppress(BlockingIOError):
            while True:
                try:
                    length, (sender, _) = self._socket.recvfrom_into(self._piece)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    changes.append(Change("overrun"))
                    continue
                if sender == 0:
                    changes += decode_changes(bytes(memoryview(self._piece)[:length]))
        return tuple(changes)

    def close(self) -> None:
        self._socket.close()


def decode_changes(data: bytes) -> list[Change]:
    """The announcements in one piece; kinds that are not known are left out. Raises XfrmError for a broken frame."""
    changes = []
    start = 0
    while start + wire.HEADER_BYTES <= len(data):
        length, kind, _, _, port = wire.HEADER.unpack_from(data, start)
        end = start + length
        if length < wire.HEADER_BYTES or end > len(data):
            raise XfrmError("malformed", f"a netlink message of {length} bytes does not fit its frame")
        if kind in _NAMES:
            changes.append(_change(kind, port, data, start + wire.HEADER_BYTES, end))
        start = (end + 3) & ~3
    return changes


def _change(kind: int, port: int, data: bytes, start: int, end: int) -> Change:
    what = _NAMES[kind]
    if kind in {wire.MSG_EXPIRE, wire.MSG_POLEXPIRE}:
        # The flag `hard` follows the object (`xfrm_user_expire`, `xfrm_user_polexpire`).
        hard_at = start + (wire.SA_BYTES if kind == wire.MSG_EXPIRE else wire.POLICY_BYTES)
        what += "-hard" if hard_at < end and data[hard_at] else "-soft"
    if kind in {wire.MSG_NEWSA, wire.MSG_UPDSA, wire.MSG_EXPIRE}:
        return _of_sa(what, port, data, start, end)
    if kind == wire.MSG_DELSA:
        # The key comes first; the whole SA follows in an attribute.
        inner = start + wire.SA_ID_BYTES + wire.ATTRIBUTE_BYTES
        if inner + wire.SA_BYTES <= end:
            return _of_sa(what, port, data, inner, end)
        if start + wire.SA_ID_BYTES <= end:
            daddr, spi, family, _ = wire.SA_ID.unpack_from(data, start)
            return Change(what, address_text(family, daddr), ntohl(spi), 0, port)
    return Change(what, pid=port)


def _of_sa(what: str, port: int, data: bytes, start: int, end: int) -> Change:
    if end - start < wire.SA_BYTES:
        return Change(what, pid=port)
    fields = wire.SA.unpack_from(data, start)
    daddr, spi, reqid, family = fields[1], fields[2], fields[14], fields[15]
    return Change(what, address_text(family, daddr), ntohl(spi), reqid, port)


