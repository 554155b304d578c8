"""A range of numbers as the fewest aligned blocks, each of which is one value/mask pair, for matches on port ranges.

    >>> cover(8000, 8010)
    ((8000, 65528), (8008, 65534), (8010, 65535))
"""

from __future__ import annotations

from functools import lru_cache

_CACHED_RANGES = 65_536  # distinct ranges; a policy has some hundred


@lru_cache(_CACHED_RANGES)
def cover(first: int, last: int, bits: int = 16) -> tuple[tuple[int, int], ...]:
    """The minimal set of aligned blocks, in ascending order. Raises ValueError for a range that is none."""
    if not 0 <= first <= last < 1 << bits:
        raise ValueError(f"no range of {bits}-bit numbers: {first} to {last}")
    full, found = (1 << bits) - 1, []
    while first <= last:
        # The largest aligned block that starts here and does not reach past the end.
        size = first & -first or 1 << bits
        while first + size - 1 > last:
            size >>= 1
        found.append((first, full & ~(size - 1)))
        first += size
    return tuple(found)
