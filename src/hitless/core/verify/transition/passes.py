"""All packets through the tables, pass by pass, at every moment of the plan.

A state is a table and the constants that a packet carries there; packets in one state go on together. What comes out
is where packets leave, what they commit, and what is odd about their look-ups, each as a set of packets, moments and
orders. A `ct(table=)` ends a pass: the next one starts with conntrack's answer and sees tables of its own.

A pass can see older tables than the one before it only through a cached megaflow, and that one was made for a packet
that came out of its first pass in the same state from the same port, when the tables were old.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from hitless.core.model.flow import (
    WIDTH,
    Action,
    Ct,
    CtClear,
    Normal,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
    exact,
)
from hitless.core.verify.classifier import MAX_DEPTH, NORMAL
from hitless.core.verify.packet import VLAN_PRESENT
from hitless.core.verify.transition.lookup import Effects, Found, Table
from hitless.core.verify.transition.packets import CONSTANT, Node, Space
from hitless.core.verify.transition.region import CT_FIELDS, Fields, is_harmless, leads_on, subfield
from hitless.core.verify.transition.verdict import LimitError

_VID = 0x0FFF
_PARTED = "a packet is resumed by two ct() at once, and each may see its own tables"
Constants = tuple[tuple[str, int], ...]
Inner = tuple[int | None, ...]
"""VLAN headers below the outer one; None is the packet's own."""
Key = TypeVar("Key")


class Outcome:
    """What becomes of packets: each a set over packets, moments and orders.

    `sent` by port and VLAN tag (-1: the tag it came with, which is none that any action writes); `commits` by zone and
    mark (None leaves it). `unclear` names what was not understood, with the packets that met it; `opaque` the actions
    that are not understood but lead nowhere else. `impossible` are packets
    whose passes never see such versions together. `twice` are tables that one pass asks more than once.
    """

    def __init__(self, space: Space) -> None:
        self.sent: dict[tuple[int, int], Node] = {}
        self.commits: dict[tuple[int, int | None], Node] = {}
        self.equals, self.orphans = space.false, space.false
        self.impossible = space.false
        self.unclear: dict[str, Node] = {}
        self.opaque: dict[str, Node] = {}
        self.looked: list[tuple[Node, Found]] = []
        self.twice: set[int] = set()


class _Moving(NamedTuple):
    """Packets within a list of actions: their constants, VLAN headers below the outer one, and which they are."""

    constants: dict[str, int]
    inner: Inner
    where: Node
    depth: int


class _State(NamedTuple):
    table: int
    constants: Constants
    inner: Inner


class Run:
    """One evaluation of a set of tables.

    `settled` says of a pass whether packets that have met no change until its end can be left out from there.
    """

    def __init__(
        self, space: Space, tables: Mapping[int, Table], effects: Effects, fields: Fields, atomic_steps: Node,
        settled: Callable[[int], bool], apart: Collection[int] = (),
    ) -> None:  # fmt: skip
        self.outcome = Outcome(space)
        self._space, self._tables, self._effects, self._fields = space, tables, effects, fields
        self._atomic, self._settled, self._apart = atomic_steps, settled, apart
        self._met = space.false
        self._rank = _ranks(tables, effects)
        self._generation = 0
        self._forks: dict[_State, Node] = {}
        self._visited: dict[int, Node] = {}
        self._resumed, self._parted = space.false, space.false
        self._left: dict[_State, tuple[Node, int]] = {}
        self._queue: list[tuple[int, int, _State]] = []
        self._counter = 0
        self._tags = sorted(_tags(effects))

    def packets(self, where: Node, generations: int) -> Outcome:
        """Everything that becomes of packets that enter by table 0."""
        zeros = {field: 0 for field in (*CT_FIELDS, *CONSTANT) if field in self._fields.read and field != "conj_id"}
        starts = {_State(0, self._project(zeros, 0), ()): where}
        for generation in range(generations):
            self._generation, self._forks, self._visited, self._resumed = generation, {}, {}, self._space.false
            for state, here in starts.items():
                self._push(state, here, 0)
            self._drain()
            starts = self._forks
            if generation + 1 < generations:
                # A packet that has met no change so far, and meets one once at most, is never in between.
                kept = self._space.whenever(self._met) if self._settled(generation) else self._space.true
                starts = {state: self._onward(here) & kept for state, here in self._forks.items()}
        left = self._space.false
        for here in starts.values():
            left = left | here
        self._unclear("more passes of one packet through the tables than are looked at", left)
        return self.outcome

    def _onward(self, where: Node) -> Node:
        """Those of the next pass: never older tables than before, but for what a packet like it has left in a cache."""
        space = self._space
        # In an atomic step the first Boolean of a pass says all.
        now, then = space.order(0, 1, 1, self._generation), space.order(0, 1, 1, self._generation + 1)
        cached = space.without(where & ~now & self._atomic, "in_port")
        possible = where & (~now | then | ~self._atomic | cached)
        self.outcome.impossible = self.outcome.impossible | where & ~possible
        return possible

    def _push(self, state: _State, where: Node, depth: int) -> None:
        held = self._left.get(state)
        if held is None:
            self._counter += 1
            heapq.heappush(self._queue, (self._rank.get(state.table, 0), self._counter, state))
            self._left[state] = where, depth
        else:
            self._left[state] = held[0] | where, max(held[1], depth)

    def _drain(self) -> None:
        while self._queue:
            _, _, state = heapq.heappop(self._queue)
            where, depth = self._left.pop(state)
            for _ in self._ask(state, where, depth, last=True):
                pass  # the pass is over for those

    def _ask(self, state: _State, where: Node, depth: int, *, last: bool) -> list[_Moving]:
        """One look-up and what follows from it. `last`: nothing waits for these packets to come back."""
        none = self._space.false
        if where == none:
            return []
        if depth > MAX_DEPTH:
            self._unclear("resubmits that lead into each other without end", where)
            return []
        table = self._tables.get(state.table)
        constants = dict(state.constants)
        if table is None:
            return [_Moving(constants, state.inner, where, depth)]
        found = table.lookup(constants, self._generation)
        outcome = self.outcome
        if found.moves:
            outcome.looked.append((where, found))
            meets = where & changed(self._space, found)
            self._met = self._met | meets
            self._unclear(_PARTED, meets & self._parted)
            self._revisit(state.table, where)
        outcome.equals = outcome.equals | found.equals & where
        outcome.orphans = outcome.orphans | found.orphans & where
        for what, fuzzy in found.unclear:
            self._unclear(what, fuzzy & where)
        back = []
        for effect, part in found.parts:
            here = part & where
            if here != none:
                moving = _Moving(constants, state.inner, here, depth)
                back += self._follow(self._effects.lists[effect], moving, last=last)
        return _merged(back)

    def _revisit(self, table: int, where: Node) -> None:
        """Writes in no order: a pass that asks one table twice may see two keys of equal masks, each in its own way."""
        before = self._visited.get(table, self._space.false)
        again = before & where & ~self._atomic
        if table not in self._apart and again != self._space.false:
            self.outcome.twice.add(table)
            self._unclear(f"table {table} is asked twice in one pass while it is written in no order", again)
        self._visited[table] = before | where

    def _follow(self, actions: Sequence[Action], start: _Moving, *, last: bool) -> list[_Moving]:
        moving = [start]
        for place, action in enumerate(actions):
            if isinstance(action, Resubmit):
                moving = self._resubmit(action, moving, last=last and place == len(actions) - 1)
            elif isinstance(action, Opaque):
                leads = leads_on(action, actions[place + 1 :]) or not last
                for each in moving:
                    self._opaque(action, each.where, leads=leads)
            else:
                moving = [after for each in moving for after in self._act(action, each)]
        return moving

    def _resubmit(self, action: Resubmit, moving: Iterable[_Moving], *, last: bool) -> list[_Moving]:
        back = []
        for each in moving:
            if last:
                state = _State(action.table, self._project(each.constants, action.table), each.inner)
                self._push(state, each.where, each.depth + 1)
            else:
                state = _State(action.table, tuple(sorted(each.constants.items())), each.inner)
                answers = self._ask(state, each.where, each.depth + 1, last=False)
                back += [answer._replace(depth=each.depth) for answer in answers]
        return back

    def _act(self, action: Action, moving: _Moving) -> Iterator[_Moving]:
        constants = moving.constants
        match action:
            case SetField(field, value, mask):
                whole = (1 << WIDTH[field]) - 1
                if mask in {0, whole}:
                    moving = moving._replace(constants={**constants, field: value})
                elif field in constants:
                    moving = moving._replace(constants={**constants, field: constants[field] & ~mask | value & mask})
                elif field not in CONSTANT:  # a register that nothing reads any more is not carried along
                    self._unclear(f"a part of {field} is written", moving.where)
            case Output(port):
                self._output(port, moving)
            case Normal():
                self._send(NORMAL, moving)
            case Ct():
                moving = self._ct(action, moving)
            case CtClear():
                moving = moving._replace(constants={**constants, **_UNTRACKED})
            case PushVlan(tag):
                below = constants.get("vlan_tci")
                constants = {**constants, "vlan_tci": VLAN_PRESENT | tag}
                moving = moving._replace(constants=constants, inner=(*moving.inner, below))
            case PopVlan():
                below = moving.inner[-1] if moving.inner else 0  # no packet comes in with two headers
                rest = {field: value for field, value in constants.items() if field != "vlan_tci"}
                rest |= {} if below is None else {"vlan_tci": below}
                moving = moving._replace(constants=rest, inner=moving.inner[:-1])
            case _:
                pass
        yield moving

    def _opaque(self, action: Opaque, where: Node, *, leads: bool) -> None:
        if not is_harmless(action):
            into = self.outcome.unclear if leads else self.outcome.opaque
            _add(into, f"the action {action.text}", where, self._space.false)

    def _ct(self, action: Ct, moving: _Moving) -> _Moving:
        known = _number(action.zone, moving.constants)
        zone = known or 0
        if known is None:
            self._unclear(f"a zone taken from {action.zone}", moving.where)
        if action.commit:
            _add(self.outcome.commits, (zone, action.mark), moving.where, self._space.false)
        constants = {**moving.constants, **_UNTRACKED}
        if action.table is not None:
            resumed = {field: value for field, value in constants.items() if field not in {"ct_state", "ct_mark"}}
            if "ct_zone" in self._fields.read:
                resumed["ct_zone"] = zone
            if action.commit and action.mark is not None:
                resumed["ct_mark"] = action.mark
            state = _State(action.table, self._project(resumed, action.table), moving.inner)
            _add(self._forks, state, moving.where, self._space.false)
            self._parted = self._parted | moving.where & self._resumed
            self._resumed = self._resumed | moving.where
        return moving._replace(constants=constants)

    def _output(self, port: int | str, moving: _Moving) -> None:
        number = _number(port, moving.constants)
        if number is None:
            _add(self.outcome.opaque, f"a port taken from {port}", moving.where, self._space.false)
        else:
            self._send(number, moving)

    def _send(self, port: int, moving: _Moving) -> None:
        space, where = self._space, moving.where
        if port != NORMAL and "in_port" in space.codings:
            # A packet does not leave by the port it came in by.
            itself = exact("in_port", port)
            if not space.knows(itself):
                raise LimitError(f"port {port} is put together from parts of registers")
            where = where & ~space.term(itself)
        if "vlan_tci" in moving.constants:
            _add(self.outcome.sent, (port, moving.constants["vlan_tci"] & _VID), where, space.false)
            return
        for tag in self._tags:
            tagged = space.term(("vlan_tci", tag, _VID))
            _add(self.outcome.sent, (port, tag), where & tagged, space.false)
            where = where & ~tagged
        _add(self.outcome.sent, (port, -1), where, space.false)

    def _unclear(self, what: str, where: Node) -> None:
        _add(self.outcome.unclear, what, where, self._space.false)

    def _project(self, constants: Mapping[str, int], table: int) -> Constants:
        """The constants that still matter in a table or behind it: packets that differ in others go together."""
        live = self._fields.live.get(table, frozenset())
        return tuple(sorted((field, value) for field, value in constants.items() if field in live))


def changed(space: Space, found: Found) -> Node:
    """Packets for which the outcome of a look-up is not the same at all times."""
    node = space.false
    for part in (*(part for _, part in found.parts), found.equals):
        node = node | space.whenever(part) & space.whenever(~part)
    return node


_UNTRACKED = dict.fromkeys(CT_FIELDS, 0)


def _add(into: dict[Key, Node], key: Key, where: Node, none: Node) -> None:
    if where != none:
        held = into.get(key)
        into[key] = where if held is None else held | where


def _merged(back: list[_Moving]) -> list[_Moving]:
    found: dict[tuple[Constants, Inner], _Moving] = {}
    for each in back:
        key = tuple(sorted(each.constants.items())), each.inner
        held = found.get(key)
        found[key] = each if held is None else held._replace(where=held.where | each.where)
    return [*found.values()]


def _number(of: int | str, constants: Mapping[str, int]) -> int | None:
    """A number, or the value of a subfield; None where its field is none that actions write."""
    if isinstance(of, int):
        return of
    field, low, mask = subfield(of)
    return constants.get(field, 0) >> low & mask if field in CONSTANT else None


def _tags(effects: Effects) -> set[int]:
    """VLAN tags that actions write; 0, no tag, is one where any takes a header away."""
    found: set[int] = set()
    for actions in effects.lists:
        for action in actions:
            if isinstance(action, PushVlan):
                found.update((action.tag, 0))
            elif isinstance(action, PopVlan):
                found.add(0)
            elif isinstance(action, SetField) and action.field == "vlan_tci":
                found.add(action.value & _VID)
    return found


def _ranks(tables: Mapping[int, Table], effects: Effects) -> dict[int, int]:
    """Tables in an order in which resubmits lead on: a table is asked when all that leads to it was."""
    leads: dict[int, set[int]] = {number: set() for number in tables}
    for number, table in tables.items():
        for effect in table.effects_used:
            leads[number].update(each.table for each in effects.lists[effect] if isinstance(each, Resubmit))
    order: list[int] = []
    seen: set[int] = set()

    def visit(number: int) -> None:
        if number not in seen:
            seen.add(number)
            for onward in sorted(leads.get(number, ())):
                visit(onward)
            order.append(number)

    for number in sorted(tables):
        visit(number)
    return {number: rank for rank, number in enumerate(reversed(order))}
