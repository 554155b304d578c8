"""A dump from a file, as `hitless verify` takes it: whole, and only what Open vSwitch prints.

A dump that was cut, or of which a part was chosen, describes another bridge, and about that one anything can be
proved. What can be told from the text alone is refused here: a file without a flow and without a heading (which a
failed command leaves), a last line without an end, one flow twice (two dumps in one file), ports by name. A cut exactly
between two lines cannot be told.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Final

from hitless.core.model.flow import Action, Flow, FlowKey
from hitless.drivers.ovs.actions import LAST_TABLE
from hitless.drivers.ovs.codec import HEADINGS, FlowTextError, parse_dump
from hitless.drivers.ovs.written import lacking, wrong_action, wrong_term

_COMMAND: Final = "`ovs-ofctl -O OpenFlow14 --no-names dump-flows BRIDGE`"
_LAST_PRIORITY: Final = 65535
_TIMEOUTS: Final = ("idle_timeout=", "hard_timeout=")

PARTIAL: Final = (
    "the dump has no flow of table 0, where every packet begins: it may be a part of the tables. Give all of what "
    f"{_COMMAND} prints"
)


class DumpError(Exception):
    """A file that is no whole dump; the message begins with its name. `code` is stable."""

    def __init__(self, where: str, message: str, code: str) -> None:
        super().__init__(f"{where}: {message}")
        self.code = code


def read_dump(text: str, source: str) -> tuple[Flow, ...]:
    """All flows; none for the dump of an empty bridge, which has a heading. Raises DumpError."""
    try:
        flows = parse_dump(text)
    except FlowTextError:
        for number, line in enumerate(text.splitlines(), 1):
            try:
                parse_dump(line)
            except FlowTextError as error:
                raise DumpError(f"{source}:{number}", str(error), error.code) from None
        raise
    if not flows and not any(line.startswith(HEADINGS) for line in text.splitlines()):
        raise DumpError(source, f"there is no flow in it, and no heading as in the dump of an empty bridge; give what "
                        f"{_COMMAND} prints; --no-stats leaves the heading out", "dump-empty")  # fmt: skip
    if not text.endswith("\n"):
        raise DumpError(source, "its last line has no end: it was cut; write it again, and look at what the command "
                        "says", "dump-cut")  # fmt: skip
    _check(flows, text, source)
    return flows


def is_partial(flows: Collection[Flow]) -> bool:
    """Whether there are flows and none where packets begin."""
    return bool(flows) and not any(each.table == 0 for each in flows)


def ends_by_itself(text: str) -> int:
    """How many flows of a dump have a timeout."""
    if not any(each in text for each in _TIMEOUTS):
        return 0
    return sum(any(each in line for each in _TIMEOUTS) for line in text.splitlines())


def _check(flows: Iterable[Flow], text: str, source: str) -> None:
    seen: dict[FlowKey, int] = {}
    judged: dict[tuple[Action, ...], str] = {}
    for at, flow in enumerate(flows):
        if flow.actions not in judged:
            judged[flow.actions] = wrong_action(flow.actions)
        if wrong := judged[flow.actions] or _wrong(flow):
            _refuse(text, at, source, wrong, "dump-not-understood")
        if (first := seen.setdefault(flow.key, at)) != at:
            _refuse(text, at, source, f"line {_line(text, first)} has the same table, priority and match: these are "
                    "two dumps, or no text that Open vSwitch prints; give one dump", "dump-flow-twice")  # fmt: skip


def _wrong(flow: Flow) -> str:
    if not (0 <= flow.priority <= _LAST_PRIORITY and 0 <= flow.table <= LAST_TABLE):
        return f"Open vSwitch has no table={flow.table}, priority={flow.priority}; give a dump as it prints it"
    last = ""
    for field, _, mask in flow.match:
        if not mask and (wrong := wrong_term(field)):
            return wrong
        if field == last:
            return f"`{field}` is said twice; give a dump as Open vSwitch prints it"
        last = field
    return lacking(flow.match)


def _refuse(text: str, at: int, source: str, message: str, code: str) -> None:
    raise DumpError(f"{source}:{_line(text, at)}", message, code)


def _line(text: str, at: int) -> int:
    """The number of the line of a flow, both in order."""
    flows = [number for number, line in enumerate(text.splitlines(), 1) if "actions=" in line]
    return flows[at]
