"""Streams of datagrams: every request carries its stream and number, every answer too.

A receiving socket is shared by all streams to its address and port: what says whose a datagram is stands in it.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress

from hitless.lab.firewall.play import Play, Sockets
from hitless.lab.firewall.streams import Expected
from hitless.lab.probe.batch import BatchReceiver, Clocks

_HEADER = struct.Struct("!4sIIB")  # magic, stream, number, kind
_MAGIC = b"hitF"
_REQUEST, _REPLY = 0, 1


class UdpPort:
    """A receiving socket. `dispatch(stream, number, kind, time in ns)` gets every datagram of ours."""

    def __init__(self, sockets: Sockets, place: tuple[str, str, int], dispatch: Callable[..., None]) -> None:
        where, address, port = place
        self.sock = sockets.make(where, address, socket.SOCK_DGRAM)
        self.sock.bind((address, port))
        self._receiver = BatchReceiver(self.sock, _HEADER.size)
        self._dispatch = dispatch
        sockets.on_readable(self.sock, self._read)
        sockets.count_overruns(self._receiver.overruns)

    def send(self, to: tuple[str, int], stream: int, number: int, kind: int) -> None:
        """What the kernel refuses to send is lost like any other: its user's packet would not get through either."""
        with suppress(OSError):
            self.sock.sendto(_HEADER.pack(_MAGIC, stream, number, kind), to)

    def _read(self, clocks: Clocks) -> None:
        for frame, at_ns in self._receiver.drain(clocks):
            if len(frame) == _HEADER.size and frame.startswith(_MAGIC):
                self._dispatch(*_HEADER.unpack(frame)[1:], at_ns)


class UdpPlay(Play):
    """A UDP stream. The server answers what may pass, and speaks by itself when a stream that passed must drop."""

    def open(self, sockets: Sockets, dispatch: Callable[..., None]) -> None:
        """Bind both ends."""
        placed = self.placed
        client = (placed.source_namespace, placed.source_address, 0)
        server = (placed.destination_namespace, placed.destination_address, self.stream.port)
        self._client = UdpPort(sockets, client, dispatch)
        self._server = sockets.shared(("udp", *server), lambda: UdpPort(sockets, server, dispatch))
        self._to_server = server[1:]
        self._to_client = (placed.source_address, int(self._client.sock.getsockname()[1]))
        self._passed = self.expected == "pass"

    def expect(self, expected: Expected, now_ns: int) -> None:
        super().expect(expected, now_ns)
        self._passed = self._passed or expected == "pass"

    def emit(self, now_ns: int) -> None:
        self._client.send(self._to_server, self.index, self.forward.send(now_ns), _REQUEST)
        if self.expected == "drop" and self._passed:
            self._answer(now_ns)

    def _answer(self, now_ns: int) -> None:
        self._server.send(self._to_client, self.index, self.reply.send(now_ns), _REPLY)

    def arrived(self, number: int, kind: int, at_ns: int) -> None:
        """A datagram of this stream reached either end."""
        if kind == _REPLY:
            self.reply.arrive(number, at_ns)
        elif self.forward.arrive(number, at_ns) and self.expected != "drop":
            self._answer(at_ns)
