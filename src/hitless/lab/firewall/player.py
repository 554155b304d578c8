"""The process that plays streams: one thread, a tick of 5 ms, all sockets of all stations.

It is a process of its own so that nothing its parent does (dumping tables, parsing them) shows as a silence. The
parent asks, one line of JSON each, and gets one line back; without its parent it ends.
"""

from __future__ import annotations

import gc
import os
import select
import sys
import time
from collections.abc import Sequence
from typing import Literal

import msgspec

from hitless.lab.firewall.play import NANO, Placed, Play, Sockets
from hitless.lab.firewall.streams import Expected, Mark, TrafficResult
from hitless.lab.firewall.tcp import SynPlay, TcpPlay
from hitless.lab.firewall.udp import UdpPlay
from hitless.lab.probe.batch import Clocks

TICK_SECONDS = 0.005
_LATE_NS = NANO  # messages younger than this may still arrive
_FLOWING_NS = NANO // 2


class Ask(msgspec.Struct, frozen=True):
    """What the parent wants. Every question has one answer.

    `waiting`: streams that have to pass and did not in the last half second. `judge`: forget all counts.
    `mark`: note the moment `text`. `expect`: judge stream `text` by `expected` from now on. `snapshot`: counts so far.
    `stop`: find out what is broken, stop sending, wait for late messages; the last counts.
    """

    do: Literal["waiting", "judge", "mark", "expect", "snapshot", "stop"]
    text: str = ""
    expected: Expected = "any"


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    names: tuple[str, ...] = ()
    result: TrafficResult | None = None


class _Line:
    """The parent's questions, from a pipe that is never waited for once the play has begun."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor, self._buffer = descriptor, b""
        self._poll = select.poll()
        self._poll.register(descriptor, select.POLLIN)
        self.closed = False

    def wait(self) -> bytes:
        while b"\n" not in self._buffer and not self.closed:
            self._read()
        return self._next()

    def pending(self) -> list[bytes]:
        while not self.closed and self._poll.poll(0):
            self._read()
        return [self._next() for _ in range(self._buffer.count(b"\n"))]

    def _next(self) -> bytes:
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _read(self) -> None:
        chunk = os.read(self._descriptor, 1 << 20)
        self._buffer += chunk
        self.closed = not chunk


class Player:
    """All streams. `run` returns when it is told to stop, or when the parent is gone."""

    def __init__(self, placed: Sequence[Placed]) -> None:
        self._sockets = Sockets()
        self._datagrams: dict[int, UdpPlay] = {}
        self._plays: list[Play] = []
        for index, each in enumerate(placed):
            self._plays.append(self._open(index, each))
        self._by_name = {play.stream.name: play for play in self._plays}
        self._marks: list[Mark] = []
        self._started_ns = time.monotonic_ns()
        self._judged_ns = self._last_ns = self._started_ns
        self._stall_ns = 0
        self._phase: Literal["play", "decide", "late", "over"] = "play"
        self._phase_ns = 0

    def _open(self, index: int, placed: Placed) -> Play:
        if placed.stream.kind == "udp":
            play = self._datagrams[index] = UdpPlay(index, placed)
            play.open(self._sockets, self._dispatch)
            return play
        kind = TcpPlay if placed.stream.expected == "pass" else SynPlay
        other = kind(index, placed)
        other.open(self._sockets)
        return other

    def _dispatch(self, index: int, number: int, kind: int, at_ns: int) -> None:
        self._datagrams[index].arrived(number, kind, at_ns)

    # --- time -------------------------------------------------------------------------------------------

    def run(self, line: _Line) -> None:
        due = time.monotonic()
        while self._phase != "over" and not line.closed:
            self._tick(line)
            due = max(due + TICK_SECONDS, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))

    def _tick(self, line: _Line) -> None:
        clocks = Clocks()
        now_ns = clocks.now_ns
        self._stall_ns = max(self._stall_ns, now_ns - self._last_ns)
        self._last_ns = now_ns
        self._sockets.read(clocks)
        if self._phase in ("play", "decide"):
            for play in self._plays:
                play.tick(now_ns)
        if self._phase == "decide" and self._all_decided(now_ns):
            self._enter("late", now_ns)
        elif self._phase == "late" and self._nothing_late(now_ns):
            self._enter("over", now_ns)
            _say(Answer(result=self._result(now_ns, now_ns)))
        for question in line.pending():
            self._answer(msgspec.json.decode(question, type=Ask), now_ns)

    def _all_decided(self, now_ns: int) -> bool:
        decided = [play.decided(now_ns) for play in self._plays]  # each is asked, for each keeps its own time
        return all(decided)

    def _enter(self, phase: Literal["decide", "late", "over"], now_ns: int) -> None:
        self._phase = phase
        if phase != "over":
            self._phase_ns = now_ns

    def _nothing_late(self, now_ns: int) -> bool:
        if now_ns - self._phase_ns > _LATE_NS:
            return True
        return not any(any(play.lost(now_ns)) for play in self._plays) and now_ns - self._phase_ns > _LATE_NS // 4

    # --- questions --------------------------------------------------------------------------------------

    def _answer(self, ask: Ask, now_ns: int) -> None:
        names: tuple[str, ...] = ()
        result = None
        if ask.do == "waiting":
            wanted = (play for play in self._plays if play.expected == "pass")
            names = tuple(play.stream.name for play in wanted if not play.flows(now_ns - _FLOWING_NS))
        elif ask.do == "judge":
            self._judged_ns, self._stall_ns = now_ns, 0
            for play in self._plays:
                play.judge_from_here(now_ns)
        elif ask.do == "mark":
            self._marks.append(Mark((now_ns - self._started_ns) / NANO, ask.text))
        elif ask.do == "expect":
            self._by_name[ask.text].expect(ask.expected, now_ns)
        elif ask.do == "snapshot":
            result = self._result(now_ns, now_ns - _LATE_NS)
        elif ask.do == "stop":
            for play in self._plays:
                play.end(now_ns)
            self._enter("decide", now_ns)
            return  # the answer comes when all is known
        _say(Answer(names, result))

    def _result(self, now_ns: int, before_ns: int) -> TrafficResult:
        until_ns = self._phase_ns or now_ns
        return TrafficResult(
            streams=tuple(play.result(self._started_ns, until_ns, before_ns) for play in self._plays),
            marks=tuple(self._marks),
            overruns=self._sockets.overruns(),
            own_stall_seconds=self._stall_ns / NANO,
            duration_seconds=(until_ns - self._judged_ns) / NANO,
            cpu_seconds=time.process_time(),
        )


def _say(answer: Answer) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(answer) + b"\n")
    sys.stdout.buffer.flush()


def main() -> None:
    """Read what to play from the first line; say once that all sockets are open; play."""
    line = _Line(0)
    player = Player(msgspec.json.decode(line.wait(), type=tuple[Placed, ...]))
    gc.freeze()  # what lives as long as the process need not be looked at again and again
    _say(Answer())
    player.run(line)


if __name__ == "__main__":
    main()
