"""From the outside: a kernel is chosen, a scenario handed over, a report brought home; and the command line."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from hitless.cli.lab import app
from hitless.lab import grammar, lines, outer, report, scenarios
from hitless.lab.kernel import TIMED_OUT, LabError
from hitless.lab.probe.capture import CaptureResult
from hitless.lab.probe.judge import Verdict
from hitless.lab.probe.udp import UdpResult
from hitless.lab.scenario import ScenarioError


class StandInKernel:
    """Runs nothing: leaves a report as the inner runner would, and ends with a given status."""

    name = "stand-in"

    def __init__(self, status: int, held: bool | None) -> None:
        self._status, self._held = status, held
        self.argv: Sequence[str] = ()
        self.text = ""

    def run(self, argv: Sequence[str], *, results: Path, env: Mapping[str, str], timeout_seconds: float) -> int:
        assert (env, timeout_seconds > 0) == ({}, True)
        self.argv = argv
        self.text = Path(argv[argv.index("--inner") + 1]).read_text(encoding="utf-8")
        if self._held is not None:
            expectations = [report.Expectation("expect lost == 0", self._held, "0")]
            found = report.build("rotate", "6.1", Verdict(UdpResult(()), (), CaptureResult(), ()), expectations)
            (results / "report.json").write_bytes(report.to_json(found))
        return self._status

    def describe(self) -> str:
        return "no kernel"


def use(monkeypatch: pytest.MonkeyPatch, status: int, held: bool | None) -> StandInKernel:
    kernel = StandInKernel(status, held)
    monkeypatch.setattr(outer, "choose", lambda _: kernel)
    return kernel


@pytest.mark.parametrize(
    ("status", "held", "expected"),
    [(0, True, 0), (1, False, 1), (0, False, 1), (1, True, 1), (1, None, 1), (2, None, 2)],
)
def test_the_exit_status_needs_both_the_run_and_its_report(
    monkeypatch: pytest.MonkeyPatch, status: int, held: bool | None, expected: int
) -> None:
    use(monkeypatch, status, held)
    found_status, found = outer.run_scenario("rotate")
    assert found_status == expected
    assert (found is None) == (held is None)


def test_the_scenario_is_handed_over_as_text(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = use(monkeypatch, 0, True)
    outer.run_scenario("rotate", results=tmp_path / "results")
    assert kernel.text == scenarios.text("rotate")
    assert (tmp_path / "results" / "report.json").exists()


def test_an_earlier_report_is_never_taken_for_this_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    use(monkeypatch, 0, True)
    outer.run_scenario("rotate", results=tmp_path)
    use(monkeypatch, 1, None)
    assert outer.run_scenario("rotate", results=tmp_path) == (1, None)


def test_a_run_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, TIMED_OUT, None)
    with pytest.raises(LabError) as caught:
        outer.run_scenario("rotate", timeout_seconds=5.0)
    assert caught.value.code == "lab-timed-out"


def test_a_scenario_that_cannot_be_read_starts_no_kernel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = use(monkeypatch, 0, True)
    file = tmp_path / "bad.txt"
    file.write_text("title Bad\n---\nstrat all\n")
    with pytest.raises(ScenarioError):
        outer.run_scenario(str(file))
    assert kernel.argv == ()


# --- the command line -----------------------------------------------------------------------------------


def test_run_prints_the_report_and_ends_with_its_status(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, 1, False)
    done = CliRunner().invoke(app, ["run", "rotate", "-o", "json"])
    assert done.exit_code == 1
    assert report.from_json(done.stdout.encode()).ok is False
    assert "FAILED" in CliRunner().invoke(app, ["run", "rotate"]).stdout


def test_a_usage_error_is_a_sentence_with_a_code_and_status_two() -> None:
    for words in (["run", "no-such"], ["show", "no-such"]):
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 2
        assert "[scenario-unknown]" in done.stderr
        assert done.stdout == ""


def test_every_scenario_is_listed_and_can_be_shown() -> None:
    listed = CliRunner().invoke(app, ["list", "-o", "json"])
    names = [each["name"] for each in msgspec.json.decode(listed.stdout)]
    assert tuple(names) == (*scenarios.names(), *scenarios.firewall_names())
    assert all(name in CliRunner().invoke(app, ["list"]).stdout for name in names)
    shown = CliRunner().invoke(app, ["show", names[0]]).stdout
    assert grammar.parse(shown, source="shown", name=names[0]) == scenarios.find(names[0])


# --- lines to a guest -----------------------------------------------------------------------------------


def test_lines_arrive_in_order_and_the_end_of_input_is_quit(tmp_path: Path) -> None:
    lines.relay(io.StringIO("key new\n\n  ! ip netns  \n"), tmp_path)
    handed = [lines.taken(tmp_path, number) for number in range(5)]
    assert handed == ["key new", "", "! ip netns", "quit", None]
