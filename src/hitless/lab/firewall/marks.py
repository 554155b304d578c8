"""Marks on connections: how many are poisoned, and how to poison one on purpose.

A connection with `ct_mark` not 0 has its replies dropped. No command writes a mark, so one is planted as the tables
would do it: by a flow that commits it, put in above all others for this connection alone and taken out again.
"""

from __future__ import annotations

import time
from collections.abc import Collection

from hitless.core.model.flow import Connection
from hitless.core.model.security import TCP, UDP
from hitless.drivers.ovs import conntrack
from hitless.drivers.ovs.tools import UnixCtl
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.streams import Stream
from hitless.lab.kernel import LabError

PLANT_COOKIE = 0x91A47  # not the program's own prefix
_TIMEOUT_SECONDS = 10.0
_PROTOCOLS = {TCP: "tcp", UDP: "udp"}


def tracked(ground: FirewallGround, zones: Collection[int]) -> tuple[Connection, ...]:
    """Everything that is tracked in these zones. Raises SwitchError."""
    with UnixCtl(ground.switch.run_dir, _TIMEOUT_SECONDS) as daemon:
        return conntrack.connections(daemon, zones)


def marked(ground: FirewallGround, zones: Collection[int]) -> tuple[Connection, ...]:
    """Connections with a mark that is not 0."""
    return tuple(each for each in tracked(ground, zones) if each.mark)


def of_stream(ground: FirewallGround, stream: Stream, zones: Collection[int]) -> tuple[Connection, ...]:
    """A stream's own connections."""
    ends = tuple(ground.ports[end].address(ipv6=stream.ipv6) for end in (stream.source, stream.destination))
    wanted = (TCP if stream.kind == "tcp" else UDP, *ends, stream.port)
    return tuple(
        each
        for each in tracked(ground, zones)
        if (each.protocol, each.source, each.destination, each.destination_port) == wanted
    )


def plant(ground: FirewallGround, connection: Connection, mark: int = 1) -> None:
    """Mark a live TCP or UDP connection between two ports, by its next request; returns when it is marked.

    Requests that come meanwhile are delivered past the tables, so none is lost by the planting itself.
    LabError `no-mark` if no request came within 10 seconds: the connection is not alive.
    """
    family, prefix = ("6", "ipv6") if connection.ipv6 else ("", "nw")
    ofports = ground.ofports()
    source, destination = (ofports[ground.owner(at).name] for at in (connection.source, connection.destination))
    match = (
        f"in_port={source},{_PROTOCOLS[connection.protocol]}{family},"
        f"{prefix}_src={connection.source},{prefix}_dst={connection.destination},"
        f"tp_src={connection.source_port},tp_dst={connection.destination_port}"
    )
    commit = f"ct(commit,zone={connection.zone},exec(set_field:{mark}->ct_mark))"
    head = f"cookie={PLANT_COOKIE:#x},table=0,priority=65535"
    ground.ofctl("add-flow", f"{head},{match},actions={commit},output:{destination}")
    try:
        _wait_for_mark(ground, connection, mark)
    finally:
        ground.ofctl("del-flows", f"cookie={PLANT_COOKIE:#x}/-1")


def _wait_for_mark(ground: FirewallGround, connection: Connection, mark: int) -> None:
    wanted = conntrack.tuple_text(connection)
    deadline = time.monotonic() + _TIMEOUT_SECONDS
    while not any(each.mark == mark and conntrack.tuple_text(each) == wanted for each in
                  tracked(ground, (connection.zone,))):  # fmt: skip
        if time.monotonic() > deadline:
            raise LabError("no-mark", f"no request of {wanted} came within {_TIMEOUT_SECONDS:g} s; let it send")
        time.sleep(0.01)
