"""Conjunctions that mean the same get the same number, so that a change of numbers alone is no change.

An id says nothing but which clauses and which accept flows belong together. Where a conjunction of the new tables has
all the flows of one of the old ones, it is given that one's id; the notes that actions leave in registers that nothing
reads are left out. What differs then, differs for packets. A poor choice of ids costs time and never an answer: each
table is renamed one to one.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from hitless.core.model.flow import WIDTH, Action, Conjunction, Flow, FlowKey, SetField
from hitless.core.verify.transition.packets import CONSTANT

_LAST = (1 << 32, 0)  # what is no clause stays in its order, behind those
_WHOLE = (1 << WIDTH["conj_id"]) - 1
_Id = tuple[int, int]
"""Table and conjunction id: ids of two tables have nothing to do with each other."""
Tables = Mapping[FlowKey, Flow]


def compared(old: Tables, new: Tables, read: Collection[str]) -> tuple[Tables, frozenset[FlowKey]]:
    """The new tables with the old ids, and the keys under which they differ.

    `read` are fields that any table looks at.
    """
    touched = _differing(old, new, read)
    accepts = [key for key in touched if any(term[0] == "conj_id" for term in key[2])]
    # Numbers were dealt anew only if some are gone and some have come.
    if not any(key in old for key in accepts) or not any(key in new for key in accepts):
        return new, touched
    if any(field == "conj_id" and mask != _WHOLE for end in (old, new) for key in end for field, _, mask in key[2]):
        return new, touched
    names = _names(_signatures(old.values(), read), _signatures(new.values(), read))
    renamed = {flow.key: flow for flow in (_renamed(flow, names) for flow in new.values())}
    return renamed, _differing(old, renamed, read)


def _differing(old: Tables, new: Tables, read: Collection[str]) -> frozenset[FlowKey]:
    """Keys whose flows do something else; who wants them is not asked."""
    found = {key for key in old if key not in new}
    for key, flow in new.items():
        held = old.get(key)
        same = held is not None and (held.actions is flow.actions or held.actions == flow.actions)
        if not same and (held is None or _without_notes(held.actions, read) != _without_notes(flow.actions, read)):
            found.add(key)
    return frozenset(found)


def _without_notes(actions: Iterable[Action], read: Collection[str]) -> tuple[Action, ...]:
    """Clauses in one order: it counts only where a second look-up finds nothing at all, which is open anyway."""
    kept = [each for each in actions
            if not (isinstance(each, SetField) and each.field in CONSTANT and each.field not in read)]  # fmt: skip
    return tuple(sorted(kept, key=lambda each: (each.id, each.clause) if isinstance(each, Conjunction) else _LAST))


def _signatures(flows: Iterable[Flow], read: Collection[str]) -> dict[_Id, tuple[int, ...]]:
    """What belongs together under each id, as numbers that are equal for equals."""
    parts: dict[_Id, list[int]] = {}
    for flow in flows:
        number = next((value for field, value, _ in flow.match if field == "conj_id"), 0)
        if number:
            rest = tuple(term for term in flow.match if term[0] != "conj_id")
            accepts = hash((flow.priority, rest, _without_notes(flow.actions, read)))
            parts.setdefault((flow.table, number), []).append(accepts)
        if flow.is_soft:
            where = hash((flow.priority, flow.match))
            for each in flow.actions:
                if isinstance(each, Conjunction):
                    parts.setdefault((flow.table, each.id), []).append(hash((where, each.clause, each.clauses)))
    return {each: tuple(sorted(found)) for each, found in parts.items()}


def _names(old: Mapping[_Id, tuple[int, ...]], new: Mapping[_Id, tuple[int, ...]]) -> dict[_Id, int]:
    """The ids of `new` that change, with the old id, or one that nobody has."""
    free: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    for (table, number), signature in old.items():
        if new.get((table, number)) != signature:
            free.setdefault((table, signature), []).append(number)
    found: dict[_Id, int] = {}
    for (table, number), signature in new.items():
        if old.get((table, number)) != signature and free.get((table, signature)):
            found[table, number] = free[table, signature].pop()
    taken = {(table, number) for (table, _), number in found.items()}
    fresh = max((number for _, number in (*old, *new)), default=0)
    for table, number in taken - found.keys():
        if (table, number) in new:
            fresh += 1
            found[table, number] = fresh
    return found


def _renamed(flow: Flow, names: Mapping[_Id, int]) -> Flow:
    match, actions = flow.match, flow.actions
    if flow.is_soft:
        actions = tuple(_clause(flow.table, each, names) for each in actions)
    if any(term[0] == "conj_id" for term in match):
        match = tuple(
            (field, names.get((flow.table, value), value) if field == "conj_id" else value, mask)
            for field, value, mask in match
        )
    return msgspec.structs.replace(flow, match=match, actions=actions)


def _clause(table: int, action: Action, names: Mapping[_Id, int]) -> Action:
    if isinstance(action, Conjunction):
        return Conjunction(names.get((table, action.id), action.id), action.clause, action.clauses)
    return action
