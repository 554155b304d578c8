"""What a run showed: one frozen document, as JSON for machines and as plain tables for people.

`sent`, `lost`, `duplicated`, `reordered` are sums over the pairs that must arrive; `leaked` over those that must not.
A run is `ok` when every expectation held, the probes missed nothing themselves - and there was an expectation at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec

from hitless.lab.probe.capture import EspUse, Sighting
from hitless.lab.probe.counters import NodeErrors, sum_errors
from hitless.lab.probe.judge import Verdict
from hitless.lab.probe.tcp import TcpResult
from hitless.lab.probe.udp import LossMark, PairResult


class Expectation(msgspec.Struct, frozen=True):
    """One line of the scenario: what was expected, whether it held, and what was seen."""

    text: str
    held: bool
    seen: str = ""


class Report(msgspec.Struct, frozen=True):
    """One run. `kernel` is its release; `xfrm_errors` sums the counters over the nodes, without those that stood still.

    `overruns` and `capture_dropped` are packets that the probes themselves missed; `skipped` were due but never sent.
    """

    scenario: str
    kernel: str
    ok: bool
    duration_seconds: float
    sent: int
    received: int
    lost: int
    refused: int
    duplicated: int
    reordered: int
    leaked: int
    plaintext: int
    xfrm_errors: Mapping[str, int]
    expectations: tuple[Expectation, ...]
    pairs: tuple[PairResult, ...]
    nodes: tuple[NodeErrors, ...]
    streams: tuple[TcpResult, ...] = ()
    esp_packets: int = 0
    esp: tuple[EspUse, ...] = ()
    loss_marks: tuple[LossMark, ...] = ()
    plaintext_examples: tuple[Sighting, ...] = ()
    overruns: int = 0
    capture_dropped: int = 0
    skipped: int = 0
    pictures: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def build(
    scenario: str,
    kernel: str,
    verdict: Verdict,
    expectations: Sequence[Expectation],
    pictures: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Report:
    """The report of a finished run, from what the probes saw and what the scenario expected."""
    udp, capture = verdict.udp, verdict.capture
    return Report(
        scenario=scenario,
        kernel=kernel,
        ok=bool(expectations) and all(e.held for e in expectations) and verdict.trustworthy,
        duration_seconds=udp.duration_seconds,
        sent=udp.total("sent"),
        received=udp.total("received"),
        lost=udp.total("lost"),
        refused=udp.total("refused"),
        duplicated=udp.total("duplicated"),
        reordered=udp.total("reordered"),
        leaked=udp.leaked,
        plaintext=capture.plaintext,
        xfrm_errors=sum_errors(verdict.nodes),
        expectations=tuple(expectations),
        pairs=udp.pairs,
        nodes=verdict.nodes,
        streams=verdict.tcp,
        esp_packets=capture.esp_packets,
        esp=capture.esp,
        loss_marks=udp.loss_marks,
        plaintext_examples=capture.examples,
        overruns=udp.overruns,
        capture_dropped=capture.dropped,
        skipped=udp.skipped,
        pictures=tuple(pictures),
        notes=tuple(notes),
    )


def to_json(report: Report) -> bytes:
    """The document, indented, with a line end."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def from_json(document: bytes) -> Report:
    """Raises msgspec.ValidationError for anything that is not a report."""
    return msgspec.json.decode(document, type=Report)


def to_text(report: Report) -> str:
    """The report for people: the verdict first, then what failed, then the tables."""
    parts = [_headline(report)]
    if report.expectations:
        rows = [("ok" if e.held else "FAILED", e.text, e.seen) for e in report.expectations]
        parts.append(table(("", "expected", "seen"), rows))
    parts.append(_doubts(report))
    parts.append(_pair_table(report))
    if report.streams:
        streams = [
            (s.pair, f"{s.sent_bytes:,}", f"{s.received_bytes:,}", str(s.resets), f"{s.longest_stall_ms:.1f}")
            for s in report.streams
        ]
        parts.append(table(("tcp stream", "sent bytes", "received", "resets", "stall ms"), streams))
    errors = [(n.node, name, f"+{count}") for n in report.nodes for name, count in sorted(n.xfrm_errors.items())]
    parts.append(table(("node", "xfrm error", ""), errors) if errors else "")
    parts.append(_leaks(report))
    parts.extend(report.notes)
    parts.append("\n".join(f"picture: {path}" for path in report.pictures))
    return "\n\n".join(part for part in parts if part) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns padded with spaces; a column whose cells are all numbers is set to the right."""
    columns = list(zip(head, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    right = [bool(rows) and all(_is_number(cell) for cell in column[1:]) for column in columns]
    lines = []
    for row in (head, *rows):
        cells = [c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "", 1).lstrip("+-").isdigit()


def _headline(report: Report) -> str:
    failed = sum(1 for e in report.expectations if not e.held)
    if report.ok:
        result = "passed"
    elif failed:
        result = f"FAILED: {failed} of {len(report.expectations)} expectations did not hold"
    elif not report.expectations:
        result = "FAILED: the scenario expected nothing, so nothing was shown"
    else:
        result = "FAILED: the probes missed packets themselves, so nothing was shown"
    errors = sum(report.xfrm_errors.values())
    return (
        f"{report.scenario}: {result}\n"
        f"kernel {report.kernel}, {report.duration_seconds:.1f} s: {report.sent:,} sent, {report.lost:,} lost, "
        f"{report.duplicated:,} duplicated, {report.reordered:,} reordered, {report.leaked:,} leaked, "
        f"{report.plaintext:,} in plaintext, {errors:,} xfrm errors"
    )


def _doubts(report: Report) -> str:
    """What limits the word of the probes; nothing, usually."""
    doubts = []
    if report.overruns:
        doubts.append(f"the receiving probes dropped {report.overruns:,} packets themselves: `lost` blames wrongly")
    if report.capture_dropped:
        doubts.append(f"the capture missed {report.capture_dropped:,} packets: `plaintext` may be too low")
    if report.skipped:
        doubts.append(f"{report.skipped:,} packets were due but never sent: the probe was starved of CPU time")
    return "\n".join(f"note: {doubt}" for doubt in doubts)


def _pair_table(report: Report) -> str:
    head = ("pair", "sent", "lost", "refused", "dup", "reord", "leaked", "silence ms", "p50", "p99", "max ms")
    rows = [
        (
            f"{p.pair} (forbidden)" if p.forbidden else p.pair,
            *(f"{n:,}" for n in (p.sent, p.lost, p.refused, p.duplicated, p.reordered, p.leaked)),
            f"{p.longest_silence_ms:.1f}",
            *(f"{ms:.2f}" for ms in (p.latency_p50_ms, p.latency_p99_ms, p.latency_max_ms)),
        )
        for p in report.pairs
    ]
    return table(head, rows) if rows else ""


def _leaks(report: Report) -> str:
    if not report.plaintext_examples:
        return ""
    rows = [
        (f"{s.monotonic:.3f}", f"n{s.link}", f"{s.src} port {s.sport}", f"{s.dst} port {s.dport}", str(s.protocol))
        for s in report.plaintext_examples
    ]
    return "in plaintext, the first:\n" + table(("seconds", "link", "from", "to", "protocol"), rows)
