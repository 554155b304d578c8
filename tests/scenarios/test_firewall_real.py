"""Every firewall scenario that comes with the program, on a real switch: its own expectations decide.

Most of a scenario's time is waiting, for TCP above all, so two are played at once where there are two CPUs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from hitless.lab import scenarios
from hitless.lab.firewall import outer
from hitless.lab.firewall.report import FirewallReport, to_text

pytestmark = pytest.mark.scenario

LIMIT_SECONDS = 300.0  # many times what any of them takes; a run that hangs must end
AT_ONCE = min(2, len(os.sched_getaffinity(0)))

Played = tuple[int, FirewallReport | None]


@pytest.fixture(scope="module")
def played(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mapping[str, Future[Played]]]:
    """What was selected, no more."""
    wanted = [
        str(item.callspec.params["name"])
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and "name" in item.callspec.params
    ]
    results = tmp_path_factory.mktemp("firewall")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {
            name: pool.submit(outer.run_scenario, name, results=results / name, timeout_seconds=LIMIT_SECONDS)
            for name in sorted(wanted, key=_weight, reverse=True)
        }
        pool.shutdown(cancel_futures=True)


def _weight(name: str) -> tuple[bool, int, int]:
    """Longest first: the last to end is then a short one."""
    scenario = outer.read(name)[0]
    return scenario.datapath == "system", scenario.ports, len(scenario.steps)


@pytest.mark.parametrize("name", scenarios.firewall_names())
def test_scenario(name: str, played: Mapping[str, Future[Played]]) -> None:
    status, report = played[name].result()
    assert report is not None
    assert (status, report.ok) == (0, True), to_text(report)
