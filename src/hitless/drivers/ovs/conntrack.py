"""Tracked connections of ovs-vswitchd's datapath: reading `dpctl/dump-conntrack` and forgetting single ones.

Open vSwitch prints the kernel's and its own tracker in one form (lib/ct-dpif.c, ct_dpif_format_entry):

    tcp,orig=(src=10.0.0.1,dst=10.0.0.2,sport=1,dport=2),reply=(...),zone=7,mark=1,protoinfo=(state=ESTABLISHED)
    icmp,orig=(src=10.0.0.1,dst=10.0.0.2,id=5,type=8,code=0),reply=(...),zone=7
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

from hitless.core.model.flow import Connection
from hitless.drivers.ovs.tools import ToolFailedError, UnixCtl
from hitless.ports import SwitchError

_PROTOCOLS: Final = {
    "icmp": 1, "igmp": 2, "tcp": 6, "udp": 17, "dccp": 33, "gre": 47, "icmpv6": 58, "sctp": 132, "udplite": 136,
}  # fmt: skip
_ICMP: Final = frozenset({1, 58})
_ENTRY: Final = re.compile(r"(\w+),orig=\(([^)]*)\)")
_ZONE: Final = re.compile(r",zone=(\d+)")
_MARK: Final = re.compile(r",mark=(0x[0-9a-f]+|\d+)")
_ABSENT: Final = "No such file or directory"  # ENOENT: it is gone already


def parse_connections(text: str) -> tuple[Connection, ...]:
    """All entries; lines that are none are passed over."""
    found = (_parse(line) for line in text.splitlines())
    return tuple(each for each in found if each is not None)


def connections(daemon: UnixCtl, zones: Collection[int]) -> tuple[Connection, ...]:
    """What is tracked in these zones. Raises SwitchError."""
    if not zones:
        return ()
    only = (f"zone={next(iter(zones))}",) if len(zones) == 1 else ()
    try:
        text = daemon.call("dpctl/dump-conntrack", *only)
    except ToolFailedError as error:
        raise _refused("list", error.text) from error
    return tuple(each for each in parse_connections(text) if each.zone in zones)


def cut(daemon: UnixCtl, doomed: Sequence[Connection]) -> None:
    """Forget these; ones that are gone already are no error. Raises SwitchError."""
    for each in doomed:
        try:
            daemon.call("dpctl/flush-conntrack", f"zone={each.zone}", tuple_text(each))
        except ToolFailedError as error:
            if _ABSENT not in error.text:
                raise _refused("forget", error.text) from error


def tuple_text(each: Connection) -> str:
    """The original direction as flush-conntrack takes it (ovs-vswitchd(8))."""
    side = "ct_ipv6" if each.ipv6 else "ct_nw"
    text = f"{side}_src={each.source},{side}_dst={each.destination},ct_nw_proto={each.protocol}"
    if each.protocol in _ICMP:
        return f"{text},icmp_type={each.source_port},icmp_code={each.destination_port},icmp_id={each.icmp_id}"
    return f"{text},ct_tp_src={each.source_port},ct_tp_dst={each.destination_port}"


def _parse(line: str) -> Connection | None:
    found = _ENTRY.match(line)
    if found is None:
        return None
    name, original = found.groups()
    protocol = int(name) if name.isdigit() else _PROTOCOLS.get(name)
    if protocol is None:
        return None
    parts = dict(part.split("=", 1) for part in original.split(",") if "=" in part)
    zone, mark = _ZONE.search(line), _MARK.search(line)
    first, second = ("type", "code") if protocol in _ICMP else ("sport", "dport")
    return Connection(
        zone=int(zone[1]) if zone else 0,
        protocol=protocol,
        source=parts["src"],
        destination=parts["dst"],
        source_port=int(parts.get(first, 0)),
        destination_port=int(parts.get(second, 0)),
        icmp_id=int(parts.get("id", 0)),
        mark=int(mark[1], 0) if mark else 0,
        ipv6=":" in parts["src"],
    )


def _refused(verb: str, reason: str) -> SwitchError:
    return SwitchError(
        "conntrack-refused",
        f"ovs-vswitchd could not {verb} connections: {reason[:300]}. With more than one datapath Open vSwitch 3.1 does "
        "not know which is meant (`ovs-appctl dpctl/dump-dps`): keep one kind of datapath on a node",
    )
