"""The historic mistake of deleting on absence, and what a node's boot id is for: what the lab's replays stand on."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.agent.cluster import Cluster, key_line, run, until

from hitless.agent.config import IpsecConfig, LabConfig
from hitless.core.ipsec.state import Rules
from hitless.core.model.layout import Layout
from hitless.core.model.sa import Sa, SaKey, XfrmState
from hitless.core.verify.explore import Counterexample, explore
from hitless.core.verify.model import HandoverModel, Scope
from hitless.core.verify.story import story
from hitless.ports import Delete
from hitless.stores.memory import MemoryStore

LAYOUT = Layout("test")


def _by_key(state: XfrmState) -> dict[SaKey, Sa]:
    return {each.sa.key: each.sa for each in state.sas}


@pytest.mark.parametrize("absent", ["keep", "delete"])
def test_only_the_mistake_deletes_and_creates_the_same_sas_again(tmp_path: Path, absent: str) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        lab = LabConfig(absent="delete") if absent == "delete" else LabConfig()
        cluster.key(key_line(1))
        cluster.start(lab=lab)
        await cluster.settled(1)
        before, theirs = cluster.kernels["n1"].observe(), cluster.kernels["n2"].observe()
        await cluster.stop("n2")
        store = MemoryStore(cluster.log)
        await store.commit([], [Delete(LAYOUT.node("n2")), Delete(LAYOUT.progress("n2"))])

        async def gone() -> bool:
            return not cluster.sas("n1") and not cluster.pinned("n1")

        if absent == "delete":
            await until(gone)
        cluster.start("n2", lab=lab)

        async def back() -> bool:
            return len(cluster.sas("n1")) == 2 and bool(cluster.pinned("n1"))

        await until(back)
        await cluster.settled(1)
        after = cluster.kernels["n1"].observe()
        assert _by_key(after) == _by_key(before), "the same keys in either case"
        assert cluster.kernels["n2"].observe() == theirs, "the node itself keeps what it has"
        if absent == "keep":
            assert after == before
        assert {node.incarnation for node in (await cluster.status()).values()} == {1}
        await cluster.stop()

    run(test)


@pytest.mark.parametrize(("lab", "leased"), [(LabConfig(), False), (LabConfig(absent="delete"), True)])
def test_only_the_mistake_hangs_a_record_on_its_heartbeat(tmp_path: Path, lab: LabConfig, leased: bool) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start(lab=lab)
        await cluster.settled(1)
        store = MemoryStore(cluster.log)

        async def beats() -> bool:
            return await store.get(LAYOUT.live("n1")) is not None

        await until(beats)
        heartbeat, record = await store.get(LAYOUT.live("n1")), await store.get(LAYOUT.node("n1"))
        assert heartbeat is not None
        assert record is not None
        assert record.lease == (heartbeat.lease if leased else 0)
        await cluster.stop()

    run(test)


def test_the_explorer_refutes_deletion_on_absence() -> None:
    model = HandoverModel(Scope(newest=1, wipes=1, rules=Rules(absent="delete"), reduce=False))
    result = explore(model, model.properties(), 100_000)
    assert isinstance(result, Counterexample)
    assert story(model, result)[-2:] == (
        "5. n1 deletes its IN state of generation 1 from n2",
        "=> decryptable: n1 cannot decrypt what n2 sends with generation 1",
    )


def test_another_boot_id_begins_another_incarnation(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        ipsec = IpsecConfig(drain_seconds=0.05)
        cluster.start(lab=LabConfig(boot_id="first"), ipsec=ipsec)
        await cluster.settled(1)
        await cluster.stop("n2")
        with capture_logs() as logs:
            cluster.start("n2", lab=LabConfig(boot_id="second"), ipsec=ipsec)
            while (await cluster.status())["n2"].incarnation == 1:
                await asyncio.sleep(0.005)
        assert [each["reason"] for each in logs if each["event"] == "incarnated"] == ["rebooted"]
        await cluster.settled(1)
        await cluster.stop()

    run(test)
