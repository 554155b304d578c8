"""`hitless doctor`: every check is seen to fail, on a fake kernel and a real store."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from tests.agent.cluster import Cluster, key_line

from hitless.agent.config import Config
from hitless.cli import doctor
from hitless.core.model.sa import ObservedPolicy, Policy, SaCounters, Selector, Template, XfrmState
from hitless.drivers.fake.kernel import FakeKernel
from hitless.stores.options import SqliteOptions
from hitless.stores.sqlite import SqliteStore
from hitless.telemetry.doctor import Finding, kernel_errors


class Patient:
    """Two agents that settled and were stopped; their records lie in a SQLite file, as a command finds them."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.cluster = Cluster(place, ("n1", "n2"))
        self.store = place / "store.db"
        self.kernel = self.cluster.kernels["n1"]
        monkeypatch.setattr("hitless.drivers.xfrm.driver.XfrmDriver", self._driver)
        monkeypatch.setattr(doctor, "_LOOK_SECONDS", 0.0)
        monkeypatch.setattr(doctor, "_STAT", place / "xfrm_stat")
        (place / "xfrm_stat").write_text("XfrmInNoStates          \t0\n")
        asyncio.run(self._live())

    def _driver(self, _owner: object) -> Kernel:
        return Kernel(self.kernel)

    async def _live(self) -> None:
        self.cluster.key(key_line(1))
        self.cluster.start()
        await self.cluster.settled(1)
        await self.cluster.stop()
        from hitless.ports import Put

        store = SqliteStore(str(self.store))
        await store.commit([], [Put(each.key, each.value) for each in self.cluster.log.list("/").entries])
        await store.close()
        # The copy has an epoch and revisions of its own: what was said is said again under them.
        await self._say_again()

    async def _say_again(self) -> None:
        from hitless.core.model.node import Progress
        from hitless.ports import Put

        store = SqliteStore(str(self.store))
        epoch = await store.epoch()
        found = await store.list("/hitless/test/progress/")
        for entry in found.entries:
            said = msgspec.json.decode(entry.value, type=Progress)
            again = msgspec.structs.replace(said, epoch=epoch)
            await store.commit([], [Put(entry.key, msgspec.json.encode(again))])
        await store.close()

    def config(self) -> Config:
        return self.cluster.config("n1", store=SqliteOptions(str(self.store)))

    def findings(self) -> dict[str, list[Finding]]:
        found: dict[str, list[Finding]] = {}
        for each in doctor.examine(self.config()):
            found.setdefault(each.check, []).append(each)
        return found

    def worst(self, check: str) -> Finding:
        order = ("failed", "warning", "unknown", "ok")
        return min(self.findings()[check], key=lambda each: order.index(each.level))


class Kernel:
    """The fake kernel in the driver's clothes. `after` happens between the two looks."""

    after: ClassVar[Callable[[], None] | None] = None

    def __init__(self, kernel: FakeKernel) -> None:
        self._kernel, self._looks = kernel, 0

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def observe(self) -> XfrmState:
        self._looks += 1
        if self._looks == 2 and Kernel.after is not None:
            Kernel.after()
        return self._kernel.observe()

    def owns(self, thing: object) -> bool:
        return self._kernel.owns(thing)  # type: ignore[arg-type]


@pytest.fixture
def patient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    return Patient(tmp_path, monkeypatch)


def test_a_healthy_node(patient: Patient) -> None:
    found = patient.findings()
    levels = {check: [each.level for each in some] for check, some in found.items()}
    assert {level for some in levels.values() for level in some} == {"ok"}, found
    assert {"key file", "state directory", "store", "registered", "heartbeats", "progress", "associations",
            "policies", "decryption", "kernel errors"} <= levels.keys()  # fmt: skip


def test_a_missing_sa_and_a_missing_policy(patient: Patient) -> None:
    patient.kernel.remove(patient.cluster.sas("n1")[0].key)
    guard = next(each for each in patient.cluster.policies("n1") if each.action == "block")
    patient.kernel.remove(guard.key)
    assert patient.worst("associations").code == "sa-vanished"
    assert guard.selector.dst in patient.worst("policies").seen


def test_anothers_policy_that_goes_before_ours(patient: Patient) -> None:
    tunnel = Template("192.0.2.1", "192.0.2.7", 1, "tunnel")
    patient.kernel.place(
        ObservedPolicy(Policy("out", Selector("10.1.1.0/25", "10.1.0.0/16"), "allow", 100, 9, tunnel))
    )
    assert "10.1.1.0/25 > 10.1.0.0/16" in patient.worst("other policies").seen


def test_packets_that_fail_while_it_looks(patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    deaf = next(sa for sa in patient.cluster.sas("n1") if sa.src == "192.0.2.2")
    looks = iter(range(1, 99))
    monkeypatch.setattr(
        Kernel, "after", lambda: patient.kernel.count(deaf.key, SaCounters(integrity_failed=next(looks)))
    )
    assert patient.worst("decryption").code == "cannot-decrypt"


def test_keys_store_and_state_that_are_not_there(patient: Patient, tmp_path: Path) -> None:
    (tmp_path / "n1" / "keys" / "keys").write_text("1 rfc4106(gcm(aes)) 0xabcd 128\n")
    assert patient.worst("key file").code == "key-length"
    patient.store.unlink()
    assert patient.worst("store").code == "store-missing"
    assert patient.worst("kernel").level == "unknown"
    (tmp_path / "n1" / "state" / "node.json").unlink()
    assert patient.worst("state directory").level == "failed"


def test_a_removed_node_and_a_dead_peer(patient: Patient) -> None:
    async def change() -> None:
        from hitless.agent.registry import Registry
        from hitless.ports import Delete

        store = SqliteStore(str(patient.store))
        await store.commit([], [Delete("/hitless/test/live/n2")])
        await Registry(store, "test", "n1").bury(time.time())
        await store.close()

    asyncio.run(change())
    assert patient.worst("registered").code == "node-removed"
    assert "n2" in patient.worst("heartbeats").seen


def test_kernel_errors_are_explained() -> None:
    (found,) = kernel_errors({"XfrmInNoStates": 119, "XfrmOutPolBlock": 0})
    assert found.level == "warning"
    assert "119" in found.seen
    assert "SPI" in found.next
