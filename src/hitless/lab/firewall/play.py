"""What all kinds of streams share: two ledgers, a pace, and the sockets inside the namespaces."""

from __future__ import annotations

import select
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import TypeVar, cast

import msgspec

from hitless.lab.firewall.ledger import Direction
from hitless.lab.firewall.streams import BROKEN_SECONDS, Expected, Stream, StreamResult
from hitless.lab.probe import namespace
from hitless.lab.probe.batch import Clocks

T = TypeVar("T")

BURST_LIMIT = 8  # messages a tick after a stall of our own: making up for more would be a flood nobody asked for
NANO = 1_000_000_000


class Placed(msgspec.Struct, frozen=True):
    """A stream with its ends found: namespaces and addresses."""

    stream: Stream
    source_namespace: str
    source_address: str
    destination_namespace: str
    destination_address: str


class Sockets:
    """Sockets in namespaces, who reads them, and what several streams share."""

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._readers: dict[int, Callable[[Clocks], None]] = {}
        self._shared: dict[Hashable, object] = {}
        self._overruns: list[Callable[[], int]] = []
        self._rounds: list[Callable[[int], None]] = []

    def make(self, where: str, address: str, kind: int) -> socket.socket:
        """A socket inside a namespace, of the address's family, that never waits."""
        with namespace.enter(where):
            sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, kind)
        sock.setblocking(False)
        return sock

    def on_readable(self, sock: socket.socket, function: Callable[[Clocks], None]) -> None:
        self._readers[sock.fileno()] = function
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def forget(self, sock: socket.socket) -> None:
        """Close a socket that was read."""
        self.epoll.unregister(sock.fileno())
        del self._readers[sock.fileno()]
        sock.close()

    def shared(self, key: Hashable, make: Callable[[], T]) -> T:
        """The one thing under this key."""
        if key not in self._shared:
            self._shared[key] = make()
        return cast(T, self._shared[key])

    def every_round(self, function: Callable[[int], None]) -> None:
        """Call this with the time whenever sockets are read."""
        self._rounds.append(function)

    def count_overruns(self, count: Callable[[], int]) -> None:
        self._overruns.append(count)

    def overruns(self) -> int:
        """Messages lost in sockets of ours."""
        return sum(count() for count in self._overruns)

    def read(self, clocks: Clocks) -> None:
        """Let everybody read what waits."""
        for descriptor, _ in self.epoll.poll(0):
            if descriptor in self._readers:  # else an earlier reader of this round closed it
                self._readers[descriptor](clocks)
        for function in self._rounds:
            function(clocks.now_ns)


class Play(ABC):
    """A running stream."""

    def __init__(self, index: int, placed: Placed) -> None:
        self.index, self.placed, self.stream = index, placed, placed.stream
        self.expected: Expected = placed.stream.expected
        self.forward, self.reply = Direction(self.expected), Direction(self.expected)
        self.note = ""
        self.broken = False
        self._period_ns = int(NANO / self.stream.pps)
        # Spread over a period, lest all streams send in one burst.
        self._due_ns = 0
        self._ending_ns = 0

    # --- each kind ----------------------------------------------------------------------------------------

    @abstractmethod
    def emit(self, now_ns: int) -> None:
        """Send the next messages."""

    def retried(self, now_ns: int) -> bool:
        """Whether both ends have had their chance to get through since `end`: datagrams always have."""
        return now_ns - self._ending_ns > BROKEN_SECONDS * NANO

    def lost(self, before_ns: int) -> tuple[list[int], list[int]]:
        """Numbers of messages that are missing, forward and back."""
        return self.forward.lost(before_ns), self.reply.lost(before_ns)

    def outage_seconds(self, lost: tuple[list[int], list[int]], now_ns: int) -> float | None:
        """From the first loss until messages passed again."""
        del now_ns  # what was lost says it all
        found = [direction.outage_seconds(gone) for direction, gone in zip(self._both, lost, strict=True)]
        return None if None in found else max(each for each in found if each is not None)

    # --- shared -------------------------------------------------------------------------------------------

    @property
    def _both(self) -> tuple[Direction, Direction]:
        return self.forward, self.reply

    def tick(self, now_ns: int) -> None:
        """Send what is due."""
        if not self._due_ns:
            self._due_ns = now_ns + self._period_ns * (self.index % 16) // 16
        for _ in range(BURST_LIMIT):
            if self._due_ns > now_ns:
                return
            self._due_ns += self._period_ns
            self.emit(now_ns)
        self._due_ns = max(self._due_ns, now_ns)

    def expect(self, expected: Expected, now_ns: int) -> None:
        """Judge what is sent from now on by this."""
        self.expected = expected
        for direction in self._both:
            direction.expect(expected, now_ns)

    def judge_from_here(self, now_ns: int) -> None:
        for direction in self._both:
            direction.judge_from_here(now_ns)

    def flows(self, since_ns: int) -> bool:
        """Whether messages have come through both ways since then."""
        return self.forward.last_arrival_ns > since_ns and self.reply.last_arrival_ns > since_ns

    def end(self, now_ns: int) -> None:
        """From now on it has to show whether it is broken."""
        self._ending_ns = now_ns

    def decided(self, now_ns: int) -> bool:
        """Whether it is known if it is broken; asked after `end` until it is known of all streams.

        One that passes again while others are waited for is not broken.
        """
        passes = self.expected != "pass" or self.flows(self._ending_ns)
        self.broken = not passes and (bool(self.note) or self.retried(now_ns))
        return passes or self.broken

    def result(self, started_ns: int, now_ns: int, before_ns: int) -> StreamResult:
        """Judge messages sent up to `before_ns`."""
        gone = self.lost(before_ns)
        first = [d.sent_ns[missing[0]] for d, missing in zip(self._both, gone, strict=True) if missing]
        return StreamResult(
            name=self.stream.name,
            sent=self.forward.sent, delivered=self.forward.arrived,
            answered=self.reply.sent, replied=self.reply.arrived,
            lost_forward=len(gone[0]), lost_reply=len(gone[1]),
            duplicated_forward=self.forward.duplicated, duplicated_reply=self.reply.duplicated,
            leaked_forward=self.forward.leaked, leaked_reply=self.reply.leaked,
            silence_forward_seconds=self.forward.silence_seconds(now_ns),
            silence_reply_seconds=self.reply.silence_seconds(now_ns),
            broken=self.broken,
            recovered_after_seconds=None if self.broken else self.outage_seconds(gone, now_ns),
            first_loss_seconds=(min(first) - started_ns) / NANO if first else None,
            note=self.note,
        )  # fmt: skip
