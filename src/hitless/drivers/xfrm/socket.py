"""The netlink socket: many requests in one system call, answers matched by sequence number.

Only the last message of a chunk asks for an acknowledgement. The kernel works through a chunk in order and
answers errors whether asked or not, so when the last answer is there, every message without an error has
succeeded. That makes one answer per chunk instead of one per SA.

A chunk is sized by what the answers may take in the receive buffer, for the worst case that every message is
refused. If answers are lost all the same (ENOBUFS), or the last one never comes, every message of that chunk that
has not been answered is `no-answer`: nothing is assumed.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import msgspec

from hitless.drivers.xfrm import layout as wire
from hitless.drivers.xfrm.errors import CodecError, XfrmError
from hitless.drivers.xfrm.kernel import Answer

T = TypeVar("T")
Request = tuple[int, bytes]
"""Message type and body."""

_RECEIVE_BYTES = 4 << 20
_SEND_BYTES = 1 << 20
# Well below the send buffer, and short enough that other users of the kernel's XFRM lock wait milliseconds.
_CHUNK_BYTES = 128 << 10
# Charged to the receive buffer per error (header, text, socket buffer overhead) and per object read.
_ERROR_BYTES = 2048
_REPLY_BYTES = 8192
# A dump comes in pieces of at most 32 KiB (`netlink_recvmsg`).
_PIECE_BYTES = 64 << 10
# A dump that was interrupted by changes is repeated; on a busy kernel the last attempt counts.
_DUMP_ATTEMPTS = 3
_ERRNO = struct.Struct("=i")

_OK = Answer()
_LOST = Answer(code="no-answer", message="the kernel's answer was lost")


class Reply(msgspec.Struct, frozen=True):
    """One object the kernel sent back: its bytes are `data[start:end]`."""

    data: bytes
    start: int
    end: int


class XfrmSocket:
    """One NETLINK_XFRM socket in the network namespace of the calling thread. Not for several threads at once."""

    def __init__(self, answer_seconds: float = 5.0, receive_bytes: int = _RECEIVE_BYTES) -> None:
        """`answer_seconds` bounds the wait for the kernel, `receive_bytes` is the receive buffer.

        Raises XfrmError `xfrm-unavailable` where the kernel has no XFRM netlink.
        """
        self._socket = open_socket(0, receive_bytes)
        self._socket.settimeout(answer_seconds)
        self._sequence = 0
        self._piece = bytearray(_PIECE_BYTES)
        available = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2
        self.writes_per_chunk = max(1, available // _ERROR_BYTES)
        self.reads_per_chunk = max(1, available // _REPLY_BYTES)
        self.port_id: int = self._socket.getsockname()[0]

    def close(self) -> None:
        self._socket.close()

    def write(self, requests: Iterable[Request]) -> list[Answer]:
        """Send requests that change something, in order; one answer each."""
        answers: list[Answer] = []
        for chunk in _chunks(requests, self.writes_per_chunk):
            answers += self._exchange(chunk)[0]
        return answers

    def read(self, requests: Sequence[Request]) -> list[tuple[Answer, Reply | None]]:
        """Send requests that look something up; what each found, or the kernel's reason."""
        found: list[tuple[Answer, Reply | None]] = []
        for chunk in _chunks(requests, self.reads_per_chunk):
            answers, replies = self._exchange(chunk)
            found += [(answer, replies.get(place)) for place, answer in enumerate(answers)]
        return found

    def dump(self, request_kind: int, decode: Callable[[bytes, int, int], T]) -> list[T]:
        """All objects of a kind. Raises XfrmError where the kernel refuses or its answer is lost."""
        for _ in range(_DUMP_ATTEMPTS - 1):
            things, interrupted = self._dump_once(request_kind, decode)
            if not interrupted:
                return things
        return self._dump_once(request_kind, decode)[0]

    def _exchange(self, requests: Sequence[Request]) -> tuple[list[Answer], dict[int, Reply]]:
        first = self._take_sequence(len(requests))
        # The port id in the header is what the kernel repeats in its announcements of the change.
        message = bytearray()
        barrier = len(requests) - 1
        for place, (kind, body) in enumerate(requests):
            flags = wire.NLM_F_REQUEST | (wire.NLM_F_ACK if place == barrier else 0)
            message += wire.HEADER.pack(wire.HEADER_BYTES + len(body), kind, flags, first + place, self.port_id)
            message += body
        answers: dict[int, Answer] = {}
        replies: dict[int, Reply] = {}
        lost = False
        try:
            self._socket.send(message)
        except OSError as error:
            return [Answer(error.errno or errno.EIO)] * len(requests), replies
        while barrier not in answers:
            data = self._receive()
            if data is None:
                lost = True
                break
            if not data:
                lost = True
                continue
            for kind, flags, sequence, start, end in messages(data):
                place = sequence - first
                if not 0 <= place <= barrier:
                    continue
                if kind == wire.NLMSG_ERROR:
                    answers[place] = _answer(data, flags, start, end)
                else:
                    replies[place] = Reply(data, start, end)
        silent = _LOST if lost else _OK
        return [answers.get(place, silent) for place in range(len(requests))], replies

    def _dump_once(self, request_kind: int, decode: Callable[[bytes, int, int], T]) -> tuple[list[T], bool]:
        sequence = self._take_sequence(1)
        flags = wire.NLM_F_REQUEST | wire.NLM_F_DUMP
        self._socket.send(wire.HEADER.pack(wire.HEADER_BYTES, request_kind, flags, sequence, 0))
        things: list[T] = []
        append = things.append
        interrupted = False
        while True:
            data = self._receive()
            if not data:
                raise XfrmError("no-answer", "the kernel's list was lost on the way; ask again")
            for kind, flags, seq, start, end in messages(data):
                if seq != sequence:
                    continue
                interrupted = interrupted or bool(flags & wire.NLM_F_DUMP_INTR)
                if kind == wire.NLMSG_DONE:
                    return things, interrupted
                if kind == wire.NLMSG_ERROR:
                    raise _dump_refused(_answer(data, flags, start, end))
                append(decode(data, start, end))

    def _take_sequence(self, count: int) -> int:
        # Counted within 31 bits, so that a chunk never wraps; an answer to an older request matches nothing.
        if self._sequence + count >= 2**31:
            self._sequence = 0
        first = self._sequence + 1
        self._sequence += count
        return first

    def _receive(self) -> bytes | None:
        """The next piece; empty where the kernel dropped some (ENOBUFS); None where nothing came in time."""
        try:
            length, (sender, _) = self._socket.recvfrom_into(self._piece)
        except TimeoutError:
            return None
        except OSError as error:
            if error.errno == errno.ENOBUFS:
                return b""
            raise XfrmError("xfrm-unavailable", f"the kernel cannot be read: {error}; restart the agent") from error
        # Only the kernel has port 0. Anyone else's word is worth a loss at most.
        return bytes(memoryview(self._piece)[:length]) if sender == 0 else b""


def open_socket(groups: int, receive_bytes: int) -> socket.socket:
    """A bound NETLINK_XFRM socket with short error answers and texts. Raises XfrmError `xfrm-unavailable`."""
    try:
        sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, wire.NETLINK_XFRM)
    except OSError as error:
        raise XfrmError(
            "xfrm-unavailable",
            f"this kernel has no XFRM netlink ({error.strerror}); load the module xfrm_user, or run in the lab's guest",
        ) from error
    for option, wanted in ((socket.SO_RCVBUF, receive_bytes), (socket.SO_SNDBUF, _SEND_BYTES)):
        force = 33 if option == socket.SO_RCVBUF else 32  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, wanted)
        except PermissionError:
            # Forcing takes CAP_NET_ADMIN where the namespace's owner is; the chunks follow the size we do get.
            sock.setsockopt(socket.SOL_SOCKET, option, wanted)
    sock.setsockopt(wire.SOL_NETLINK, wire.NETLINK_CAP_ACK, 1)
    sock.setsockopt(wire.SOL_NETLINK, wire.NETLINK_EXT_ACK, 1)
    try:
        sock.bind((0, groups))
    except PermissionError:
        sock.close()
        raise XfrmError(
            "permission", "listening to the kernel's IPsec changes takes CAP_NET_ADMIN; run as root or give it that"
        ) from None
    return sock


def messages(data: bytes) -> list[tuple[int, int, int, int, int]]:
    """Type, flags, sequence number, and body start and end of each message. Raises CodecError for a broken frame."""
    found = []
    start = 0
    total = len(data)
    unpack = wire.HEADER.unpack_from
    while start + wire.HEADER_BYTES <= total:
        length, kind, flags, sequence, _ = unpack(data, start)
        end = start + length
        if length < wire.HEADER_BYTES or end > total:
            raise CodecError("malformed", f"a netlink message of {length} bytes does not fit its frame")
        found.append((kind, flags, sequence, start + wire.HEADER_BYTES, end))
        start = (end + 3) & ~3
    return found


def _chunks(requests: Iterable[Request], most: int) -> Iterator[list[Request]]:
    chunk: list[Request] = []
    size = 0
    for request in requests:
        length = wire.HEADER_BYTES + len(request[1])
        if chunk and (size + length > _CHUNK_BYTES or len(chunk) >= most):
            yield chunk
            chunk, size = [], 0
        chunk.append(request)
        size += length
    if chunk:
        yield chunk


def _answer(data: bytes, flags: int, start: int, end: int) -> Answer:
    """`struct nlmsgerr`: the negative errno, the header of the request, and the extended ack's attributes."""
    if end - start < _ERRNO.size:
        raise CodecError("malformed", "a netlink error without its number")
    number = -_ERRNO.unpack_from(data, start)[0]
    if not number:
        return _OK
    if not flags & wire.NLM_F_ACK_TLVS:
        return Answer(number)
    # With NETLINK_CAP_ACK the request's header alone stands between the errno and the attributes.
    place = start + _ERRNO.size + wire.HEADER_BYTES
    while place + wire.ATTRIBUTE_BYTES <= end:
        length, kind = wire.ATTRIBUTE.unpack_from(data, place)
        if length < wire.ATTRIBUTE_BYTES or place + length > end:
            break
        if kind & wire.ATTRIBUTE_TYPE_MASK == wire.NLMSGERR_ATTR_MSG:
            text = data[place + wire.ATTRIBUTE_BYTES : place + length]
            return Answer(number, text.rstrip(b"\0").decode("utf-8", "replace"))
        place += (length + 3) & ~3
    return Answer(number)


def _dump_refused(answer: Answer) -> XfrmError:
    if answer.errno == errno.EPERM:
        return XfrmError("permission", "reading IPsec state takes CAP_NET_ADMIN in the network namespace; run as root")
    return XfrmError("refused-dump", f"the kernel refuses to list its state: {os.strerror(answer.errno)}")
