"""Sequence-numbered datagrams between every pair: what is lost, doubled, late or let through, exactly.

Every datagram carries its pair, its number and the moment it was sent. The receiver ticks it off. What is not ticked
off at the end is lost, and since the sending times are kept, *when* it was lost is known too.
A datagram that the local kernel refused to send (EPERM under a block policy) is lost as well - the user's packet did
not get through - and counted apart as `refused`.
A *forbidden* pair is sent like the others, but must not arrive: each delivery counts as `leaked`.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Sequence

import msgspec

from hitless.lab.probe import namespace
from hitless.lab.probe.batch import FRAMES, BatchReceiver, BatchSender, Clocks, Destination
from hitless.lab.probe.loop import ProbeLoop, Ticker
from hitless.lab.topology import Endpoint, Pair

DEFAULT_PORT = 7001
TICK_SECONDS = 0.004  # one packet per pair and tick at 6 pairs and 1,500 packets/s; 250 wake-ups a second
READ_SECONDS = 0.02  # the kernel stamps what waits meanwhile; its queue holds far more than comes in that time
BURST_LIMIT = 64  # packets per tick after a stall: catching up with more would be a flood that nobody asked for
LOSS_MARKS_LIMIT = 10_000  # marks kept per run, for the picture; the counts stay exact beyond it
_HEADER = struct.Struct("!4sIQQ")  # magic, pair, sequence, sending time (CLOCK_MONOTONIC, ns)
_MAGIC = b"hitL"
_PENDING, _SEEN, _REFUSED = 0, 1, 2
_NANO = 1e-9


class LossMark(msgspec.Struct, frozen=True):
    """One lost datagram: when it was sent (CLOCK_MONOTONIC, seconds) and its number."""

    monotonic: float
    sequence: int
    pair: str


class Mark(msgspec.Struct, frozen=True):
    """A named moment of the run (CLOCK_MONOTONIC, seconds)."""

    monotonic: float
    text: str


class PairResult(msgspec.Struct, frozen=True):
    """What one pair saw. `lost` includes `refused`; latencies come from the kernel's receive time stamps."""

    pair: str
    sent: int = 0
    received: int = 0
    lost: int = 0
    refused: int = 0
    duplicated: int = 0
    reordered: int = 0
    leaked: int = 0
    forbidden: bool = False
    longest_silence_ms: float = 0.0
    latency_p50_ms: float = 0.0
    latency_p90_ms: float = 0.0
    latency_p99_ms: float = 0.0
    latency_max_ms: float = 0.0


class UdpResult(msgspec.Struct, frozen=True):
    """All pairs. `overruns` are datagrams that the probe's own sockets dropped: not 0 means that `lost` blames wrongly.

    `skipped` counts datagrams that were due but never sent because the probe itself was stalled.
    """

    pairs: tuple[PairResult, ...]
    loss_marks: tuple[LossMark, ...] = ()
    overruns: int = 0
    skipped: int = 0
    duration_seconds: float = 0.0
    marks: tuple[Mark, ...] = ()

    def total(self, field: str) -> int:
        """Sum of a count over the pairs that must arrive."""
        return sum(int(getattr(p, field)) for p in self.pairs if not p.forbidden)

    @property
    def leaked(self) -> int:
        return sum(p.leaked for p in self.pairs)


class _Sender:
    """One endpoint's sending socket, and the datagrams of this tick that wait to be sent together."""

    def __init__(self, endpoint: Endpoint, size_bytes: int) -> None:
        self.sock = _udp_socket(endpoint, 0)
        # A delayed link keeps many packets queued; they are charged to the sender's buffer until they leave.
        self.sock.setsockopt(socket.SOL_SOCKET, 32, 16 << 20)  # SO_SNDBUFFORCE
        self._batch = BatchSender(self.sock, size_bytes)
        self._waiting: list[tuple[_Stream, int]] = []

    def add(self, stream: _Stream, number: int, now_ns: int) -> None:
        sequence = len(stream.sent_ns)
        stream.sent_ns.append(now_ns)
        stream.seen.append(_PENDING)
        start = len(self._waiting) * self._batch.size_bytes
        _HEADER.pack_into(self._batch.data, start, _MAGIC, number, sequence, now_ns)
        self._waiting.append((stream, sequence))
        if len(self._waiting) == FRAMES:
            self.flush()

    def flush(self) -> None:
        if not self._waiting:
            return
        waiting, self._waiting = self._waiting, []
        for position in self._batch.send([stream.destination for stream, _ in waiting]):
            stream, sequence = waiting[position]
            stream.seen[sequence] = _REFUSED


class _Stream:
    """The ledger of one pair. Three bytes' worth of memory a packet would do; 13 keep every time exact."""

    __slots__ = ("destination", "duplicated", "forbidden", "highest", "last_seen_ns", "latency_us", "pair", "reordered",
                 "seen", "sender", "sent_ns", "silence_ns")  # fmt: skip

    def __init__(self, pair: Pair, sender: _Sender, destination: Destination, forbidden: bool) -> None:
        self.pair, self.sender, self.destination, self.forbidden = pair, sender, destination, forbidden
        self.sent_ns = array("Q")
        self.seen = bytearray()
        self.latency_us = array("I")
        self.duplicated = self.reordered = 0
        self.highest = -1
        self.last_seen_ns = 0
        self.silence_ns = 0

    def tick_off(self, sequence: int, at_ns: int) -> None:
        if self.seen[sequence] == _SEEN:
            self.duplicated += 1
            return
        self.seen[sequence] = _SEEN
        self.latency_us.append(min(max(0, at_ns - self.sent_ns[sequence]) // 1000, 0xFFFFFFFF))
        # RFC 4737: reordered is what arrives with a number below one already seen.
        if sequence < self.highest:
            self.reordered += 1
        else:
            self.highest = sequence
        before = self.last_seen_ns or self.sent_ns[0]
        self.silence_ns = max(self.silence_ns, at_ns - before)
        self.last_seen_ns = max(self.last_seen_ns, at_ns)

    def missing(self, judged: int) -> Iterator[int]:
        """Numbers below `judged` that did not arrive."""
        for state in (_PENDING, _REFUSED):
            position = self.seen.find(state, 0, judged)
            while position >= 0:
                yield position
                position = self.seen.find(state, position + 1, judged)

    def result(self, judged: int) -> PairResult:
        received = self.seen.count(_SEEN)
        latencies = sorted(self.latency_us)
        silence = self.silence_ns
        if judged:
            # A pair that fell silent and stayed so has its longest silence at the end, up to its last judged packet.
            silence = max(silence, self.sent_ns[judged - 1] - (self.last_seen_ns or self.sent_ns[0]))
        counts = {
            "pair": self.pair.name, "forbidden": self.forbidden, "sent": len(self.sent_ns), "received": received,
            "duplicated": self.duplicated, "reordered": self.reordered,
            "refused": self.seen.count(_REFUSED, 0, judged), "longest_silence_ms": silence / 1e6,
        }  # fmt: skip
        if self.forbidden:
            counts["leaked"] = received + self.duplicated
        else:
            counts["lost"] = self.seen.count(_PENDING, 0, judged) + self.seen.count(_REFUSED, 0, judged)
        for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)):
            counts[f"latency_{name}_ms"] = quantile(latencies, share) / 1000
        return msgspec.convert(counts, PairResult)


def quantile(ordered: Sequence[int], share: float) -> int:
    """The value that `share` of an ascending sequence do not exceed (nearest rank); 0 for an empty one."""
    return ordered[max(0, min(len(ordered) - 1, -int(-share * len(ordered) // 1) - 1))] if ordered else 0


class UdpProbes:
    """Datagrams over every pair at one total rate (packets per second over all pairs, forbidden ones included).

    `port` is the destination port (in transport mode the protected one). `stop` waits for late packets: until
    all have arrived or the grace is over.
    """

    def __init__(
        self,
        loop: ProbeLoop,
        pairs: Sequence[Pair],
        packets_per_second: float = 1000.0,
        forbidden: Sequence[Pair] = (),
        port: int = DEFAULT_PORT,
        size_bytes: int = 100,
    ) -> None:
        self._loop = loop
        self._rate = packets_per_second
        self._port = port
        self._size_bytes = max(size_bytes, _HEADER.size)
        self._streams: list[_Stream] = []
        self._senders: dict[Endpoint, _Sender] = {}
        self._receivers: dict[Endpoint, tuple[socket.socket, BatchReceiver]] = {}
        self._ticker: Ticker | None = None
        self._reading: Ticker | None = None
        self._started = self._stopped = 0.0
        self._paused = self._waiting = False
        self._credit = 0.0
        self._last_tick = 0.0
        self._next = 0
        self._skipped = 0
        self._marks: list[Mark] = []
        self._done = threading.Event()
        self.add_pairs(pairs)
        self.add_pairs(forbidden, forbidden=True)

    # --- for the run ------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send."""
        self._loop.call(self._begin)

    def add_pairs(self, pairs: Sequence[Pair], forbidden: bool = False) -> None:
        """More pairs, also while running (a node joined). LabError `no-namespace` where an endpoint is gone."""
        self._loop.call(lambda: self._add(pairs, forbidden))

    def send_once(self) -> None:
        """One datagram over every pair, now, whatever the rate."""
        self._loop.call(self._send_all)

    def pause(self) -> None:
        """Send nothing until `resume`; what is under way still counts."""
        self._paused = True

    def resume(self) -> None:
        """Send again. The pause does not count as silence."""
        self._loop.call(self._resume)

    def mark(self, text: str) -> None:
        """Note a moment under a name, for the picture."""
        self._marks.append(Mark(time.monotonic(), text))

    def snapshot(self, horizon_seconds: float = 1.0) -> UdpResult:
        """The count so far. Packets sent within the last `horizon_seconds` may still be under way: not judged lost."""
        return self._loop.call(lambda: self._result(horizon_seconds))

    def send(self, pair: str, count: int) -> None:
        """So many datagrams over one pair, now, whatever the rate. `pair` is `Pair.name`."""
        self._loop.call(lambda: self._send_to(pair, count))

    def arrived(self, pair: str) -> tuple[int, float]:
        """How many datagrams of a pair have arrived, and the seconds since the last one (since the start: none)."""
        return self._loop.call(lambda: self._arrived(pair))

    def wait_received(self, timeout_seconds: float) -> bool:
        """Wait until everything sent has arrived (forbidden pairs apart); False where the time ran out first."""
        self._done.clear()
        self._waiting = True
        self._loop.call(self._look_whether_done)
        arrived = self._done.wait(timeout_seconds)
        self._waiting = False
        return arrived

    def stop(self, grace_seconds: float = 2.0) -> UdpResult:
        """Stop sending, wait for late packets up to the grace, close everything; the final count."""
        self._loop.call(self._end)
        self.wait_received(grace_seconds)
        return self._loop.call(self._close)

    # --- in the probes' thread --------------------------------------------------------------------------

    def _add(self, pairs: Sequence[Pair], forbidden: bool) -> None:
        self._reading = self._reading or self._loop.every(READ_SECONDS, self._read)
        for pair in pairs:
            self._receiver(pair.dst)
            if pair.src not in self._senders:
                self._senders[pair.src] = _Sender(pair.src, self._size_bytes)
            destination = Destination(pair.dst.address, self._port)
            self._streams.append(_Stream(pair, self._senders[pair.src], destination, forbidden))

    def _receiver(self, endpoint: Endpoint) -> None:
        if endpoint not in self._receivers:
            sock = _udp_socket(endpoint, self._port)
            self._receivers[endpoint] = sock, BatchReceiver(sock, _HEADER.size)

    def _begin(self) -> None:
        if self._ticker is None:
            self._started = self._last_tick = time.monotonic()
            self._ticker = self._loop.every(TICK_SECONDS, self._tick)

    def _resume(self) -> None:
        self._paused = False
        now = time.monotonic_ns()
        for stream in self._streams:
            stream.last_seen_ns = max(stream.last_seen_ns, now) if stream.sent_ns else 0

    def _tick(self) -> None:
        now = time.monotonic()
        self._credit += 0.0 if self._paused else (now - self._last_tick) * self._rate
        self._last_tick = now
        if self._credit > BURST_LIMIT:
            self._skipped += int(self._credit - BURST_LIMIT)
            self._credit = BURST_LIMIT
        now_ns = int(now * 1e9)
        for _ in range(int(self._credit) if self._streams else 0):
            number = self._next = (self._next + 1) % len(self._streams)
            self._streams[number].sender.add(self._streams[number], number, now_ns)
        for sender in self._senders.values():
            sender.flush()
        self._credit %= 1.0

    def _send_all(self) -> None:
        self._started = self._started or time.monotonic()
        now_ns = time.monotonic_ns()
        for number, stream in enumerate(self._streams):
            stream.sender.add(stream, number, now_ns)
        for sender in self._senders.values():
            sender.flush()

    def _named(self, pair: str) -> tuple[int, _Stream]:
        return next((n, stream) for n, stream in enumerate(self._streams) if stream.pair.name == pair)

    def _send_to(self, pair: str, count: int) -> None:
        number, stream = self._named(pair)
        now_ns = time.monotonic_ns()
        for _ in range(count):
            stream.sender.add(stream, number, now_ns)
        stream.sender.flush()

    def _arrived(self, pair: str) -> tuple[int, float]:
        self._read()
        stream = self._named(pair)[1]
        since = stream.last_seen_ns * _NANO or self._started
        return stream.seen.count(_SEEN), time.monotonic() - since

    def _read(self) -> None:
        streams, clocks = self._streams, Clocks()
        for _, receiver in self._receivers.values():
            for data, at_ns in receiver.drain(clocks):
                if len(data) < _HEADER.size:
                    continue
                magic, number, sequence, _ = _HEADER.unpack(data)
                if magic == _MAGIC and number < len(streams) and sequence < len(streams[number].sent_ns):
                    streams[number].tick_off(sequence, at_ns)
        if self._waiting:
            self._look_whether_done()

    def _look_whether_done(self) -> None:
        if not any(not s.forbidden and s.seen.count(_PENDING) for s in self._streams):
            self._done.set()

    def _end(self) -> None:
        self._stopped = time.monotonic()
        if self._ticker is not None:
            self._loop.cancel(self._ticker)
            self._ticker = None

    def _result(self, horizon_seconds: float) -> UdpResult:
        self._read()
        horizon = time.monotonic_ns() - int(horizon_seconds * 1e9)
        rows: list[PairResult] = []
        marks: list[LossMark] = []
        for stream in self._streams:
            judged = bisect_right(stream.sent_ns, horizon) if horizon_seconds else len(stream.sent_ns)
            rows.append(stream.result(judged))
            if not stream.forbidden:
                for sequence in stream.missing(judged):
                    if len(marks) >= LOSS_MARKS_LIMIT:
                        break
                    marks.append(LossMark(stream.sent_ns[sequence] * _NANO, sequence, stream.pair.name))
        marks.sort(key=lambda mark: mark.monotonic)
        overruns = sum(receiver.overruns() for _, receiver in self._receivers.values())
        duration = (self._stopped or time.monotonic()) - self._started if self._started else 0.0
        return UdpResult(tuple(rows), tuple(marks), overruns, self._skipped, duration, tuple(self._marks))

    def _close(self) -> UdpResult:
        result = self._result(0.0)
        if self._reading is not None:
            self._loop.cancel(self._reading)
            self._reading = None
        for sock, _ in self._receivers.values():
            sock.close()
        for sender in self._senders.values():
            sender.sock.close()
        self._receivers.clear()
        self._senders.clear()
        return result


def _udp_socket(endpoint: Endpoint, port: int) -> socket.socket:
    with namespace.enter(endpoint.namespace):
        sock = socket.socket(socket.AF_INET6 if endpoint.family == "6" else socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind((endpoint.address, port))
    return sock
