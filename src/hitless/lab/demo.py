"""The demonstration: the same change done right and done as it used to be, on a real kernel and a real switch.

First keys that rotate, then a firewall's agent that restarts. Each part ends with a historic mistake and its losses.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from hitless.lab.firewall import outer as firewall
from hitless.lab.firewall.report import FirewallReport
from hitless.lab.kernel import Preference
from hitless.lab.outer import run_scenario
from hitless.lab.report import Report

R = TypeVar("R", Report, FirewallReport)


class Act(msgspec.Struct, Generic[R], frozen=True):
    """One scenario of the demonstration, and how its outcome is said. `tell` gets the report."""

    scenario: str
    opening: str
    tell: Callable[[R], str]


def _rotation(report: Report) -> str:
    seconds = report.duration_seconds
    return (
        f"3 nodes, 20 rotations in {seconds:.0f} s, {report.sent:,} packets, {report.lost:,} lost, "
        f"{report.plaintext:,} in plaintext, {sum(report.xfrm_errors.values()):,} kernel errors"
    )


def _restart(report: Report) -> str:
    writes = [each.seen for each in report.expectations if "expect writes" in each.text]
    return (
        f"agents restarted {len(writes)} times with nothing changed: {report.lost:,} lost of {report.sent:,}, "
        f"netlink writes: {', '.join(writes)}"
    )


def _replay(report: Report) -> str:
    errors = ", ".join(f"{name} {count:,}" for name, count in sorted(report.xfrm_errors.items())) or "no kernel errors"
    return f"the same with keys advertised first: {report.lost:,} lost of {report.sent:,} ({errors})"


def _unchanged(report: FirewallReport) -> str:
    return (
        f"restart of the firewall agent under {_connections(report)} connections, {report.flows:,} flows: "
        f"{report.broken} broken, {report.lost:,} lost of {report.sent:,}, {report.flow_mods} flow-mods"
    )


def _piecewise(report: FirewallReport) -> str:
    return (
        f"the same written piecewise: {report.broken} broken, {report.lost:,} lost of {report.sent:,}, "
        f"{report.flow_mods:,} flow-mods"
    )


def _connections(report: FirewallReport) -> int:
    return sum(each.replied > 0 for each in report.streams)


ACTS = (
    Act("rotate", "Twenty keys, one after the other, while six streams of numbered packets run ...", _rotation),
    Act("restart-unchanged", "Agents stopped and started again under the same load ...", _restart),
    Act("replay-advertise-first", "One key as it used to be done: announced before it is installed ...", _replay),
)


FIREWALL_ACTS = (
    Act("fw-restart", "The firewall's agent stopped, killed and started again with nothing changed ...", _unchanged),
    Act("replay-piecewise", "The same restart as it used to be written: port by port, a hundred flows at a time ...",
        _piecewise),
)  # fmt: skip


def play(say: Callable[[str], None], results: Path, kernel: Preference = "auto") -> int:
    """Play all acts; exit status 0 if every expectation of every act held. What is said goes through `say`."""
    told: list[str] = []
    held = True
    for act in ACTS:
        say(act.opening)
        place = results / act.scenario
        status, report = run_scenario(act.scenario, kernel=kernel, results=place)
        held = _tell(act, status, report, place, say, told) and held
    for each in FIREWALL_ACTS:
        say(each.opening)
        place = results / each.scenario
        status, found = firewall.run_scenario(each.scenario, results=place)
        held = _tell(each, status, found, place, say, told) and held
    say("")
    for line in told:
        say(line)
    say("")
    say(f"Reports, agents' logs and pictures are in {results}.")
    say("More scenarios: `hitless lab list`, then `hitless lab run NAME`; the firewall's are fw-... .")
    return 0 if held else 1


def _tell(
    act: Act[R], status: int, report: R | None, place: Path, say: Callable[[str], None], told: list[str]
) -> bool:
    """Say what came of an act, now and at the end; whether it was as expected."""
    if report is None:
        told.append(f"{act.scenario}: could not be carried out; its logs are in {place / 'logs'}")
        return False
    mark = "" if status == 0 else "   NOT AS EXPECTED, see report.txt there"
    told.append(act.tell(report) + mark)
    told.extend(f"    picture: {place / name}" for name in report.pictures)
    say(f"    {act.tell(report)}")
    return status == 0
