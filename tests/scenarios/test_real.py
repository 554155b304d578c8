"""Every scenario that comes with the program, on a real kernel: its own expectations decide.

They share guests, one for each of two CPUs: see `hitless.lab.guests`. A test waits for its scenario, in whatever order
they are played.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from hitless.lab import scenarios
from hitless.lab.guests import Guests
from hitless.lab.report import to_text

pytestmark = pytest.mark.scenario

LIMIT_SECONDS = 300.0  # many times what any of them takes; a run that hangs must end
GUESTS = min(2, len(os.sched_getaffinity(0)))  # each has one CPU, and some scenarios fill it


@pytest.fixture(scope="module")
def guests(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guests]:
    """The guests that play what was selected, no more."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and "name" in item.callspec.params
    ]
    results = tmp_path_factory.mktemp("scenarios")
    with Guests(wanted, results=results, count=min(GUESTS, len(wanted)), limit_seconds=LIMIT_SECONDS) as guests:
        yield guests


@pytest.mark.parametrize("name", scenarios.names())
def test_scenario(name: str, guests: Guests) -> None:
    outcome = guests.outcome(name)
    assert not outcome.trouble, outcome.trouble
    assert outcome.report is not None
    assert (outcome.status, outcome.report.ok) == (0, True), to_text(outcome.report)
