"""Streams as values: what is sent through the switch, what must become of it, and what did.

What is expected of a stream may change while it runs: a message is judged by what was expected when it was sent.
"any" judges nothing; it is for the time in which a change may or may not be in force yet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from hitless.lab.kernel import LabError

Expected = Literal["pass", "drop", "any"]

BROKEN_SECONDS = 2.0
STALL_SECONDS = 0.5  # a lost TCP segment costs at least 200 ms (TCP_RTO_MIN), a loaded machine as much again


class Stream(msgspec.Struct, frozen=True):
    """Numbered messages from the port `source` to the port `destination`, and back, `pps` a second each way.

    * udp: requests to `port`, each answered with a numbered reply.
    * tcp, expected to pass at first: one connection, opened at the start and never again, with messages both ways.
    * expected to drop at first: nothing may arrive; udp requests, or tcp connection attempts (SYN, at most
      10 a second). A stream that passed before and must drop now sends from both ends, and neither may be heard.
    """

    name: str
    kind: Literal["udp", "tcp"]
    source: str
    destination: str
    port: int
    expected: Expected = "pass"
    ipv6: bool = False
    pps: float = 100.0


def unsolicited(stream: Stream, port: int) -> Stream:
    """The other way round: UDP that the server's side of a one-way rule sends to the client, and that must drop."""
    return Stream(
        f"{stream.name}-unsolicited", "udp", stream.destination, stream.source, port, "drop", stream.ipv6, stream.pps
    )


class StreamResult(msgspec.Struct, frozen=True):
    """What became of a stream. Forward is from source to destination.

    `sent`, `delivered` (arrived at the destination), `answered` (messages that the destination sent) and `replied`
    (those that arrived back) count all messages; `lost_forward` and `lost_reply` those that had to pass and did not,
    `leaked_forward` and `leaked_reply` arrivals (doubled ones too) of those that had to drop. TCP repairs losses:
    lost is there what never arrived. So a dead reply direction is `delivered` without `replied`.

    `longest_silence_seconds` is the longest time without an arrival, of the worse direction. `broken`: at the end
    nothing came through any more, in one direction or both. `recovered_after_seconds` is the time from the first loss
    (TCP: the longest stall, if above 0.5 s) until messages passed again; 0 if there was none, None if they did not.
    `first_loss_seconds` is counted from the start, as marks are.
    """

    name: str
    sent: int = 0
    delivered: int = 0
    answered: int = 0
    replied: int = 0
    lost_forward: int = 0
    lost_reply: int = 0
    duplicated_forward: int = 0
    duplicated_reply: int = 0
    leaked_forward: int = 0
    leaked_reply: int = 0
    silence_forward_seconds: float = 0.0
    silence_reply_seconds: float = 0.0
    broken: bool = False
    recovered_after_seconds: float | None = 0.0
    first_loss_seconds: float | None = None
    note: str = ""

    @property
    def lost(self) -> int:
        return self.lost_forward + self.lost_reply

    @property
    def leaked(self) -> int:
        return self.leaked_forward + self.leaked_reply

    @property
    def longest_silence_seconds(self) -> float:
        return max(self.silence_forward_seconds, self.silence_reply_seconds)


class Mark(msgspec.Struct, frozen=True):
    """A named moment, in seconds since the start."""

    seconds: float
    text: str


class TrafficResult(msgspec.Struct, frozen=True):
    """All streams, in the order they were given.

    `overruns` are messages that the traffic's own sockets threw away: not 0 means that `lost` blames wrongly.
    `own_stall_seconds` is the longest time in which the traffic itself did not run: no silence below it means much.
    """

    streams: tuple[StreamResult, ...]
    marks: tuple[Mark, ...] = ()
    overruns: int = 0
    own_stall_seconds: float = 0.0
    duration_seconds: float = 0.0
    cpu_seconds: float = 0.0

    def stream(self, name: str) -> StreamResult:
        """One stream's result."""
        return next(each for each in self.streams if each.name == name)

    @property
    def lost(self) -> int:
        return sum(each.lost for each in self.streams)

    @property
    def leaked(self) -> int:
        return sum(each.leaked for each in self.streams)

    @property
    def broken(self) -> tuple[str, ...]:
        """Names of broken streams."""
        return tuple(each.name for each in self.streams if each.broken)


def check(streams: Iterable[Stream]) -> None:
    """LabError `bad-stream`: two with one name, or two that the self-check or a receiver could not tell apart."""
    names: set[str] = set()
    places: set[tuple[str, str, str, int, bool]] = set()
    for stream in streams:
        place = (stream.kind, stream.source, stream.destination, stream.port, stream.ipv6)
        if stream.name in names or place in places or stream.source == stream.destination or not stream.pps > 0:
            raise LabError(
                "bad-stream",
                f"stream {stream.name}: its name, or its ends and port, are another stream's already; or it has one "
                "end only, or no packets a second. Give it a name and a port of its own",
            )
        names.add(stream.name)
        places.add(place)
