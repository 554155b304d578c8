"""Many datagrams per system call: sendmmsg(2), and recvmmsg(2) with the kernel's own receive time (SO_TIMESTAMPNS).

The probe shares one CPU with what it judges and must be cheap; in the guest kernel a system call, even to read the
clock, is what costs. It reads in batches, so the time at which *it* wakes up says nothing about when a packet came:
the kernel stamps each packet at reception instead.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
import time
from collections.abc import Iterator, Sequence

FRAMES = 64  # datagrams per system call: more gains nothing, the buffers stay in the cache
_CONTROL_BYTES = 64
_SO_TIMESTAMPNS = 35  # asm-generic/socket.h; the answer has the layout of struct timespec
_SO_MEMINFO = 55
_MSG_DONTWAIT = 0x40
_STAMP = struct.Struct("qq")
_STAMP_OFFSET = 16  # struct cmsghdr: length (8), level (4), type (4)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Msghdr(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_void_p),
        ("namelen", ctypes.c_uint32),
        ("iov", ctypes.POINTER(_Iovec)),
        ("iovlen", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("controllen", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _Mmsghdr(ctypes.Structure):
    _fields_ = (("header", _Msghdr), ("length", ctypes.c_uint32))


# PyDLL keeps the interpreter's lock: the calls never wait (MSG_DONTWAIT), and giving the lock away would cost more.
_libc = ctypes.PyDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_sendmmsg = _libc.sendmmsg


class Destination:
    """An address in the kernel's form, kept alive for as long as it is used."""

    def __init__(self, address: str, port: int) -> None:
        if ":" in address:
            packed = struct.pack("=HHI16sI", socket.AF_INET6, socket.htons(port), 0, _packed(address), 0)
        else:
            packed = struct.pack("=HH4s8x", socket.AF_INET, socket.htons(port), _packed(address))
        self._buffer = ctypes.create_string_buffer(packed, len(packed))
        self.length = len(packed)
        self.pointer = ctypes.addressof(self._buffer)


def _packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


class BatchSender:
    """Sends datagrams of one size from one socket. `slot(i)` is where the caller writes the i-th one's first bytes."""

    def __init__(self, sock: socket.socket, size_bytes: int) -> None:
        self._sock = sock
        sock.setblocking(False)
        self.size_bytes = size_bytes
        self.data = bytearray(size_bytes * FRAMES)
        self._headers = (_Mmsghdr * FRAMES)()
        self._vectors = (_Iovec * FRAMES)()
        data = ctypes.addressof(ctypes.c_char.from_buffer(self.data))
        for i in range(FRAMES):
            self._vectors[i].base = data + i * size_bytes
            self._vectors[i].length = size_bytes
            self._headers[i].header.iov = ctypes.pointer(self._vectors[i])
            self._headers[i].header.iovlen = 1
        self._header_list = [self._headers[i].header for i in range(FRAMES)]

    def send(self, destinations: Sequence[Destination]) -> list[int]:
        """Send the first slots, one to each destination (at most FRAMES); the positions that the kernel refused.

        A short count means that the next datagram failed (`__sys_sendmmsg`, net/socket.c). It is not tried again:
        a user's packet would not be either, and a refusal of a moment must not disappear.
        """
        for header, destination in zip(self._header_list, destinations, strict=False):
            header.name = destination.pointer
            header.namelen = destination.length
        refused = []
        position = 0
        while position < len(destinations):
            start = ctypes.byref(self._headers, position * ctypes.sizeof(_Mmsghdr))
            count = _sendmmsg(self._sock.fileno(), start, len(destinations) - position, _MSG_DONTWAIT)
            if count < 0 and ctypes.get_errno() == errno.EBADF:
                raise OSError(errno.EBADF, "the probe's socket is closed")
            position += max(count, 0)
            if position < len(destinations):
                refused.append(position)
                position += 1
        return refused


class Clocks:
    """Both clocks, read together. The kernel stamps in wall time, which may be set: read them anew for every round."""

    __slots__ = ("now_ns", "offset_ns")

    def __init__(self) -> None:
        self.now_ns = time.monotonic_ns()
        self.offset_ns = self.now_ns - time.time_ns()


class BatchReceiver:
    """Reads a datagram or packet socket dry. `frame_bytes` is how much of each datagram is kept."""

    def __init__(self, sock: socket.socket, frame_bytes: int, buffer_bytes: int = 4 << 20) -> None:
        self._sock = sock
        self._frame_bytes = frame_bytes
        sock.setblocking(False)
        # FORCE passes net.core.rmem_max; a queue that overflows would be counted as loss (see `overruns`).
        sock.setsockopt(socket.SOL_SOCKET, 33, buffer_bytes)  # SO_RCVBUFFORCE
        sock.setsockopt(socket.SOL_SOCKET, _SO_TIMESTAMPNS, 1)
        self._data = bytearray(frame_bytes * FRAMES)
        self._control = bytearray(_CONTROL_BYTES * FRAMES)
        self._headers = (_Mmsghdr * FRAMES)()
        self._vectors = (_Iovec * FRAMES)()
        data = ctypes.addressof(ctypes.c_char.from_buffer(self._data))
        control = ctypes.addressof(ctypes.c_char.from_buffer(self._control))
        for i in range(FRAMES):
            self._vectors[i].base = data + i * frame_bytes
            self._vectors[i].length = frame_bytes
            header = self._headers[i].header
            header.iov = ctypes.pointer(self._vectors[i])
            header.iovlen = 1
            header.control = control + i * _CONTROL_BYTES
        self._header_list = [self._headers[i] for i in range(FRAMES)]

    def drain(self, clocks: Clocks) -> Iterator[tuple[bytes, int]]:
        """Every datagram that waits: its first `frame_bytes`, and when it came (CLOCK_MONOTONIC, nanoseconds)."""
        size = self._frame_bytes
        while True:
            for entry in self._header_list:
                entry.header.controllen = _CONTROL_BYTES
            count = _recvmmsg(self._sock.fileno(), self._headers, FRAMES, _MSG_DONTWAIT, None)
            if count <= 0:
                return  # nothing waits; an error of an earlier send (ICMP) is no datagram either
            for i in range(count):
                seconds, nanoseconds = _STAMP.unpack_from(self._control, i * _CONTROL_BYTES + _STAMP_OFFSET)
                stamp = seconds * 1_000_000_000 + nanoseconds + clocks.offset_ns if seconds else clocks.now_ns
                start = i * size
                yield bytes(self._data[start : start + min(size, self._headers[i].length)]), stamp
            if count < FRAMES:
                return

    def overruns(self) -> int:
        """Datagrams that the kernel threw away because this socket's queue was full: loss made by the probe."""
        info = self._sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36)
        return int(struct.unpack("9I", info)[8])  # SK_MEMINFO_DROPS
