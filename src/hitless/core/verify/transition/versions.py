"""The plan as versions of rules: which flow stands under a key while which batch is being written.

Time is the number of the batch that is being written, from 1. A key that a batch does not touch has one flow all that
while. A key that it touches has alternatives, and which of them a pass sees is a number, the pass's own: for an atomic
batch one Boolean says old or new for all keys at once; otherwise there is a number for each (table, priority, masks),
because keys with equal masks are disjoint and a look-up meets one of them at most. Old is number 0, and what is there
after the batch is all ones; every write to a key may be the last one, whatever the order that was written down.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from copy import copy
from typing import NamedTuple

from hitless.core.model.flow import Flow, FlowKey, Match
from hitless.core.plan.flows import AddFlow, FlowOp
from hitless.core.verify.transition.verdict import Batch, LimitError, Limits, Seen


class Span(NamedTuple):
    """Batches, both included, during which a rule is there whatever is seen of them."""

    first: int
    last: int


class Choice(NamedTuple):
    """In one step, where in a pass's Booleans a number stands."""

    step: int
    at: int
    bits: int


class Partly(NamedTuple):
    """A rule is there for those passes that see one of these numbers."""

    choice: Choice
    codes: tuple[int, ...]


Presence = tuple[tuple[Span, ...], tuple[Partly, ...]]


class RuleVersion(NamedTuple):
    """A flow that some moment of the plan has and another has not."""

    flow: Flow
    presence: Presence


class Turn(NamedTuple):
    """What one batch can make of a key: the flow for each number; the first is the old one, the last is the new."""

    alternatives: tuple[Flow | None, ...]
    choice: tuple[int, int]  # place and bits


class Timeline:
    """A plan replayed over the tables that it meets.

    `apart` are tables that one pass may ask twice: each of their keys has a number of its own.
    """

    def __init__(
        self, before: Iterable[Flow], plan: Sequence[Batch], limits: Limits, apart: Collection[int] = ()
    ) -> None:
        self.before: dict[FlowKey, Flow] = {flow.key: flow for flow in before}
        self.plan = tuple(plan)
        self.turns: list[dict[FlowKey, Turn]] = []
        """For each step, the keys that it changes; batches that change nothing are no steps."""
        self.numbers: list[int] = []
        """For each step, its batch, from 1."""
        self.orders = 0
        now = _Now(self.before)
        for number, batch in enumerate(self.plan, 1):
            changes = {key: now.alternatives(key, ops, atomic=batch.atomic) for key, ops in _by_key(batch.ops).items()}
            changes = {key: each for key, each in changes.items() if any(not _alike(each[0], one) for one in each)}
            if any(len(each) > limits.alternatives for each in changes.values()):
                raise LimitError("a batch writes one key more often than orders of writes are looked at")
            if not changes:
                continue
            groups = {key: key if key[0] in apart else _tuple_of(key) for key in changes}
            places, used = _places(changes, groups, atomic=batch.atomic)
            self.numbers.append(number)
            self.turns.append({key: Turn(each, places[groups[key]]) for key, each in changes.items()})
            self.orders = max(self.orders, used)
        self.touched = frozenset(key for turns in self.turns for key in turns)
        self.after = now.changed

    def is_atomic(self, step: int) -> bool:
        """Whether the step is an atomic bundle, or a single write."""
        return self.plan[self.numbers[step - 1] - 1].atomic

    def narrowed(self, keeps: Callable[[Match], bool]) -> Timeline:
        """The same plan over fewer flows, by their matches."""
        narrow = copy(self)
        narrow.before = {key: flow for key, flow in self.before.items() if keeps(key[2])}
        narrow.turns = [{key: turn for key, turn in turns.items() if keeps(key[2])} for turns in self.turns]
        return narrow

    def final(self) -> dict[FlowKey, Flow]:
        """The tables after the plan."""
        return self.at(Seen(len(self.plan) + 1))

    def at(self, seen: Seen) -> dict[FlowKey, Flow]:
        """The tables that a pass sees."""
        flows: dict[FlowKey, Flow | None] = {**self.before}
        for number, turns in zip(self.numbers, self.turns, strict=True):
            if number < seen.batch:
                flows.update((key, turn.alternatives[-1]) for key, turn in turns.items())
        flows.update((key, flow) for key, flow in seen.applied if key in flows or key in self.turn(seen.batch))
        return {key: flow for key, flow in flows.items() if flow is not None}

    def turn(self, batch: int) -> Mapping[FlowKey, Turn]:
        """What a batch changes."""
        return self.turns[self.numbers.index(batch)] if batch in self.numbers else {}

    def seen(self, step: int, order: int) -> Seen:
        """What a pass sees whose Booleans in this step are the number `order`."""
        applied = []
        for key, turn in self.turns[step - 1].items():
            at, bits = turn.choice
            code = order >> (self.orders - at - bits) & (1 << bits) - 1
            flow = turn.alternatives[min(code, len(turn.alternatives) - 1)]
            if flow != turn.alternatives[0]:
                applied.append((key, flow))
        return Seen(self.numbers[step - 1], tuple(sorted(applied, key=lambda each: each[0])))

    def versions(self) -> list[RuleVersion]:
        """Every flow that stands under a touched key at any time, with its presence."""
        found = []
        for key in self.touched:
            found += self._versions(key)
        return found

    def _versions(self, key: FlowKey) -> list[RuleVersion]:
        flow, since = self.before.get(key), 1
        wholes: dict[Flow, list[Span]] = {}
        parts: dict[Flow, list[Partly]] = {}
        for step, turns in enumerate(self.turns, 1):
            turn = turns.get(key)
            if turn is None:
                continue
            if flow is not None and since < step:
                wholes.setdefault(flow, []).append(Span(since, step - 1))
            codes: dict[Flow, list[int]] = {}
            for code in range(1 << turn.choice[1]):
                one = turn.alternatives[min(code, len(turn.alternatives) - 1)]
                if one is not None:
                    codes.setdefault(one, []).append(code)
            for one, numbers in codes.items():
                parts.setdefault(one, []).append(Partly(Choice(step, *turn.choice), tuple(numbers)))
            flow, since = turn.alternatives[-1], step + 1
        if flow is not None and since <= len(self.turns):
            wholes.setdefault(flow, []).append(Span(since, len(self.turns)))
        every = dict.fromkeys((*wholes, *parts))
        return [RuleVersion(one, (tuple(wholes.get(one, ())), tuple(parts.get(one, ())))) for one in every]


class _Now:
    """The tables as they become, kept as a difference to those before."""

    def __init__(self, before: Mapping[FlowKey, Flow]) -> None:
        self._before = before
        self.changed: dict[FlowKey, Flow | None] = {}

    def alternatives(self, key: FlowKey, ops: Sequence[FlowOp], *, atomic: bool) -> tuple[Flow | None, ...]:
        """What can stand under the key; carries all operations out."""
        old = self.changed[key] if key in self.changed else self._before.get(key)
        new: Flow | None = old
        found: list[Flow | None] = []
        cookies = {op.flow.cookie for op in ops if isinstance(op, AddFlow)} | ({old.cookie} if old else set())
        for op in ops:
            if isinstance(op, AddFlow):
                new = op.flow
                found.append(new)
            else:
                # A strict delete asks for the cookie as well.
                new = None if new is not None and new.cookie == op.flow.cookie else new
                found += [None] if op.flow.cookie in cookies else []
        self.changed[key] = new
        middle = [] if atomic else [each for each in found if each not in (old, new)]
        return old, *dict.fromkeys(middle), new


def _alike(one: Flow | None, other: Flow | None) -> bool:
    """Whether packets cannot tell the flows of one key apart."""
    return one == other or (one is not None and other is not None and one.actions == other.actions)


def _by_key(ops: Iterable[FlowOp]) -> dict[FlowKey, list[FlowOp]]:
    found: dict[FlowKey, list[FlowOp]] = {}
    for op in ops:
        found.setdefault(op.flow.key, []).append(op)
    return found


_Tuple = tuple[object, ...]


def _tuple_of(key: FlowKey) -> _Tuple:
    """What keys have in common of which a look-up meets one at most; a second look-up is one with its own `conj_id`."""
    table, priority, match = key
    return table, priority, tuple((field, value if field == "conj_id" else mask) for field, value, mask in match)


def _places(
    changes: Mapping[FlowKey, tuple[Flow | None, ...]], groups: Mapping[FlowKey, _Tuple], *, atomic: bool
) -> tuple[dict[_Tuple, tuple[int, int]], int]:
    """Where the number of each group of keys stands among a pass's Booleans, and how many there are."""
    if atomic:
        return dict.fromkeys(groups.values(), (0, 1)), 1
    most: dict[_Tuple, int] = {}
    for key, alternatives in changes.items():
        most[groups[key]] = max(most.get(groups[key], 0), len(alternatives))
    found, used = {}, 0
    for each, count in sorted(most.items(), key=lambda item: repr(item[0])):
        bits = (count - 1).bit_length()
        found[each] = (used, bits)
        used += bits
    return found, used
