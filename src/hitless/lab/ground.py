"""The ground a scenario plays on: nodes that can be reached, slowed and judged.

`Ground` is what the runner needs; `KernelGround` is the real one, network namespaces and probes of one kernel.
Nodes are called n1, n2, … here and numbered from 1 in the topology.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Final, Literal, Protocol

from hitless.lab import foreign, security, tamper
from hitless.lab.agents import Place
from hitless.lab.announcements import Announcements
from hitless.lab.probe.counters import sum_errors
from hitless.lab.probe.judge import Judge, Verdict
from hitless.lab.scenario import Family, Scenario
from hitless.lab.topology import Family as Version
from hitless.lab.topology import Topology, TopologyConfig, client_prefix, second_address, underlay_address

PREFIX: Final = "hl"  # of the namespaces of scenarios
_BURST: Final = 16
_BURST_SECONDS: Final = 0.016  # 1,000 packets/s: what a guest with one CPU takes without dropping


class Ground(Protocol):
    """Nodes, what lies between them, and the judge of their traffic."""

    def up(self) -> None:
        """Build everything and let the probes prove that they see."""
        ...

    def down(self) -> None:
        """Remove everything. Safe to call at any time."""
        ...

    def add(self, node: str) -> None:
        """A node comes up that was not there; its link is watched from now on if probes run."""
        ...

    def place(self, node: str) -> Place: ...

    def protected(self) -> tuple[str, ...]: ...

    def spawn(self, node: str, argv: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        """Start a program on a node, both its outputs into the log."""
        ...

    def kernel(self, node: str) -> security.Security: ...

    def changes(self, node: str) -> int:
        """How often the node's SAs and policies have been changed since it is there, by anybody."""
        ...

    def delay(self, node: str, delay_seconds: float) -> None:
        """Every packet on the node's link takes this much longer, in either direction."""
        ...

    def link(self, node: str, state: Literal["down", "up"], *, to_store: bool = False) -> None:
        """Cut or mend the node's link to the others, or to the store."""
        ...

    def readdress(self, node: str, deed: Literal["add", "drop"]) -> None:
        """The node gets its second underlay addresses, or loses its first ones."""
        ...

    def second_place(self, node: str) -> Place:
        """Where the node stands with its second addresses."""
        ...

    def flush(self, node: str, what: Literal["states", "policies"]) -> None: ...

    def touch(self, node: str, src: Sequence[str], dst: Sequence[str], deed: tamper.Deed) -> None:
        """Delete the newest SA between these addresses at a node, or create it anew with its counters at 0."""
        ...

    def plant(self, node: str, src: Sequence[str], dst: Sequence[str], oseq: int) -> None: ...

    def place_foreign(self) -> None:
        """Put objects of other programs on every node, and remember them."""
        ...

    def foreign_changes(self) -> str:
        """What became of them; "" where they are as they were."""
        ...

    def judge_from_now(self, *, silent: bool = False) -> None: ...

    def send(self, source: str, target: str, count: int) -> None:
        """Exactly so many packets of the probes; returns when they have been sent."""
        ...

    def arrivals(self, source: str, target: str) -> tuple[int, float]:
        """Packets that have arrived, and the seconds since the last one."""
        ...

    def judge_also(self, node: str) -> None:
        """Send to and from a node that was added."""
        ...

    def verdict(self) -> Verdict:
        """Stop the probes and count."""
        ...


_VERSIONS: dict[Family, tuple[Version, ...]] = {"ipv4": ("4",), "ipv6": ("6",), "dual-stack": ("4", "6")}


class KernelGround:
    """Namespaces, links and probes of the kernel this runs on. Needs root."""

    def __init__(self, scenario: Scenario, *, prefix: str = PREFIX) -> None:
        config = TopologyConfig(
            nodes=scenario.nodes,
            families=_VERSIONS[scenario.family],
            mode=scenario.mode,
            prefix=prefix,
            udp_port=scenario.udp_port or TopologyConfig().udp_port,
            store=scenario.etcd_members > 0,
        )
        self.topology = Topology(config)
        self._scenario = scenario
        self._judge: Judge | None = None
        self._announcements: dict[str, Announcements] = {}
        self._foreign: dict[str, tuple[int, str]] = {}

    def up(self) -> None:
        self.topology.up()
        for i in self.topology.nodes:
            self._announcements[f"n{i}"] = Announcements(self.topology.node(i))
        streams = [(number(stream.source), number(stream.target)) for stream in self._scenario.streams]
        if self._scenario.probes:
            self._judge = Judge(self.topology, self._scenario.load_pps, streams)
            self._judge.self_check()

    def down(self) -> None:
        if self._judge is not None:
            self._judge.close()
            self._judge = None
        while self._announcements:
            self._announcements.popitem()[1].close()
        self.topology.down()

    def add(self, node: str) -> None:
        # pyroute2 runs an event loop of its own inside each call, and a thread can have one only: the runner's has.
        _aside(lambda: self.topology.add_node(number(node)))
        self._announcements[node] = Announcements(self.topology.node(number(node)))
        if self._judge is not None and self._judge.capture is not None:
            self._judge.capture.add_links((number(node),))

    def place(self, node: str) -> Place:
        families, i = self.topology.config.families, number(node)
        prefixes = () if self.topology.config.mode == "transport" else tuple(client_prefix(i, f) for f in families)
        return Place(tuple(underlay_address(i, family) for family in families), prefixes)

    def protected(self) -> tuple[str, ...]:
        return self.topology.protected()

    def spawn(self, node: str, argv: Sequence[str], log: IO[bytes]) -> subprocess.Popen[bytes]:
        return self.topology.spawn(self.topology.node(number(node)), argv, stdout=log, stderr=log)

    def kernel(self, node: str) -> security.Security:
        return security.read(self.topology.node(number(node)))

    def changes(self, node: str) -> int:
        return self._announcements[node].count()

    def delay(self, node: str, delay_seconds: float) -> None:
        _aside(lambda: self.topology.link_delay(number(node), delay_seconds * 1000))

    def link(self, node: str, state: Literal["down", "up"], *, to_store: bool = False) -> None:
        if to_store:
            _aside(lambda: self.topology.store_link(number(node), state))
            return
        change = self.topology.link_down if state == "down" else self.topology.link_up
        _aside(lambda: change(number(node)))

    def readdress(self, node: str, deed: Literal["add", "drop"]) -> None:
        change = self.topology.add_address if deed == "add" else self.topology.drop_address
        _aside(lambda: change(number(node)))

    def second_place(self, node: str) -> Place:
        addresses = tuple(second_address(number(node), family) for family in self.topology.config.families)
        return Place(addresses, self.place(node).prefixes)

    def flush(self, node: str, what: Literal["states", "policies"]) -> None:
        tamper.flush(self._namespace(node), what)

    def touch(self, node: str, src: Sequence[str], dst: Sequence[str], deed: tamper.Deed) -> None:
        tamper.touch(self._namespace(node), src, dst, deed)

    def plant(self, node: str, src: Sequence[str], dst: Sequence[str], oseq: int) -> None:
        tamper.plant(self._namespace(node), src, dst, oseq)

    def place_foreign(self) -> None:
        for i in self.topology.nodes:
            foreign.place(self.topology.node(i))
            self._foreign[f"n{i}"] = foreign.digest(self.topology.node(i))

    def foreign_changes(self) -> str:
        now = {node: foreign.digest(self._namespace(node)) for node in self._foreign}
        changed = [node for node, was in self._foreign.items() if now[node] != was]
        told = [f"{node}: {self._foreign[node][0]} objects, now {now[node][0]}" for node in changed]
        return "; ".join(told) if self._foreign else "nothing was placed"

    def _namespace(self, node: str) -> str:
        return self.topology.node(number(node))

    def judge_from_now(self, *, silent: bool = False) -> None:
        self._need_judge().start(silent=silent)

    def send(self, source: str, target: str, count: int) -> None:
        judge = self._need_judge()
        if judge.udp is not None:
            for sent in range(0, count, _BURST):
                judge.udp.send(self._pair(source, target), min(_BURST, count - sent))
                time.sleep(_BURST_SECONDS)

    def arrivals(self, source: str, target: str) -> tuple[int, float]:
        judge = self._need_judge()
        return judge.udp.arrived(self._pair(source, target)) if judge.udp is not None else (0, float("inf"))

    def _pair(self, source: str, target: str) -> str:
        family = self.topology.config.families[0]
        ends = (self.topology.endpoint(number(node), family).name for node in (source, target))
        return f"{'>'.join(ends)}/{family}"

    def judge_also(self, node: str) -> None:
        judge = self._need_judge()
        if judge.udp is not None:
            judge.udp.add_pairs(self.topology.pairs(number(node)))

    def verdict(self) -> Verdict:
        return self._need_judge().stop()

    def _need_judge(self) -> Judge:
        if self._judge is None:
            raise RuntimeError("the scenario has no probes; its reader should have seen that")
        return self._judge


def _aside(action: Callable[[], None]) -> None:
    """Run something that is over in milliseconds in a thread of its own, and raise here what it raises."""
    with ThreadPoolExecutor(1, thread_name_prefix="ground") as aside:
        aside.submit(action).result()


def number(node: str) -> int:
    """n3 is node 3."""
    return int(node.removeprefix("n"))


def traffic(verdict: Verdict) -> dict[str, float]:
    """The probes' numbers under the names by which scenarios ask for them; pairs as `lost n1 n2`."""
    udp = verdict.udp
    counts = {field: float(udp.total(field)) for field in ("sent", "lost", "duplicated", "reordered")}
    counts["leaked"] = float(udp.leaked)
    counts["plaintext"] = float(verdict.capture.plaintext)
    errors = sum_errors(verdict.nodes)
    counts["xfrm_errors"] = float(sum(errors.values()))
    counts |= {name: float(count) for name, count in errors.items()}
    for node in verdict.nodes:
        counts |= {f"{name} {node.node}": float(count) for name, count in node.xfrm_errors.items()}
    for pair in udp.pairs:
        ends = pair.pair.split("/")[0].replace("c", "n").replace(">", " ")
        silence_seconds = pair.longest_silence_ms / 1000
        counts[f"lost {ends}"] = counts.get(f"lost {ends}", 0.0) + pair.lost
        counts[f"sent {ends}"] = counts.get(f"sent {ends}", 0.0) + pair.sent
        for name in ("healed", f"healed {ends}"):
            counts[name] = max(counts.get(name, 0.0), silence_seconds)
    if verdict.tcp:
        counts["stalled_seconds"] = max(stream.longest_stall_ms for stream in verdict.tcp) / 1000
        if any(not stream.received_bytes or stream.resets for stream in verdict.tcp):
            counts["stalled_seconds"] = float("inf")
    return counts
