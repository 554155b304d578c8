"""The judge of the firewall's scenarios, through a real switch: it counts when there is something to count."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from tests.lab.firewall.conftest import PORTS, STATEFUL, ZONE, until

from hitless.lab.firewall import marks, traffic
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.streams import Stream, StreamResult, unsolicited
from hitless.lab.firewall.traffic import Traffic
from hitless.lab.kernel import LabError

UDP4, UDP6 = Stream("udp4", "udp", "a", "b", 7000), Stream("udp6", "udp", "b", "c", 7001, ipv6=True)
TCP4, TCP6 = Stream("tcp4", "tcp", "a", "c", 7002), Stream("tcp6", "tcp", "c", "a", 7003, ipv6=True)
PASSING = (UDP4, UDP6, TCP4, TCP6)
FORBIDDEN = (
    Stream("no-udp", "udp", "a", "b", 7100, "drop"),
    Stream("no-tcp", "tcp", "a", "b", 7100, "drop"),
    Stream("no-tcp6", "tcp", "b", "a", 7100, "drop", ipv6=True),
    unsolicited(UDP4, 7101),
)


@contextmanager
def in_the_way(ground: FirewallGround, match: str, actions: str) -> Iterator[None]:
    """A flow above all others, for the length of the block."""
    ground.ofctl("add-flow", f"cookie=0xbad,table=0,priority=60000,{match},actions={actions}")
    try:
        yield
    finally:
        ground.ofctl("del-flows", "cookie=0xbad/-1")


def clean(result: StreamResult) -> bool:
    counts = (result.lost, result.leaked, result.duplicated_forward, result.duplicated_reply)
    return not any(counts) and not result.broken and result.recovered_after_seconds is not None


def test_through_tables_that_do_right_nothing_is_lost_leaked_or_broken(ground: FirewallGround) -> None:
    with Traffic(ground, (*PASSING, *FORBIDDEN)) as judge:
        judge.settle()
        judge.self_check()
        judge.mark("nothing happens")
        until(lambda: min(each.sent for each in judge.snapshot().streams) > 10)
        result = judge.stop()
    assert all(clean(each) for each in result.streams), result
    assert all(each.replied > 10 for each in result.streams[:4])
    assert not any(each.delivered for each in result.streams[4:])
    assert [mark.text for mark in result.marks] == ["nothing happens"]
    assert not result.overruns


def test_a_lost_request_is_counted_forward_and_the_stream_recovers(ground: FirewallGround) -> None:
    with Traffic(ground, PASSING) as judge:
        judge.settle()
        with in_the_way(ground, "udp,tp_dst=7000", "drop"):
            until(lambda: judge.snapshot().stream("udp4").lost_forward)
        result = judge.stop()
    hit = result.stream("udp4")
    assert hit.lost_forward > 0
    assert hit.lost_reply == 0
    assert hit.sent == hit.delivered + hit.lost_forward
    assert hit.silence_forward_seconds >= (hit.recovered_after_seconds or 0.0) > 0.0
    assert not hit.broken
    assert all(clean(each) for each in result.streams if each is not hit)


def test_a_lost_reply_is_told_from_a_lost_request(ground: FirewallGround) -> None:
    with Traffic(ground, PASSING) as judge:
        judge.settle()
        with in_the_way(ground, "udp6,tp_src=7001", "drop"):
            until(lambda: judge.snapshot().stream("udp6").lost_reply)
        result = judge.stop()
    hit = result.stream("udp6")
    assert hit.lost_reply > 0
    assert hit.lost_forward == 0
    assert all(clean(each) for each in result.streams if each is not hit)


def test_a_stall_of_tcp_is_measured_and_is_no_loss(ground: FirewallGround) -> None:
    with Traffic(ground, (TCP4, UDP4)) as judge:
        judge.settle()
        with in_the_way(ground, "tcp,tp_dst=7002", "drop"):
            until(lambda: judge.snapshot().stream("tcp4").silence_forward_seconds > 1.0)
        hit = judge.stop().stream("tcp4")
    assert (hit.lost, hit.broken) == (0, False)
    assert hit.recovered_after_seconds is not None
    assert hit.recovered_after_seconds > 1.0


@pytest.mark.parametrize(
    ("stream", "match"),
    list(zip(FORBIDDEN, ("udp,tp_dst=7100", "tcp,tp_dst=7100", "tcp6,tp_dst=7100", "udp,tp_dst=7101"), strict=True)),
    ids=lambda value: value.name if isinstance(value, Stream) else "",
)
def test_a_forbidden_stream_that_gets_through_is_counted(ground: FirewallGround, stream: Stream, match: str) -> None:
    with Traffic(ground, (UDP4, *FORBIDDEN)) as judge:
        judge.settle()
        with in_the_way(ground, match, "NORMAL"):
            until(lambda: judge.snapshot().stream(stream.name).leaked)
        result = judge.stop()
    assert {each.name for each in result.streams if each.leaked} == {stream.name}
    assert result.lost == 0


def test_a_poisoned_connection_is_broken_until_its_mark_is_gone(ground: FirewallGround) -> None:
    with Traffic(ground, (UDP4, UDP6, TCP4, TCP6)) as judge:
        judge.settle()
        assert marks.marked(ground, (ZONE,)) == ()
        for stream in (UDP4, TCP6):
            (connection,) = marks.of_stream(ground, stream, (ZONE,))
            marks.plant(ground, connection)
        result = judge.stop()
    assert {(each.protocol, each.ipv6) for each in marks.marked(ground, (ZONE,))} == {(17, False), (6, True)}
    assert set(result.broken) == {"udp4", "tcp6"}
    udp, tcp = result.stream("udp4"), result.stream("tcp6")
    assert udp.lost_forward == 0  # the requests arrive: it is the replies that are dead
    assert udp.lost_reply > 0
    assert udp.recovered_after_seconds is tcp.recovered_after_seconds is None
    assert clean(result.stream("udp6"))
    assert clean(result.stream("tcp4"))


def test_a_mark_on_a_connection_that_does_not_live_is_refused(
    ground: FirewallGround, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(marks, "_TIMEOUT_SECONDS", 0.2)
    with Traffic(ground, (UDP4,)) as judge:
        judge.settle()
        (connection,) = marks.of_stream(ground, UDP4, (ZONE,))
    with pytest.raises(LabError) as caught:
        marks.plant(ground, connection)
    assert caught.value.code == "no-mark"


def test_a_stream_that_must_drop_from_now_on_leaks_in_both_directions_until_it_is_cut(ground: FirewallGround) -> None:
    with Traffic(ground, PASSING) as judge:
        judge.settle()
        judge.expect("udp4", "drop")
        judge.expect("tcp4", "drop")
        until(lambda: all(judge.snapshot().stream(name).leaked_reply > 5 for name in ("udp4", "tcp4")))
        assert all(judge.snapshot().stream(name).leaked_forward > 5 for name in ("udp4", "tcp4"))
        with in_the_way(ground, f"ip,nw_dst={PORTS[0].address()}", "drop"), in_the_way(ground, "ip,in_port=1", "drop"):
            cut = judge.snapshot()
            until(lambda: judge.snapshot().stream("udp4").sent > cut.stream("udp4").sent + 20)
            before = judge.snapshot().leaked
            until(lambda: judge.snapshot().stream("udp4").answered > cut.stream("udp4").answered + 50)
            assert judge.snapshot().leaked == before
        result = judge.stop()
    assert result.broken == ()  # what must drop cannot be broken
    assert clean(result.stream("udp6"))
    assert clean(result.stream("tcp6"))


def test_a_forbidden_stream_that_becomes_allowed_has_to_pass(ground: FirewallGround) -> None:
    with Traffic(ground, FORBIDDEN) as judge:
        judge.settle()
        judge.expect("no-udp", "pass")
        with pytest.raises(LabError) as caught:
            judge.settle(timeout_seconds=0.5)
        assert caught.value.code == "streams-do-not-settle"
        assert "no-udp" in str(caught.value)
        judge.expect("no-udp", "drop")
        ground.ofctl("add-flow", "table=0,priority=50000,tcp,actions=NORMAL")
        judge.expect("no-tcp", "pass")
        judge.settle()
        until(lambda: judge.snapshot().stream("no-tcp").replied > 3)
        result = judge.stop()
    assert clean(result.stream("no-tcp"))


@pytest.mark.scenario
def test_a_killed_switch_loses_everything_and_streams_pass_again_with_its_flows(ground: FirewallGround) -> None:
    with Traffic(ground, (UDP4, TCP4)) as judge:
        judge.settle()
        ground.kill_switch()
        until(lambda: judge.snapshot().stream("udp4").lost_forward)
        ground.start_switch()
        ground.ofctl("add-flows", "-", stdin=STATEFUL)
        result = judge.stop()
    assert result.broken == ()
    assert all(each.recovered_after_seconds for each in result.streams)


def test_a_self_check_that_sees_nothing_refuses(ground: FirewallGround, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traffic, "_CHECK_LIMIT_SECONDS", 0.2)
    with Traffic(ground, (UDP4,)) as judge:
        judge.settle()
        monkeypatch.setattr(ground, "ofctl", lambda *_: "")
        with pytest.raises(LabError) as caught:
            judge.self_check()
    assert caught.value.code == "blind-probe"


def test_a_self_check_refuses_where_it_hits_another_stream_too(ground: FirewallGround) -> None:
    real = ground.ofctl
    with Traffic(ground, (UDP4, UDP6)) as judge, pytest.MonkeyPatch.context() as patch:
        judge.settle()

        def too_wide(command: str, flow: str) -> str:
            everything = f"cookie={traffic.CHECK_COOKIE:#x},table=0,priority=65535,actions=drop"
            return real(command, everything if command == "add-flow" else flow)

        patch.setattr(ground, "ofctl", too_wide)
        with pytest.raises(LabError) as caught:
            judge.self_check()
    assert caught.value.code == "blind-probe"
    assert "udp6" in str(caught.value)


def test_traffic_that_does_not_run_says_so(ground: FirewallGround) -> None:
    judge = Traffic(ground, (UDP4,))
    with pytest.raises(LabError) as caught:
        judge.snapshot()
    assert caught.value.code == "traffic-not-started"
    with pytest.raises(LabError) as caught, judge:
        judge.expect("nobody", "drop")
    assert caught.value.code == "no-such-stream"
    with judge:
        assert judge._process is not None
        os.kill(judge._process.pid, signal.SIGKILL)
        with pytest.raises(LabError) as caught:
            judge.snapshot()
    assert caught.value.code == "traffic-died"
