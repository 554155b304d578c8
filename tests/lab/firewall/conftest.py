"""Three stations on a real private switch, with small hand-written tables that track connections."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hitless.lab.firewall.ground import FirewallGround, GroundPort

PREFIX = f"t{os.getpid() % 1000000}"
ZONE = 9
WAIT_SECONDS = 30.0

PORTS = tuple(
    GroundPort(name, f"02:00:00:00:00:{i:02x}", (f"10.0.0.{i}", f"fd00::{i:x}"))
    for i, name in enumerate(("a", "b", "c"), 1)
)

# New connections to ports 7000 to 7007 may begin; what is established goes on, and replies do unless it is marked.
STATEFUL = f"""
table=0,priority=10,ip,actions=ct(zone={ZONE},table=1)
table=0,priority=10,ipv6,actions=ct(zone={ZONE},table=1)
table=1,priority=20,ct_state=+trk+est+rpl,ct_mark=0,actions=NORMAL
table=1,priority=20,ct_state=+trk+est-rpl,actions=NORMAL
""" + "".join(
    f"table=1,priority=10,ct_state=+trk+new,{kind},tp_dst=7000/0xfff8,actions=ct(commit,zone={ZONE}),NORMAL\n"
    for kind in ("udp", "tcp", "udp6", "tcp6")
)


def until(condition: Callable[[], object]) -> None:
    """Wait for something; its coming is what is tested."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "what was waited for did not come"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def shared_ground(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FirewallGround]:
    work: Path = tmp_path_factory.mktemp("sw")
    with FirewallGround(work, PORTS, prefix=PREFIX) as ground:
        yield ground


@pytest.fixture
def ground(shared_ground: FirewallGround) -> FirewallGround:
    """The module's ground with the stateful tables and no connection yet."""
    shared_ground.ofctl("del-flows")
    shared_ground.ofctl("add-flows", "-", stdin=STATEFUL)
    shared_ground.switch.appctl("dpctl/flush-conntrack")
    return shared_ground
