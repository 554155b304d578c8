"""The demonstration: the same rotation done right and done as it used to be, on a real kernel, with the losses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from hitless.lab.kernel import Preference
from hitless.lab.outer import run_scenario
from hitless.lab.report import Report


class Act(msgspec.Struct, frozen=True):
    """One scenario of the demonstration, and how its outcome is said. `tell` gets the report."""

    scenario: str
    opening: str
    tell: Callable[[Report], str]


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


ACTS = (
    Act("rotate", "Twenty keys, one after the other, while six streams of numbered packets run ...", _rotation),
    Act("restart-unchanged", "Agents stopped and started again under the same load ...", _restart),
    Act("replay-advertise-first", "One key as it used to be done: announced before it is installed ...", _replay),
)


def play(say: Callable[[str], None], results: Path, kernel: Preference = "auto") -> int:
    """Play all acts; exit status 0 if every expectation of every act held. What is said goes through `say`."""
    told: list[str] = []
    held = True
    for act in ACTS:
        say(act.opening)
        place = results / act.scenario
        status, report = run_scenario(act.scenario, kernel=kernel, results=place)
        held = held and status == 0
        if report is None:
            told.append(f"{act.scenario}: could not be carried out; its logs are in {place / 'logs'}")
            continue
        mark = "" if status == 0 else "   NOT AS EXPECTED, see report.txt there"
        told.append(act.tell(report) + mark)
        told.extend(f"    picture: {place / name}" for name in report.pictures)
        say(f"    {act.tell(report)}")
    say("")
    for line in told:
        say(line)
    say("")
    say(f"Reports, agents' logs and pictures are in {results}.")
    say("More scenarios: `hitless lab list`, then `hitless lab run NAME`.")
    return 0 if held else 1
