"""A capture on every underlay link that knows one question: is there protected traffic outside ESP?

It listens on the bridge's ports, to what comes *from* the nodes: each packet is seen once, on the link of the node
that let it out. A filter in the kernel drops what is of no interest. ESP packets are counted by destination and SPI
where wanted, so that a picture can show which key was in use when.
"""

from __future__ import annotations

import ipaddress
import socket
import struct
import time
from collections.abc import Callable, Sequence

import msgspec

from hitless.lab.probe import filter as bpf
from hitless.lab.probe import namespace
from hitless.lab.probe.batch import BatchReceiver, Clocks
from hitless.lab.probe.loop import ProbeLoop, Ticker
from hitless.lab.topology import Topology

POLL_SECONDS = 0.05  # packets wait in the socket meanwhile, with the kernel's time stamp
QUEUE_BYTES = 8 << 20  # more than 5,000 packets between two polls
EXAMPLES_LIMIT = 20  # the first sightings say what leaked; the count stays exact beyond it
_ETH_P_ALL = 0x0003
_SOL_PACKET, _PACKET_STATISTICS, _PACKET_IGNORE_OUTGOING = 263, 6, 23  # linux/if_packet.h


class Sighting(msgspec.Struct, frozen=True):
    """A protected packet seen outside ESP, on the link of node `link`; ports are 0 where there are none."""

    monotonic: float
    link: int
    src: str
    dst: str
    protocol: int
    sport: int = 0
    dport: int = 0


class EspUse(msgspec.Struct, frozen=True, order=True):
    """Packets seen under one SPI towards one destination, and when first and last (CLOCK_MONOTONIC, seconds)."""

    src: str
    dst: str
    spi: int
    packets: int
    first: float
    last: float


class CaptureResult(msgspec.Struct, frozen=True):
    """`plaintext` counts exactly; `dropped` packets were missed by the capture itself: not 0 means it cannot vouch."""

    plaintext: int = 0
    examples: tuple[Sighting, ...] = ()
    plaintext_links: tuple[int, ...] = ()
    esp_packets: int = 0
    esp: tuple[EspUse, ...] = ()
    dropped: int = 0


class _Ear:
    """One link's socket."""

    def __init__(self, topology: Topology, link: int, code: bytes) -> None:
        self.link = link
        with namespace.enter(topology.switch):
            # Protocol 0 until the filter is on: otherwise the first packets would come unfiltered.
            self.sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
            bpf.attach(self.sock, code)
            self.sock.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
            self.receiver = BatchReceiver(self.sock, bpf.SNAP_BYTES, QUEUE_BYTES)
            self.sock.bind((topology.port(link), _ETH_P_ALL))

    def dropped(self) -> int:
        """Since the last call."""
        return int(struct.unpack("II", self.sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1])


class Capture:
    """Listens from construction until `stop`. With `esp=False` ESP is dropped in the kernel and costs nothing."""

    def __init__(
        self, loop: ProbeLoop, topology: Topology, links: Sequence[int] | None = None, esp: bool = True
    ) -> None:
        self._loop, self._topology = loop, topology
        transport = topology.config.mode == "transport"
        self._code = bpf.program(topology.protected(), topology.config.udp_port if transport else None, esp)
        self._ears: list[_Ear] = []
        self._plaintext = self._esp_packets = self._dropped = 0
        self._examples: list[Sighting] = []
        self._links: set[int] = set()
        self._uses: dict[bytes, list[float]] = {}
        self._ticker: Ticker | None = None
        self.add_links(topology.nodes if links is None else links)

    def add_links(self, links: Sequence[int]) -> None:
        """Listen on more nodes' links too (a node joined)."""
        self._loop.call(lambda: self._add(links))

    def snapshot(self) -> CaptureResult:
        """Everything seen so far, with what waits in the sockets."""
        return self._loop.call(self._result)

    def wait(self, condition: Callable[[CaptureResult], bool], timeout_seconds: float) -> CaptureResult:
        """What has been seen as soon as `condition` holds for it, or when the time is over. Asks every 50 ms."""
        deadline = time.monotonic() + timeout_seconds
        while not condition(seen := self.snapshot()) and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        return seen

    def stop(self) -> CaptureResult:
        return self._loop.call(self._close)

    # --- in the probes' thread --------------------------------------------------------------------------

    def _add(self, links: Sequence[int]) -> None:
        self._ears.extend(_Ear(self._topology, link, self._code) for link in links)
        self._ticker = self._ticker or self._loop.every(POLL_SECONDS, self._poll)

    def _poll(self) -> None:
        clocks = Clocks()
        for ear in self._ears:
            for frame, at_ns in ear.receiver.drain(clocks):
                self._classify(ear.link, frame, at_ns * 1e-9)
            self._dropped += ear.dropped()

    def _classify(self, link: int, frame: bytes, at: float) -> None:
        if frame[12] == 0x08:
            behind = bpf.ETHER_BYTES + (frame[14] & 15) * 4
            protocol, addresses = frame[23], frame[26:34]
        else:
            behind = bpf.ETHER_BYTES + 40
            protocol, addresses = frame[20], frame[22:54]
        if protocol == bpf.ESP:
            self._esp_packets += 1
            use = self._uses.get(key := addresses + frame[behind : behind + 4])
            if use is None:
                self._uses[key] = [1, at, at]
            else:
                use[0] += 1
                use[2] = at
            return
        self._plaintext += 1
        self._links.add(link)
        if len(self._examples) < EXAMPLES_LIMIT:
            half = len(addresses) // 2
            src, dst = (str(ipaddress.ip_address(a)) for a in (addresses[:half], addresses[half:]))
            with_ports = protocol in (6, bpf.UDP) and len(frame) >= behind + 4
            sport, dport = struct.unpack_from("!HH", frame, behind) if with_ports else (0, 0)
            self._examples.append(Sighting(at, link, src, dst, protocol, sport, dport))

    def _result(self) -> CaptureResult:
        self._poll()
        uses = []
        for key, (packets, first, last) in self._uses.items():
            half = (len(key) - 4) // 2
            src, dst = (str(ipaddress.ip_address(a)) for a in (key[:half], key[half:-4]))
            uses.append(EspUse(src, dst, int.from_bytes(key[-4:], "big"), int(packets), first, last))
        return CaptureResult(
            self._plaintext, tuple(self._examples), tuple(sorted(self._links)), self._esp_packets,
            tuple(sorted(uses)), self._dropped,
        )  # fmt: skip

    def _close(self) -> CaptureResult:
        result = self._result()
        if self._ticker is not None:
            self._loop.cancel(self._ticker)
            self._ticker = None
        for ear in self._ears:
            ear.sock.close()
        self._ears.clear()
        return result
