"""What the IPsec agent would do next, foreseen without doing it, on kernels of agents that settled and stopped."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.agent.cluster import Cluster, key_line, run, until

from hitless.agent.config import LabConfig
from hitless.agent.feed import listing
from hitless.agent.plan_ipsec import IpsecPlan, NoIdentityError, told, waves
from hitless.core.model.layout import Layout
from hitless.core.model.node import Progress
from hitless.core.plan.ops import AddSa, DelPolicy, DelSa
from hitless.stores.memory import MemoryStore


def after_settling(place: Path, test: Callable[[Cluster], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        cluster = Cluster(place, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        await cluster.stop()
        await test(cluster)

    run(whole)


async def planned(cluster: Cluster, lab: LabConfig | None = None) -> IpsecPlan:
    listed, _ = await listing(MemoryStore(cluster.log), "test")
    kernel = cluster.kernels["n1"]
    writes = kernel.writes
    found = waves(cluster.config("n1", lab), listed, kernel)
    assert kernel.writes == writes
    return found


def test_a_settled_node_has_nothing_to_do(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        assert await planned(cluster) == IpsecPlan(())

    after_settling(tmp_path, test)


def test_an_sa_that_is_gone_makes_the_node_begin_anew(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        kernel = cluster.kernels["n1"]
        kernel.apply((DelSa(cluster.sas("n1")[0].key),))
        found = await planned(cluster)
        assert "a new incarnation begins: an SA of ours was deleted by someone else" in found.notes
        assert any(each.startswith("peers then install ") for each in found.notes)
        foreseen = {each for wave in found.waves for each in wave if each.startswith("add-sa ")}
        old = {f"{sa.spi:#010x}" for sa in cluster.sas("n1")}
        cluster.start("n1")  # what it does then is what was foreseen

        async def begun() -> bool:
            there = {told(AddSa(sa)) for sa in cluster.sas("n1")}
            return foreseen <= there

        await until(begun)
        await cluster.stop()
        assert foreseen
        assert not [each for each in foreseen if each.rpartition(" ")[2] in old]

    after_settling(tmp_path, test)


def test_after_a_reboot_the_new_incarnation_is_foreseen(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        kernel = cluster.kernels["n1"]
        there = kernel.observe()
        kernel.apply(tuple(DelSa(each.sa.key) for each in there.sas))
        kernel.apply(tuple(DelPolicy(each.policy.key) for each in there.policies))
        found = await planned(cluster, LabConfig(boot_id="another"))
        text = "\n".join(each for wave in found.waves for each in wave)
        assert "a new incarnation begins: the machine has rebooted" in found.notes[0]
        assert "add-sa " in text
        assert "set-policy in " in text
        assert "any spi of reqid " in text
        assert "0x00000000" not in text

    after_settling(tmp_path, test)


def test_a_new_key_of_a_peer_is_installed_and_no_key_is_shown(tmp_path: Path) -> None:
    async def test(cluster: Cluster) -> None:
        cluster.key(key_line(2), "n2")
        cluster.start("n2")

        async def said_so() -> bool:
            entry = await MemoryStore(cluster.log).get(Layout("test").progress("n2"))
            return entry is not None and 2 in msgspec.json.decode(entry.value, type=Progress).receives.generations

        await until(said_so)
        await cluster.stop()
        cluster.key(key_line(1) + key_line(2), "n1")
        found = await planned(cluster)
        installs, switches = found.waves
        assert all(each.startswith("add-sa ") for each in installs)
        assert all(each.startswith("set-policy out ") for each in switches)
        assert any(each.startswith("published then: ") for each in found.notes)
        text = str(found)
        assert not [seed for seed in ("02" * 20, "03" * 20) if seed in text]

    after_settling(tmp_path, test)


def test_a_node_that_has_no_identity_yet_says_so(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1",))
        with pytest.raises(NoIdentityError, match="claims an identity") as caught:
            await planned(cluster)
        assert caught.value.code == "node-not-registered"

    run(test)
