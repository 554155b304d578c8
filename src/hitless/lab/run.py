"""`python -m hitless.lab.run --inner SCENARIO --results DIR`: a scenario on the kernel this runs on.

Builds the ground, carries out the scenario, and leaves in DIR: `report.json`, `report.txt`, `timeline.svg` and the
agents' logs. Keys, states and the store live in a private directory that is removed. Exit status: 0 when the
scenario's own expectations hold, 1 when one does not, 2 for a scenario that cannot be read or a usage error.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from hitless.lab import report, scenarios, timeline
from hitless.lab.ground import KernelGround, number
from hitless.lab.kernel.face import LabError
from hitless.lab.probe.capture import CaptureResult
from hitless.lab.probe.judge import Verdict
from hitless.lab.probe.udp import UdpResult
from hitless.lab.records import StoreRecords
from hitless.lab.runner import Record, Runner
from hitless.lab.scenario import Scenario, ScenarioError
from hitless.lab.storage import EtcdHome, FileHome, StoreHome
from hitless.stores.open import open_store

CLUSTER = "lab"


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, run, report; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m hitless.lab.run", description="Run a scenario on this kernel.")
    parser.add_argument("--inner", required=True, metavar="SCENARIO", help="name or path")
    parser.add_argument("--results", required=True, type=Path, metavar="DIR", help="where report and logs go")
    parser.add_argument("--quiet", action="store_true", help="print no report; the caller reads it")
    options = parser.parse_args(arguments)
    try:
        scenario = scenarios.find(options.inner)
    except ScenarioError as error:
        sys.stderr.write(f"hitless: {error} [{error.code}]\n")
        return 2
    # An end by SIGTERM passes through every `finally`, so that nothing of the lab stays behind.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        found = run_here(scenario, options.results)
    except LabError as error:
        sys.stderr.write(f"hitless: {error} [{error.code}]\n")
        return 1
    if not options.quiet:
        sys.stdout.write(report.to_text(found))
    return 0 if found.ok else 1


def run_here(scenario: Scenario, results: Path) -> report.Report:
    """Run on this kernel; needs root. Everything but the results is removed. Raises LabError."""
    results.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="hitless-lab-"))
    ground = KernelGround(scenario)
    began = time.monotonic()
    try:
        ground.up()
        with contextlib.closing(home_of(scenario, ground, work)) as home:
            record = asyncio.run(carry_out(scenario, ground, home, work=work, results=results))
    finally:
        ground.down()
        shutil.rmtree(work, ignore_errors=True)
    return _write(scenario, ground, record, results, time.monotonic() - began)


def home_of(scenario: Scenario, ground: KernelGround, work: Path) -> StoreHome:
    """The scenario's store, on a ground that is up. Raises LabError."""
    if scenario.etcd_members:
        return EtcdHome(ground.topology, work / "etcd", scenario.etcd_members)
    return FileHome(work / "store.db")


async def carry_out(
    scenario: Scenario, ground: KernelGround, home: StoreHome, *, work: Path, results: Path
) -> Record:
    """The scenario on a ground that is up."""
    store = open_store(home.own_options)
    logs = results / "logs"
    shutil.rmtree(logs, ignore_errors=True)  # an earlier run's, where the directory is used again
    logs.mkdir()

    try:
        records = StoreRecords(store, CLUSTER, home)
        return await Runner(scenario, ground, records, work=work, logs=logs).run()
    finally:
        await store.close()


def _write(
    scenario: Scenario, ground: KernelGround, record: Record, results: Path, duration_seconds: float
) -> report.Report:
    verdict = record.verdict or Verdict(UdpResult((), duration_seconds=duration_seconds), (), CaptureResult(), ())
    picture = results / "timeline.svg"
    found = report.build(
        scenario.name, os.uname().release, verdict, record.expectations, pictures=[picture.name], notes=[scenario.title]
    )
    events = [event for agent in record.agents for line in _lines(agent.log.path) if (event := line) is not None]
    names = {
        address: agent.name
        for agent in record.agents
        for address in ground.place(f"n{number(agent.name)}").addresses
    }
    picture.write_text(
        timeline.draw(
            scenario.title,
            events,
            found.loss_marks,
            found.esp,
            record.marks,
            f"{found.sent:,} packets, {found.lost:,} lost, {found.plaintext:,} in plaintext",
            names,
        ),
        encoding="utf-8",
    )
    (results / "report.json").write_bytes(report.to_json(found))
    (results / "report.txt").write_text(report.to_text(found), encoding="utf-8")
    return found


def _lines(log: Path) -> list[timeline.Event | None]:
    return [timeline.parse_log_line(line) for line in log.read_bytes().splitlines()] if log.exists() else []


if __name__ == "__main__":
    sys.exit(main())
