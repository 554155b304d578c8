"""Whether a condition of a scenario holds, and what was seen instead.

Four witnesses: what the nodes publish (status), what the agents say (logs), what the kernels hold (`ip xfrm`), and
what the probes counted. Every answer comes with the observation, for a refuted expectation must explain itself.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from hitless.lab import security
from hitless.lab.agents import Agent
from hitless.lab.scenario import Compared, Condition, Exited, Lagging, Logged, Settled, Untouched


class Behind(Protocol):
    """A peer that holds a node back, as `telemetry.status` says it."""

    @property
    def peer(self) -> str: ...
    @property
    def reason(self) -> str: ...


class Status(Protocol):
    """What a node publishes about itself, as `telemetry.status` reads it."""

    @property
    def name(self) -> str: ...
    @property
    def generation(self) -> int: ...
    @property
    def phase(self) -> str: ...
    @property
    def laggards(self) -> Sequence[Behind]: ...


class Finding(msgspec.Struct, frozen=True):
    """Whether it holds, and what was observed, in words."""

    holds: bool
    observed: str


class Witnesses(msgspec.Struct, kw_only=True):
    """Where the answers come from. `traffic` is filled in when the probes have stopped.

    `arrivals` are the packets of a pair so far and the seconds since the last one; `foreign` says what became of
    other programs' objects, "" where nothing did.
    """

    agents: dict[str, Agent]
    statuses: Callable[[], Awaitable[Sequence[Status]]]
    kernel: Callable[[str], security.Security]
    changes: Callable[[str], int]
    least_generation: Callable[[], int]
    heartbeat: Callable[[str], Awaitable[bool | None]]
    arrivals: Callable[[str, str], tuple[int, float]]
    foreign: Callable[[], str]
    traffic: Mapping[str, float] = {}


async def find(condition: Condition, witnesses: Witnesses) -> Finding:
    """Look now."""
    match condition:
        case Settled(nodes=nodes):
            return _settled(nodes, witnesses, await witnesses.statuses())
        case Lagging(peer=peer, reason=reason):
            return _lagging(peer, reason, await witnesses.statuses())
        case Logged(node=node):
            return _logged(condition, witnesses.agents[node])
        case Exited(node=node):
            running = witnesses.agents[node].running
            return Finding(not running, f"{node} {'runs' if running else 'does not run'}")
        case Untouched():
            changed = witnesses.foreign()
            return Finding(not changed, changed or "as they were")
        case Compared():
            value = await _number(condition, witnesses)
            return Finding(condition.holds(value), "unknown" if math.isnan(value) else f"{value:g}")


def _settled(nodes: Sequence[str], witnesses: Witnesses, statuses: Sequence[Status]) -> Finding:
    """Steady, at the newest key that was handed out, nobody behind - said by processes that run now."""
    wanted = set(nodes) or {name for name, agent in witnesses.agents.items() if agent.running}
    by_name = {status.name: status for status in statuses if status.name in wanted}
    complaints = [f"{name} runs but has published nothing" for name in sorted(wanted - by_name.keys())]
    least = witnesses.least_generation()
    for name, status in sorted(by_name.items()):
        if not witnesses.agents[name].has_caught_up():
            complaints.append(f"{name} is still starting")
        elif status.phase != "steady" or status.generation < least or status.laggards:
            behind = ", ".join(f"{each.peer} ({each.reason})" for each in status.laggards)
            complaints.append(f"{name}: {status.phase}, key {status.generation} of {least}, behind: {behind or '-'}")
    if not complaints and len({status.generation for status in by_name.values()}) > 1:
        complaints.append("the nodes are on different generations")
    return Finding(bool(wanted) and not complaints, "; ".join(complaints) or f"settled: {', '.join(sorted(wanted))}")


def _lagging(peer: str, reason: str, statuses: Sequence[Status]) -> Finding:
    seen = sorted({(each.peer, each.reason) for status in statuses for each in status.laggards})
    return Finding((peer, reason) in seen, ", ".join(f"{who} ({why})" for who, why in seen) or "nobody is behind")


def _logged(condition: Logged, agent: Agent) -> Finding:
    said = agent.log.this_life()
    for event in said:
        codes = ("", event.fields.get("code"), event.fields.get("reason"))
        if event.event == condition.event and condition.code in codes:
            return Finding(True, f"{event.event} at {event.monotonic:.3f} s")
    words = ", ".join(dict.fromkeys(each.event for each in said))
    return Finding(False, f"{agent.name} has said: {words or 'nothing'}")


async def _number(condition: Compared, witnesses: Witnesses) -> float:  # noqa: PLR0911 - one flat case per metric
    nodes = condition.nodes
    match condition.metric:
        case "keys":
            mine = _addresses(witnesses, nodes[0])
            theirs = _addresses(witnesses, nodes[1]) if len(nodes) == 2 else None
            return float(len(witnesses.kernel(nodes[0]).generations(mine, theirs)))
        case "sending":
            return security.one(witnesses.kernel(nodes[0]).sending(_addresses(witnesses, nodes[1])))
        case "writes":
            return float(witnesses.changes(nodes[0]) - witnesses.agents[nodes[0]].changes_before)
        case "heartbeat":
            beats = await witnesses.heartbeat(nodes[0])
            return math.nan if beats is None else float(beats)
        case "received":
            return float(witnesses.arrivals(nodes[0], nodes[1])[0])
        case "silence":
            return witnesses.arrivals(nodes[0], nodes[1])[1]
        case metric:
            return witnesses.traffic.get(" ".join((metric, *nodes)), 0.0 if metric.startswith("Xfrm") else math.nan)


def _addresses(witnesses: Witnesses, node: str) -> frozenset[str]:
    return frozenset(witnesses.agents[node].place.addresses)

