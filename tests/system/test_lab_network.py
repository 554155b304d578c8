"""The lab's network: what `up` builds forwards at once, and `down` leaves nothing, also after a crash."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from hitless.lab.kernel import LabError
from hitless.lab.probe import namespace
from hitless.lab.topology import Pair, Topology, TopologyConfig

pytestmark = pytest.mark.kernel

PREFIX = f"t{os.getpid() % 100000}"
WAIT_SECONDS = 30.0


@pytest.fixture
def config() -> Iterator[TopologyConfig]:
    wanted = TopologyConfig(nodes=2, families=("4", "6"), prefix=PREFIX)
    yield wanted
    Topology(wanted).down()


def arrives(pair: Pair) -> bool:
    kind = socket.AF_INET6 if pair.src.family == "6" else socket.AF_INET
    with namespace.enter(pair.src.namespace):
        sender = socket.socket(kind, socket.SOCK_DGRAM)
    with namespace.enter(pair.dst.namespace):
        receiver = socket.socket(kind, socket.SOCK_DGRAM)
    with sender, receiver:
        receiver.settimeout(WAIT_SECONDS)
        receiver.bind((pair.dst.address, 7100))
        sender.sendto(b"one", (pair.dst.address, 7100))
        return receiver.recv(16) == b"one"


def test_the_first_packet_of_every_pair_arrives(config: TopologyConfig) -> None:
    with Topology(config) as topology:
        assert len(topology.pairs()) == 4
        assert all(arrives(pair) for pair in topology.pairs())


def test_a_node_that_joins_is_reached_by_all(config: TopologyConfig) -> None:
    with Topology(config) as topology:
        topology.add_node(3)
        joined = topology.pairs(3)
        assert len(joined) == 8
        assert all(arrives(pair) for pair in joined)
        with pytest.raises(LabError) as caught:
            topology.add_node(3)
        assert caught.value.code == "node-exists"


def test_traffic_passes_at_once_after_a_link_came_back(config: TopologyConfig) -> None:
    with Topology(config) as topology:
        for _ in range(3):
            topology.link_down(1)
            topology.link_up(1)
            assert all(arrives(pair) for pair in topology.pairs())


def test_nothing_is_left_after_down_and_down_is_idempotent(config: TopologyConfig) -> None:
    topology = Topology(config)
    topology.up()
    assert len(namespace.names(PREFIX)) == 5
    topology.down()
    topology.down()
    assert namespace.names(PREFIX) == ()
    assert topology.nodes == ()


def test_up_again_after_a_crash_removes_what_was_left(config: TopologyConfig) -> None:
    program = (
        "import os, signal, sys; from hitless.lab.topology import *\n"
        f"t = Topology(TopologyConfig(nodes=2, prefix={PREFIX!r})); t.up()\n"
        "t.spawn(t.node(1), [sys.executable, '-c', 'import sys; print(1, flush=True); import time; time.sleep(600)'], "
        "stdout=sys.stdout)\n"
        "import time; time.sleep(600)\n"
    )
    crashed = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    try:
        assert crashed.stdout is not None
        assert crashed.stdout.readline() == b"1\n"  # everything is up and a program lives in node 1
    finally:
        crashed.send_signal(signal.SIGKILL)
        crashed.wait(WAIT_SECONDS)
    topology = Topology(config)
    assert namespace.inhabitants(topology.node(1)) != ()
    with topology:
        # The orphan held the pipe open: the end of the file shows that it is gone.
        assert crashed.stdout.read() == b""
        assert namespace.inhabitants(topology.node(1)) == ()
        assert all(arrives(pair) for pair in topology.pairs())
    crashed.stdout.close()
    assert namespace.names(PREFIX) == ()


def test_a_failure_while_building_leaves_nothing(config: TopologyConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    topology = Topology(config)
    monkeypatch.setattr(topology, "_introduce", fail)
    with pytest.raises(KeyboardInterrupt):
        topology.up()
    assert namespace.names(PREFIX) == ()


def test_a_program_lives_in_its_namespace(config: TopologyConfig) -> None:
    with Topology(config) as topology:
        program = "import socket; print(sorted(name for _, name in socket.if_nameindex()))"
        child = topology.spawn(topology.node(2), [sys.executable, "-c", program], stdout=subprocess.PIPE)
        out, _ = child.communicate(timeout=WAIT_SECONDS)
        names = out.decode()
        assert "'cl0', 'eth0'" in names
        assert "br0" not in names


def test_entering_a_namespace_that_is_gone_says_so() -> None:
    with pytest.raises(LabError) as caught, namespace.enter(f"{PREFIX}-n9"):
        pass
    assert caught.value.code == "no-namespace"


@pytest.mark.parametrize(
    ("config", "code"),
    [
        (TopologyConfig(nodes=0), "bad-node-count"),
        (TopologyConfig(nodes=251), "bad-node-count"),
        (TopologyConfig(prefix="Two Words"), "bad-topology"),
        (TopologyConfig(families=()), "bad-topology"),
    ],
)
def test_a_lab_that_cannot_be_is_refused(config: TopologyConfig, code: str) -> None:
    with pytest.raises(LabError) as caught:
        Topology(config)
    assert caught.value.code == code
