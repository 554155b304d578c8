"""Flow-mods as `ovs-ofctl` reads them from a file, as operations on the tables that they meet.

    add table=60,priority=9,in_port=1 actions=resubmit(,71)     a line without a verb is an add
    modify_strict table=60,priority=9,in_port=1 actions=drop    modify: actions of all flows inside the match
    delete_strict table=60,priority=9,in_port=1                 delete: all flows inside the match
    delete cookie=0x5/-1                                        a cookie and mask limit what is modified or deleted
    ---                                                         what follows is written when this is in force

What a non-strict line does depends on the tables, so lines are replayed in order. Each flow that it modifies or deletes
counts as a write of its own, as if other switches did them one by one: that is never more lenient than Open vSwitch.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from hitless.core.model.flow import Flow, FlowKey
from hitless.core.plan.flows import AddFlow, DelFlow, FlowOp, by_key
from hitless.drivers.ovs.codec import FlowTextError, parse

_VERBS = frozenset({"add", "modify", "modify_strict", "delete", "delete_strict"})
_COOKIE = re.compile(r"(?:^|(?<=[\s,]))cookie=(?P<value>[^,\s/]+)(?:/(?P<mask>[^,\s]+))?,?\s*")
_TABLE = re.compile(r"(?:^|[\s,])table=")
_ALL = (1 << 64) - 1
BARRIER = "---"


class FlowModError(Exception):
    """A line that is no flow-mod; the message begins with file and line. `code` is stable."""

    code = "flow-mod-invalid"

    def __init__(self, source: str, line: int, message: str) -> None:
        super().__init__(f"{source}:{line}: {message}")


def read(text: str, before: Iterable[Flow], source: str) -> tuple[tuple[FlowOp, ...], ...]:
    """Batches of operations, as the lines `---` part them. Raises FlowModError."""
    tables = by_key(before)
    batches: list[list[FlowOp]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if words == BARRIER:
            batches.append([])
        elif words:
            try:
                ops = [*_ops(words, tables)]
            except (FlowTextError, ValueError) as error:
                raise FlowModError(source, number, str(error)) from None
            for op in ops:
                _carry_out(op, tables)
            batches[-1] += ops
    return tuple(tuple(each) for each in batches if each)


def _carry_out(op: FlowOp, tables: dict[FlowKey, Flow]) -> None:
    if isinstance(op, AddFlow):
        tables[op.flow.key] = op.flow
    else:
        tables.pop(op.flow.key, None)


def _ops(line: str, tables: dict[FlowKey, Flow]) -> Iterator[FlowOp]:
    first, _, rest = line.partition(" ")
    verb, flow_text = (first, rest.strip()) if first in _VERBS else ("add", line)
    if verb == "add":
        yield AddFlow(parse(flow_text))
        return
    wanted, value, mask = _limits(flow_text)
    deletes = verb.startswith("delete")
    if deletes and "actions=" not in wanted:
        wanted = f"{wanted} actions=drop".strip()
    pattern = parse(wanted)
    table = pattern.table if _TABLE.search(flow_text) else None
    for found in [*_candidates(pattern, table, tables, strict=verb.endswith("strict"))]:
        if (found.cookie ^ value) & mask == 0:
            yield DelFlow(found) if deletes else AddFlow(msgspec.structs.replace(found, actions=pattern.actions))


def _limits(text: str) -> tuple[str, int, int]:
    """The line without its cookie, and which cookies it is about. A cookie without a mask limits nothing."""
    found = _COOKIE.search(text.partition("actions=")[0])
    if found is None:
        return text, 0, 0
    rest = text[: found.start()] + text[found.end() :]
    if found["mask"] is None:
        return rest, 0, 0
    return rest, int(found["value"], 0) & _ALL, int(found["mask"], 0) & _ALL


def _candidates(pattern: Flow, table: int | None, tables: dict[FlowKey, Flow], *, strict: bool) -> Iterator[Flow]:
    if strict and table is not None:
        found = tables.get(pattern.key)
        yield from [found] if found is not None else []
        return
    for flow in tables.values():
        if table in (None, flow.table) and (_is(flow, pattern) if strict else _inside(flow, pattern)):
            yield flow


def _is(flow: Flow, pattern: Flow) -> bool:
    return (flow.priority, flow.match) == (pattern.priority, pattern.match)


def _inside(flow: Flow, pattern: Flow) -> bool:
    """Whether a flow's match is at least as narrow (ovs-ofctl(8), `del-flows` without `--strict`)."""
    terms = {field: (value, mask) for field, value, mask in flow.match}
    for field, value, mask in pattern.match:
        own, own_mask = terms.get(field, (0, -1))
        if field not in terms or own_mask & mask != mask or own & mask != value:
            return False
    return True
