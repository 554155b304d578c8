"""Worlds as single integers: where each part stands in them, and the numbers that stand for the parts.

A tuple of small integers costs five times as much to hash and to keep. Members come first, each a node (low bits)
with its queue, then what is left of the faults, then the store.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

V = TypeVar("V")
NODE_BITS, QUEUE_BITS, FAULTS_BITS, STORE_BITS = 20, 16, 12, 20
MEMBER_BITS = NODE_BITS + QUEUE_BITS
MEMBER = (1 << MEMBER_BITS) - 1
NODE, _QUEUE, _FAULTS = ((1 << bits) - 1 for bits in (NODE_BITS, QUEUE_BITS, FAULTS_BITS))


class Pool(Generic[V]):
    """Values by number: each is kept once. Raises OverflowError where there are more than fit into `bits`."""

    def __init__(self, key: Callable[[V], Hashable], bits: int) -> None:
        self._key, self._limit = key, 1 << bits
        self._numbers, self.values = dict[Hashable, int](), list[V]()

    def number(self, value: V) -> int:
        number = self._numbers.setdefault(self._key(value), len(self.values))
        if number == len(self.values):
            if number == self._limit:
                raise OverflowError(f"more than {self._limit} different {type(value).__name__} values")
            self.values.append(value)
        return number


class Layout:
    """Where the parts of a world of so many members stand."""

    def __init__(self, members: int) -> None:
        self.shifts = tuple(MEMBER_BITS * at for at in range(members))
        self.faults_shift = MEMBER_BITS * members
        self.store_shift = self.faults_shift + FAULTS_BITS
        self.all_nodes = sum(NODE << shift for shift in self.shifts)
        self.all_queues = sum(_QUEUE << (shift + NODE_BITS) for shift in self.shifts)
        self.all_faults = _FAULTS << self.faults_shift

    def node(self, world: int, at: int) -> int:
        return world >> self.shifts[at] & NODE

    def queue(self, world: int, at: int) -> int:
        return world >> (self.shifts[at] + NODE_BITS) & _QUEUE

    def faults(self, world: int) -> int:
        return world >> self.faults_shift & _FAULTS

    def store(self, world: int) -> int:
        return world >> self.store_shift

    def with_node(self, world: int, at: int, number: int) -> int:
        return world + (number - self.node(world, at) << self.shifts[at])

    def with_queue(self, world: int, at: int, number: int) -> int:
        return world + (number - self.queue(world, at) << self.shifts[at] + NODE_BITS)

    def with_faults(self, world: int, number: int) -> int:
        return world + (number - self.faults(world) << self.faults_shift)

    def with_store(self, world: int, number: int) -> int:
        return world + (number - self.store(world) << self.store_shift)
