"""The driver against the real kernel, with `ip xfrm` as the judge in both directions.

Foreign state is what strongSwan and Cilium install; it must be readable and must never be touched.
"""

from __future__ import annotations

import select
import socket
import subprocess

import pytest
from tests.drivers.things import BASE, gcm, policy, sa

from hitless.core.model.sa import ObservedPolicy, ObservedSa, SaKey, Selector
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Op, SetPolicy
from hitless.drivers.xfrm import layout as wire
from hitless.drivers.xfrm.codec import encode_policy, encode_sa
from hitless.drivers.xfrm.driver import XfrmDriver
from hitless.drivers.xfrm.monitor import XfrmMonitor
from hitless.drivers.xfrm.socket import XfrmSocket

pytestmark = [pytest.mark.kernel, pytest.mark.usefixtures("namespace")]

KEY = "0x" + "11" * 36
# strongSwan: small reqids, its own priorities, no index of its own. Cilium: one reqid and SPI, marks, wildcards.
FOREIGN = f"""
xfrm state add src 198.51.100.1 dst 198.51.100.2 proto esp spi 0xc1234567 reqid 1 mode tunnel flag af-unspec \
aead rfc4106(gcm(aes)) {KEY} 128 replay-window 32
xfrm policy add src 10.1.0.0/16 dst 10.2.1.0/24 dir out priority 371327 tmpl src 198.51.100.1 dst 198.51.100.2 \
proto esp spi 0xc1234567 reqid 1 mode tunnel
xfrm state add src 0.0.0.0 dst 192.0.2.7 proto esp spi 3 reqid 1 mode tunnel aead rfc4106(gcm(aes)) {KEY} 128 \
mark 0xd00 mask 0xf00 output-mark 0xd00 sel src 0.0.0.0/0 dst 0.0.0.0/0
xfrm policy add src 0.0.0.0/0 dst 10.0.0.0/8 dir in priority 0 mark 0xd00 mask 0xf00 tmpl src 0.0.0.0 dst 192.0.2.7 \
proto esp reqid 1 mode tunnel level use
xfrm policy add src 0.0.0.0/0 dst 0.0.0.0/0 dir fwd priority 2975 tmpl src 0.0.0.0 dst 192.0.2.7 proto esp reqid 1 \
mode tunnel level use
xfrm state add src 192.0.2.1 dst 192.0.2.8 proto ah spi 0x01000001 reqid {BASE + 1} mode transport \
auth-trunc hmac(sha256) 0x{"22" * 32} 128
xfrm state add src 192.0.2.1 dst 192.0.2.8 proto esp spi 0x01000002 reqid {BASE + 2} mode tunnel flag af-unspec \
aead rfc4106(gcm(aes)) {KEY} 128 if_id 7
"""


def ip(*arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["ip", *arguments], input=stdin, capture_output=True, text=True, timeout=30, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_counters(things: tuple[ObservedSa | ObservedPolicy, ...]) -> list[tuple[str, tuple[str, ...]]]:
    return sorted((str(t.sa if isinstance(t, ObservedSa) else t.policy), t.foreign_traits) for t in things)


def test_ip_reads_what_we_write() -> None:
    with XfrmDriver() as driver:
        guard = policy(2, action="block", template=None)
        outcomes = driver.apply((AddSa(sa(1)), SetPolicy(policy(1)), SetPolicy(guard)))
    assert all(done.ok for done in outcomes)
    state = " ".join(ip("xfrm", "state").split())
    assert "src 10.0.0.1 dst 192.0.2.1 proto esp spi 0x01000001 reqid 1744830465 mode tunnel" in state
    assert "flag af-unspec esn" in state
    assert "aead rfc4106(gcm(aes)) 0x" + "01" * 36 + " 128" in state
    assert "replay_window 1024, bitmap-length 32" in state
    text = " ".join(ip("-s", "xfrm", "policy").split())
    assert "src 10.1.0.0/16 dst 10.2.1.0/24" in text
    assert f"dir out action allow index {policy(1).index} priority 1000 ptype main" in text
    assert f"tmpl src 192.0.2.9 dst 192.0.2.1 proto esp spi 0x01000001(16777217) reqid {BASE + 1}" in text
    assert "level required share any" in text
    assert "enc-mask ffffffff auth-mask ffffffff comp-mask ffffffff" in text
    assert f"dir out action block index {policy(2).index}" in text


def test_we_read_what_ip_writes() -> None:
    ip("-batch", "-", stdin=f"""
xfrm state add src 10.0.0.1 dst 192.0.2.1 proto esp spi 0x01000001 reqid {BASE + 1} mode tunnel flag esn \
flag af-unspec replay-window 1024 aead rfc4106(gcm(aes)) 0x{"01" * 36} 128
xfrm policy add src 10.1.0.0/16 dst 10.2.1.0/24 dir out priority 1000 index {policy(1).index} \
tmpl src 192.0.2.9 dst 192.0.2.1 proto esp spi 0x01000001 reqid {BASE + 1} mode tunnel
""")  # fmt: skip
    with XfrmDriver() as driver:
        seen = driver.observe()
    assert [(s.sa, s.foreign_traits) for s in seen.sas] == [(sa(1), ())]
    assert [(p.policy, p.foreign_traits) for p in seen.policies] == [(policy(1), ())]


def test_foreign_state_is_read_and_never_touched() -> None:
    ip("-batch", "-", stdin=FOREIGN)
    with XfrmDriver() as driver:
        before = driver.observe()
        assert len(before.sas) == 4
        assert len(before.policies) == 3
        assert not any(driver.owns(thing) for thing in (*before.sas, *before.policies))
        traits = {trait for thing in (*before.sas, *before.policies) for trait in thing.foreign_traits}
        assert {"mark", "output-mark", "if_id", "proto:ah", "optional-template", "inner-family"} <= traits
        wave: list[Op] = [
            *(DelSa(seen.sa.key) for seen in before.sas),
            *(DelPolicy(seen.policy.key) for seen in before.policies),
            SetPolicy(policy(1)),
        ]
        codes = [done.error for done in driver.apply(tuple(wave))]
        # What the kernel would not resolve without a mark or an if_id, or as ESP, is not there for us.
        assert set(codes) == {"foreign", "no-such-sa", "no-such-policy"}
        assert codes[-1] == "foreign"
        assert driver.writes == 0
        # Many operations go by the dump instead of by look-ups: the same must hold.
        many = [done.error for done in driver.apply((*wave, *(DelSa(SaKey("192.0.2.250", n)) for n in range(300))))]
        assert {"", "exists"}.isdisjoint(many)
        assert driver.writes == 0
        after = driver.observe()
    assert without_counters((*after.sas, *after.policies)) == without_counters((*before.sas, *before.policies))


def test_ours_is_deleted_beside_a_foreign_one_with_the_same_key_and_a_mark() -> None:
    ip("-batch", "-", stdin=f"""
xfrm state add src 10.0.0.1 dst 192.0.2.1 proto esp spi 0x01000001 reqid 9 mode tunnel mark 5 mask 0xff \
aead rfc4106(gcm(aes)) {KEY} 128
xfrm policy add src 10.1.0.0/16 dst 10.2.1.0/24 dir out priority 5 mark 5 mask 0xff action block
""")  # fmt: skip
    with XfrmDriver() as driver:
        assert all(done.ok for done in driver.apply((SetPolicy(policy(1)),)))
        fillers = tuple(AddSa(sa(number)) for number in range(100, 200))
        assert all(done.ok for done in driver.apply((AddSa(sa(1)), *fillers)))
        gone = driver.apply((DelSa(sa(1).key), DelPolicy(policy(1).key), *(DelSa(op.sa.key) for op in fillers)))
        assert all(done.ok for done in gone)
        seen = driver.observe()
        assert [s.foreign_traits for s in seen.sas] == [("inner-family", "mark")]
        assert [p.foreign_traits for p in seen.policies] == [("mark",)]


def test_an_update_that_keeps_the_old_key_is_why_we_never_update() -> None:
    """XFRM_MSG_UPDSA on an existing SA answers success; the key read back is still the old one."""
    raw = XfrmSocket()
    with XfrmDriver() as driver:
        driver.apply((AddSa(sa(1)),))
        (answer,) = raw.write([(wire.MSG_UPDSA, encode_sa(sa(1, crypto=gcm(99))))])
        assert answer.errno == 0
        assert driver.observe().sas[0].sa == sa(1)
    raw.close()


def test_a_wave_larger_than_a_small_receive_buffer_is_answered_in_full() -> None:
    raw = XfrmSocket(receive_bytes=65536)
    requests = [(wire.MSG_NEWSA, encode_sa(sa(number))) for number in range(1, 1500)]
    assert all(answer.errno == 0 for answer in raw.write(requests))
    assert all(answer.errno == 17 for answer in raw.write(requests))
    raw.close()


def test_lost_answers_are_decided_by_reading_back() -> None:
    with XfrmDriver() as driver:
        # Chunks far too large for the buffer: the kernel drops the answers, and says so once.
        small = XfrmSocket(receive_bytes=8192, answer_seconds=0.2)
        small.writes_per_chunk = 100_000
        driver.apply(tuple(AddSa(sa(number)) for number in range(1, 400)))
        driver._kernel._socket, whole = small, driver._kernel._socket
        again = [done.error for done in driver.apply(tuple(AddSa(sa(number)) for number in range(1, 400)))]
        assert set(again) <= {"", "exists", "no-answer"}
        assert "" in again
        driver._kernel._socket = whole
        small.close()


def test_the_monitor_says_when_it_missed_something() -> None:
    monitor = XfrmMonitor(receive_bytes=8192)
    with XfrmDriver() as driver:
        driver.apply(tuple(AddSa(sa(number)) for number in range(1, 400)))
    changes = monitor.read()
    assert "overrun" in {change.what for change in changes}
    monitor.close()


def test_the_monitor_tells_others_changes_from_ours() -> None:
    monitor = XfrmMonitor()
    with XfrmDriver() as driver:
        driver.apply((AddSa(sa(1)),))
        ip("xfrm", "state", "delete", "src", "10.0.0.1", "dst", "192.0.2.1", "proto", "esp", "spi", "0x01000001")
        ip("xfrm", "state", "flush")
        changes = monitor.read()
        assert [change.what for change in changes][:2] == ["sa-added", "sa-deleted"]
        assert changes[0].pid == driver.port_id
        assert changes[1].pid != driver.port_id
        assert changes[1].reqid == sa(1).reqid
    monitor.close()


def test_a_soft_expiry_is_announced() -> None:
    monitor = XfrmMonitor()
    ip("-batch", "-", stdin="xfrm state add src 10.0.0.1 dst 192.0.2.1 proto esp spi 0x01000001 mode tunnel "
       f"aead rfc4106(gcm(aes)) {KEY} 128 limit time-soft 1 limit time-hard 100\n")  # fmt: skip
    seen: list[str] = []
    while "sa-expired-soft" not in seen:
        assert select.select([monitor], [], [], 10)[0], f"no expiry within ten seconds, only {seen}"
        seen += [change.what for change in monitor.read()]
    monitor.close()


def test_a_selector_with_host_bits_and_a_socket_policy_are_read_as_foreign() -> None:
    ip("xfrm", "policy", "add", "src", "10.1.2.3/8", "dst", "10.2.0.0/16", "dir", "out", "action", "block")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, XfrmDriver() as driver:
        # IP_XFRM_POLICY (17): a policy of this socket alone.
        body = encode_policy(policy(1, selector=Selector("0.0.0.0/0", "0.0.0.0/0"), index=0, template=None))
        sock.setsockopt(socket.IPPROTO_IP, 17, body)
        traits = sorted(trait for seen in driver.observe().policies for trait in seen.foreign_traits)
    assert traits == ["host-bits", "socket"]
