"""The bridge's tables, sampled while they change.

A dump is one state: Open vSwitch collects it under its lock (`handle_flow_stats_request` in ofproto.c). Between two
samples there may have been states that nobody saw; `longest_gap_seconds` says for how long nobody looked.
"""

from __future__ import annotations

import hashlib
import threading
import time
import zlib
from collections.abc import Sequence
from typing import Self

import msgspec

from hitless.core.verify.classifier import Tables
from hitless.drivers.ovs.codec import parse_dump
from hitless.drivers.ovs.tools import ToolFailedError, run
from hitless.lab.firewall.ground import FirewallGround
from hitless.ports import SwitchUnavailableError

_TIMEOUT_SECONDS = 30.0


class Sample(msgspec.Struct, frozen=True):
    """A state of the tables and when it was first seen, in seconds since the start; the dump is compressed."""

    seconds: float
    dump: bytes

    def tables(self) -> Tables:
        return Tables(parse_dump(zlib.decompress(self.dump).decode()))


class Sampler:
    """Dumps the ground's bridge in a thread, from construction to `stop`, as fast as it can.

    A dump takes ovs-vswitchd's time too: with an `interval_seconds` above 0 it is taken less often.
    """

    def __init__(self, ground: FirewallGround, interval_seconds: float = 0.0) -> None:
        target = f"unix:{ground.switch.run_dir}/{ground.bridge}.mgmt"
        self._argv = ("ovs-ofctl", "-O", "OpenFlow14", "--no-names", "--no-stats", "dump-flows", target)
        self._interval_seconds = interval_seconds
        self.samples: list[Sample] = []
        self.dumps = self._tries = 0
        self.longest_gap_seconds = 0.0
        self._seen: set[bytes] = set()
        self._started = self._last = time.monotonic()
        self._failure: Exception | None = None
        self._end = threading.Event()
        self._taken = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join(_TIMEOUT_SECONDS)

    def wait_for_sample(self, timeout_seconds: float = _TIMEOUT_SECONDS) -> None:
        """Return when a dump has been taken that began after this call: the state of now is among the samples."""
        with self._taken:
            wanted = self._tries + 2  # the next one may have begun before
            self._taken.wait_for(lambda: self._tries >= wanted or self._failure is not None, timeout_seconds)

    def stop(self) -> Sequence[Sample]:
        """One last dump, then no more; all states that were seen, in order. Raises what ended the thread early."""
        self.wait_for_sample()
        self.__exit__()
        if self._failure is not None:
            raise self._failure
        return self.samples

    def _run(self) -> None:
        try:
            while not self._end.is_set():
                self._sample()
                with self._taken:
                    self._tries += 1
                    self._taken.notify_all()
                self._end.wait(self._interval_seconds)
        except Exception as error:  # noqa: BLE001 - raised by stop()
            self._failure = error
        with self._taken:
            self._taken.notify_all()

    def _sample(self) -> None:
        began = time.monotonic()
        try:
            text = run(self._argv, _TIMEOUT_SECONDS)
        except (ToolFailedError, SwitchUnavailableError):
            return  # ovs-vswitchd is down: there are no tables, and the gap shows it
        # The order of a dump follows hash tables and may differ between equal states.
        lines = sorted(line for line in text.splitlines() if "actions=" in line)
        data = "\n".join(lines).encode()
        name = hashlib.blake2b(data).digest()
        if name not in self._seen:
            self._seen.add(name)
            self.samples.append(Sample(began - self._started, zlib.compress(data, 1)))
        self.longest_gap_seconds = max(self.longest_gap_seconds, began - self._last)
        self._last = began
        self.dumps += 1
