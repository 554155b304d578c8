"""A scenario from the outside: choose a kernel, run the scenario inside it, bring home what it left.

The kernel may be this machine's or a guest; either way the scenario runs as a process of its own
(`python -m hitless.lab.run`) that talks to us through the results directory only.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from hitless.lab import scenarios
from hitless.lab.kernel import TIMED_OUT, Preference, choose
from hitless.lab.kernel.face import Kernel, LabError
from hitless.lab.report import Report, from_json
from hitless.lab.scenario import Scenario

REPORT: Final = "report.json"


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
    scenario, source = read(name_or_path)  # complain here, not after a boot
    return play(scenario.name, source, choose(kernel), results, timeout_seconds)


class Told(Protocol):
    """A report of any kind."""

    @property
    def ok(self) -> bool: ...


R = TypeVar("R", bound=Told)


def play(
    name: str,
    source: str,
    kernel: Kernel,
    results: Path | None,
    timeout_seconds: float,
    module: str = "hitless.lab.run",
    decode: Callable[[bytes], R] = from_json,  # type: ignore[assignment]  # goes with the module
) -> tuple[int, R | None]:
    """Run a scenario's text in a kernel by a module that leaves a report. As `run_scenario` says."""
    with ExitStack() as stack:
        place = results or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hitless-results-")))
        place.mkdir(parents=True, exist_ok=True)
        place = place.resolve()
        (place / REPORT).unlink(missing_ok=True)  # never mistake an earlier run's report for this one's
        text = place / f"{name}.txt"
        text.write_text(source, encoding="utf-8")
        argv = [sys.executable, "-m", module, "--quiet", "--inner", str(text), "--results", str(place)]
        status = kernel.run(argv, results=place, env={}, timeout_seconds=timeout_seconds)
        if status == TIMED_OUT:
            raise LabError(
                "lab-timed-out",
                f"{name} was stopped after {timeout_seconds:g} s; the agents' logs are in {place / 'logs'} "
                "(give --results to keep them). Allow more time, or look at which step it was in",
            )
        return bring_home(place, status, decode)


def read(name_or_path: str) -> tuple[Scenario, str]:
    """A scenario and its text, by name or from a file. Raises ScenarioError."""
    scenario = scenarios.find(name_or_path)
    return scenario, Path(name_or_path).read_text("utf-8") if is_path(name_or_path) else scenarios.text(name_or_path)


def bring_home(
    place: Path, status: int, decode: Callable[[bytes], R] = from_json  # type: ignore[assignment]  # reports of nodes
) -> tuple[int, R | None]:
    """Exit status and report from what a run with this exit status left in a directory."""
    try:
        found = decode((place / REPORT).read_bytes())
    except FileNotFoundError:
        return (2 if status == 2 else 1), None
    except msgspec.DecodeError:
        return 1, None
    return (0 if status == 0 and found.ok else 1), found


def is_path(name_or_path: str) -> bool:
    """Whether a word names a file rather than a scenario that comes with the program."""
    return "/" in name_or_path or name_or_path.endswith(".txt")
