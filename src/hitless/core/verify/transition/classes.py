"""Values of a field that no flow tells apart are one class: the code of a field is the number of its class.

The masks of a field usually form a chain, each a part of the next: prefixes of addresses, the blocks of a port range,
a VLAN's presence bit and its whole tag. Then bits can be ordered so that every term is an interval, the ends of all
intervals cut the values into classes, and a term is an interval of class numbers. Values that no flow names have
classes of their own between those that are named, so nothing about them is approximate. Where masks form no chain the
field keeps the bits that any mask looks at.

    >>> coding = coded("nw_src", {(0x0A000000, 0xFF000000), (0x0A000001, 0xFFFFFFFF)})
    >>> coding.bits, coding.interval(0x0A000000, 0xFF000000), coding.interval(0x0A000001, 0xFFFFFFFF)
    (3, (1, 3), (2, 2))
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator
from itertools import pairwise

Pattern = tuple[int, int]
"""Value and mask."""


class Ranked:
    """A field whose masks form a chain: classes are intervals, numbered from 0."""

    def __init__(self, patterns: Collection[Pattern], order: tuple[int, ...]) -> None:
        self._order, self._width = order, len(order)
        self._low = order[-1] if order and order == tuple(range(order[0], order[-1] - 1, -1)) else -1
        starts = {0}
        for value, mask in patterns:
            first, last = self._span(value, mask)
            starts.update((first, last + 1))
        starts.discard(1 << self._width)
        self.starts = sorted(starts)
        self.bits = (len(self.starts) - 1).bit_length()

    def interval(self, value: int, mask: int) -> tuple[int, int]:
        """The first and last class of a term."""
        first, last = self._span(value, mask)
        return bisect_left(self.starts, first), bisect_right(self.starts, last) - 1

    def is_exact(self, value: int, mask: int) -> bool:
        """Whether the classes of a term hold nothing else."""
        first, last = self._span(value, mask)
        ends = (*self.starts, 1 << self._width)
        return first in ends and last + 1 in ends

    def code(self, value: int) -> int:
        """The class of a value."""
        return bisect_right(self.starts, self._gather(value)) - 1

    def sample(self, code: int) -> int:
        """A value of the class."""
        return self._spread(self.starts[code])

    def ends(self, first: int, last: int) -> tuple[int, int, bool]:
        """The lowest and highest value of classes in a row, and whether the values between are all of them."""
        end = self.starts[last + 1] - 1 if last + 1 < len(self.starts) else (1 << self._width) - 1
        return self._spread(self.starts[first]), self._spread(end) | (1 << max(self._low, 0)) - 1, self._low >= 0

    def blocks(self, first: int, last: int) -> Iterator[Pattern]:
        """Values and masks that hold of just the values of classes in a row."""
        low, end = self.starts[first], (*self.starts, 1 << self._width)[last + 1]
        while low < end:
            size = low & -low if low else 1 << self._width
            while low + size > end:
                size >>= 1
            yield self._spread(low), self._spread((1 << self._width) - size)
            low += size

    def _span(self, value: int, mask: int) -> tuple[int, int]:
        first = self._gather(value)
        return first, first | ((1 << self._width) - 1) & ~self._gather(mask)

    def _gather(self, value: int) -> int:
        if self._low >= 0:
            return value >> self._low & (1 << self._width) - 1
        gathered = 0
        for bit in self._order:
            gathered = gathered << 1 | value >> bit & 1
        return gathered

    def _spread(self, gathered: int) -> int:
        if self._low >= 0:
            return gathered << self._low
        value = 0
        for at, bit in enumerate(reversed(self._order)):
            value |= (gathered >> at & 1) << bit
        return value


class Raw:
    """A field whose masks form no chain: the bits that any mask looks at, highest first."""

    def __init__(self, order: tuple[int, ...]) -> None:
        self.order = order
        self.bits = len(order)

    def literals(self, value: int, mask: int) -> list[tuple[int, bool]]:
        """(Place from the top, whether it is set) for each bit of the mask."""
        return [(at, bool(value >> bit & 1)) for at, bit in enumerate(self.order) if mask >> bit & 1]

    def block(self, value: int, mask: int) -> Pattern:
        """What is said of these bits, as a value and a mask of the field."""
        return self.sample(value), self.sample(mask)

    def sample(self, code: int) -> int:
        """The value with these bits, others zero."""
        return sum((code >> at & 1) << bit for at, bit in enumerate(reversed(self.order)))


Coding = Ranked | Raw


def coded(field: str, patterns: Collection[Pattern]) -> Coding:
    """How the values of a field are told apart by these (value, mask) pairs."""
    masks = sorted({mask for _, mask in patterns}, key=int.bit_count)
    order: list[int] = []
    for mask in masks:
        order += [bit for bit in range(mask.bit_length() - 1, -1, -1) if mask >> bit & 1 and bit not in order]
    chain = all(small & large == small for small, large in pairwise(masks))
    # The flags of a connection's state are spoken of one by one.
    return Ranked(patterns, tuple(order)) if chain and field != "ct_state" else Raw(tuple(order))
