"""What Open vSwitch does with one packet and given tables: look-ups, conjunctions, actions, recirculation.

`ct(table=)` ends a translation and begins another, which reads the tables anew: one packet can see two versions.

    >>> from hitless.core.model.flow import Output, exact
    >>> tables = Tables([Flow(0, 5, (exact("in_port", 1),), (Output(2),))])
    >>> evaluate([tables], {"in_port": 1}).ports
    frozenset({2})
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from hitless.core.model.flow import (
    NEW,
    TRK,
    WIDTH,
    Action,
    Ct,
    CtClear,
    Flow,
    Normal,
    Opaque,
    Output,
    PopVlan,
    PushVlan,
    Resubmit,
    SetField,
)
from hitless.core.verify.lookup import Found, Tables
from hitless.core.verify.packet import VLAN_PRESENT, Fields

__all__ = ["Found", "Tables", "Trail", "evaluate"]

NORMAL: Final = -1  # in the place of a port: the bridge's learning switch
MAX_DEPTH: Final = 64  # resubmits inside each other (ofproto-dpif-xlate.c, MAX_DEPTH); beyond, nothing is done
_MAX_PASSES: Final = 64  # a `ct(table=)` that leads to itself would never end
_VLAN_ID: Final = 0x0FFF
_SUBFIELD: Final = re.compile(
    r"(?:NXM_NX_|OXM_OF_)?(?P<field>REG\d+|METADATA)\[(?:(?P<low>\d+)(?:\.\.(?P<high>\d+))?)?\]", re.IGNORECASE
)
_CT_FIELDS: Final = ("ct_state", "ct_zone", "ct_mark", "ct_label")


class Step(msgspec.Struct, frozen=True):
    """One look-up of a pass."""

    table: int
    flow: Flow | None
    rivals: tuple[Flow | None, ...] = ()


class Pass(msgspec.Struct, frozen=True):
    """One translation, from table 0 or from where `ct(table=)` came back. `version` is which of the tables it saw."""

    version: int
    steps: tuple[Step, ...]
    too_deep: bool = False


class Sent(msgspec.Struct, frozen=True):
    """A packet that left: by a port, or NORMAL; `vlan` is its tag then, 0 for none."""

    port: int
    vlan: int = 0


class Commit(msgspec.Struct, frozen=True):
    """A connection that was entered or kept; `mark` None leaves the mark as it is."""

    zone: int
    mark: int | None = None


class Trail(msgspec.Struct, frozen=True):
    """Everything that happened to a packet. Nothing sent means dropped. `opaque`: actions that were not understood."""

    passes: tuple[Pass, ...]
    sent: tuple[Sent, ...] = ()
    commits: tuple[Commit, ...] = ()
    opaque: tuple[str, ...] = ()

    @property
    def ports(self) -> frozenset[int]:
        """Where it went, NORMAL included."""
        return frozenset(each.port for each in self.sent)

    @property
    def steps(self) -> tuple[Step, ...]:
        """All look-ups of all passes."""
        return tuple(step for each in self.passes for step in each.steps)


class Tracked(msgspec.Struct, frozen=True):
    """What conntrack says of a packet: ct_state (flags of core/model/flow.py) and the connection's mark."""

    state: int = TRK | NEW
    mark: int = 0


Tracker = Callable[[Fields, int], Tracked]
"""A packet and a zone to what `ct()` answers there."""


def all_new(_packet: Fields, _zone: int) -> Tracked:
    """Every packet is the first of its connection."""
    return Tracked()


def evaluate(
    versions: Sequence[Tables], packet: Fields, tracker: Tracker = all_new, *, table: int = 0
) -> Trail:
    """What becomes of a packet that enters at `table`.

    `versions`: the tables that the first translation sees, those after one recirculation, and so on; the last stays.
    """
    waiting = deque([_Translation(0, dict(packet), table)])
    done: list[_Translation] = []
    while waiting and len(done) < _MAX_PASSES:
        each = waiting.popleft()
        each.run(versions[min(each.version, len(versions) - 1)])
        for ct, zone, resumed in each.forks:
            resumed.track(ct, zone, tracker)
        waiting.extend(resumed for _, _, resumed in each.forks)
        done.append(each)
    return Trail(
        passes=tuple(Pass(each.version, tuple(each.steps), each.too_deep) for each in done),
        sent=tuple(one for each in done for one in each.sent),
        commits=tuple(one for each in done for one in each.commits),
        opaque=tuple(one for each in done for one in each.opaque),
    )


class _TooDeepError(Exception):
    """Resubmits lead into each other without end."""


class _Translation:
    """One pass over one version of the tables."""

    def __init__(self, version: int, fields: dict[str, int], table: int, inner: tuple[int, ...] = ()) -> None:
        self.version, self.too_deep = version, False
        self.steps: list[Step] = []
        self._fields, self._table = fields, table
        self._inner = [*inner]  # VLAN headers below the outer one
        self._forget()

    def _forget(self) -> None:
        self.sent: list[Sent] = []
        self.commits: list[Commit] = []
        self.opaque: list[str] = []
        self.forks: list[tuple[Ct, int, _Translation]] = []

    def run(self, tables: Tables) -> None:
        try:
            self._submit(tables, self._table, 0)
        except _TooDeepError:
            self.too_deep = True
            self._forget()  # an error in a translation drops the packet, whatever was done before

    def track(self, ct: Ct, zone: int, tracker: Tracker) -> None:
        """What conntrack says, before this pass begins."""
        answer = tracker(self._fields, zone)
        mark = ct.mark if ct.commit and ct.mark is not None else answer.mark
        self._fields |= {"ct_state": answer.state, "ct_zone": zone, "ct_mark": mark}

    def _submit(self, tables: Tables, table: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise _TooDeepError
        found = tables.lookup(table, self._fields)
        self.steps.append(Step(table, found.flow, found.rivals))
        for action in found.flow.actions if found.flow else ():
            if isinstance(action, Resubmit):
                self._submit(tables, action.table, depth + 1)
            else:
                self._act(action)

    def _act(self, action: Action) -> None:
        fields = self._fields
        match action:
            case SetField(field, value, mask):
                whole = mask or (1 << WIDTH[field]) - 1
                fields[field] = fields.get(field, 0) & ~whole | value & whole
            case Output(port):
                number = self._number(port)
                if number != fields.get("in_port", 0):  # a packet does not leave by the port it came in by
                    self._send(number)
            case Normal():
                self._send(NORMAL)
            case Ct():
                self._ct(action)
            case CtClear():
                self._untrack()
            case PushVlan(tag):
                self._inner.append(fields.get("vlan_tci", 0))
                fields["vlan_tci"] = VLAN_PRESENT | tag
            case PopVlan():
                fields["vlan_tci"] = self._inner.pop() if self._inner else 0
            case Opaque(text):
                self.opaque.append(text)
            case _:
                pass

    def _send(self, port: int) -> None:
        self.sent.append(Sent(port, self._fields.get("vlan_tci", 0) & _VLAN_ID))

    def _ct(self, ct: Ct) -> None:
        """Commit, and fork the pass that resumes; what follows `ct()` in this pass sees an untracked packet."""
        zone = self._number(ct.zone)
        if ct.commit:
            self.commits.append(Commit(zone, ct.mark))
        self._untrack()
        if ct.table is not None:
            resumed = _Translation(self.version + 1, dict(self._fields), ct.table, tuple(self._inner))
            self.forks.append((ct, zone, resumed))

    def _untrack(self) -> None:
        for field in _CT_FIELDS:
            self._fields.pop(field, None)

    def _number(self, of: int | str) -> int:
        if isinstance(of, int):
            return of
        field, low, mask = _subfield(of)
        return self._fields.get(field, 0) >> low & mask


@lru_cache
def _subfield(text: str) -> tuple[str, int, int]:
    """`NXM_NX_REG6[0..15]` or `reg6[0..15]` as field, lowest bit, mask; `[]` is all of it."""
    found = _SUBFIELD.fullmatch(text)
    if found is None:
        raise ValueError(f"no subfield of a register: {text}")
    field, low, high = found["field"].lower(), int(found["low"] or 0), found["high"] or found["low"]
    last = int(high) if high else WIDTH[field] - 1
    return field, low, (1 << (last - low + 1)) - 1
