"""What every dataplane must do, told as waves and outcomes; run against the fake and the real kernel."""

from __future__ import annotations

import select
from collections.abc import Iterator

import pytest
from tests.drivers.things import BASE, cbc, gcm, policy, sa

from hitless.core.model.sa import Aead, AuthEnc, SaKey, Selector, Template
from hitless.core.model.secret import Secret
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Op, SetPolicy
from hitless.drivers.fake.kernel import FakeKernel, FakeMonitor
from hitless.drivers.xfrm.driver import XfrmDriver
from hitless.drivers.xfrm.monitor import XfrmMonitor

Dataplane = FakeKernel | XfrmDriver

SAS = [
    sa(1),
    sa(2, crypto=cbc()),
    sa(3, mode="transport"),
    sa(4, src="2001:db8::4", dst="2001:db8::1"),
    sa(5, src="2001:db8::4", dst="2001:db8::1", mode="transport", crypto=cbc()),
    sa(6, esn=False, replay_window=32),
    sa(7, esn=False, replay_window=0),
    sa(8, esn=False, replay_window=64),
    sa(9, replay_window=4096),
    sa(10, crypto=Aead("rfc4106(gcm(aes))", Secret(bytes(range(20))), 64)),
]
POLICIES = [
    policy(1),
    policy(2, "in", template=Template("192.0.2.1", "192.0.2.9", BASE + 2, "tunnel")),
    policy(3, "fwd", template=Template("192.0.2.1", "192.0.2.9", BASE + 2, "tunnel")),
    policy(4, action="block", template=None, priority=2**31),
    policy(5, selector=Selector("10.1.0.0/16", "10.2.0.0/16", 17, 500, 4500)),
    policy(6, selector=Selector("2001:db8::/32", "2001:db8:1::/48", 58, 135)),
    policy(7, selector=Selector("0.0.0.0/0", "0.0.0.0/0"), action="block", template=None),
    policy(8, template=Template("2001:db8::4", "2001:db8::1", BASE + 4, "tunnel", 0x01000004)),
    policy(
        9, "in", selector=Selector("2001:db8::4/128", "2001:db8::1/128"),
        template=Template("2001:db8::4", "2001:db8::1", BASE + 5, "transport"),
    ),
]  # fmt: skip


def errors(dataplane: Dataplane, *wave: Op) -> list[str]:
    outcomes = dataplane.apply(wave)
    assert tuple(done.op for done in outcomes) == wave
    assert all(done.ok or done.detail for done in outcomes)
    return [done.error for done in outcomes]


def test_what_was_applied_is_what_is_observed(dataplane: Dataplane) -> None:
    wave: list[Op] = [*map(AddSa, SAS), *map(SetPolicy, POLICIES)]
    assert errors(dataplane, *wave) == [""] * len(wave)
    seen = dataplane.observe()
    assert {s.sa.key: s.sa for s in seen.sas} == {s.key: s for s in SAS}
    assert {p.policy.key: p.policy for p in seen.policies} == {p.key: p for p in POLICIES}
    assert all(map(dataplane.owns, seen.sas))
    assert all(map(dataplane.owns, seen.policies))
    assert dataplane.writes == len(wave)


def test_all_that_was_made_can_be_deleted(dataplane: Dataplane) -> None:
    dataplane.apply((*map(AddSa, SAS), *map(SetPolicy, POLICIES)))
    wave: list[Op] = [*(DelSa(s.key) for s in SAS), *(DelPolicy(p.key) for p in POLICIES)]
    assert errors(dataplane, *wave) == [""] * len(wave)
    seen = dataplane.observe()
    assert seen.sas == ()
    assert seen.policies == ()


def test_an_empty_wave_writes_nothing(dataplane: Dataplane) -> None:
    assert dataplane.apply(()) == ()
    assert dataplane.writes == 0


def test_an_sa_that_exists_is_left_alone_whatever_its_source(dataplane: Dataplane) -> None:
    dataplane.apply((AddSa(sa(1)),))
    assert errors(dataplane, AddSa(sa(1, src="10.9.9.9", crypto=gcm(77)))) == ["exists"]
    assert [seen.sa for seen in dataplane.observe().sas] == [sa(1)]


def test_each_refusal_is_mapped_to_its_operation_in_a_big_wave(dataplane: Dataplane) -> None:
    wave: list[Op] = [AddSa(sa(number)) for number in range(1, 1200)]
    planted: dict[int, tuple[Op, str]] = {
        100: (AddSa(sa(50, crypto=gcm(200))), "exists"),
        300: (AddSa(sa(5000, crypto=Aead("rfc4106(gcm(none))", Secret(bytes(36)), 128))), "algorithm-unknown"),
        301: (AddSa(sa(5001, crypto=Aead("rfc4106(gcm(aes))", Secret(bytes(35)), 128))), "bad-key-length"),
        500: (DelSa(SaKey("192.0.2.1", 0x01FFFFFF)), "no-such-sa"),
        600: (AddSa(sa(5002, replay_window=0)), "refused-einval"),
        700: (DelPolicy(policy(9).key), "no-such-policy"),
        701: (SetPolicy(policy(9, template=Template("::4", "::1", BASE, "transport"))), "refused-einval"),
        800: (AddSa(sa(5003, dst="not an address")), "invalid"),
        801: (SetPolicy(policy(9, selector=Selector("10.1.0.1/16", "10.0.0.0/8"))), "invalid"),
        900: (AddSa(sa(5004, reqid=7)), "unowned"),
        901: (SetPolicy(policy(9, index=9)), "unowned"),
        1100: (
            AddSa(sa(5005, crypto=AuthEnc("hmac(none)", Secret(b"k"), 96, "cbc(aes)", Secret(bytes(16))))),
            "algorithm-unknown",
        ),
    }
    for place, (op, _) in planted.items():
        wave[place:place] = [op]
    got = errors(dataplane, *wave)
    assert {place: error for place, error in enumerate(got) if error} == {
        place: error for place, (_, error) in planted.items()
    }
    assert len(dataplane.observe().sas) == 1199


def test_a_replaced_policy_keeps_its_index_and_takes_the_rest(dataplane: Dataplane) -> None:
    dataplane.apply((SetPolicy(policy(1)),))
    changed = policy(1, priority=7, action="block", template=None)
    assert errors(dataplane, SetPolicy(changed)) == [""]
    assert [seen.policy for seen in dataplane.observe().policies] == [changed]


def test_another_index_for_an_existing_policy_is_seen_by_the_read_back(dataplane: Dataplane) -> None:
    dataplane.apply((SetPolicy(policy(1)),))
    (done,) = dataplane.apply((SetPolicy(policy(1, index=BASE + 801)),))
    assert done.error == "read-back-differs"
    assert "index" in done.detail
    assert [seen.policy for seen in dataplane.observe().policies] == [policy(1)]


def test_an_index_that_is_taken_is_seen_by_the_read_back(dataplane: Dataplane) -> None:
    (first, second) = dataplane.apply((SetPolicy(policy(1)), SetPolicy(policy(2, index=policy(1).index))))
    assert first.ok
    assert second.error == "read-back-differs"
    # The stranger's number that the kernel chose makes it nobody's: it is not deleted under the wrong index either.
    assert errors(dataplane, DelPolicy(policy(2).key), DelPolicy(policy(1).key)) == ["foreign", ""]


def test_a_wave_is_carried_out_in_order(dataplane: Dataplane) -> None:
    again = sa(1, crypto=gcm(9))
    assert errors(dataplane, AddSa(sa(1)), DelSa(sa(1).key), AddSa(again), DelSa(sa(2).key), AddSa(sa(2))) == [
        "", "", "", "no-such-sa", "",
    ]  # fmt: skip
    assert {seen.sa.spi: seen.sa for seen in dataplane.observe().sas} == {again.spi: again, sa(2).spi: sa(2)}
    assert errors(
        dataplane, SetPolicy(policy(1)), SetPolicy(policy(1, priority=5)), DelPolicy(policy(1).key),
        SetPolicy(policy(1, priority=6)), DelPolicy(policy(2).key),
    ) == ["", "", "", "", "no-such-policy"]  # fmt: skip
    assert [seen.policy.priority for seen in dataplane.observe().policies] == [6]


@pytest.fixture
def monitor(dataplane: Dataplane) -> Iterator[XfrmMonitor | FakeMonitor]:
    listener = dataplane.monitor() if isinstance(dataplane, FakeKernel) else XfrmMonitor()
    yield listener
    listener.close()


def test_the_monitor_tells_additions_and_deletions_and_who_did_them(
    dataplane: Dataplane, monitor: XfrmMonitor | FakeMonitor
) -> None:
    assert monitor.read() == ()
    assert not select.select([monitor], [], [], 0)[0]
    dataplane.apply((AddSa(sa(1)), SetPolicy(policy(1)), SetPolicy(policy(1, priority=1)),
                     DelPolicy(policy(1).key), DelSa(sa(1).key)))  # fmt: skip
    assert select.select([monitor], [], [], 5)[0]
    changes = monitor.read()
    assert [change.what for change in changes] == [
        "sa-added", "policy-added", "policy-updated", "policy-deleted", "sa-deleted",
    ]  # fmt: skip
    assert {change.pid for change in changes} == {dataplane.port_id}
    for change in (changes[0], changes[-1]):
        assert (change.dst, change.spi, change.reqid) == ("192.0.2.1", sa(1).spi, sa(1).reqid)
    assert monitor.read() == ()
