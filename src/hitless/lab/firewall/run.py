"""`python -m hitless.lab.firewall.run --inner SCENARIO --results DIR`: a firewall scenario on this machine's switch.

Starts a private Open vSwitch with stations on it, carries out the scenario, and leaves in DIR: `report.json`,
`report.txt` and the logs of agent and switch. Documents, state and store live in a private directory that is removed.
Needs root. Exit status: 0 when its expectations hold, 1 when one does not, 2 for one that cannot be read.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from hitless.lab.firewall import grammar, report, world
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.runner import Runner
from hitless.lab.firewall.scenario import Scenario
from hitless.lab.kernel.face import LabError
from hitless.lab.ovs import OvsLabError
from hitless.lab.scenario import ScenarioError

_SWITCH_LOGS = ("ovs-vswitchd.log", "ovsdb-server.log", "traffic.log")


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, run, report; the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m hitless.lab.firewall.run", description="Run a firewall scenario on this machine."
    )
    parser.add_argument("--inner", required=True, type=Path, metavar="FILE", help="a scenario")
    parser.add_argument("--results", required=True, type=Path, metavar="DIR", help="where report and logs go")
    parser.add_argument("--quiet", action="store_true", help="print no report; the caller reads it")
    options = parser.parse_args(arguments)
    # An end by SIGTERM passes through every `finally`, so that nothing of the lab stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        found = run_here(grammar.load(options.inner), options.results)
    except ScenarioError as error:
        sys.stderr.write(f"hitless: {error} [{error.code}]\n")
        return 2
    except LabError as error:
        sys.stderr.write(f"hitless: {error} [{error.code}]\n")
        return 1
    except OvsLabError as error:
        sys.stderr.write(f"hitless: {error} [switch-failed]\n")
        return 1
    if not options.quiet:
        sys.stdout.write(report.to_text(found))
    return 0 if found.ok else 1


def run_here(scenario: Scenario, results: Path) -> report.FirewallReport:
    """Run on this machine; needs root. Everything but the results is removed. Raises LabError, OvsLabError."""
    logs = results / "logs"
    shutil.rmtree(logs, ignore_errors=True)  # an earlier run's, where the directory is used again
    logs.mkdir(parents=True)
    work = Path(tempfile.mkdtemp(prefix="hitless-fw-"))
    ground = FirewallGround(work / "switch", world.ground_ports(scenario), datapath=scenario.datapath)
    try:
        with ground:
            record = Runner(scenario, ground, work=work, logs=logs).run()
            switch = ground.switch.vsctl("--version").splitlines()[0].removeprefix("ovs-vsctl (").replace(")", "")
    finally:
        for name in _SWITCH_LOGS:
            if (work / "switch" / name).exists():
                shutil.copy(work / "switch" / name, logs)
        shutil.rmtree(work, ignore_errors=True)
    place = os.uname().release, f"{switch}, datapath {scenario.datapath}"
    found = report.build(scenario.name, place, record.counts, record.expectations, notes=[scenario.title])
    (results / "report.json").write_bytes(report.to_json(found))
    (results / "report.txt").write_text(report.to_text(found), encoding="utf-8")
    return found


if __name__ == "__main__":
    sys.exit(main())
