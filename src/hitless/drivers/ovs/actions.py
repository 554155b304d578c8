"""Actions as flow text (ovs-actions(7)), as `ovs-ofctl dump-flows` prints them.

What the model has no type for is kept as its text, cut at commas that stand outside of parentheses and brackets. Whole
action lists and single actions repeat from flow to flow and are looked up.
"""

from __future__ import annotations

import re
from typing import Final

from hitless.core.model.flow import (
    WIDTH,
    Action,
    Conjunction,
    Ct,
    CtClear,
    Normal,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
)
from hitless.drivers.ovs.fields import LOCAL, NOTATION, number

_CACHED: Final = 200_000  # action lists; a bridge of 100,000 flows has a few ten thousand different ones

_SETTABLE: Final = {
    **{f"reg{index}": f"reg{index}" for index in range(8)},
    **{name: name for name in ("pkt_mark", "tun_id", "metadata")},
    "eth_src": "dl_src", "eth_dst": "dl_dst",
}  # fmt: skip
_SET_NAME: Final = {field: name for name, field in _SETTABLE.items()}

_RESUBMIT: Final = re.compile(r"resubmit\(,(\d+)\)")
_CONJUNCTION: Final = re.compile(r"conjunction\((\d+),(\d+)/(\d+)\)")
_OUTPUT: Final = re.compile(r"output:(?:(\d+)|([A-Za-z_0-9]+\[[0-9.]*\]))")
_SET: Final = re.compile(r"set_field:([^/>]+)(?:/([^>]+))?->([a-z_0-9]+)")
# What a dump makes of set_field with a mask: one load for each run of bits.
_LOAD: Final = re.compile(r"load:(\w+)->NXM_NX_REG([0-7])\[(\d+)(?:\.\.(\d+))?\]")
_CT_MARK: Final = re.compile(r"exec\(set_field:(\w+)->ct_mark\)")
_PUSH: Final = "push_vlan:0x8100"
_VID: Final = re.compile(r"set_field:(\d+)->vlan_vid")
_WORDS: Final[dict[str, Action]] = {
    "ct_clear": CtClear(), "NORMAL": Normal(), "pop_vlan": PopVlan(), "strip_vlan": PopVlan(), "LOCAL": Output(LOCAL),
}  # fmt: skip


class _Lists(dict[str, tuple[Action, ...]]):
    def __missing__(self, text: str) -> tuple[Action, ...]:
        if len(self) >= _CACHED:
            self.clear()
        actions = self[text] = _read(text)
        return actions


class _Texts(dict[tuple[Action, ...], str]):
    def __missing__(self, actions: tuple[Action, ...]) -> str:
        if len(self) >= _CACHED:
            self.clear()
        text = self[actions] = ",".join(map(_show, actions)) or "drop"
        return text


_LISTS: Final = _Lists()
_TEXTS: Final = _Texts()
read_actions: Final = _LISTS.__getitem__
"""The actions of their text; `drop` is none. What is not understood is kept as Opaque."""
show_actions: Final = _TEXTS.__getitem__
"""The text of actions; `drop` for none."""


def split(text: str) -> list[str]:
    """Cut at the commas outside of parentheses and brackets."""
    parts, depth, start = [], 0, 0
    for at, letter in enumerate(text):
        if letter in "([{":
            depth += 1
        elif letter in ")]}":
            depth -= 1
        elif letter == "," and not depth:
            parts.append(text[start:at])
            start = at + 1
    return [*parts, text[start:]]


def _read(text: str) -> tuple[Action, ...]:
    parts = [part.strip() for part in split(text)]
    if parts in (["drop"], [""]):
        return ()
    actions: list[Action] = []
    at = 0
    while at < len(parts):
        vid = _VID.fullmatch(parts[at + 1]) if parts[at] == _PUSH and at + 1 < len(parts) else None
        if vid and int(vid[1]) & 0x1000:
            actions.append(PushVlan(int(vid[1]) & 0xFFF))
            at += 2
        else:
            actions.append(_read_one(parts[at]))
            at += 1
    return tuple(actions)


def _read_one(text: str) -> Action:  # noqa: PLR0911 - one line for each action there is
    if text in _WORDS:
        return _WORDS[text]
    if found := _RESUBMIT.fullmatch(text):
        return Resubmit(int(found[1]))
    if found := _CONJUNCTION.fullmatch(text):
        return Conjunction(int(found[1]), int(found[2]), int(found[3]))
    if found := _OUTPUT.fullmatch(text):
        return Output(int(found[1]) if found[1] else found[2])
    if text.startswith("ct(") and text.endswith(")"):
        return _read_ct(text)
    if found := _SET.fullmatch(text):
        return _read_set(text, found)
    if found := _LOAD.fullmatch(text):
        first = int(found[3])
        bits = int(found[4] or first) - first + 1
        return SetField(f"reg{found[2]}", number(found[1]) << first, ((1 << bits) - 1) << first)
    return Opaque(text)


def _read_set(text: str, found: re.Match[str]) -> Action:
    field = _SETTABLE.get(found[3])
    if field is None:
        return Opaque(text)
    try:
        value = NOTATION[field].read(found[1])
        mask = NOTATION[field].read_mask(found[2]) if found[2] else 0
    except ValueError:
        return Opaque(text)
    full = (1 << WIDTH[field]) - 1
    return SetField(field, value & (mask or full), 0 if mask == full else mask)


def _read_ct(text: str) -> Action:
    """Only what the model can say; NAT, helpers, labels and forced commits stay text."""
    zone: int | str = 0
    commit, table, mark = False, None, None
    for part in split(text[3:-1]):
        if part == "commit":
            commit = True
        elif part.startswith("table=") and part[6:].isdigit():
            table = int(part[6:])
        elif part.startswith("zone="):
            zone = int(part[5:]) if part[5:].isdigit() else part[5:]
        elif found := _CT_MARK.fullmatch(part):
            mark = number(found[1])
        elif part:
            return Opaque(text)
    return Ct(zone, commit, table, mark)


def _show(action: Action) -> str:  # noqa: PLR0911 - one line for each action there is
    match action:
        case Resubmit(table):
            return f"resubmit(,{table})"
        case SetField(field, value, mask):
            return _show_set(field, value, mask)
        case Conjunction(number, clause, clauses):
            return f"conjunction({number},{clause}/{clauses})"
        case Output(port):
            return "LOCAL" if port == LOCAL else f"output:{port}"
        case Ct():
            return _show_ct(action)
        case PushVlan(tag):
            return f"{_PUSH},set_field:{0x1000 | tag}->vlan_vid"
        case CtClear():
            return "ct_clear"
        case Normal():
            return "NORMAL"
        case PopVlan():
            return "pop_vlan"
        case Opaque(text):
            return text


def _show_set(field: str, value: int, mask: int) -> str:
    show = NOTATION[field].show
    if not mask:
        return f"set_field:{show(value)}->{_SET_NAME[field]}"
    first, last = (mask & -mask).bit_length() - 1, mask.bit_length() - 1
    if field.startswith("reg") and mask >> first == (1 << (last - first + 1)) - 1:
        run = f"{first}..{last}" if last > first else f"{first}"
        return f"load:{NOTATION[field].show(value >> first)}->NXM_NX_{field.upper()}[{run}]"
    return f"set_field:{show(value)}/{show(mask)}->{_SET_NAME[field]}"


def _show_ct(action: Ct) -> str:
    parts = ["commit"] * action.commit
    if action.table is not None:
        parts.append(f"table={action.table}")
    if action.zone != 0:
        parts.append(f"zone={action.zone}")
    if action.mark is not None:
        parts.append(f"exec(set_field:{NOTATION['ct_mark'].show(action.mark)}->ct_mark)")
    return f"ct({','.join(parts)})"
