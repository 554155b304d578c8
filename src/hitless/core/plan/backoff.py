"""How long until the next try: a pure function, so that it runs in virtual time."""

from __future__ import annotations


def delay_seconds(attempts: int, first_seconds: float, limit_seconds: float) -> float:
    """Doubling from `first_seconds` for the first failure, never beyond `limit_seconds`."""
    return min(limit_seconds, first_seconds * 2.0 ** min(attempts - 1, 30))
