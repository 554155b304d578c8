"""A scenario from the outside: choose a kernel, run the scenario inside it, bring home what it left.

The kernel may be this machine's or a guest; either way the scenario runs as a process of its own
(`python -m hitless.lab.run`) that talks to us through the results directory only.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import msgspec

from hitless.lab import scenarios
from hitless.lab.kernel import TIMED_OUT, Preference, choose
from hitless.lab.kernel.face import LabError
from hitless.lab.report import Report, from_json


def run_scenario(
    name_or_path: str,
    *,
    kernel: Preference = "auto",
    results: Path | None = None,
    timeout_seconds: float = 900.0,
) -> tuple[int, Report | None]:
    """Run a scenario in a kernel that has ESP; exit status and report.

    0: its expectations hold; 1: one does not, or (with no report) it could not be carried out. Report, pictures and
    logs stay in `results`; without it they are in a temporary directory that is removed. Raises ScenarioError for a
    scenario that cannot be read, LabError `lab-timed-out` at the time limit, and what the kernel raises.
    """
    scenario = scenarios.find(name_or_path)  # complain here, not after a boot
    source = Path(name_or_path).read_text("utf-8") if _is_path(name_or_path) else scenarios.text(name_or_path)
    with ExitStack() as stack:
        place = results or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hitless-results-")))
        place.mkdir(parents=True, exist_ok=True)
        place = place.resolve()
        document = place / "report.json"
        document.unlink(missing_ok=True)  # never mistake an earlier run's report for this one's
        text = place / f"{scenario.name}.txt"
        text.write_text(source, encoding="utf-8")
        argv = [sys.executable, "-m", "hitless.lab.run", "--quiet", "--inner", str(text), "--results", str(place)]
        status = choose(kernel).run(argv, results=place, env={}, timeout_seconds=timeout_seconds)
        if status == TIMED_OUT:
            raise LabError(
                "lab-timed-out",
                f"{scenario.name} was stopped after {timeout_seconds:g} s; the agents' logs are in {place / 'logs'} "
                "(give --results to keep them). Allow more time, or look at which step it was in",
            )
        if not document.exists():
            return (2 if status == 2 else 1), None
        try:
            found = from_json(document.read_bytes())
        except msgspec.DecodeError:
            return 1, None
        return (0 if status == 0 and found.ok else 1), found


def _is_path(name_or_path: str) -> bool:
    return "/" in name_or_path or name_or_path.endswith(".txt")
