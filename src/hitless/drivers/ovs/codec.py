"""Flows as text: lines of `ovs-ofctl dump-flows` to values and back, exactly as Open vSwitch 3.1 prints them.

A dump of OpenFlow 1.4 with `--no-names --no-stats` is what the driver asks for; dumps with statistics, timeouts and
flags, of other versions, and lines a person wrote in another order are read too. Statistics are dropped. What stands
before the match (cookie, table, priority) is the same for many flows and is looked up as one piece.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import Final

from hitless.core.model.flow import Flow
from hitless.drivers.ovs.actions import read_actions, show_actions, split
from hitless.drivers.ovs.fields import number
from hitless.drivers.ovs.terms import NOT_MATCH, LooseOrderError, read_match, read_tokens, show_match
from hitless.ports import SwitchError

DEFAULT_PRIORITY: Final = 32768  # OFP_DEFAULT_PRIORITY; a dump leaves it out, like table 0 and cookie 0
_CACHED: Final = 200_000  # different beginnings of a line: cookies times priorities
HEADINGS: Final = ("OFPST_FLOW", "NXST_FLOW")


class FlowTextError(SwitchError):
    """A line that is no flow."""

    def __init__(self, line: str, reason: str) -> None:
        super().__init__("flow-text-invalid", f"not a flow: {line.strip()[:200]!r}: {reason}. Expected a line of "
                         "`ovs-ofctl --no-names dump-flows`")  # fmt: skip


class _Heads(dict[str, tuple[int, int, int]]):
    """Table, priority and cookie of what stands before the match."""

    def __missing__(self, text: str) -> tuple[int, int, int]:
        head = _read_head(text)
        if "duration=" not in text:  # with statistics no two lines begin alike
            if len(self) >= _CACHED:
                self.clear()
            self[text] = head
        return head


_HEADS: Final = _Heads()
_PRIORITIES: Final = {f"priority={each}": each for each in range(1 << 16)}


def parse(line: str) -> Flow:
    """One flow. Raises FlowTextError."""
    before, found, actions = line.partition("actions=")
    if not found:
        raise FlowTextError(line, "it has no actions=")
    at = before.find("priority=")
    end = before.find(",", at) if at >= 0 else before.rfind(", ")
    if end < 0 <= at:
        end = len(before)
    try:
        table, priority, cookie = _HEADS[before[: max(end, 0)].strip()]
        return Flow(table, priority, read_match(before[end + 1 :].strip(" ,")), read_actions(actions.strip()), cookie)
    except LooseOrderError:
        return _parse_loose(line, before, actions)
    except ValueError as error:
        raise FlowTextError(line, str(error)) from error


def parse_dump(text: str) -> tuple[Flow, ...]:
    """All flows of a dump, in its order; headings are passed over. Raises FlowTextError."""
    # Nothing here refers back to anything, so the collector of cycles would only walk the growing result in vain:
    # that is a third of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return tuple(_dumped(text.splitlines()))
    finally:
        if collecting:
            gc.enable()


def _dumped(lines: Iterable[str]) -> Iterator[Flow]:
    """The way of most lines, cut at the places where a dump has commas with and without a space."""
    heads, priorities = _HEADS, _PRIORITIES
    for line in lines:
        before, _, actions = line.partition(" actions=")
        head, _, match = before.rpartition(", ")
        tokens = match.split(",")
        try:
            priority = priorities[tokens[0]]
            table, _, cookie = heads[head]
            del tokens[0]
            flow = Flow(table, priority, read_tokens(tokens, "_pcp=" in match or "_ecn=" in match),
                        read_actions(actions), cookie)  # fmt: skip
        except (KeyError, ValueError, LooseOrderError):
            if "actions=" not in line and (not line.strip() or line.startswith(HEADINGS)):
                continue
            flow = parse(line)
        yield flow


def format_flow(flow: Flow) -> str:
    """The flow as a dump prints it with `--no-names --no-stats`, and as `ovs-ofctl add-flows` reads it."""
    table, priority, cookie = flow.table, flow.priority, flow.cookie
    match, actions = show_match(flow.match), show_actions(flow.actions)
    if table and cookie and match and priority != DEFAULT_PRIORITY:  # as nearly all of ours are
        return f"cookie={cookie:#x}, table={table}, priority={priority},{match} actions={actions}"
    head = (f"cookie={cookie:#x}, " if cookie else "") + (f"table={table}, " if table else "")
    if priority != DEFAULT_PRIORITY:
        match = f"priority={priority},{match}" if match else f"priority={priority}"
    return f"{head}{match}{' ' if match else ''}actions={actions}"


def format_key(flow: Flow) -> str:
    """Table, priority and match, all spelled out: in a delete, what is left out would mean any."""
    match = show_match(flow.match)
    return f"table={flow.table},priority={flow.priority}{',' if match else ''}{match}"


def _read_head(text: str) -> tuple[int, int, int]:
    found = {"table": 0, "priority": DEFAULT_PRIORITY, "cookie": 0}
    for part in text.replace(",", " ").split():
        name, equals, value = part.partition("=")
        if name not in NOT_MATCH:
            raise LooseOrderError
        if equals and name in found:
            found[name] = number(value)
    return found["table"], found["priority"], found["cookie"]


def _parse_loose(line: str, before: str, actions: str) -> Flow:
    """Words in any order, with commas or spaces between them, as in a file that a person wrote."""
    words = [word for part in split(before) for word in part.split()]
    head = [word for word in words if word.partition("=")[0] in NOT_MATCH]
    rest = [word for word in words if word.partition("=")[0] not in NOT_MATCH]
    try:
        table, priority, cookie = _read_head(",".join(head))
        return Flow(table, priority, read_match(",".join(rest)), read_actions(actions.strip()), cookie)
    except ValueError as error:
        raise FlowTextError(line, str(error)) from error
