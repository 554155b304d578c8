"""What the firewall agent costs on a real Open vSwitch: restarts, a new member, a first programming.

    python bench/firewall.py [--rounds 5]

A private Open vSwitch (userspace datapath, no privileges) with one port for each of the intent's. Restarts are whole
processes: from `exec` to the line `firewall-settled`, which must say 0 flow-mods. A member's figure is from the round's
beginning to the acknowledged bundle, agent running. The first programming is set against `ovs-ofctl --bundle
add-flows` of the same flows in the same switch, in turn. Seconds are wall time, medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from hitless.agent.firewall.config import load
from hitless.agent.firewall.rounds import Firewall
from hitless.core.firewall.compile import Local, compile_flows
from hitless.core.firewall.identity import KnownIds
from hitless.core.firewall.pipeline import TABLES
from hitless.core.model.security import TCP, Intent, Network, Port, Range, Remote, Rule, SecurityGroup
from hitless.drivers.ovs.codec import format_flow
from hitless.drivers.ovs.driver import OvsSwitch
from hitless.lab.ovs import PrivateSwitch

# Ports, groups, rules a group: chosen for the flow counts of the measures.
SMALL, MIDDLE, BIG = (50, 5, 42), (130, 8, 47), (850, 16, 40)


def documents(shape: tuple[int, int, int]) -> list[dict[str, object]]:
    """A fleet in which every group lets in some services from every other group, and all from two prefixes."""
    ports, groups, rules = shape
    found: list[dict[str, object]] = [_document("Network", "net", {})]
    for group in range(groups):
        wanted: list[dict[str, object]] = [{"direction": "egress", "ethertype": each} for each in ("ipv4", "ipv6")]
        for rule in range(rules):
            first = 1000 + 16 * rule
            wanted.append({"direction": "ingress", "ethertype": "ipv4", "protocol": "tcp",
                           "port": f"{first}-{first + rule % 11}", "remote": {"group": f"g{(group + rule) % groups}"}})
        wanted.append({"direction": "ingress", "ethertype": "ipv4", "protocol": "tcp", "port": 22,
                       "remote": {"prefix": "192.0.2.0/24"}})  # fmt: skip
        found.append(_document("SecurityGroup", f"g{group}", {"rules": wanted}))
    return [*found, *(_port(index, f"g{index % groups}") for index in range(ports))]


def _document(kind: str, name: str, spec: dict[str, object]) -> dict[str, object]:
    return {"apiVersion": "hitless/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}


def _port(index: int, group: str) -> dict[str, object]:
    low = f"{index >> 8:02x}:{index & 255:02x}"
    addresses = [f"10.0.{index >> 8}.{index & 255}", f"2001:db8::{index + 1:x}"]
    spec: dict[str, object] = {"network": "net", "mac": f"fa:16:3e:00:{low}", "addresses": addresses, "groups": [group]}
    return _document("Port", f"p{index}", spec)


class Agent:
    """One process and the JSON lines it writes."""

    def __init__(self, config: Path) -> None:
        self.began = time.monotonic()
        argv = [sys.executable, "-m", "hitless", "firewall", "agent", "-c", str(config)]
        self.process = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True)

    def until(self, event: str) -> dict[str, Any]:
        """The next such line."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            found: dict[str, Any] = json.loads(line)
            if found["event"] == event:
                return found
        raise RuntimeError(f"the agent ended before {event}")

    def end(self) -> None:
        self.process.terminate()
        self.process.communicate(timeout=30)


@contextlib.contextmanager
def bridge(ports: int) -> Iterator[tuple[PrivateSwitch, Path]]:
    """A switch with so many ports, and a directory for an agent."""
    with tempfile.TemporaryDirectory(prefix="hlb") as place, PrivateSwitch(Path(place, "ovs")) as switch:
        switch.add_bridge("br")
        switch.vsctl("set-fail-mode", "br", "secure")
        argv = [word for each in range(ports) for word in
                ("--", "add-port", "br", f"p{each}", "--", "set", "Interface", f"p{each}", "type=dummy")]  # fmt: skip
        switch.vsctl(*argv[1:])
        config = Path(place, "firewall.toml")
        config.write_text(
            f'node = "bench"\nbridge = "br"\nintent = "{place}/intent"\nstate_dir = "{place}/state"\n'
            f'database = "{switch.database}"\nrun_dir = "{switch.run_dir}"\n'
        )
        yield switch, config


def write(config: Path, found: list[dict[str, object]]) -> None:
    """The whole intent as one JSON document a line, replaced in one step."""
    place = config.parent / "intent"
    place.mkdir(exist_ok=True)
    new = config.parent / "new"
    # YAML, one flow-style document after the other: what is JSON is YAML.
    new.write_text("".join(f"---\n{json.dumps(each)}\n" for each in found))
    new.rename(place / "intent.yaml")


def restarts(shape: tuple[int, int, int], rounds: int) -> None:
    """Unchanged restarts, and a member added while the agent lives."""
    with bridge(shape[0]) as (_, config):
        wanted = documents(shape)
        write(config, wanted)
        first = Agent(config)
        flows = int(first.until("firewall-settled")["flows"])
        first.end()
        took = []
        for _ in range(rounds):
            again = Agent(config)
            settled = again.until("firewall-settled")
            took.append(settled["monotonic"] - again.began)
            assert settled["flow_mods"] == 0, "an unchanged restart wrote something"
            again.end()
        print(f"restart, {flows} flows unchanged: {statistics.median(took):.2f} s (max {max(took):.2f}), 0 flow-mods")
        living = Agent(config)
        living.until("firewall-settled")
        took, mods = [], []
        for index in range(rounds):
            guest = _port(60000 + index, "g0")
            wanted.append(guest)
            write(config, wanted)
            adopted, applied = living.until("intent-adopted"), living.until("firewall-applied")
            took.append(applied["monotonic"] - adopted["monotonic"])
            mods.append(applied["adds"] + applied["deletes"])
            living.until("firewall-settled")
        living.end()
        print(f"a member added, {shape[0]} ports: {1e3 * statistics.median(took):.0f} ms from adopted to in force "
              f"(max {1e3 * max(took):.0f}), {statistics.median(mods):.0f} flow-mods")  # fmt: skip


def programming(shape: tuple[int, int, int], rounds: int) -> None:
    """Compile many flows; write them for the first time, by us and by ovs-ofctl alone."""
    ports, groups, rules = shape
    policy = Intent(
        groups={f"g{group}": SecurityGroup(f"g{group}", _rules(group, groups, rules)) for group in range(groups)},
        ports={f"p{each}": Port(f"p{each}", "net", f"fa:16:3e:00:{each >> 8:02x}:{each & 255:02x}",
                                (f"10.0.{each >> 8}.{each & 255}",), (f"g{each % groups}",))
               for each in range(ports)},
        networks={"net": Network("net", 7)},
    )  # fmt: skip
    local = Local({f"p{each}": each + 1 for each in range(ports)}, {"net": 7})
    began = time.monotonic()
    compiled = compile_flows(policy, local, KnownIds())
    seconds = time.monotonic() - began
    megabytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"compile {len(compiled.flows)} flows: {seconds:.2f} s, peak memory of the process {megabytes} MB")
    ours, theirs = [], []
    with bridge(ports) as (switch, config):
        driver = OvsSwitch("br", database=switch.database, run_dir=switch.run_dir, tables=TABLES)
        file = config.with_name("flows.txt")
        write(config, [])
        settings = load(config)
        for _ in range(rounds):
            switch.ofctl("del-flows", "br")
            switch.vsctl("clear", "Bridge", "br", "external_ids")
            began = time.monotonic()
            Firewall(driver, settings, lambda _: None).round(policy, look=True)
            ours.append(time.monotonic() - began)
            file.write_text("".join(f"{format_flow(each)}\n" for each in driver.observe().flows))
            switch.ofctl("del-flows", "br")
            began = time.monotonic()
            switch.run("ovs-ofctl", "-O", "OpenFlow14", "--bundle", "add-flows", "br", str(file))
            theirs.append(time.monotonic() - began)
    ratio = statistics.median(here / there for here, there in zip(ours, theirs, strict=True))
    print(f"first programming: {statistics.median(ours):.2f} s, a whole round with look, compile and barrier; "
          f"ovs-ofctl alone {statistics.median(theirs):.2f} s; ratio {ratio:.2f}")  # fmt: skip


def _rules(group: int, groups: int, rules: int) -> tuple[Rule, ...]:
    services = (
        Rule("ingress", "ipv4", TCP, Range(1000 + 16 * each, 1000 + 16 * each + each % 11),
             remote=Remote("group", f"g{(group + each) % groups}")) for each in range(rules)
    )  # fmt: skip
    return (Rule("egress", "ipv4"), Rule("egress", "ipv6"), *services)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    for shape in (SMALL, MIDDLE):
        restarts(shape, rounds)
    programming(BIG, min(rounds, 3))


if __name__ == "__main__":
    main()
