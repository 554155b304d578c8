"""All probes of a run behind one face - and the proof that they are not blind.

A probe that cannot see loss proves nothing. So before a run `self_check` drops a packet on purpose and puts a
protected packet in plaintext on every link, and refuses to go on unless exactly that is seen.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Sequence

import msgspec

from hitless.lab.kernel import LabError
from hitless.lab.probe import namespace
from hitless.lab.probe.capture import Capture, CaptureResult
from hitless.lab.probe.counters import NodeErrors, XfrmCounters
from hitless.lab.probe.loop import ProbeLoop
from hitless.lab.probe.tcp import TcpResult, TcpStream
from hitless.lab.probe.udp import DEFAULT_PORT, READ_SECONDS, UdpProbes, UdpResult
from hitless.lab.topology import NODE_PORT, Pair, Topology, underlay_mac

_ARRIVAL_SECONDS = 10.0  # longer than any wake-up of a starved guest; reached only when something is broken
_SETTLE_SECONDS = 0.5  # how long a packet that was sent into a cut link gets to arrive all the same


class Verdict(msgspec.Struct, frozen=True):
    """What the probes saw, for the report."""

    udp: UdpResult
    tcp: tuple[TcpResult, ...]
    capture: CaptureResult
    nodes: tuple[NodeErrors, ...]

    @property
    def trustworthy(self) -> bool:
        """False where a probe itself missed packets: then its counts prove nothing."""
        return not self.udp.overruns and not self.capture.dropped


class Judge:
    """The probes of one run over a topology that is up. `close()` ends everything; also a context manager.

    `streams` are pairs of node numbers that get a TCP stream, `forbidden` pairs must not arrive. `count_xfrm=False`
    is for kernels without XFRM statistics.
    """

    def __init__(
        self,
        topology: Topology,
        packets_per_second: float = 1000.0,
        streams: Sequence[tuple[int, int]] = (),
        forbidden: Sequence[Pair] = (),
        esp: bool = True,
        count_xfrm: bool = True,
    ) -> None:
        self.topology = topology
        self.port = topology.config.udp_port if topology.config.mode == "transport" else DEFAULT_PORT
        self._rate, self._streams, self._forbidden = packets_per_second, tuple(streams), tuple(forbidden)
        self._esp, self._count_xfrm = esp, count_xfrm
        self._loop = ProbeLoop()
        self._loop.start()
        self.udp: UdpProbes | None = None
        self.tcp: list[TcpStream] = []
        self.capture: Capture | None = None
        self._counters: XfrmCounters | None = None

    def __enter__(self) -> Judge:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.stop()

    # --- a run ------------------------------------------------------------------------------------------

    def start(self, *, silent: bool = False) -> None:
        """Begin to listen, count and (unless `silent`) send."""
        topology = self.topology
        self.capture = Capture(self._loop, topology, esp=self._esp)
        self._counters = XfrmCounters(topology) if self._count_xfrm else None
        wanted = [pair for pair in topology.pairs() if pair not in self._forbidden]
        self.udp = UdpProbes(self._loop, wanted, self._rate, self._forbidden, self.port)
        family = topology.config.families[0]
        for i, j in self._streams:
            stream = TcpStream(self._loop, Pair(topology.endpoint(i, family), topology.endpoint(j, family)))
            self.tcp.append(stream)
            stream.start()
        if silent:
            self.udp.pause()
        self.udp.start()

    def join(self, i: int) -> None:
        """Judge node i as well, which was added after `start`: its link now, its pairs with all others."""
        capture, udp = self._running()
        capture.add_links((i,))
        udp.add_pairs(self.topology.pairs(i))

    def snapshot(self) -> Verdict:
        """What has been seen so far; packets of the last second are not judged yet."""
        capture, udp = self._running()
        return Verdict(udp.snapshot(), tuple(s.snapshot() for s in self.tcp), capture.snapshot(), self._node_errors())

    def stop(self, grace_seconds: float = 2.0) -> Verdict:
        """Stop sending, give late packets the grace, close; the final verdict."""
        capture, udp = self._running()
        streams = tuple(stream.stop(grace_seconds) for stream in self.tcp)
        counted = udp.stop(grace_seconds)
        verdict = Verdict(counted, streams, capture.stop(), self._node_errors())
        self.udp, self.capture, self.tcp = None, None, []
        return verdict

    def _running(self) -> tuple[Capture, UdpProbes]:
        if self.capture is None or self.udp is None:
            raise LabError("probes-not-started", "the probes are not running; start them first")
        return self.capture, self.udp

    def _node_errors(self) -> tuple[NodeErrors, ...]:
        return self._counters.delta() if self._counters is not None else ()

    # --- the proof --------------------------------------------------------------------------------------

    def self_check(self) -> None:
        """Show that loss and plaintext are seen: LabError `blind-probe` otherwise.

        Runs before the agents start, while everything flows in plaintext: every pair delivers one packet; then, with
        node 1's link cut, exactly the pairs of node 1 lose one; then all deliver again. On every link one protected
        plaintext frame is injected and must be seen there.
        """
        capture = Capture(self._loop, self.topology, esp=False)
        probes = UdpProbes(self._loop, self.topology.pairs(), port=self.port)
        try:
            self._check_plaintext(capture)
            self._check_loss(probes)
        finally:
            probes.stop(0.0)
            capture.stop()

    def _check_plaintext(self, capture: Capture) -> None:
        for i in self.topology.nodes:
            seen = capture.snapshot().plaintext
            inject_plaintext(self.topology, i)
            after = capture.wait(lambda now, seen=seen: now.plaintext > seen, _ARRIVAL_SECONDS)  # type: ignore[misc]
            if after.plaintext != seen + 1 or i not in after.plaintext_links:
                raise _blind(f"a plaintext packet put on node {i}'s link on purpose was not seen")

    def _check_loss(self, probes: UdpProbes) -> None:
        node, pairs = self.topology.nodes[0], self.topology.pairs()
        cut = len(self.topology.pairs(node))
        probes.send_once()
        if not probes.wait_received(_ARRIVAL_SECONDS):
            missing = probes.snapshot(0.0).total("lost")
            raise _blind(f"{missing} of {len(pairs)} packets did not arrive over links without any fault")
        self.topology.link_down(node)
        try:
            probes.send_once()
            # Waiting for packets that must not come: the wait's failure is the expected outcome.
            arrived_all = probes.wait_received(_SETTLE_SECONDS) if cut else False
        finally:
            self.topology.link_up(node)
        lost = probes.snapshot(0.0).total("lost")
        if arrived_all or lost != cut:
            raise _blind(f"of {cut} packets dropped on purpose {lost} were counted as lost")
        wanted = probes.snapshot(0.0).total("received") + len(pairs)
        probes.send_once()
        # Not `wait_received`: that would wait for the packets that are lost for good.
        deadline = time.monotonic() + _ARRIVAL_SECONDS
        while probes.snapshot(0.0).total("received") < wanted and time.monotonic() < deadline:
            time.sleep(READ_SECONDS)
        if probes.snapshot(0.0).total("received") != wanted:
            raise _blind("after the cut link was mended not every packet arrived")


def _blind(what: str) -> LabError:
    return LabError(
        "blind-probe",
        f"the probes' self-check failed: {what}, so their counts would prove nothing; run `down` and try again, "
        "and look for something else that filters or bridges these links",
    )


def inject_plaintext(topology: Topology, i: int) -> None:
    """Put one protected UDP packet on node i's link as a raw frame, past every IPsec policy of that node."""
    family = topology.config.families[0]
    target = next((j for j in topology.nodes if j != i), i)
    src, dst = topology.endpoint(i, family).address, topology.endpoint(target, family).address
    port = topology.config.udp_port if topology.config.mode == "transport" else DEFAULT_PORT
    udp = struct.pack("!HHHH", port, port, 8, 0)
    source, destination = ipaddress.ip_address(src).packed, ipaddress.ip_address(dst).packed
    if family == "4":
        kind = 0x0800
        packet = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, source, destination) + udp
    else:
        kind = 0x86DD
        packet = struct.pack("!IHBB16s16s", 6 << 28, len(udp), 17, 64, source, destination) + udp
    # To a station that does not exist: the bridge may flood it, nobody takes it in.
    header = bytes.fromhex("02000000fffe") + bytes.fromhex(underlay_mac(i).replace(":", "")) + struct.pack("!H", kind)
    with (
        namespace.enter(topology.node(i)),
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock,
    ):
        sock.bind((NODE_PORT, 0))
        sock.send(header + packet)
