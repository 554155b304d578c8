"""What a firewall scenario showed: one frozen document, as JSON for machines and as plain tables for people.

`lost` are messages that had to pass and did not, `leaked` those that had to drop and arrived, `broken` connections on
which nothing came through any more at the end. A run is `ok` when every expectation held, the traffic threw nothing
away itself - and there was an expectation at all.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from hitless.lab.firewall.checker import Examined
from hitless.lab.firewall.checker import Finding as PairFinding
from hitless.lab.firewall.streams import Mark, StreamResult, TrafficResult
from hitless.lab.report import Expectation, table

_SILENT_SECONDS = 1.0  # streams that were silent for longer are shown


class FirewallReport(msgspec.Struct, frozen=True):
    """One run. `broken`, `cut`, `marks` count connections; times are seconds.

    `flow_mods` are those of the agent's last life, by the switch's own announcements. `dead_pairs_max` and
    `wrongly_open_max` are the worst of `tables` states of the tables that were seen: pairs of ports that the policy
    allowed throughout and that could not talk, and that it denied throughout and that could; of `pairs_asked`. They are
    lower bounds, as states between two samples were not seen: `longest_gap_seconds` apart.
    """

    scenario: str
    kernel: str
    switch: str
    ok: bool
    duration_seconds: float
    sent: int
    lost: int
    leaked: int
    broken: int
    cut: int
    marks: int
    flow_mods: int
    flows: int
    dead_pairs_max: int
    wrongly_open_max: int
    pairs_asked: int
    tables: int
    longest_gap_seconds: float
    longest_silence_seconds: float
    expectations: tuple[Expectation, ...]
    streams: tuple[StreamResult, ...]
    moments: tuple[Mark, ...] = ()
    pair_examples: tuple[PairFinding, ...] = ()
    overruns: int = 0
    own_stall_seconds: float = 0.0
    pictures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Counts(msgspec.Struct, frozen=True):
    """What is known when a run has ended. `passing` names the streams that must pass at the end."""

    traffic: TrafficResult
    pairs: Examined
    passing: frozenset[str]
    cut: int
    marks: int
    flow_mods: int
    flows: int


def build(scenario: str, place: tuple[str, str], counts: Counts, expectations: Sequence[Expectation],
          notes: Sequence[str] = ()) -> FirewallReport:  # fmt: skip
    """The report of a finished run; `place` is kernel and switch."""
    traffic, pairs = counts.traffic, counts.pairs
    silences = [each.longest_silence_seconds for each in traffic.streams if each.name in counts.passing]
    return FirewallReport(
        scenario=scenario,
        kernel=place[0],
        switch=place[1],
        ok=bool(expectations) and all(each.held for each in expectations) and not traffic.overruns,
        duration_seconds=traffic.duration_seconds,
        sent=sum(each.sent + each.answered for each in traffic.streams),
        lost=traffic.lost,
        leaked=traffic.leaked,
        broken=len(traffic.broken),
        cut=counts.cut,
        marks=counts.marks,
        flow_mods=counts.flow_mods,
        flows=counts.flows,
        dead_pairs_max=pairs.dead,
        wrongly_open_max=pairs.wrongly_open,
        pairs_asked=pairs.must_pass + pairs.must_drop,
        tables=pairs.tables,
        longest_gap_seconds=pairs.longest_gap_seconds,
        longest_silence_seconds=max(silences, default=0.0),
        expectations=tuple(expectations),
        streams=traffic.streams,
        moments=traffic.marks,
        pair_examples=pairs.examples,
        overruns=traffic.overruns,
        own_stall_seconds=traffic.own_stall_seconds,
        notes=tuple(notes),
    )


def to_json(report: FirewallReport) -> bytes:
    """The document, indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def from_json(document: bytes) -> FirewallReport:
    """Raises msgspec.ValidationError for anything that is not such a report."""
    return msgspec.json.decode(document, type=FirewallReport)


def to_text(report: FirewallReport) -> str:
    """The report for people: the verdict first, then what failed, then the streams that say something."""
    parts = [_headline(report)]
    if report.expectations:
        rows = [("ok" if each.held else "FAILED", each.text, each.seen) for each in report.expectations]
        parts.append(table(("", "expected", "seen"), rows))
    if report.overruns:
        parts.append(f"note: the traffic threw {report.overruns:,} messages away itself: `lost` blames wrongly")
    parts.append(_streams(report))
    parts.append(_pairs(report))
    parts.extend(report.notes)
    parts.extend(f"picture: {path}" for path in report.pictures)
    return "\n\n".join(part for part in parts if part) + "\n"


def _headline(report: FirewallReport) -> str:
    failed = sum(not each.held for each in report.expectations)
    result = "passed" if report.ok else f"FAILED: {failed} of {len(report.expectations)} expectations did not hold"
    if not report.ok and not failed:
        result = "FAILED: nothing was expected, or the traffic threw messages away itself, so nothing was shown"
    return (
        f"{report.scenario}: {result}\n"
        f"{report.switch}, {report.flows:,} flows, {report.duration_seconds:.1f} s, {len(report.streams)} streams: "
        f"{report.sent:,} sent, {report.lost:,} lost, {report.leaked:,} leaked, {report.broken:,} broken, "
        f"{report.cut:,} cut, {report.marks:,} marked, {report.flow_mods:,} flow-mods"
    )


def _streams(report: FirewallReport) -> str:
    """Those that lost, leaked, broke or were silent; that the others did not is said in one line."""
    head = ("stream", "sent", "arrived", "answered", "replied", "lost", "leaked", "silence s", "recovered s", "")
    told = [
        each for each in report.streams
        if each.lost or each.leaked or each.broken or (each.replied and each.longest_silence_seconds > _SILENT_SECONDS)
    ]  # fmt: skip
    rows = [
        (
            each.name,
            *(f"{n:,}" for n in (each.sent, each.delivered, each.answered, each.replied, each.lost, each.leaked)),
            f"{each.longest_silence_seconds:.2f}",
            "never" if each.recovered_after_seconds is None else f"{each.recovered_after_seconds:.2f}",
            "broken" if each.broken else "",
        )
        for each in told
    ]
    rest = f"{len(report.streams) - len(told)} streams lost nothing, leaked nothing and did not pause"
    return "\n\n".join(part for part in (table(head, rows) if rows else "", rest if report.streams else "") if part)


def _pairs(report: FirewallReport) -> str:
    if not report.tables:
        return ""
    return (
        f"of {report.pairs_asked:,} pairs of ports, in the worst of {report.tables} states of the tables: "
        f"{report.dead_pairs_max:,} dead, {report.wrongly_open_max:,} wrongly open"
    )
