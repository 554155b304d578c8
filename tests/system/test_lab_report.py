"""The report: sums, the verdict on the verdict, and a text that says the important thing first."""

from __future__ import annotations

import json

import msgspec
import pytest

from hitless.lab.probe.capture import CaptureResult, Sighting
from hitless.lab.probe.counters import NodeErrors
from hitless.lab.probe.judge import Verdict
from hitless.lab.probe.tcp import TcpResult
from hitless.lab.probe.udp import PairResult, UdpResult, quantile
from hitless.lab.report import Expectation, Report, build, from_json, table, to_json, to_text

HELD = Expectation("lost == 3", True, "3")
BROKEN = Expectation("plaintext == 0", False, "1")


def verdict(overruns: int = 0, dropped: int = 0) -> Verdict:
    pairs = (
        PairResult("c1>c2/4", sent=100, received=97, lost=3, refused=1, duplicated=2, longest_silence_ms=12.345),
        PairResult("c2>c1/4", sent=50, received=50, reordered=4, latency_p50_ms=0.1, latency_max_ms=9.0),
        PairResult("c1>c3/4", sent=10, received=1, leaked=1, forbidden=True),
    )
    example = Sighting(12.5, 2, "10.1.2.2", "10.1.1.2", 17, 4000, 7001)
    nodes = (NodeErrors("n1", {"XfrmInNoStates": 2}), NodeErrors("n2", {"XfrmInNoStates": 1, "XfrmInStateSeqError": 5}))
    return Verdict(
        UdpResult(pairs, overruns=overruns, duration_seconds=4.5),
        (TcpResult("c1>c2/4", 1_000_000, 1_000_000, 0, 31.0),),
        CaptureResult(plaintext=1, examples=(example,), plaintext_links=(2,), dropped=dropped),
        nodes,
    )


def test_sums_leave_forbidden_pairs_out() -> None:
    report = build("rotate", "6.1", verdict(), [HELD])
    assert (report.sent, report.received, report.lost, report.refused) == (150, 147, 3, 1)
    assert (report.duplicated, report.reordered, report.leaked, report.plaintext) == (2, 4, 1, 1)
    assert report.xfrm_errors == {"XfrmInNoStates": 3, "XfrmInStateSeqError": 5}
    assert report.ok


def test_the_document_has_its_agreed_top_level_and_reads_back() -> None:
    report = build("rotate", "6.1", verdict(), [HELD], pictures=["timeline.svg"])
    document = to_json(report)
    agreed = (
        "scenario kernel sent lost duplicated reordered leaked plaintext xfrm_errors duration_seconds pairs nodes "
        "expectations ok pictures"
    )
    assert set(agreed.split()) <= set(json.loads(document))
    assert from_json(document) == report
    with pytest.raises(msgspec.ValidationError):
        from_json(b"{}")


@pytest.mark.parametrize(
    ("report", "reason"),
    [
        (build("r", "6.1", verdict(), [HELD, BROKEN]), "1 of 2 expectations"),
        (build("r", "6.1", verdict(), []), "expected nothing"),
        (build("r", "6.1", verdict(overruns=1), [HELD]), "probes missed packets"),
        (build("r", "6.1", verdict(dropped=1), [HELD]), "probes missed packets"),
    ],
)
def test_a_run_that_shows_nothing_is_no_success(report: Report, reason: str) -> None:
    assert not report.ok
    first = to_text(report).splitlines()[0]
    assert "FAILED" in first
    assert reason in first


def test_the_text_names_what_broke() -> None:
    text = to_text(build("rotate", "6.1", verdict(dropped=7), [HELD, BROKEN], notes=["note: stopped early"]))
    lines = text.splitlines()
    assert "150 sent, 3 lost" in lines[1]
    assert any(line.split() == ["FAILED", "plaintext", "==", "0", "1"] for line in lines)
    assert any(line.split()[:4] == ["c1>c2/4", "100", "3", "1"] for line in lines)
    assert "c1>c3/4 (forbidden)" in text
    assert "the capture missed 7 packets" in text
    assert any(line.split() == ["n2", "XfrmInStateSeqError", "+5"] for line in lines)
    assert "10.1.2.2 port 4000" in text
    assert "note: stopped early" in text


def test_a_table_sets_numbers_right_and_words_left() -> None:
    assert table(("pair", "lost"), [("a", "1,000"), ("long", "2")]) == "pair   lost\na     1,000\nlong      2"


@pytest.mark.parametrize(
    ("share", "expected"), [(0.0, 1), (0.1, 1), (0.5, 5), (0.9, 9), (0.91, 10), (0.99, 10), (1.0, 10)]
)
def test_quantiles_are_nearest_rank(share: float, expected: int) -> None:
    assert quantile(range(1, 11), share) == expected
    assert quantile([], share) == 0
