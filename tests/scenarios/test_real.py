"""Every scenario that comes with the program, on a real kernel: its own expectations decide."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitless.lab import scenarios
from hitless.lab.outer import run_scenario
from hitless.lab.report import to_text

pytestmark = pytest.mark.scenario

LIMIT_SECONDS = 900.0  # many times what any of them takes; a run that hangs must end


@pytest.mark.parametrize("name", scenarios.names())
def test_scenario(name: str, tmp_path: Path) -> None:
    status, report = run_scenario(name, results=tmp_path, timeout_seconds=LIMIT_SECONDS)
    assert report is not None, f"no report came back; see {tmp_path}"
    assert (status, report.ok) == (0, True), to_text(report)
