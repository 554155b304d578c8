"""One clock for all nodes: the API server's, as its answers tell it.

A lease says when it was renewed, and whoever reads it judges whether that is too long ago. Nodes' own clocks differ, so
both times are the server's: every answer carries it (`Date`, RFC 9110 §6.6.1) in whole seconds, rounded down. Between
answers the monotonic clock goes on. As a Date is never late, the latest time any answer allows is the best estimate;
it is at most a second behind.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

GRANULARITY_SECONDS = 1.0
"""Of a Date. A lease is given that much more, so that it never ends early on account of it."""

SET_BACK_SECONDS = 2.0
"""A server that is that much behind the estimate has been set back; the estimate follows."""


class ServerClock:
    """Seconds since 1970 as the API server counts them. Before the first answer they are this machine's."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time) -> None:
        self._monotonic = monotonic
        self._wall = wall
        self._offset_seconds: float | None = None

    def hear(self, date: str) -> None:
        """A Date header. One that is none is ignored: a proxy may have its own ideas."""
        try:
            told = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError):
            return
        offset_seconds = told - self._monotonic()
        known = self._offset_seconds
        if known is None or offset_seconds > known or offset_seconds < known - SET_BACK_SECONDS:
            self._offset_seconds = offset_seconds

    def now(self) -> float:
        if self._offset_seconds is None:
            return self._wall()
        return self._offset_seconds + self._monotonic()


def micro_time(seconds: float) -> str:
    """As Kubernetes writes a MicroTime."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def whole_time(seconds: float) -> str:
    """As Kubernetes writes a Time."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> float:
    """Seconds since 1970; 0, which is long over, for what is no time."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
