"""Ranges as value/mask pairs: exactly the range, and no smaller set of aligned blocks says it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitless.core.firewall.masks import cover

BITS = 6


def smallest(first: int, last: int, bits: int) -> int:
    """The fewest aligned blocks that make up a range, by trying all of them."""
    fewest = {last + 1: 0}
    for start in range(last, first - 1, -1):
        sizes = [1 << n for n in range(bits + 1) if start % (1 << n) == 0 and start + (1 << n) <= last + 1]
        fewest[start] = 1 + min(fewest[start + size] for size in sizes)
    return fewest[first]


@pytest.mark.parametrize("bits", [1, 2, 3, BITS])
def test_every_range_of_few_bits_is_met_exactly_once_and_with_the_fewest_blocks(bits: int) -> None:
    for first in range(1 << bits):
        for last in range(first, 1 << bits):
            pairs = cover(first, last, bits)
            hits = [sum(number & mask == value for value, mask in pairs) for number in range(1 << bits)]
            assert hits == [int(first <= number <= last) for number in range(1 << bits)], (first, last)
            assert len(pairs) == smallest(first, last, bits), (first, last)


@given(st.integers(0, 65535), st.integers(0, 65535))
def test_port_ranges_are_exact_at_their_edges(one: int, other: int) -> None:
    first, last = sorted((one, other))
    pairs = cover(first, last)
    assert all(value & ~mask == 0 for value, mask in pairs)
    edges = {max(first - 1, 0), first, last, min(last + 1, 65535), (first + last) // 2}
    for number in edges:
        assert any(number & mask == value for value, mask in pairs) == (first <= number <= last), number
    assert len(pairs) <= 30  # 2 * (16 - 1), for 1 to 65534


@pytest.mark.parametrize(("first", "last", "bits"), [(2, 1, 16), (-1, 5, 16), (0, 65536, 16), (0, 8, 3)])
def test_what_is_no_range_is_refused(first: int, last: int, bits: int) -> None:
    with pytest.raises(ValueError, match=f"{first} to {last}"):
        cover(first, last, bits)
