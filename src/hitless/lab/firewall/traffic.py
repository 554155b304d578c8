"""Traffic through the switch: the judge of every firewall scenario.

    with Traffic(ground, streams) as traffic:
        traffic.settle()          # all that must pass passes; counting begins here
        traffic.self_check()      # loss and leaks made on purpose are seen
        ...                       # change something
        result = traffic.stop()   # who lost, who leaked, who is broken for ever

A probe that cannot see loss proves nothing, hence `self_check`.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Self

import msgspec

from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.play import Placed
from hitless.lab.firewall.player import Answer, Ask
from hitless.lab.firewall.streams import Expected, Stream, TrafficResult, check
from hitless.lab.firewall.tcp import RETRY_LIMIT_SECONDS
from hitless.lab.kernel import LabError

CHECK_COOKIE = 0xC4EC4  # of flows that the self-check puts in and takes out; not the program's own prefix
_CHECK_LIMIT_SECONDS = 10.0


class Traffic:
    """Streams between stations of a ground that is up; `start` to `stop`, also as a context manager."""

    def __init__(self, ground: FirewallGround, streams: Sequence[Stream]) -> None:
        check(streams)
        self.ground, self.streams = ground, tuple(streams)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- a run ------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to send, and to count. LabError `traffic-died` with what its process said."""
        placed = tuple(self._place(stream) for stream in self.streams)
        with (self.ground.switch.directory / "traffic.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "hitless.lab.firewall.player"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, start_new_session=True,
            )  # fmt: skip
        self._write(msgspec.json.encode(placed))
        self._read()

    def settle(self, timeout_seconds: float = 20.0) -> None:
        """Wait until every stream that must pass passes, both ways; counting begins anew then.

        LabError `streams-do-not-settle` names those that do not.
        """
        deadline = time.monotonic() + timeout_seconds
        while waiting := self._ask(Ask("waiting")).names:
            if time.monotonic() > deadline:
                names = ", ".join(waiting)
                raise LabError(
                    "streams-do-not-settle",
                    f"nothing comes through on {names} after {timeout_seconds:g} s: the tables do not allow it, or a "
                    "port is missing; look at `ovs-ofctl dump-flows` or expect these streams to drop",
                )
            time.sleep(0.05)
        self._ask(Ask("judge"))

    def mark(self, text: str) -> None:
        """Note a moment for the result."""
        self._ask(Ask("mark", text))

    def expect(self, stream: str, expected: Expected) -> None:
        """Judge what this stream sends from now on by something else."""
        if stream not in {each.name for each in self.streams}:
            raise LabError("no-such-stream", f"there is no stream {stream}; take one of those that were given")
        self._ask(Ask("expect", stream, expected))

    def snapshot(self) -> TrafficResult:
        """Counts so far; messages of the last second are not judged yet, and nothing is known to be broken."""
        return _result(self._ask(Ask("snapshot")))

    def stop(self) -> TrafficResult:
        """Find out what is broken, stop, wait for late messages. At once if all passes, else 3 to 33 seconds.

        A stream that has to pass is broken if from this call on nothing comes through (in one direction or both) for
        2 seconds in which both ends send; see `TcpPlay` for how TCP's own pauses are waited for.
        """
        try:
            return _result(self._ask(Ask("stop")))
        finally:
            self.close()

    def close(self) -> None:
        """End the process, whatever it does. No error where none runs."""
        process, self._process = self._process, None
        if process is None:
            return
        with suppress(BrokenPipeError):
            process.stdin.close() if process.stdin else None
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(RETRY_LIMIT_SECONDS)
        if process.stdout:
            process.stdout.close()

    # --- the proof --------------------------------------------------------------------------------------

    def self_check(self) -> None:
        """Drop a stream's requests by hand, then its replies; let a forbidden stream in: LabError `blind-probe`
        unless exactly the right counters see it. Counting begins anew afterwards. Needs settled streams.
        """
        udp = [each for each in self.streams if each.kind == "udp"]
        passing = next((each for each in udp if each.expected == "pass"), None)
        if passing is not None:
            self._check(passing, "lost_forward", "drop")
            self._check(passing, "lost_reply", "drop", back=True)
        forbidden = {each.kind: each for each in self.streams if each.expected == "drop"}
        for stream in forbidden.values():
            port = self.ground.ofports()[stream.destination]
            self._check(stream, "leaked_forward", f"output:{port}")
        self.settle()

    def _check(self, stream: Stream, counter: str, actions: str, *, back: bool = False) -> None:
        """Put a flow in for this stream alone, and see the counter move - and no other stream's."""
        self.settle()
        flow = f"cookie={CHECK_COOKIE:#x},table=0,priority=65535,{self._match(stream, back=back)},actions={actions}"
        self.ground.ofctl("add-flow", flow)
        try:
            counted = self._wait_counter(stream.name, counter)
        finally:
            self.ground.ofctl("del-flows", f"cookie={CHECK_COOKIE:#x}/-1")
        others = [each.name for each in counted.streams if each.name != stream.name and (each.lost or each.leaked)]
        if not getattr(counted.stream(stream.name), counter) or others:
            raise LabError(
                "blind-probe",
                f"a flow with {actions} on {stream.name} should have shown as {counter} there and nowhere else"
                f"{' but showed on ' + ', '.join(others) if others else ' but did not'}; the counts would prove "
                "nothing. Look for other flows in table 0 and at traffic.log",
            )

    def _wait_counter(self, name: str, counter: str) -> TrafficResult:
        deadline = time.monotonic() + _CHECK_LIMIT_SECONDS
        while True:
            result = self.snapshot()
            if getattr(result.stream(name), counter) or time.monotonic() > deadline:
                return result
            time.sleep(0.05)

    def _match(self, stream: Stream, *, back: bool) -> str:
        ends = (stream.destination, stream.source) if back else (stream.source, stream.destination)
        source, destination = (self.ground.ports[end].address(ipv6=stream.ipv6) for end in ends)
        protocol, prefix = stream.kind + ("6" if stream.ipv6 else ""), "ipv6" if stream.ipv6 else "nw"
        port = f"{'tp_src' if back else 'tp_dst'}={stream.port}"
        place = self.ground.ofports()[ends[0]]
        return f"in_port={place},{protocol},{prefix}_src={source},{prefix}_dst={destination},{port}"

    # --- the process ------------------------------------------------------------------------------------

    def _place(self, stream: Stream) -> Placed:
        ends = (stream.source, stream.destination)
        stations = [self.ground.station(end) for end in ends]
        addresses = [self.ground.ports[end].address(ipv6=stream.ipv6) for end in ends]
        return Placed(stream, stations[0], addresses[0], stations[1], addresses[1])

    def _ask(self, ask: Ask) -> Answer:
        self._write(msgspec.json.encode(ask))
        return self._read()

    def _pipes(self) -> tuple[IO[bytes], IO[bytes]]:
        if self._process is None or self._process.stdin is None or self._process.stdout is None:
            raise LabError("traffic-not-started", "the traffic does not run; call start() first")
        return self._process.stdin, self._process.stdout

    def _write(self, line: bytes) -> None:
        stdin, _ = self._pipes()
        with suppress(BrokenPipeError):  # the answer that does not come says it
            stdin.write(line + b"\n")
            stdin.flush()

    def _read(self) -> Answer:
        _, stdout = self._pipes()
        line = stdout.readline()
        if not line:
            self.close()
            log = (self.ground.switch.directory / "traffic.log").read_text("utf-8", "replace").strip()
            said = log.splitlines()[-1] if log else "nothing"
            raise LabError("traffic-died", f"the process that plays the streams ended; it said: {said}")
        return msgspec.json.decode(line, type=Answer)


def _result(answer: Answer) -> TrafficResult:
    if answer.result is None:
        raise LabError("traffic-died", "the process that plays the streams gave no counts; start it again")
    return answer.result
