"""How far a change reaches: which passes can meet it at all, which packets, and which fields still matter where.

For one atomic bundle the answer is often enough. A packet whose passes all but one meet nothing that changes sees,
as a whole, the old tables or the new ones: nothing is in between. So the tables are walked as a graph, pass by pass,
knowing of a packet only whether it is tracked. That reads every flow once and encodes none.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final, NamedTuple

from hitless.core.model.flow import (
    TRK,
    WIDTH,
    Action,
    Conjunction,
    Ct,
    CtClear,
    Flow,
    FlowKey,
    Match,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
)
from hitless.core.verify.transition.packets import CONSTANT

CT_FIELDS: Final = ("ct_label", "ct_mark", "ct_state", "ct_zone")
_ENTRY: Final = 0
_MAX_GENERATIONS: Final = 64  # passes that are looked at before a circle of `ct(table=)` is taken for endless
_FEW_CUBES: Final = 512  # touched matches up to which what flows ask for is compared with every one
_HARMLESS: Final = ("note", "controller", "CONTROLLER", "set_queue", "pop_queue")
_JUMPS: Final = (
    "resubmit", "ct(", "goto", "clone", "write_", "table", "learn", "group", "check_pkt_larger", "sample",
    "pop_mpls", "encap", "decap", "pause", "debug_recirc",  # end a pass: what follows them reads the tables anew
)  # fmt: skip


class Touched(NamedTuple):
    """What is known of a change before anything is encoded.

    `meets`: for each pass, whether any packet can meet the change there. `wild`: a flow that may lead anywhere.
    `parts`: whether a packet may be resumed by two `ct()` at once, each of which reads the tables for itself.
    """

    meets: tuple[bool, ...]
    wild: Flow | None
    parts: bool

    def is_last_met(self, generation: int) -> bool:
        """Whether at most one pass after this one (from 0) meets the change."""
        return self.wild is None and not self.parts and sum(self.meets[generation + 1 :]) <= 1


def passes_that_meet(flows: Iterable[Flow], touched: Iterable[FlowKey]) -> Touched:
    """In which passes a packet can meet one of these keys."""
    walk = _Walk(flows, touched)
    states, meets = {(_ENTRY, False)}, list[bool]()
    while states and len(meets) < _MAX_GENERATIONS:  # a circle of passes goes round until here
        met, states = walk.one_pass(states)
        meets.append(met)
    return Touched(tuple(meets), walk.wild, walk.parts)


class _Walk:
    def __init__(self, flows: Iterable[Flow], touched: Iterable[FlowKey]) -> None:
        self.wild: Flow | None = None
        self.parts = False
        self._by_state: dict[tuple[int, bool], dict[int, Flow]] = {}
        self._touched: set[tuple[int, bool]] = set()
        for flow in flows:
            for tracked in _tracked(flow.match):
                self._by_state.setdefault((flow.table, tracked), {}).setdefault(id(flow.actions), flow)
        for table, _, match in touched:
            self._touched.update((table, tracked) for tracked in _tracked(match))
        self._lists = {state: _unlike(found.values()) for state, found in self._by_state.items()}

    def one_pass(self, starts: Collection[tuple[int, bool]]) -> tuple[bool, set[tuple[int, bool]]]:
        """Whether anything touched is met, and where the next passes begin."""
        left, seen, onward = list(starts), set(starts), set[tuple[int, bool]]()
        while left:
            state = left.pop()
            for flow in self._lists.get(state, ()):
                for each in self._follow(flow, state[1], onward):
                    if each not in seen:
                        seen.add(each)
                        left.append(each)
        return bool(seen & self._touched), onward

    def _follow(self, flow: Flow, tracked: bool, onward: set[tuple[int, bool]]) -> Iterator[tuple[int, bool]]:
        states = {tracked}
        resumes = sum(isinstance(each, Ct) and each.table is not None for each in flow.actions)
        self.parts |= resumes > 1 or (resumes > 0 and any(isinstance(each, Resubmit) for each in flow.actions))
        for action in flow.actions:
            if isinstance(action, Resubmit):
                yield from ((action.table, each) for each in states)
                states.add(False)  # what was asked there may have untracked it
            elif isinstance(action, Ct):
                states = {False}
                if action.table is not None:
                    onward.add((action.table, True))
            elif isinstance(action, CtClear):
                states = {False}
            elif isinstance(action, Opaque) and jumps(action):
                self.wild = flow


def _unlike(flows: Iterable[Flow]) -> list[Flow]:
    """One flow for each list of actions that leads elsewhere."""
    found: dict[tuple[Action, ...], Flow] = {}
    for flow in flows:
        leads = tuple(each for each in flow.actions if isinstance(each, Resubmit | Ct | CtClear | Opaque))
        found.setdefault(leads, flow)
    return [*found.values()]


def _tracked(match: Match) -> tuple[bool, ...]:
    """Whether a match can hold of an untracked packet (False) and of a tracked one (True)."""
    for field, value, mask in match:
        if field == "ct_state":
            if value:
                return (True,)
            return (False,) if mask & TRK else (False, True)
    return (False, True)


def is_harmless(action: Opaque) -> bool:
    """Whether an action that is not understood at least changes nothing that tables look at."""
    return action.text.startswith(_HARMLESS) and "pause" not in action.text


def leads_on(action: Opaque, rest: Sequence[Action]) -> bool:
    """Whether look-ups come after an action that is not understood."""
    return jumps(action) or any(isinstance(each, Resubmit | Ct) for each in rest)


def jumps(action: Opaque) -> bool:
    """Whether an action that is not understood may lead to other tables, to other flows, or to another pass."""
    return any(word in action.text for word in _JUMPS)


class Fields(NamedTuple):
    """What the tables look at: fields of matches, of zones and outputs; and which fields actions write."""

    read: frozenset[str]
    written: frozenset[str]
    live: Mapping[int, frozenset[str]]
    """For each table, the fields that are read there or behind it before they are written."""


def fields_of(flows: Iterable[Flow]) -> Fields:
    """Which fields matter where."""
    matched: dict[int, set[str]] = {}
    lists: dict[int, dict[tuple[Action, ...], None]] = {}
    seen: set[tuple[int, int]] = set()
    for flow in flows:
        matched.setdefault(flow.table, set()).update([term[0] for term in flow.match])
        if (flow.table, id(flow.actions)) not in seen:
            seen.add((flow.table, id(flow.actions)))
            shape = tuple(map(_shape, flow.actions))
            lists.setdefault(flow.table, {})[shape] = None
    every = [action for shapes in lists.values() for shape in shapes for action in shape]
    read = {field for found in matched.values() for field in found}.union(*(_reads(action) for action in every))
    written = {action.field for action in every if isinstance(action, SetField)}
    if any(isinstance(action, PushVlan | PopVlan) for action in every):
        written.add("vlan_tci")
    return Fields(frozenset(read), frozenset(written), _live(matched, lists))


def _shape(action: Action) -> Action:
    """An action without its value, where only its field counts."""
    if isinstance(action, SetField):
        full = (1 << WIDTH.get(action.field, 32)) - 1
        return SetField(action.field, 0, 0 if action.mask in {0, full} else 1)
    return Conjunction(0, 0, 0) if isinstance(action, Conjunction) else action


def _reads(action: Action) -> set[str]:
    if isinstance(action, Output):
        return {register(action.port), "vlan_tci"}
    return {register(action.zone)} if isinstance(action, Ct) else set()


def register(of: int | str) -> str:
    """The field of a subfield such as `NXM_NX_REG6[0..15]`; empty for a number."""
    return "" if isinstance(of, int) else of.partition("[")[0].lower().removeprefix("nxm_nx_").removeprefix("oxm_of_")


@lru_cache
def subfield(text: str) -> tuple[str, int, int]:
    """`NXM_NX_REG6[0..15]` as field, lowest bit and mask; `[]` is all of it."""
    low, _, high = text.partition("[")[2].rstrip("]").partition("..")
    field = register(text)
    if not low:
        return field, 0, (1 << WIDTH.get(field, 32)) - 1
    return field, int(low), (1 << (int(high or low) - int(low) + 1)) - 1


def _live(
    matched: Mapping[int, set[str]], lists: Mapping[int, Mapping[tuple[Action, ...], None]]
) -> dict[int, frozenset[str]]:
    live = {table: frozenset(found) for table, found in matched.items()}
    back: frozenset[str] = frozenset()  # what is read after a table was asked in the middle of a list of actions
    while True:
        now = dict(live)
        for table, shapes in lists.items():
            for shape in shapes:
                found, back = _behind(shape, now, back)
                now[table] = now.get(table, frozenset()) | found
        if now == live:
            return {table: found | back for table, found in now.items()}
        live = now


def _behind(
    actions: Sequence[Action], live: Mapping[int, frozenset[str]], back: frozenset[str]
) -> tuple[frozenset[str], frozenset[str]]:
    """What a list of actions reads before writing it; and `back`, grown by what is read behind its tables."""
    found = back
    for place, action in enumerate(reversed(actions)):
        if isinstance(action, SetField) and not action.mask:
            found -= {action.field}
        elif isinstance(action, Resubmit):
            back |= found if place else frozenset()
            found |= live.get(action.table, frozenset())
        elif isinstance(action, Ct):
            found -= frozenset(CT_FIELDS)
            if action.table is not None:
                found |= live.get(action.table, frozenset()) - {"ct_state", "ct_mark", "ct_zone", "ct_label"}
        elif isinstance(action, CtClear):
            found -= frozenset(CT_FIELDS)
        found |= _reads(action)
    return found - {""}, back


def touched_cubes(touched: Iterable[FlowKey], written: Collection[str]) -> frozenset[Match]:
    """What is common to the packets that meet each key: its terms on fields that no action and no pass changes."""
    moving = {*CONSTANT, *written, *CT_FIELDS}
    return frozenset(
        tuple(term for term in match if term[2] and term[0] not in moving) for _, _, match in touched
    )


def near(flows: Iterable[Flow], cubes: Collection[Match]) -> list[Flow]:
    """The flows that a packet in one of the cubes can meet; all of them where there are many cubes, or a wide one."""
    if len(cubes) > _FEW_CUBES or () in cubes:
        return [*flows]
    wanted = [{field: (value, mask) for field, value, mask in cube} for cube in cubes]
    asked = {field for cube in wanted for field in cube}
    known: dict[Match, bool] = {}
    found = []
    for flow in flows:
        terms = tuple([term for term in flow.match if term[0] in asked])
        if terms not in known:
            known[terms] = any(_meet(terms, cube) for cube in wanted)
        if known[terms]:
            found.append(flow)
    return found


def _meet(match: Match, cube: Mapping[str, tuple[int, int]]) -> bool:
    for field, value, mask in match:
        other = cube.get(field)
        if other is not None and (value ^ other[0]) & mask & other[1]:
            return False
    return True
