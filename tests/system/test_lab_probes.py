"""The probes count exactly: what was lost, doubled, delayed, leaked, shown in plaintext - and nothing else."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from functools import partial

import msgspec
import pytest

from hitless.core.model.sa import Aead, ObservedPolicy, ObservedSa, Sa, SaCounters, XfrmState
from hitless.core.model.secret import Secret
from hitless.core.plan.ops import Outcome, Wave
from hitless.lab.kernel import LabError
from hitless.lab.probe import namespace
from hitless.lab.probe.capture import Capture
from hitless.lab.probe.counters import SaUsage, XfrmCounters, read_xfrm_statistics, sa_usage, sum_errors
from hitless.lab.probe.judge import Judge, inject_plaintext
from hitless.lab.probe.loop import ProbeLoop
from hitless.lab.probe.tcp import TcpStream
from hitless.lab.probe.udp import UdpProbes
from hitless.lab.topology import Topology, TopologyConfig

pytestmark = pytest.mark.kernel

PREFIX = f"p{os.getpid() % 100000}"
WAIT_SECONDS = 30.0


@pytest.fixture
def network() -> Iterator[Topology]:
    with Topology(TopologyConfig(nodes=2, families=("4",), prefix=PREFIX)) as topology:
        yield topology


@pytest.fixture
def loop() -> Iterator[ProbeLoop]:
    with ProbeLoop() as running:
        yield running


def until(condition: Callable[[], bool], probes: UdpProbes) -> None:
    """Wait for a condition on a running probe: each turn waits for one more packet to have been sent."""
    for _ in range(20_000):
        if condition():
            return
        probes.snapshot(0.0)
    raise AssertionError("the condition did not come true")


def sent(probes: UdpProbes) -> int:
    return probes.snapshot(0.0).total("sent")


def reached(probes: UdpProbes, count: int) -> bool:
    return sent(probes) >= count


def test_a_quiet_network_loses_nothing(network: Topology, loop: ProbeLoop) -> None:
    probes = UdpProbes(loop, network.pairs(), 1500)
    probes.start()
    until(lambda: sent(probes) >= 1500, probes)
    result = probes.stop(WAIT_SECONDS)
    assert result.total("sent") == result.total("received") >= 1500
    for field in ("lost", "refused", "duplicated", "reordered"):
        assert result.total(field) == 0
    assert (result.overruns, result.leaked, result.loss_marks) == (0, 0, ())
    assert all(0 < p.latency_p50_ms <= p.latency_p99_ms <= p.latency_max_ms for p in result.pairs)


def test_loss_is_exact_while_a_link_is_cut(network: Topology, loop: ProbeLoop) -> None:
    probes = UdpProbes(loop, network.pairs(), 500)
    for _ in range(3):
        probes.send_once()
    assert probes.wait_received(WAIT_SECONDS)
    network.link_down(1)
    for _ in range(5):
        probes.send_once()
    probes.snapshot()
    network.link_up(1)
    for _ in range(2):
        probes.send_once()
    until(lambda: probes.snapshot(0.0).total("received") == 10, probes)
    result = probes.stop(0.0)
    assert [(p.sent, p.received, p.lost) for p in result.pairs] == [(10, 5, 5)] * 2
    # The marks name exactly the packets in the middle, in the order of sending.
    for pair in result.pairs:
        assert [m.sequence for m in result.loss_marks if m.pair == pair.pair] == [3, 4, 5, 6, 7]
    assert list(result.loss_marks) == sorted(result.loss_marks, key=lambda m: m.monotonic)


def test_silence_at_the_end_is_a_silence(network: Topology, loop: ProbeLoop) -> None:
    probes = UdpProbes(loop, network.pairs(), 500)
    probes.start()
    until(lambda: sent(probes) >= 50, probes)
    network.link_down(2)
    before = sent(probes)
    until(lambda: sent(probes) >= before + 100, probes)
    result = probes.stop(0.0)
    for pair in result.pairs:
        assert pair.lost >= 50
        # Half of the 500 packets a second are this pair's: 50 lost ones in a row span at least 49 of its 4 ms.
        assert pair.longest_silence_ms >= 49 * 4 / 2


def test_netem_loses_and_doubles_what_it_is_told(network: Topology, loop: ProbeLoop) -> None:
    probes = UdpProbes(loop, network.pairs(), 500)
    network.link_delay(1, 0, loss_percent=100)
    probes.send_once()
    network.link_delay(1, 0, duplicate_percent=100)
    probes.send_once()
    probes.send_once()
    network.link_delay(1, 0)
    probes.send_once()
    until(lambda: probes.snapshot(0.0).total("received") == 6, probes)
    result = probes.stop(0.0)
    assert [(p.sent, p.received, p.lost, p.duplicated) for p in result.pairs] == [(4, 3, 1, 2)] * 2


def test_a_delayed_link_shows_in_the_latency_and_loses_nothing(network: Topology, loop: ProbeLoop) -> None:
    network.link_delay(1, 200)
    probes = UdpProbes(loop, network.pairs(), 500)
    probes.start()
    until(lambda: sent(probes) >= 100, probes)
    result = probes.stop(WAIT_SECONDS)
    assert result.total("lost") == 0
    assert all(p.latency_p50_ms >= 200 for p in result.pairs)


def test_changing_and_taking_away_a_delay_loses_nothing_under_way(network: Topology, loop: ProbeLoop) -> None:
    probes = UdpProbes(loop, network.pairs(), 500)
    probes.start()
    for delay_milliseconds in (300, 150, 0, 200, 0):
        network.link_delay(1, delay_milliseconds)
        until(partial(reached, probes, sent(probes) + 50), probes)
    assert probes.stop(WAIT_SECONDS).total("lost") == 0


def test_a_late_packet_is_not_lost_before_the_horizon(network: Topology, loop: ProbeLoop) -> None:
    network.link_down(1)
    probes = UdpProbes(loop, network.pairs(), 500)
    probes.send_once()
    assert probes.snapshot(horizon_seconds=3600.0).total("lost") == 0
    assert probes.snapshot(horizon_seconds=0.0).total("lost") == 2
    assert probes.stop(0.0).total("lost") == 2


def test_jitter_reorders_and_is_counted(network: Topology, loop: ProbeLoop) -> None:
    network.link_delay(1, 50, jitter_milliseconds=40)
    probes = UdpProbes(loop, network.pairs(), 1000)
    probes.start()
    until(lambda: probes.snapshot(0.0).total("reordered") > 0, probes)
    assert probes.stop(WAIT_SECONDS).total("lost") == 0


def test_a_refused_packet_is_lost_and_counted_apart(network: Topology, loop: ProbeLoop) -> None:
    with namespace.netlink(network.client(1)) as link:
        link.route("add", dst=network.endpoint(2, "4").address + "/32", type="prohibit")
    probes = UdpProbes(loop, network.pairs(), 500)
    probes.send_once()
    probes.send_once()
    until(lambda: probes.snapshot(0.0).total("received") == 2, probes)
    there, back = probes.stop(0.0).pairs
    assert (there.sent, there.lost, there.refused) == (2, 2, 2)
    assert (back.sent, back.lost, back.refused) == (2, 0, 0)


def test_a_forbidden_pair_leaks_what_arrives_and_loses_nothing(network: Topology, loop: ProbeLoop) -> None:
    there, back = network.pairs()
    probes = UdpProbes(loop, [back], 500, forbidden=[there])
    for _ in range(4):
        probes.send_once()
    until(lambda: probes.snapshot(0.0).leaked == 4, probes)
    result = probes.stop(0.0)
    assert (result.leaked, result.total("lost"), result.total("sent")) == (4, 0, 4)


def test_nothing_is_sent_in_a_pause(network: Topology, loop: ProbeLoop) -> None:
    probes = UdpProbes(loop, network.pairs(), 500)
    probes.start()
    until(lambda: sent(probes) >= 10, probes)
    probes.pause()
    before = sent(probes)
    for _ in range(200):
        assert sent(probes) == before
    probes.resume()
    until(lambda: sent(probes) > before, probes)
    assert probes.stop(WAIT_SECONDS).total("lost") == 0


def test_plaintext_is_seen_on_the_link_it_was_on(network: Topology, loop: ProbeLoop) -> None:
    capture = Capture(loop, network)
    assert capture.snapshot().plaintext == 0
    inject_plaintext(network, 2)
    capture.wait(lambda seen: seen.plaintext > 0, WAIT_SECONDS)
    seen = capture.stop()
    assert (seen.plaintext, seen.plaintext_links, seen.dropped) == (1, (2,), 0)
    example = seen.examples[0]
    assert (example.src, example.dst, example.protocol, example.link) == ("10.1.2.2", "10.1.1.2", 17, 2)


@pytest.mark.parametrize("mode", ["tunnel", "transport"])
def test_each_unprotected_packet_counts_once(mode: str) -> None:
    wanted = msgspec.convert({"nodes": 3, "families": ["4", "6"], "prefix": PREFIX, "mode": mode}, TopologyConfig)
    with Topology(wanted) as network, ProbeLoop() as loop:
        capture = Capture(loop, network)
        port = network.config.udp_port if mode == "transport" else 7001
        probes = UdpProbes(loop, network.pairs(), 500, port=port)
        for _ in range(10):
            probes.send_once()
        assert probes.wait_received(WAIT_SECONDS)
        assert probes.stop(0.0).total("lost") == 0
        assert capture.stop().plaintext == 10 * len(network.pairs()) == 120


def test_transport_mode_protects_one_port_only(loop: ProbeLoop) -> None:
    with Topology(TopologyConfig(nodes=2, mode="transport", prefix=PREFIX)) as network:
        capture = Capture(loop, network)
        probes = UdpProbes(loop, network.pairs(), 500, port=network.config.udp_port + 1)
        probes.send_once()
        assert probes.wait_received(WAIT_SECONDS)
        probes.stop(0.0)
        assert capture.stop().plaintext == 0


def test_a_stream_arrives_whole_and_its_stall_shows(network: Topology, loop: ProbeLoop) -> None:
    there, _ = network.pairs()
    stream = TcpStream(loop, there)
    stream.start()
    assert stream.wait_flowing(WAIT_SECONDS)
    network.link_down(1)
    while stream.snapshot().longest_stall_ms < 300:
        pass
    network.link_up(1)
    stalled = stream.snapshot().received_bytes
    while stream.snapshot().received_bytes == stalled:
        pass
    result = stream.stop(WAIT_SECONDS)
    assert result.received_bytes == result.sent_bytes > stalled
    assert result.longest_stall_ms >= 300
    assert result.resets == 0


def test_a_stream_that_is_reset_connects_anew(network: Topology, loop: ProbeLoop) -> None:
    there, _ = network.pairs()
    stream = TcpStream(loop, there)
    stream.start()
    assert stream.wait_flowing(WAIT_SECONDS)
    loop.call(stream._drop_accepted)  # unread data makes the kernel answer with a reset
    while stream.snapshot().resets == 0:
        pass
    before = stream.snapshot().received_bytes
    while stream.snapshot().received_bytes == before:
        pass
    assert stream.stop(WAIT_SECONDS).resets >= 1


def test_the_kernels_error_counters_are_read_per_node(network: Topology) -> None:
    counters = XfrmCounters(network)
    assert {row.node: dict(row.xfrm_errors) for row in counters.delta()} == {"n1": {}, "n2": {}}
    assert "XfrmInNoStates" in read_xfrm_statistics(network.node(1))
    send_unknown_esp(network)
    for _ in range(10_000):
        if sum_errors(counters.delta()):
            break
    assert sum_errors(counters.delta()) == {"XfrmInNoStates": 1}


class OneState:
    """A dataplane that names the namespace it was opened in."""

    def observe(self) -> XfrmState:
        host = "192.0.2.1" if any(name == "eth0" for _, name in socket.if_nameindex()) else "nowhere"
        sa = Sa(host, "192.0.2.2", 0x01000001, 1, "tunnel", Aead("rfc4106(gcm(aes))", Secret(bytes(20)), 128))
        return XfrmState((ObservedSa(sa, SaCounters(packets=7, replay=2, integrity_failed=3)),))

    def apply(self, wave: Wave) -> tuple[Outcome, ...]:
        raise AssertionError(f"the probes change nothing, least of all {wave}")

    def owns(self, thing: ObservedSa | ObservedPolicy) -> bool:
        raise AssertionError(f"the probes do not ask about {thing}")


def test_each_nodes_states_are_read_inside_its_namespace(network: Topology) -> None:
    assert sa_usage(network, OneState) == tuple(
        SaUsage(node, "192.0.2.1", "192.0.2.2", 0x01000001, 7, 2, 3) for node in ("n1", "n2")
    )


def send_unknown_esp(network: Topology) -> None:
    """One ESP packet with an SPI that node 2 has no state for."""
    with namespace.enter(network.node(1)), socket.socket(socket.AF_INET, socket.SOCK_RAW, 50) as sock:
        sock.sendto(b"\x12\x34\x56\x78" + bytes(60), ("192.0.2.2", 0))


def test_esp_is_counted_by_spi_and_is_not_plaintext(network: Topology, loop: ProbeLoop) -> None:
    capture = Capture(loop, network)
    for _ in range(3):
        send_unknown_esp(network)
    capture.wait(lambda seen: seen.esp_packets == 3, WAIT_SECONDS)
    seen = capture.stop()
    assert seen.plaintext == 0
    assert [(use.src, use.dst, use.spi, use.packets) for use in seen.esp] == [("192.0.2.1", "192.0.2.2", 0x12345678, 3)]


def test_the_self_check_passes_on_a_sound_network_and_a_run_starts_clean(network: Topology) -> None:
    with Judge(network, 500, streams=[(1, 2)]) as judge:
        judge.self_check()
        judge.start()
        assert judge.udp is not None
        until(lambda: judge.snapshot().udp.total("sent") >= 200, judge.udp)
        network.add_node(3)
        judge.join(3)
        until(lambda: any(p.pair == "c3>c1/4" and p.received for p in judge.snapshot().udp.pairs), judge.udp)
        verdict = judge.stop(WAIT_SECONDS)
    assert verdict.udp.total("lost") == 0
    assert len(verdict.udp.pairs) == 6
    # Without IPsec everything is plaintext: each datagram was seen, and the stream's packets on top.
    assert verdict.capture.plaintext >= verdict.udp.total("sent")
    assert verdict.trustworthy


def test_a_blind_capture_is_noticed(network: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Topology, "protected", lambda _: ("198.51.100.0/24",))
    with Judge(network) as judge, pytest.raises(LabError) as caught:
        judge.self_check()
    assert caught.value.code == "blind-probe"


def test_a_probe_that_does_not_see_loss_is_noticed(network: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Topology, "link_down", lambda *_: None)
    with Judge(network) as judge, pytest.raises(LabError) as caught:
        judge.self_check()
    assert caught.value.code == "blind-probe"


def test_a_network_that_does_not_deliver_is_noticed(network: Topology, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitless.lab.probe.judge._ARRIVAL_SECONDS", 0.2)
    network.link_down(2)
    with Judge(network) as judge, pytest.raises(LabError) as caught:
        judge.self_check()
    assert caught.value.code == "blind-probe"


def test_a_probe_that_fails_inside_its_thread_fails_the_run(loop: ProbeLoop) -> None:
    def break_down() -> None:
        raise ZeroDivisionError

    def call_until_it_fails() -> None:
        while True:
            loop.call(lambda: None)

    loop.every(0.001, break_down)
    with pytest.raises(ZeroDivisionError):
        call_until_it_fails()
