"""One long TCP stream with a stall meter: what a user's connection feels.

TCP repairs losses, so nothing is counted as lost here. What shows is the longest gap between two received chunks,
and a reset. The sender is paced: an unpaced stream would take the one CPU away from what is being judged.
"""

from __future__ import annotations

import errno
import socket
import threading
import time

import msgspec

from hitless.lab.probe import namespace
from hitless.lab.probe.loop import ProbeLoop, Ticker
from hitless.lab.topology import Endpoint, Pair

DEFAULT_PORT = 7002
TICK_SECONDS = 0.02
BACKLOG_LIMIT_BYTES = 1 << 18  # sent at once after a stall of the probe itself; more would be a burst of our own making


class TcpResult(msgspec.Struct, frozen=True):
    """`longest_stall_ms` is the longest gap between received chunks while the sender kept sending (every 20 ms)."""

    pair: str
    sent_bytes: int = 0
    received_bytes: int = 0
    resets: int = 0
    longest_stall_ms: float = 0.0


class TcpStream:
    """A stream from `pair.src` to `pair.dst`. After a reset it connects anew, and the reset is counted."""

    def __init__(
        self, loop: ProbeLoop, pair: Pair, bytes_per_second: float = 200_000.0, port: int = DEFAULT_PORT
    ) -> None:
        self._loop, self.pair, self._rate, self._port = loop, pair, bytes_per_second, port
        self._listener: socket.socket | None = None
        self._sender: socket.socket | None = None
        self._accepted: socket.socket | None = None
        self._ticker: Ticker | None = None
        self._credit = 0.0
        self._last_tick = self._last_chunk = 0.0
        self._sent = self._received = self._resets = 0
        self._stall = 0.0
        self._flowing = threading.Event()
        self._ended = threading.Event()

    # --- for the run ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Listen, connect and begin to send; returns at once."""
        self._loop.call(self._begin)

    def wait_flowing(self, timeout_seconds: float) -> bool:
        """Wait until the first bytes have arrived."""
        return self._flowing.wait(timeout_seconds)

    def snapshot(self) -> TcpResult:
        return self._loop.call(self._result)

    def stop(self, grace_seconds: float = 2.0) -> TcpResult:
        """End the stream, wait up to the grace for its last bytes, close everything; the final count."""
        self._loop.call(self._shut)
        self._ended.wait(grace_seconds)
        return self._loop.call(self._close)

    # --- in the probes' thread --------------------------------------------------------------------------

    def _begin(self) -> None:
        self._listener = _tcp_socket(self.pair.dst)
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((self.pair.dst.address, self._port))
        self._listener.listen(4)
        self._loop.add_reader(self._listener.fileno(), self._accept)
        self._last_tick = time.monotonic()
        self._connect()
        self._ticker = self._loop.every(TICK_SECONDS, self._tick)

    def _connect(self) -> None:
        self._sender = _tcp_socket(self.pair.src)
        self._sender.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sender.bind((self.pair.src.address, 0))
        self._sender.connect_ex((self.pair.dst.address, self._port))

    def _accept(self) -> None:
        if self._listener is None:
            return
        accepted, _ = self._listener.accept()
        accepted.setblocking(False)
        if self._accepted is not None:
            self._drop_accepted()
        self._accepted = accepted
        self._loop.add_reader(accepted.fileno(), self._read)

    def _tick(self) -> None:
        now = time.monotonic()
        self._credit = min(self._credit + (now - self._last_tick) * self._rate, BACKLOG_LIMIT_BYTES)
        self._last_tick = now
        if self._sender is None:
            return
        try:
            sent = self._sender.send(bytes(int(self._credit)))
        except OSError as error:
            # Not connected yet, or its buffer is full: the stall meter sees it at the other end.
            if error.errno not in (errno.EAGAIN, errno.ENOTCONN, errno.EINPROGRESS, errno.EALREADY):
                self._resets += 1
                self._sender.close()
                self._connect()
        else:
            self._sent += sent
            self._credit -= sent

    def _read(self) -> None:
        if self._accepted is None:
            return
        try:
            count = len(self._accepted.recv(1 << 18))
        except BlockingIOError:
            return
        except OSError:
            count = 0
        if not count:
            self._drop_accepted()
            self._ended.set()
            return
        now = time.monotonic()
        if self._last_chunk:
            self._stall = max(self._stall, now - self._last_chunk)
        self._last_chunk = now
        self._received += count
        self._flowing.set()

    def _drop_accepted(self) -> None:
        if self._accepted is not None:
            self._loop.forget(self._accepted.fileno())
            self._accepted.close()
            self._accepted = None

    def _shut(self) -> None:
        if self._ticker is not None:
            self._loop.cancel(self._ticker)
            self._ticker = None
        # A stream that is silent now has its longest stall at its end.
        self._stall = max(self._stall, time.monotonic() - self._last_chunk) if self._last_chunk else self._stall
        self._last_chunk = 0.0
        try:
            if self._sender is not None:
                self._sender.shutdown(socket.SHUT_WR)
        except OSError:
            self._ended.set()  # never connected: there is no end to wait for

    def _close(self) -> TcpResult:
        self._drop_accepted()
        if self._listener is not None:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            self._listener = None
        if self._sender is not None:
            self._sender.close()
            self._sender = None
        return self._result()

    def _result(self) -> TcpResult:
        stall = self._stall
        if self._last_chunk:
            stall = max(stall, time.monotonic() - self._last_chunk)
        return TcpResult(self.pair.name, self._sent, self._received, self._resets, stall * 1000)


def _tcp_socket(endpoint: Endpoint) -> socket.socket:
    with namespace.enter(endpoint.namespace):
        sock = socket.socket(socket.AF_INET6 if endpoint.family == "6" else socket.AF_INET, socket.SOCK_STREAM)
    sock.setblocking(False)
    return sock
