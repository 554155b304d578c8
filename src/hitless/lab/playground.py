"""A lab to play in: nodes and agents that stay, and steps given one by one.

Where this machine's kernel has ESP, `up` builds the nodes here, starts their agents and leaves them; `down` removes
them. Elsewhere `up` runs a guest in the foreground. A guest has no terminal, so our standard input is handed over line
by line (see `lines`). A line is a step of the scenario language, or `! COMMAND` for the shell inside; `quit` or the end
of input ends it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hitless.lab import grammar, lines
from hitless.lab.agents import AgentError
from hitless.lab.ground import KernelGround
from hitless.lab.kernel import Preference, choose
from hitless.lab.kernel.face import LabError
from hitless.lab.records import StoreRecords
from hitless.lab.run import CLUSTER
from hitless.lab.runner import EndedEarlyError, Runner
from hitless.lab.scenario import Scenario, ScenarioError, Start, Step
from hitless.lab.storage import FileHome
from hitless.lab.topology import Topology, TopologyConfig
from hitless.lab.verbs import ALL
from hitless.stores.open import open_store

PREFIX: Final = "hlab"  # not the scenarios' prefix: one may run beside a playground
PLACE: Final = Path("/run/hitless-lab")
_GUEST_SECONDS: Final = 8 * 3600.0  # a working day; a forgotten guest should not live for ever


def up(nodes: int, *, kernel: Preference = "auto") -> int:
    """Bring up a lab; exit status. Raises LabError where no kernel will do."""
    chosen = choose(kernel)
    if chosen.name == "host":
        _up_here(nodes)
        return 0
    with tempfile.TemporaryDirectory(prefix="hitless-playground-") as directory:
        results = Path(directory)
        threading.Thread(target=lines.relay, args=(sys.stdin, results), name="relay", daemon=True).start()
        argv = [sys.executable, "-m", "hitless.lab.playground", "--nodes", str(nodes), "--results", str(results)]
        return chosen.run(argv, results=results, env={}, timeout_seconds=_GUEST_SECONDS)


def down() -> None:
    """Remove the nodes that `up` left on this machine, with their processes and files."""
    Topology(TopologyConfig(prefix=PREFIX)).down()
    shutil.rmtree(PLACE, ignore_errors=True)


def _up_here(nodes: int) -> None:
    down()
    scenario = _scenario(nodes)
    ground = KernelGround(scenario, prefix=PREFIX)
    PLACE.mkdir(mode=0o700, parents=True)
    try:
        ground.up()
        asyncio.run(_start_all(scenario, ground))
    except BaseException:
        down()
        raise
    sys.stdout.write(
        f"{nodes} nodes are up: namespaces {PREFIX}-n1 … {PREFIX}-n{nodes}, clients {PREFIX}-c1 … {PREFIX}-c{nodes}\n"
        f"  ip netns exec {PREFIX}-c1 ping -c 3 10.1.2.2\n"
        f"  hitless status --config {PLACE}/n1/agent.toml\n"
        "  hitless lab down\n"
    )


async def _start_all(scenario: Scenario, ground: KernelGround) -> None:
    home = FileHome(PLACE / "store.db")
    store = open_store(home.own_options)
    try:
        runner = Runner(scenario, ground, StoreRecords(store, CLUSTER, home), work=PLACE, logs=PLACE)
        runner.populate()
        await runner.carry_out(_START)
    finally:
        await store.close()


def _scenario(nodes: int) -> Scenario:
    return grammar.parse(f"title A playground\nnodes {nodes}\n---\n", source="playground", name="playground")


_START: Final = Step(1, "start all", Start((ALL,)))


async def next_line(results: Path, number: int) -> str:
    """The line with this number, as soon as it has been handed over."""
    while (line := lines.taken(results, number)) is None:
        await asyncio.sleep(lines.POLL_SECONDS)
    return line


# --- inside ---------------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the nodes on this kernel, start their agents, take lines until `quit`."""
    parser = argparse.ArgumentParser(prog="python -m hitless.lab.playground")
    parser.add_argument("--nodes", type=int, required=True)
    parser.add_argument("--results", type=Path, required=True)
    options = parser.parse_args(arguments)
    work = Path(tempfile.mkdtemp(prefix="hitless-lab-"))
    scenario = _scenario(options.nodes)
    ground = KernelGround(scenario)
    try:
        ground.up()
        asyncio.run(_play(scenario, ground, work, options.results))
    except LabError as error:
        sys.stderr.write(f"hitless: {error} [{error.code}]\n")
        return 1
    finally:
        ground.down()
        shutil.rmtree(work, ignore_errors=True)
    return 0


async def _play(scenario: Scenario, ground: KernelGround, work: Path, results: Path) -> None:
    home = FileHome(work / "store.db")
    store = open_store(home.own_options)
    runner = Runner(scenario, ground, StoreRecords(store, CLUSTER, home), work=work, logs=work)
    runner.populate()
    try:
        await runner.carry_out(_START)
        _say(f"{scenario.nodes} nodes are up; files below {work}. Steps, `! COMMAND`, or `{lines.QUIT}`.")
        for number in itertools.count():
            line = await next_line(results, number)
            if line == lines.QUIT:
                return
            await _obey(line, runner, work)
    finally:
        runner.end_all()
        await store.close()


async def _obey(line: str, runner: Runner, work: Path) -> None:
    if line.startswith("!"):
        command = ["sh", "-c", line.removeprefix("!").strip()]
        done = await asyncio.to_thread(subprocess.run, command, cwd=work, stdin=subprocess.DEVNULL, check=False)
        _say(f"exit status {done.returncode}")
        return
    began = time.monotonic()
    try:
        step = grammar.parse_step(line, runner.nodes)
        finding = await runner.carry_out(step) if step is not None else None
    except (ScenarioError, AgentError, EndedEarlyError, LabError) as error:
        _say(str(error))
        return
    if finding is not None:
        _say(f"{'yes' if finding.holds else 'NO'}: {finding.observed} ({time.monotonic() - began:.1f} s)")
    elif step is not None:
        _say("done")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
