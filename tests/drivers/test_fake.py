"""The fake kernel's other hand, and the faults that wrap any dataplane."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence

import pytest
from tests.drivers.things import gcm, policy, sa

from hitless.core.model.sa import ObservedPolicy, ObservedSa, SaCounters
from hitless.core.model.secret import Secret
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa, Op, SetPolicy
from hitless.drivers.fake.faults import Faults, FaultyDataplane
from hitless.drivers.fake.kernel import FakeKernel
from hitless.drivers.xfrm.kernel import Answer, Order


def test_foreign_objects_are_not_touched_and_nothing_is_written() -> None:
    kernel = FakeKernel()
    kernel.place(ObservedSa(sa(1), foreign_traits=("mark",)))
    kernel.place(ObservedPolicy(policy(1, index=9)))
    before = kernel.observe()
    wave: tuple[Op, ...] = (DelSa(sa(1).key), DelPolicy(policy(1).key), SetPolicy(policy(1)))
    outcomes = kernel.apply(wave)
    assert [done.error for done in outcomes] == ["foreign"] * 3
    assert "mark" in outcomes[0].detail
    assert kernel.writes == 0
    assert kernel.observe() == before


def test_a_foreign_sa_is_not_deleted_after_an_add_that_fails_on_it() -> None:
    kernel = FakeKernel()
    kernel.place(ObservedSa(sa(1, reqid=5)))
    assert [done.error for done in kernel.apply((AddSa(sa(1)), DelSa(sa(1).key)))] == ["exists", "foreign"]
    assert len(kernel.observe().sas) == 1


def test_counters_and_expiry() -> None:
    kernel = FakeKernel(wall=lambda: 1234.5)
    monitor = kernel.monitor()
    kernel.apply((AddSa(sa(1)),))
    assert kernel.observe().sas[0].counters.add_time == 1234
    kernel.count(sa(1).key, SaCounters(packets=5))
    kernel.expire(sa(1).key, hard=False)
    assert kernel.observe().sas[0].counters.packets == 5
    kernel.expire(sa(1).key, hard=True)
    assert kernel.observe().sas == ()
    assert [change.what for change in monitor.read()] == ["sa-added", "sa-expired-soft", "sa-expired-hard"]
    monitor.close()


def test_a_monitor_that_nobody_reads_says_that_it_missed_something() -> None:
    kernel = FakeKernel()
    monitor = kernel.monitor()
    for _ in range(3000):
        kernel.apply((AddSa(sa(1)), DelSa(sa(1).key)))
    assert monitor.read()[0].what == "overrun"
    monitor.close()


class LiarKernel(FakeKernel):
    """Loses its answers, and keeps another key than it was given where `other_key` says so."""

    other_key = False
    loses = False
    ignores = False

    def write(self, orders: Sequence[Order]) -> Sequence[Answer]:
        if self.ignores:
            return [Answer(code="no-answer", message="lost") for _ in orders]
        answers = super().write(orders)
        if self.other_key:
            for seen in self.observe().sas:
                changed = sa(seen.sa.spi - 0x01000000, crypto=gcm(250))
                self.place(ObservedSa(changed))
        return [Answer(code="no-answer", message="lost") for _ in orders] if self.loses else answers


def test_a_key_that_is_not_the_one_written_is_seen_and_not_shown() -> None:
    kernel = LiarKernel()
    kernel.other_key = True
    (done,) = kernel.apply((AddSa(sa(1)),))
    assert done.error == "read-back-differs"
    assert "crypto" in done.detail
    assert "fa" * 8 not in repr(done)
    assert repr(Secret(b"x")) in repr(Secret(b"y"))


@pytest.mark.parametrize("ignores", [False, True])
def test_a_lost_answer_is_decided_by_reading_back(ignores: bool) -> None:
    kernel = LiarKernel()
    kernel.apply((AddSa(sa(2)),))
    kernel.loses, kernel.ignores = True, ignores
    outcomes = kernel.apply((AddSa(sa(1)), DelSa(sa(2).key), SetPolicy(policy(1))))
    assert [done.error for done in outcomes] == (["no-answer"] * 3 if ignores else ["", "", ""])


def test_faults_fail_one_peer_some_times() -> None:
    faulty = FaultyDataplane(FakeKernel(), Faults(fail_in_peer="10.0.0.2", fail_times=2))
    wave: tuple[Op, ...] = (AddSa(sa(1)), AddSa(sa(2)), AddSa(sa(3)))
    assert [done.error for done in faulty.apply(wave)] == ["", "injected", ""]
    assert [done.error for done in faulty.apply(wave)] == ["exists", "injected", "exists"]
    assert [done.error for done in faulty.apply(wave)] == ["exists", "", "exists"]
    assert {seen.sa.spi for seen in faulty.observe().sas} == {sa(1).spi, sa(2).spi, sa(3).spi}


def test_faults_wait_before_each_operation() -> None:
    waited: list[float] = []
    faulty = FaultyDataplane(FakeKernel(), Faults(install_delay_seconds=0.25), pause=waited.append)
    assert all(done.ok for done in faulty.apply((AddSa(sa(1)), AddSa(sa(2)))))
    assert waited == [0.25, 0.25]


def test_faults_crash_right_before_an_operation() -> None:
    class CrashError(Exception):
        pass

    def crash() -> None:
        raise CrashError

    kernel = FakeKernel()
    faulty = FaultyDataplane(kernel, Faults(crash_before_operation=3), crash=crash)
    faulty.apply((AddSa(sa(1)),))
    with pytest.raises(CrashError):
        faulty.apply((AddSa(sa(2)), AddSa(sa(3))))
    assert {seen.sa.spi for seen in kernel.observe().sas} == {sa(1).spi, sa(2).spi}


def test_the_crash_is_a_kill() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "from hitless.drivers.fake.faults import kill_this_process as k; k()"],
        timeout=60, check=False, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL
