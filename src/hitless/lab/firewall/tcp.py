"""TCP: a connection that lives as long as the run, and connection attempts that must not get through.

A connection is never opened again: whether it survives is the question. Both ends send by themselves, so each
direction is tried all the time; the kernel's own retransmissions do the trying while nothing comes through.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable

from hitless.lab.firewall.ledger import Direction
from hitless.lab.firewall.play import NANO, Placed, Play, Sockets
from hitless.lab.firewall.streams import BROKEN_SECONDS, STALL_SECONDS
from hitless.lab.probe import namespace
from hitless.lab.probe.batch import BatchReceiver, Clocks
from hitless.lab.probe.filter import attach

RETRY_LIMIT_SECONDS = 30.0  # after an outage of half a minute the kernel's next try may be as far away
_ATTEMPT_NS = NANO // 10  # a connection attempt costs two sockets; ten a second see any hole of a tenth of a second
_FRAME = struct.Struct("!Q")
_TOTAL_RETRANS = 100  # offset of tcpi_total_retrans in struct tcp_info (linux/tcp.h)

Peer = tuple[str, int]


class Listener:
    """A listening socket; `expected` says who gets the connection from which peer, the others are closed at once."""

    def __init__(self, sockets: Sockets, place: tuple[str, str, int]) -> None:
        where, address, port = place
        self._sockets = sockets
        self._sock = sockets.make(where, address, socket.SOCK_STREAM)
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind((address, port))
        self._sock.listen(128)
        self.expected: dict[Peer, Callable[[socket.socket], None]] = {}
        sockets.on_readable(self._sock, self._accept)

    def _accept(self, _: Clocks) -> None:
        try:
            accepted, peer = self._sock.accept()
        except OSError:
            return  # reset before we came to it
        take = self.expected.get((peer[0], peer[1]))
        if take is None:
            accepted.close()
        else:
            accepted.setblocking(False)
            take(accepted)


class _End:
    """One end of a connection: what it says goes into one ledger, what it hears into the other."""

    def __init__(self, sock: socket.socket, says: Direction, hears: Direction) -> None:
        self.sock, self._says, self._hears = sock, says, hears
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._unsent, self._heard = b"", b""
        self.retransmissions_before = 0
        self.tried_since_ns = 0

    def say(self, now_ns: int) -> None:
        """A full buffer takes no new message: then nothing is sent, as with any program."""
        if not self._unsent:
            self._unsent = _FRAME.pack(len(self._says.sent_ns))
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                self._unsent = b""
                return
            self._says.send(now_ns)
        else:
            try:
                sent = self.sock.send(self._unsent)
            except BlockingIOError:
                return
        self._unsent = self._unsent[sent:]

    def hear(self, now_ns: int) -> str:
        """Read what waits; why the connection ended, or nothing."""
        try:
            chunk = self.sock.recv(1 << 16)
        except BlockingIOError:
            return ""
        except OSError as error:
            return f"the connection ended: {error.strerror}"
        if not chunk:
            return "the other end closed the connection"
        self._heard += chunk
        whole = len(self._heard) // _FRAME.size * _FRAME.size
        for (number,) in _FRAME.iter_unpack(self._heard[:whole]):
            self._hears.arrive(number, now_ns, late_is_leak=True)
        self._heard = self._heard[whole:]
        return ""

    def retransmissions(self) -> int:
        info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TOTAL_RETRANS + 4)
        return int(struct.unpack_from("=I", info, _TOTAL_RETRANS)[0])


class TcpPlay(Play):
    """A connection with messages both ways.

    It is broken if, from the moment of being asked, a direction brings nothing although its sender's kernel sent
    again and two more seconds passed (both kernels, where both directions are silent); or if 30 seconds pass so.
    Neither TCP_USER_TIMEOUT nor keep-alive is set: the pauses between tries are those of any program.
    """

    def open(self, sockets: Sockets) -> None:
        """Listen and connect; the kernel repeats its SYN until the tables let it through."""
        self._sockets = sockets
        placed = self.placed
        place = (placed.destination_namespace, placed.destination_address, self.stream.port)
        listener = sockets.shared(("tcp", *place), lambda: Listener(sockets, place))
        sock = sockets.make(placed.source_namespace, placed.source_address, socket.SOCK_STREAM)
        sock.bind((placed.source_address, 0))
        listener.expected[placed.source_address, int(sock.getsockname()[1])] = self._accepted
        sock.connect_ex(place[1:])
        self._client = _End(sock, self.forward, self.reply)
        self._server: _End | None = None

    def _accepted(self, sock: socket.socket) -> None:
        self._server = _End(sock, self.reply, self.forward)
        for end in (self._server, self._client):
            self._sockets.on_readable(end.sock, lambda clocks, end=end: self._hear(end, clocks.now_ns))  # type: ignore[misc]

    def _hear(self, end: _End, now_ns: int) -> None:
        note = end.hear(now_ns)
        if note:
            self.note = self.note or note
            self._sockets.forget(end.sock)

    @property
    def _ends(self) -> tuple[_End, ...]:
        return (self._client, self._server) if self._server is not None and not self.note else ()

    def emit(self, now_ns: int) -> None:
        for end in self._ends:
            try:
                end.say(now_ns)
            except OSError as error:
                self.note = self.note or f"the connection ended: {error.strerror}"

    def end(self, now_ns: int) -> None:
        super().end(now_ns)
        for end in self._ends:
            end.retransmissions_before, end.tried_since_ns = end.retransmissions(), 0

    def retried(self, now_ns: int) -> bool:
        stalled = [
            end
            for end, direction in zip(self._ends, self._both, strict=False)
            if direction.last_arrival_ns <= self._ending_ns
        ]
        if not stalled or now_ns - self._ending_ns > RETRY_LIMIT_SECONDS * NANO:
            return super().retried(now_ns)  # never connected, or the kernel has given up trying often
        for end in stalled:
            if not end.tried_since_ns and end.retransmissions() > end.retransmissions_before:
                end.tried_since_ns = now_ns
        return all(end.tried_since_ns and now_ns - end.tried_since_ns > BROKEN_SECONDS * NANO for end in stalled)

    def outage_seconds(self, lost: tuple[list[int], list[int]], now_ns: int) -> float | None:
        del lost  # what is missing at the end is on its way; TCP itself repairs everything else
        stall = max(direction.silence_seconds(now_ns) for direction in self._both)
        return stall if stall > STALL_SECONDS else 0.0


class SynPlay(Play):
    """Connection attempts. Forward: the SYN was seen at the destination; back: the connection came about."""

    def __init__(self, index: int, placed: Placed) -> None:
        super().__init__(index, placed)
        self._period_ns = max(self._period_ns, _ATTEMPT_NS)
        self._attempts: dict[int, int] = {}  # source port to number
        self._current: tuple[socket.socket, int] | None = None
        self._answers: dict[int, int] = {}  # number of an attempt to number of its answer

    def open(self, sockets: Sockets) -> None:
        """Listen for connections, and to the destination's link for SYN packets."""
        self._sockets = sockets
        placed = self.placed
        where = placed.destination_namespace
        self._place = (where, placed.destination_address, self.stream.port)
        sockets.shared(("tcp", *self._place), lambda: Listener(sockets, self._place))
        watch = sockets.shared(("syn", where), lambda: SynWatch(sockets, where))
        watch.on_syn[placed.source_address, placed.destination_address, self.stream.port] = self._seen
        sockets.every_round(self._look)

    def emit(self, now_ns: int) -> None:
        if self._current is not None:
            self._current[0].close()
        sock = self._sockets.make(self.placed.source_namespace, self.placed.source_address, socket.SOCK_STREAM)
        sock.bind((self.placed.source_address, 0))
        number = self.forward.send(now_ns)
        self._attempts[int(sock.getsockname()[1])] = number
        sock.connect_ex(self._place[1:])
        self._current = sock, number

    def _look(self, now_ns: int) -> None:
        """See whether the attempt has become a connection."""
        if self._current is None or self._current[1] not in self._answers:
            return
        sock, number = self._current
        try:
            sock.getpeername()
        except OSError:
            return  # not yet
        self._current = None
        sock.close()
        self.reply.arrive(self._answers[number], now_ns)

    def _seen(self, source_port: int, at_ns: int) -> None:
        number = self._attempts.get(source_port)
        if number is not None and self.forward.arrive(number, at_ns):
            self._answers[number] = self.reply.send(at_ns)


class SynWatch:
    """Every SYN that reaches a station, seen on its link before the station's own TCP does anything with it."""

    # Classic BPF on Ethernet frames: TCP over IPv4 or IPv6, SYN without ACK (Documentation/networking/filter.rst).
    _CODE = (
        (0x28, 0, 0, 12), (0x15, 0, 5, 0x0800),
        (0x30, 0, 0, 23), (0x15, 0, 9, 6), (0xB1, 0, 0, 14), (0x50, 0, 0, 14 + 13),
        (0x05, 0, 0, 4),
        (0x15, 0, 5, 0x86DD), (0x30, 0, 0, 20), (0x15, 0, 3, 6), (0x30, 0, 0, 14 + 40 + 13),
        (0x54, 0, 0, 0x12), (0x15, 1, 0, 0x02), (0x06, 0, 0, 0), (0x06, 0, 0, 96),
    )  # fmt: skip

    def __init__(self, sockets: Sockets, where: str) -> None:
        with namespace.enter(where):
            self._sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
            attach(self._sock, b"".join(struct.pack("HBBI", *line) for line in self._CODE))
            self._sock.setsockopt(263, 23, 1)  # SOL_PACKET, PACKET_IGNORE_OUTGOING (linux/if_packet.h)
            self._receiver = BatchReceiver(self._sock, 96)
            self._sock.bind(("eth0", 0x0003))  # ETH_P_ALL
        self.on_syn: dict[tuple[str, str, int], Callable[[int, int], None]] = {}
        sockets.on_readable(self._sock, self._read)

    def _read(self, clocks: Clocks) -> None:
        for frame, at_ns in self._receiver.drain(clocks):
            if frame[12] == 0x08:
                family, start, end, behind = socket.AF_INET, 26, 34, 14 + (frame[14] & 15) * 4
            else:
                family, start, end, behind = socket.AF_INET6, 22, 54, 14 + 40
            middle = (start + end) // 2
            source, destination = (socket.inet_ntop(family, each) for each in (frame[start:middle], frame[middle:end]))
            source_port, port = struct.unpack_from("!HH", frame, behind)
            found = self.on_syn.get((source, destination, port))
            if found is not None:
                found(source_port, at_ns)
