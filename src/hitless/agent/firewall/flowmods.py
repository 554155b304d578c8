"""Flow-mods as `ovs-ofctl` reads them from a file, as operations on the tables that they meet.

    add table=60,priority=9,in_port=1 actions=resubmit(,71)     a line without a verb is an add
    modify_strict table=60,priority=9,in_port=1 actions=drop    modify: actions of all flows inside the match
    delete_strict table=60,priority=9,in_port=1                 delete: all flows inside the match
    delete cookie=0x5/-1                                        a cookie and mask limit what is modified or deleted
    ---                                                         what follows is written when this is in force

What a line does depends on the tables, so lines are replayed in order. It also depends on the version of OpenFlow, of
which `ovs-ofctl` speaks 1.0 unless `-O` or `--bundle` say otherwise: there a modify that matches nothing is an add, one
without a table means all of them, cookies are overwritten, and a match on untagged packets may become another flow's
key. The readings are replayed side by side, 1.0 and what 1.3 and later do (tried with Open vSwitch 3.1); a line on
which they differ is refused, as is one that is not understood wholly: the answer would be about another plan.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec

from hitless.core.model.flow import Flow, FlowKey
from hitless.core.plan.flows import AddFlow, DelFlow, FlowOp, by_key
from hitless.drivers.ovs.codec import DEFAULT_PRIORITY
from hitless.drivers.ovs.written import ANY_TABLE, Written, read_written

BARRIER: Final = "---"
_VERB: Final = re.compile(r"(add|modify_strict|modify|delete_strict|delete)(?:[\s,]+|$)")
_OF_DELETES: Final = frozenset({"table", "cookie", "priority"})
_LATER, _OLD, _NARROW = "1.3", "1.0", "1.0, untagged packets in its own notation"
_VLAN: Final = "vlan_tci"
_UNTAGGED: Final = (_VLAN, 0, 0xFFFF)

Tables = dict[FlowKey, Flow]


class FlowModError(Exception):
    """A line that cannot be judged; the message begins with file and line. `code` is stable."""

    def __init__(self, source: str, line: int, message: str, code: str = "flow-mod-invalid") -> None:
        super().__init__(f"{source}:{line}: {message}")
        self.code = code


class Line(msgspec.Struct, frozen=True):
    """A flow-mod and what it writes, which Open vSwitch does in one step. No `ops`: nothing that was there matches."""

    number: int
    text: str
    ops: tuple[FlowOp, ...]


class _Mod(msgspec.Struct, frozen=True):
    """`verb` is add, modify or delete. `table` None is a line that names none."""

    verb: str
    strict: bool
    table: int | None
    wanted: Flow
    cookie_mask: int
    foreign: tuple[str, ...]


def read(text: str, before: Iterable[Flow], source: str, *, bundled: bool = False) -> tuple[tuple[Line, ...], ...]:
    """Batches of lines, as `---` parts them. `bundled`: sent with `--bundle`, hence not in 1.0. Raises FlowModError."""
    old = () if bundled else (_OLD, _NARROW) if "vlan" in text else (_OLD,)
    flows = by_key(before)
    readings = {version: dict(flows) for version in (_LATER, *old)}
    batches: list[list[Line]] = [[]]
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].strip()
        if words == BARRIER:
            batches.append([])
        elif words:
            try:
                mod = _parse(words)
            except ValueError as error:
                raise FlowModError(source, number, str(error)) from None
            done = {version: tuple(_ops(mod, tables, version)) for version, tables in readings.items()}
            if complaint := _disagreement(mod, done, readings):
                raise FlowModError(source, number, *complaint)
            for version, ops in done.items():
                _carry_out(ops, readings[version])
            batches[-1].append(Line(number, words, done[_LATER]))
    return tuple(tuple(each) for each in batches if each)


def _disagreement(
    mod: _Mod, done: dict[str, tuple[FlowOp, ...]], readings: dict[str, Tables]
) -> tuple[str, str] | None:
    """Why the effect of a line is not known, and the code for that."""
    if mod.foreign and mod.verb != "add" and not (mod.strict and done[_LATER]):
        return (f"`{mod.foreign[0]}` is not understood here, so which flows are meant is not known; write "
                f"`{mod.verb}_strict` lines with the words of the dump", "flow-mod-not-understood")  # fmt: skip
    effects = {frozenset(_effect(op, readings[version]) for op in ops) for version, ops in done.items()}
    if len(effects) == 1:
        return None
    if _untagged(mod.wanted) != mod.wanted:
        what, instead = ("1.0 may take untagged packets for another match than 1.3 and later do",
                         "send all in a bundle (--atomic), or match the packets in another way")  # fmt: skip
    elif mod.verb == "modify" and not done[_LATER]:
        what, instead = ("it matches no flow: 1.0 adds one, and 1.3 and later do nothing",
                         "write `add`, or leave the line out")  # fmt: skip
    elif mod.verb == "modify" and mod.table in (None, ANY_TABLE):
        what, instead = ("1.0 modifies flows of all tables, and 1.3 and later of table 0",
                         "write `table=`, a line for each")  # fmt: skip
    else:
        what, instead = ("a modify before it overwrites cookies in 1.0, and not in 1.3 and later",
                         "name the flows by their match")  # fmt: skip
    return (f"what this does depends on the version of OpenFlow: {what}. Without -O, `ovs-ofctl` speaks 1.0; {instead}",
            "flow-mod-ambiguous")  # fmt: skip


def _effect(op: FlowOp, tables: Tables) -> tuple[object, ...]:
    """What can be told of a write: which packets, what becomes of them, and whether a flow had that key."""
    flow = _untagged(op.flow)
    added = isinstance(op, AddFlow)
    return added, flow.key, flow.actions if added else (), op.flow.key in tables


def _untagged(flow: Flow) -> Flow:
    """The flow as OpenFlow 1.0 may write it: a match on packets without a tag is one on all 16 bits there."""
    for term in flow.match:
        if term[0] == _VLAN and term[2] & 0x1000 and not term[1] & 0x1000:
            match = tuple(_UNTAGGED if each is term else each for each in flow.match)
            return msgspec.structs.replace(flow, match=match)
    return flow


def _carry_out(ops: Iterable[FlowOp], tables: Tables) -> None:
    for op in ops:
        if isinstance(op, AddFlow):
            tables[op.flow.key] = op.flow
        else:
            tables.pop(op.flow.key, None)


# --- one line ---------------------------------------------------------------------------------------------


def _parse(line: str) -> _Mod:
    found = _VERB.match(line)
    verb, rest = (found[1], line[found.end() :]) if found else ("add", line)
    verb, _, strict = verb.partition("_")
    written = read_written(rest)
    _check(verb, bool(strict), written)
    priority = DEFAULT_PRIORITY if written.priority is None else written.priority
    table = 0 if written.table in (None, ANY_TABLE) else written.table
    assert table is not None  # noqa: S101 - the line above
    wanted = Flow(table, priority, written.match, written.actions or (), written.cookie or 0)
    return _Mod(verb, bool(strict), written.table, wanted, written.cookie_mask, written.foreign)


def _check(verb: str, strict: bool, written: Written) -> None:
    """What ovs-ofctl refuses (lib/ofp-flow.c, parse_ofp_str__). Raises ValueError."""
    if verb == "delete":
        if written.actions is not None:
            raise ValueError("a delete has no actions; leave them out, and name the flows by their match")
        if written.cookie is not None and not written.cookie_mask:
            raise ValueError("a delete takes a cookie with a mask only; write `cookie=0x5/-1`")
        allowed = _OF_DELETES if strict else _OF_DELETES - {"priority"}
        if more := sorted(written.said - allowed):
            raise ValueError(f"a delete takes no `{more[0]}`: ovs-ofctl refuses it; leave it out"
                             + ("" if strict else ", or write `delete_strict`"))  # fmt: skip
        return
    if written.actions is None:
        raise ValueError("it has no `actions=`; write them, `actions=drop` for none")
    if verb == "add" and written.cookie_mask:
        raise ValueError("an add takes a cookie without a mask; write `cookie=0x5`")
    if verb == "add" and written.table == ANY_TABLE:
        raise ValueError("`table=255` leaves the table to the switch; name the table")


def _ops(mod: _Mod, tables: Tables, version: str) -> Iterator[FlowOp]:
    is_old, wanted = version != _LATER, _untagged(mod.wanted) if version == _NARROW else mod.wanted
    if mod.verb == "add":
        yield AddFlow(wanted)
        return
    in_table = None if mod.table == ANY_TABLE else mod.table
    if mod.verb == "modify" and in_table is None and not is_old:
        in_table = 0
    found, cookie = _candidates(wanted, in_table, tables, strict=mod.strict), mod.wanted.cookie
    met = [each for each in found if not (each.cookie ^ cookie) & mod.cookie_mask]
    for flow in met:
        if mod.verb == "delete":
            yield DelFlow(flow)
        else:
            kept = cookie if is_old and not mod.cookie_mask else flow.cookie
            yield AddFlow(msgspec.structs.replace(flow, actions=mod.wanted.actions, cookie=kept))
    if mod.verb == "modify" and is_old and not met and not mod.cookie_mask:
        yield AddFlow(wanted)


def _candidates(pattern: Flow, table: int | None, tables: Tables, *, strict: bool) -> Iterator[Flow]:
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
