"""What the kernel itself says about errors: /proc/net/xfrm_stat of every node, before and after.

The counters name no peer and no SA (Documentation/networking/xfrm_proc.rst), but they see what no probe sends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from hitless.lab.kernel import LabError
from hitless.lab.probe import namespace
from hitless.lab.topology import Topology
from hitless.ports import Dataplane


class NodeErrors(msgspec.Struct, frozen=True):
    """The counters of one node that moved."""

    node: str
    xfrm_errors: Mapping[str, int]


class SaUsage(msgspec.Struct, frozen=True):
    """What one SA of a node has seen; the counters' meaning is the kernel's (`ip -s xfrm state`)."""

    node: str
    src: str
    dst: str
    spi: int
    packets: int
    replay: int
    integrity_failed: int


def read_xfrm_statistics(name: str) -> dict[str, int]:
    """All counters of a namespace. LabError `no-xfrm-statistics` where the kernel does not count."""
    with namespace.enter(name):
        try:
            # Not /proc/net: that is the namespace of the process, and only this thread is inside.
            text = Path("/proc/thread-self/net/xfrm_stat").read_text(encoding="ascii")
        except FileNotFoundError as error:
            raise LabError(
                "no-xfrm-statistics",
                "this kernel has no /proc/net/xfrm_stat (CONFIG_XFRM_STATISTICS), so IPsec errors would go unseen; "
                "run the lab in its guest kernel",
            ) from error
    rows = (line.split() for line in text.splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2}


class XfrmCounters:
    """Counts from construction on. A node that joins later starts at 0, as its new namespace does."""

    def __init__(self, topology: Topology) -> None:
        self._topology = topology
        self._before = {i: read_xfrm_statistics(topology.node(i)) for i in topology.nodes}

    def delta(self) -> tuple[NodeErrors, ...]:
        """Per node, the counters that are higher than at the beginning."""
        rows = []
        for i in self._topology.nodes:
            before = self._before.get(i, {})
            after = read_xfrm_statistics(self._topology.node(i))
            moved = {name: value - before.get(name, 0) for name, value in after.items() if value != before.get(name, 0)}
            rows.append(NodeErrors(f"n{i}", moved))
        return tuple(rows)


def sum_errors(nodes: tuple[NodeErrors, ...]) -> dict[str, int]:
    """Counter name to its rise over all nodes; what did not move is absent."""
    total: dict[str, int] = {}
    for node in nodes:
        for name, count in node.xfrm_errors.items():
            total[name] = total.get(name, 0) + count
    return dict(sorted(total.items()))


def sa_usage(topology: Topology, open_dataplane: Callable[[], Dataplane]) -> tuple[SaUsage, ...]:
    """Every SA of every node. `open_dataplane` is called inside each node's namespace."""
    rows = []
    for i in topology.nodes:
        with namespace.enter(topology.node(i)):
            for seen in open_dataplane().observe().sas:
                sa, counters = seen.sa, seen.counters
                failed = counters.integrity_failed
                rows.append(SaUsage(f"n{i}", sa.src, sa.dst, sa.spi, counters.packets, counters.replay, failed))
    return tuple(rows)
