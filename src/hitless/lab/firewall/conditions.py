"""Whether a condition of a firewall scenario holds, and what was seen instead.

Four witnesses: the switch (its tables, its connections, its announcements), the agent's status file, its log, and what
the traffic counted. Every answer comes with the observation, for a refuted expectation must explain itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import msgspec

from hitless.core.model.flow import Flow
from hitless.lab.conditions import Finding
from hitless.lab.firewall import scenario as s
from hitless.lab.firewall.agent import FirewallAgent
from hitless.lab.firewall.bridge import Bridge
from hitless.lab.firewall.streams import StreamResult


class Witnesses(msgspec.Struct, kw_only=True):
    """Where the answers come from.

    `flow_mods` counts since the last start of the agent. `noted` are flows as they were. `superseded` is the
    generation that was in force before the documents changed last. `members` are the streams of a name. `snapshot` and
    `arrived` are for streams that run; `counted` is filled in when they have stopped.
    """

    agent: FirewallAgent
    bridge: Bridge
    flow_mods: Callable[[], int]
    snapshot: Callable[[], tuple[StreamResult, ...]]
    members: Callable[[str], tuple[str, ...]]
    noted: dict[s.Whose, frozenset[Flow]]
    superseded: str = ""
    arrived: dict[str, tuple[int, int]] = {}
    counted: Mapping[str, float] = {}


def find(condition: s.Condition, witnesses: Witnesses) -> Finding:  # noqa: PLR0911 - one flat case per condition
    """Look now."""
    agent = witnesses.agent
    match condition:
        case s.Settled():
            return _settled(witnesses)
        case s.Exited():
            return Finding(not agent.running, "it runs" if agent.running else "it is gone")
        case s.Logged():
            return _logged(condition, agent)
        case s.Standing(code=code):
            status = agent.status()
            codes = sorted(each.code for each in status.conditions) if status else []
            holds = status is not None and (code in codes if code else not codes)
            return Finding(holds, ", ".join(codes) or ("no condition" if status else "no status yet"))
        case s.Flowing(names=names):
            return _flowing(witnesses, names)
        case s.AsNoted(whose=whose):
            return _as_noted(witnesses, whose)
        case s.Compared():
            observed = _number(condition, witnesses)
            return Finding(condition.holds(observed), "unknown" if math.isnan(observed) else f"{observed:g}")


def _settled(witnesses: Witnesses) -> Finding:
    status = witnesses.agent.status()
    if status is None:
        return Finding(False, "the agent has said nothing yet" if witnesses.agent.running else "no agent runs")
    fresh = status.generation != witnesses.superseded
    codes = ", ".join(each.code for each in status.conditions)
    what = f"generation {status.generation or '-'}{'' if fresh else ', the one before the change'}"
    return Finding(status.settled and fresh, f"{what}, {'' if status.settled else 'not '}settled {codes}".strip())


def _logged(condition: s.Logged, agent: FirewallAgent) -> Finding:
    for event in agent.said(condition.event):
        if condition.code in ("", event.fields.get("code"), event.fields.get("step")):
            return Finding(True, f"{event.event} at {event.monotonic:.3f} s")
    words = ", ".join(dict.fromkeys(each.event for each in agent.log.this_life()))
    return Finding(False, f"it has said: {words or 'nothing'}")


def _flowing(witnesses: Witnesses, names: str) -> Finding:
    """Both directions have moved since the last look, which may have been long ago: so look at least twice."""
    wanted = set(witnesses.members(names))
    now = {each.name: (each.delivered, each.replied) for each in witnesses.snapshot() if each.name in wanted}
    before, witnesses.arrived = witnesses.arrived, now
    still = [name for name, counts in now.items() if name not in before or not _moved(before[name], counts)]
    return Finding(not still, f"nothing both ways on {', '.join(still)}" if still else f"{len(now)} streams flow")


def _moved(before: tuple[int, int], now: tuple[int, int]) -> bool:
    return now[0] > before[0] and now[1] > before[1]


def _as_noted(witnesses: Witnesses, whose: s.Whose) -> Finding:
    if whose not in witnesses.noted:
        return Finding(False, "nothing was noted; `note flows` or `foreign place` comes first")
    now, noted = witnesses.bridge.ours() if whose == "ours" else witnesses.bridge.foreign(), witnesses.noted[whose]
    more, less = len(now - noted), len(noted - now)
    return Finding(not more and not less, f"{len(now)} flows, {more} new or changed, {less} gone")


def _number(condition: s.Compared, witnesses: Witnesses) -> float:  # noqa: PLR0911 - one flat case per metric
    match condition.metric:
        case "flow_mods":
            return float(witnesses.flow_mods())
        case "flows":
            return float(len(witnesses.bridge.ours()))
        case "orphans":
            return float(witnesses.bridge.orphans())
        case "marks":
            return float(witnesses.bridge.marked())
        case "cut":
            return float(cut(witnesses.agent))
        case "ports":
            status = witnesses.agent.status()
            return math.nan if status is None else float(len(status.ports))
        case metric:
            return witnesses.counted.get(f"{metric} {condition.of}".strip(), math.nan)


def cut(agent: FirewallAgent) -> int:
    """Connections that the agent says it made the switch forget, in all its lives."""
    return sum(int(event.fields.get("count", 0)) for event in agent.said("connections-cut", ever=True))
