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
from hitless.drivers.ovs.fields import LAST_PORT, LOCAL, NOTATION, number

_CACHED: Final = 200_000  # action lists; a bridge of 100,000 flows has a few ten thousand different ones

_SETTABLE: Final = {
    **{f"reg{index}": f"reg{index}" for index in range(8)},
    **{name: name for name in ("pkt_mark", "tun_id", "metadata")},
    "eth_src": "dl_src", "eth_dst": "dl_dst",
}  # fmt: skip
_SET_NAME: Final = {field: name for name, field in _SETTABLE.items()}
_SET_ALIASES: Final = _SETTABLE | {"dl_src": "dl_src", "dl_dst": "dl_dst", "tunnel_id": "tun_id"}

_RESUBMIT: Final = re.compile(r"resubmit\(,(\d+)\)")
LAST_TABLE: Final = 254  # 255 is no table: resubmit takes it for this one, ct for none
_CLAUSES: Final = range(2, 65)
_CONJUNCTION: Final = re.compile(r"conjunction\((\d+),(\d+)/(\d+)\)")
_OUTPUT: Final = re.compile(r"(?:output:)?(\d+)|output:((?:NXM|OXM)_[A-Z_0-9]+\[(?:(\d+)(?:\.\.(\d+))?)?\])")
# ovs-actions(7), those that may be met as text; of the others only what is malformed is.
_KNOWN: Final = frozenset({
    "in_port", "table", "flood", "all", "controller", "enqueue", "bundle", "bundle_load", "group", "push_vlan",
    "push_mpls", "pop_mpls", "encap", "decap", "mod_vlan_vid", "mod_vlan_pcp", "set_vlan_vid", "set_vlan_pcp",
    "mod_dl_src", "mod_dl_dst", "mod_nw_src", "mod_nw_dst", "mod_nw_tos", "mod_nw_ecn", "mod_nw_ttl", "mod_tp_src",
    "mod_tp_dst", "dec_ttl", "dec_nsh_ttl", "set_mpls_label", "set_mpls_tc", "set_mpls_ttl", "dec_mpls_ttl",
    "set_field", "load", "move", "push", "pop", "set_tunnel", "set_tunnel64", "set_queue", "pop_queue",
    "fin_timeout", "resubmit", "learn", "multipath", "note", "exit", "sample", "ct", "clone", "check_pkt_larger",
    "delete_field", "goto_table", "meter", "clear_actions", "write_actions", "write_metadata", "debug_recirc",
    "debug_slow",
})  # fmt: skip
_NAME: Final = re.compile(r"[A-Za-z_0-9]+(?=[:(]|$)")
_CT_NUMBERS: Final = re.compile(r"^ct\((?:.*,)?(?:zone=(\d{5,})|table=(\d{3,}))(?=[,)])")
_LAST_ZONE: Final = 0xFFFF
_ZONE: Final = re.compile(r"\w+\[(\d+)\.\.(\d+)\]")
_SET: Final = re.compile(r"set_field:([^/>]+)(?:/([^>]+))?->([a-z_0-9]+)")
# What a dump makes of set_field with a mask: one load for each run of bits.
_LOAD: Final = re.compile(r"load:(\w+)->NXM_NX_REG([0-7])\[(\d+)(?:\.\.(\d+))?\]")
_CT_MARK: Final = re.compile(r"exec\(set_field:(\w+)->ct_mark\)")
_REG: Final = re.compile(r"NXM_NX_REG(?:[0-9]|1[0-5])\[")
_BITS: Final = (1 << 32) - 1
_PUSH: Final = "push_vlan:0x8100"
_VID: Final = re.compile(r"set_field:(\d+)->vlan_vid")
_WORDS: Final[dict[str, Action]] = {
    "ct_clear": CtClear(), "NORMAL": Normal(), "pop_vlan": PopVlan(), "strip_vlan": PopVlan(), "LOCAL": Output(LOCAL),
    "normal": Normal(), "local": Output(LOCAL), "output:LOCAL": Output(LOCAL), "output:NORMAL": Normal(),
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


def is_malformed(text: str) -> bool:
    """Whether what was kept as Opaque is no action at all, or one that the model has with a value that does not fit."""
    name = _NAME.match(text)
    if text.startswith("output("):
        return False
    if name is None or name[0].lower() not in _KNOWN or text.count("(") != text.count(")"):
        return True
    if found := _SET.fullmatch(text):
        return found[3] in _SET_ALIASES
    if found := _CT_NUMBERS.search(text):
        return int(found[1] or 0) > _LAST_ZONE or int(found[2] or 0) > LAST_TABLE
    return _LOAD.fullmatch(text) is not None or name[0] == "set_field" or _RESUBMIT.fullmatch(text) is not None


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
        return Resubmit(int(found[1])) if int(found[1]) <= LAST_TABLE else Opaque(text)
    if found := _CONJUNCTION.fullmatch(text):
        number_, clause, clauses = map(int, found.groups())
        fits = number_ <= _BITS and 1 <= clause <= clauses and clauses in _CLAUSES
        return Conjunction(number_, clause, clauses) if fits else Opaque(text)
    if found := _OUTPUT.fullmatch(text):
        return _read_output(text, found)
    if text.startswith("ct(") and text.endswith(")"):
        return _read_ct(text)
    if found := _SET.fullmatch(text):
        return _read_set(text, found)
    if found := _LOAD.fullmatch(text):
        return _read_load(text, found)
    return Opaque(text)


def _read_output(text: str, found: re.Match[str]) -> Action:
    if port := found[1]:
        return Output(int(port)) if int(port) <= LAST_PORT or int(port) == LOCAL else Opaque(text)
    last = int(found[4] or found[3] or 0)
    return Opaque(text) if last < int(found[3] or 0) or (last > 31 and _REG.match(found[2])) else Output(found[2])


def _read_load(text: str, found: re.Match[str]) -> Action:
    first = int(found[3])
    bits = int(found[4] or first) - first + 1
    value = number(found[1])
    if not (bits >= 1 and first + bits <= WIDTH["reg0"] and value >> bits == 0):
        return Opaque(text)
    return SetField(f"reg{found[2]}", value << first, ((1 << bits) - 1) << first)


def _read_set(text: str, found: re.Match[str]) -> Action:
    field = _SET_ALIASES.get(found[3])
    if field is None:
        return Opaque(text)
    try:
        value = NOTATION[field].read(found[1])
        mask = NOTATION[field].read_mask(found[2]) if found[2] else 0
    except ValueError:
        return Opaque(text)
    full = (1 << WIDTH[field]) - 1
    if value > full or mask > full or (found[2] and not mask):  # Open vSwitch leaves out what sets no bit
        return Opaque(text)
    return SetField(field, value & (mask or full), 0 if mask == full else mask)


def _read_ct(text: str) -> Action:
    """Only what the model can say; NAT, helpers, labels and forced commits stay text."""
    zone: int | str = 0
    commit, table, mark = False, None, None
    for part in split(text[3:-1]):
        if part == "commit":
            commit = True
        elif part.startswith("table=") and part[6:].isdigit() and int(part[6:]) <= LAST_TABLE:
            table = int(part[6:])
        elif part.startswith("zone=") and _is_zone(part[5:]):
            zone = int(part[5:]) if part[5:].isdigit() else part[5:]
        elif (found := _CT_MARK.fullmatch(part)) and number(found[1]) <= _BITS:
            mark = number(found[1])
        elif part:
            return Opaque(text)
    return Ct(zone, commit, table, mark)


def _is_zone(text: str) -> bool:
    """A number of 16 bits, or a subfield of 16."""
    if text.isdigit():
        return int(text) <= _LAST_ZONE
    found = _ZONE.fullmatch(text)
    return found is not None and int(found[2]) - int(found[1]) == 15


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
