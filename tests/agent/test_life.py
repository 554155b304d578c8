"""An agent's life on a fake kernel: start, rotation, restart, refusal, removal."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.agent.cluster import Cluster, key_line, run, until

from hitless.agent.config import IpsecConfig, LabConfig
from hitless.agent.life import live
from hitless.agent.registry import Registry, RegistryError
from hitless.core.model.sa import Aead, ObservedPolicy, ObservedSa, Policy, Sa, SaCounters, Selector, Template
from hitless.core.model.secret import Secret
from hitless.drivers.fake.kernel import FakeKernel
from hitless.stores.memory import MemoryStore


def test_nodes_meet_and_rotate(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path)
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        for name in cluster.kernels:
            assert len(cluster.sas(name)) == 4
            assert len(cluster.pinned(name)) == 2
        cluster.key(key_line(2))
        await cluster.settled(2)
        for name in cluster.kernels:
            assert cluster.generations(name) == {2}
            assert len(cluster.sas(name)) == 4
        await cluster.stop()

    run(test)


def test_both_ends_hold_the_same_key_and_no_two_sas_share_one(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path)
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        ends: dict[tuple[str, str, int], list[bytes]] = {}
        for name in cluster.kernels:
            for sa in cluster.sas(name):
                assert isinstance(sa.crypto, Aead)
                ends.setdefault((sa.src, sa.dst, sa.spi), []).append(sa.crypto.key.reveal())
        assert len(ends) == 6
        assert all(len(keys) == 2 and keys[0] == keys[1] for keys in ends.values())
        assert len({keys[0] for keys in ends.values()}) == 6
        await cluster.stop()

    run(test)


def test_restart_with_nothing_changed_writes_nothing(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path)
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        await cluster.stop("n1")
        before = cluster.kernels["n1"].writes, cluster.records()
        seen = cluster.kernels["n1"].observe()
        with capture_logs() as logs:
            cluster.start("n1")

            async def settled_again() -> bool:
                return any(each["event"] == "settled" for each in logs)

            await until(settled_again)
        assert (cluster.kernels["n1"].writes, cluster.records()) == before
        assert cluster.kernels["n1"].observe() == seen
        assert [each["event"] for each in logs if each["event"] in ("adopted", "incarnated")] == ["adopted"]
        await cluster.stop()

    run(test)


def test_a_stopped_agent_leaves_the_kernel_as_it_is_and_finishes_later(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path)
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        await cluster.stop("n2")
        held = cluster.kernels["n2"].observe()
        cluster.key(key_line(2))

        async def others_wait() -> bool:
            nodes = await cluster.status()
            return all(
                [each.peer for each in nodes[name].laggards] == ["n2"] and nodes[name].generation == 2
                for name in ("n1", "n3")
            )

        await until(others_wait)
        assert cluster.kernels["n2"].observe() == held
        # Only the pairs with the late node keep the old key; the two others have finished theirs.
        assert {spi >> 24 for dst, spi in cluster.pinned("n1").items() if dst == "10.1.3.0/24"} == {3}
        assert {spi >> 24 for dst, spi in cluster.pinned("n1").items() if dst == "10.1.2.0/24"} == {2}
        assert {laggard.reason for laggard in (await cluster.status())["n1"].laggards} == {"key-missing"}
        cluster.start("n2")
        await cluster.settled(2)
        assert all(cluster.generations(name) == {2} for name in cluster.kernels)
        await cluster.stop()

    run(test)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (key_line(1, seed=77), "key-id-reused"),
        (key_line(2, seed=1), "key-material-reused"),
        (key_line(2)[:40] + "\n", "key-fields"),
        (key_line(2).replace(" 128", " 256"), "key-icv"),
        ("", "key-file-empty"),
    ],
)
def test_a_bad_key_file_changes_nothing(tmp_path: Path, line: str, code: str) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        before = cluster.kernels["n1"].observe()
        with capture_logs() as logs:
            cluster.key(line, "n1")

            async def refused() -> bool:
                return any(each["event"] == "key-refused" and each["code"] == code for each in logs)

            await until(refused)
        assert cluster.kernels["n1"].observe() == before
        cluster.key(key_line(3))
        await cluster.settled(2)
        await cluster.stop()

    run(test)


def test_file_ids_wrap_while_generations_go_on(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(14))
        cluster.start()
        for generation, (key_id, seed) in enumerate([(14, 14), (15, 15), (1, 101), (14, 114)], 1):
            cluster.key(key_line(key_id, seed))
            await cluster.settled(generation)
        assert (await cluster.status())["n1"].key_id == 14
        await cluster.stop()

    run(test)


def test_a_refused_install_holds_back_one_pair_only(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path)
        cluster.key(key_line(1))
        cluster.start("n2", "n3")
        cluster.start("n1", lab=LabConfig(fail_in_peer="192.0.2.3", fail_times=3))
        await cluster.settled(1)
        await cluster.stop()

    run(test)


def test_a_removed_node_is_blocked_drained_and_deleted(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path)
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        await cluster.stop("n3")
        await Registry(MemoryStore(cluster.log), "test", "n3").bury()

        async def gone() -> bool:
            return all(
                len(cluster.sas(name)) == 2
                and not any("10.1.3.0/24" in (p.selector.src, p.selector.dst) for p in cluster.policies(name))
                for name in ("n1", "n2")
            )

        await until(gone)
        # What was protected stays protected: the cluster's range is still guarded.
        guards = [p.selector.dst for p in cluster.policies("n1") if p.action == "block" and p.direction == "out"]
        assert "10.1.0.0/16" in guards
        with pytest.raises(RegistryError, match="node-unknown"):
            await Registry(MemoryStore(cluster.log), "test", "n9").bury()
        await cluster.stop()

    run(test)


def test_others_objects_are_never_touched(tmp_path: Path) -> None:
    strongswan = ObservedSa(
        Sa("192.0.2.1", "192.0.2.2", 0xC1234567, 1, "tunnel", Aead("rfc4106(gcm(aes))", Secret(b"s" * 20), 128))
    )
    cilium = ObservedSa(
        Sa("192.0.2.1", "192.0.2.3", 3, 1, "tunnel", Aead("rfc4106(gcm(aes))", Secret(b"c" * 20), 128)),
        foreign_traits=("mark",),
    )
    policy = ObservedPolicy(
        Policy(
            "out", Selector("10.9.0.0/16", "10.8.0.0/16"), "allow", 375423, 9,
            Template("192.0.2.1", "192.0.2.2", 1, "tunnel"),
        )
    )  # fmt: skip

    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        for thing in (strongswan, cilium, policy):
            cluster.kernels["n1"].place(thing)
        for generation in (1, 2, 3):
            cluster.key(key_line(generation))
            if generation == 1:
                cluster.start()
            await cluster.settled(generation)
        state = cluster.kernels["n1"].observe()
        assert [each for each in state.sas if each.sa.reqid == 1] == [strongswan, cilium]
        assert [each for each in state.policies if each.policy.index == 9] == [policy]
        await cluster.stop()

    run(test)


def test_a_vanished_sa_is_healed_with_a_new_incarnation_and_other_keys(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        keys = [sa.crypto for sa in cluster.sas("n1")]
        cluster.kernels["n1"].remove(cluster.sas("n1")[0].key)

        async def healed() -> bool:
            nodes = await cluster.status()
            return nodes["n1"].incarnation == 2 and all(node.phase == "steady" for node in nodes.values())

        await until(healed)
        assert len(cluster.sas("n1")) == len(cluster.sas("n2")) == 2
        assert not any(sa.crypto in keys for sa in cluster.sas("n1"))
        await cluster.stop()

    run(test)


def test_a_removed_node_stays_blocked_until_it_is_restored(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        registry = Registry(MemoryStore(cluster.log), "test", "n2")
        await registry.bury()

        async def blocked() -> bool:
            return not cluster.pinned("n2") and not cluster.pinned("n1") and not cluster.sas("n1")

        await until(blocked)
        assert "n2" not in await cluster.status()
        await cluster.stop("n2")
        # A reboot begins another incarnation, and is no way back.
        cluster.start("n2", ipsec=IpsecConfig(drain_seconds=0.05, resync_seconds=0.1), lab=LabConfig(boot_id="second"))
        with capture_logs() as logs:

            async def refused() -> bool:
                return any(each.get("code") == "node-removed" for each in logs)

            await until(refused)
        assert await registry.restore()
        await cluster.settled(1)
        assert (await cluster.status())["n2"].incarnation == 3
        assert len(cluster.pinned("n1")) == len(cluster.pinned("n2")) == 1
        await cluster.stop()

    run(test)


def test_two_machines_of_one_name_do_not_fight(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        before = cluster.records()
        with capture_logs() as logs:
            other = FakeKernel()
            config = cluster.config("n1", state_dir=str(tmp_path / "other"), addresses=("192.0.2.9",))
            life = asyncio.create_task(live(config, MemoryStore(cluster.log), other, other.monitor()))

            async def refused() -> bool:
                return any(each.get("code") == "name-taken" for each in logs)

            await until(refused)
        assert cluster.records() == before
        assert not other.observe().sas
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)
        await cluster.stop()

    run(test)


def test_a_wiped_store_changes_no_sa_and_no_generation(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path)
        for generation in (1, 2, 3):
            cluster.key(key_line(generation))
            if generation == 1:
                cluster.start()
            await cluster.settled(generation)
        held = {name: kernel.observe() for name, kernel in cluster.kernels.items()}
        await cluster.stop("n3")
        cluster.log.recreate()
        await cluster.settled(3)
        cluster.start("n3")  # late, as in the documented case
        await cluster.settled(3)
        assert {name: kernel.observe() for name, kernel in cluster.kernels.items()} == held
        assert {node.incarnation for node in (await cluster.status()).values()} == {1}
        cluster.key(key_line(4))
        await cluster.settled(4)
        await cluster.stop()

    run(test)


def test_a_peer_that_cannot_decrypt_is_healed_without_a_rotation(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start(ipsec=IpsecConfig(drain_seconds=0.05, resync_seconds=0.05))
        await cluster.settled(1)
        deaf = next(sa for sa in cluster.sas("n2") if sa.src == "192.0.2.1")
        failed = 0

        async def healed() -> bool:
            nonlocal failed
            failed += 1
            if deaf in cluster.sas("n2"):
                cluster.kernels["n2"].count(deaf.key, SaCounters(packets=5, seq=1500, integrity_failed=failed))
            nodes = await cluster.status()
            return nodes["n1"].incarnation == 2 and {node.phase for node in nodes.values()} == {"steady"}

        await until(healed)
        assert (await cluster.status())["n2"].incarnation == 1, "only the sender begins anew"
        assert deaf not in cluster.sas("n2")
        await cluster.stop()

    run(test)


def test_a_sequence_number_near_its_end_begins_a_new_incarnation(tmp_path: Path) -> None:
    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start(ipsec=IpsecConfig(drain_seconds=0.05, resync_seconds=0.05, esn=False, replay_window=32))
        await cluster.settled(1)
        out = next(sa for sa in cluster.sas("n1") if sa.src == "192.0.2.1")
        cluster.kernels["n1"].count(out.key, SaCounters(oseq=2**32 - 1000))

        async def renewed() -> bool:
            nodes = await cluster.status()
            return nodes["n1"].incarnation == 2 and {node.phase for node in nodes.values()} == {"steady"}

        await until(renewed)
        assert out not in cluster.sas("n1")
        await cluster.stop()

    run(test)


def test_a_crash_between_journal_and_kernel_uses_up_the_identity(tmp_path: Path) -> None:
    """Whether the kernel got it is not known: the identity is never used again, and nobody notices but the counter."""

    async def test() -> None:
        cluster = Cluster(tmp_path, ("n1", "n2"))
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        await cluster.stop("n1")
        gone = next(sa for sa in cluster.sas("n1") if sa.src == "192.0.2.2")
        cluster.kernels["n1"].remove(gone.key)
        cluster.start("n1")

        async def healed() -> bool:
            nodes = await cluster.status()
            return nodes["n1"].incarnation == 2 and {node.phase for node in nodes.values()} == {"steady"}

        await until(healed)
        assert gone.crypto not in [sa.crypto for sa in cluster.sas("n1")]
        await cluster.stop()

    run(test)
