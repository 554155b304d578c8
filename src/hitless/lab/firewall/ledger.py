"""One direction of one stream, message by message: sent when, under which expectation, arrived how often."""

from __future__ import annotations

from array import array

from hitless.lab.firewall.streams import Expected

_CODES: dict[Expected, int] = {"any": 0, "pass": 1, "drop": 2}
_PASS, _DROP = 1, 2
_NANO = 1e-9


class Direction:
    """Messages are numbered from 0. Times are CLOCK_MONOTONIC in nanoseconds."""

    def __init__(self, expected: Expected) -> None:
        self.sent_ns = array("Q")
        self.wanted = bytearray()
        self.seen = bytearray()
        self.arrived = self.duplicated = self.leaked = 0
        self.first = 0  # the first message that counts
        self.last_arrival_ns = 0
        self.silence_ns = 0
        self._code = _CODES[expected]
        self._silent_since_ns = 0

    def expect(self, expected: Expected, now_ns: int) -> None:
        """Messages sent from now on are judged by this."""
        self._end_silence(now_ns)
        self._code = _CODES[expected]
        self._silent_since_ns = now_ns

    def judge_from_here(self, now_ns: int) -> None:
        """Forget what was counted; messages on their way are not judged."""
        self.first = len(self.sent_ns)
        self.arrived = self.duplicated = self.leaked = self.silence_ns = 0
        self._silent_since_ns = now_ns

    def send(self, now_ns: int) -> int:
        """Number of the next message."""
        self.sent_ns.append(now_ns)
        self.wanted.append(self._code)
        self.seen.append(0)
        if not self._silent_since_ns:
            self._silent_since_ns = now_ns
        return len(self.sent_ns) - 1

    def arrive(self, number: int, at_ns: int, *, late_is_leak: bool = False) -> bool:
        """Tick a message off. Whether it is the first time.

        `late_is_leak`: TCP sends again by itself, so what arrives is judged by what is expected at that moment.
        """
        self._end_silence(at_ns)
        self.last_arrival_ns = max(self.last_arrival_ns, at_ns)
        self._silent_since_ns = at_ns
        again, self.seen[number] = self.seen[number], 1
        if number >= self.first:
            self.arrived += not again
            self.duplicated += again
        if number >= self.first or late_is_leak:
            self.leaked += (self._code if late_is_leak else self.wanted[number]) == _DROP
        return not again

    def _end_silence(self, now_ns: int) -> None:
        if self._code == _PASS and self._silent_since_ns:
            self.silence_ns = max(self.silence_ns, now_ns - self._silent_since_ns)

    # --- the count --------------------------------------------------------------------------------------

    @property
    def sent(self) -> int:
        return len(self.sent_ns) - self.first

    def lost(self, before_ns: int) -> list[int]:
        """Numbers of those that had to pass, were sent before, and did not arrive."""
        missing = []
        number = self.seen.find(0, self.first)
        while number >= 0 and self.sent_ns[number] <= before_ns:
            if self.wanted[number] == _PASS:
                missing.append(number)
            number = self.seen.find(0, number + 1)
        return missing

    def silence_seconds(self, now_ns: int) -> float:
        """The longest time without an arrival while messages had to pass; one that lasts until now counts."""
        self._end_silence(now_ns)
        return self.silence_ns * _NANO

    def outage_seconds(self, lost: list[int]) -> float | None:
        """From the first lost one to the first after the last lost one that arrived; None if none did."""
        if not lost:
            return 0.0
        after = self.seen.find(1, lost[-1])
        return None if after < 0 else (self.sent_ns[after] - self.sent_ns[lost[0]]) * _NANO
