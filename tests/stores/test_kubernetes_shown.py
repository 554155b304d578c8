"""HitlessNode objects: what people see of a node, and that it is in nobody's way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.stores.apiserver.refusals import Refusal
from tests.stores.apiserver.server import NAMESPACE, rights
from tests.stores.apiserver.world import KubernetesWorld

from hitless.core.model import layout
from hitless.core.model.layout import Layout
from hitless.core.model.node import Behind, Incarnation, NodeRecord, Progress, Receives, Sends, Tombstone
from hitless.ports import Delete, Put
from hitless.stores.kubernetes import shown

LAYOUT = Layout("lab")
LIFE = Incarnation(3, "aa")
NODE = NodeRecord("alpha", 7, LIFE, ("192.0.2.1",), ("10.1.1.0/24",))
FINE = Progress("alpha", LIFE, "e", Receives(11, (1, 2)), Sends(11, 2), "settled", 1000.0)
LATE = Progress(
    "alpha", LIFE, "e", Receives(11, (1, 2), (Behind("beta", "key-missing", 900.0),)), Sends(11, 1), "waiting", 1000.0
)


@pytest.fixture
def world(tmp_path: Path) -> KubernetesWorld:
    return KubernetesWorld(tmp_path)


def seen(world: KubernetesWorld, name: str = "lab.alpha") -> dict[str, Any]:
    return world.server.objects.objects["hitlessnodes", NAMESPACE, name]


def conditions(world: KubernetesWorld) -> dict[str, tuple[str, str, str]]:
    found = seen(world)["status"]["conditions"]
    return {each["type"]: (each["status"], each["reason"], each["lastTransitionTime"]) for each in found}


async def test_a_node_and_its_progress_are_shown_with_conditions_and_reasons(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.commit((), (Put(LAYOUT.progress("alpha"), layout.encode(LATE)),))
    await store.shown.drained()
    assert seen(world)["spec"] == {
        "cluster": "lab", "node": "alpha", "nodeID": 7, "incarnation": 3,
        "addresses": ["192.0.2.1"], "prefixes": ["10.1.1.0/24"],
    }
    assert conditions(world) == {
        "Receiving": ("False", "KeyMissing", "1970-01-01T00:15:00Z"),
        "Sending": ("True", "EveryPeer", "1970-01-01T00:16:40Z"),
    }
    await store.commit((), (Put(LAYOUT.progress("alpha"), layout.encode(FINE)),))
    await store.shown.drained()
    assert conditions(world)["Receiving"][:2] == ("True", "EveryPeer")
    assert (seen(world)["status"]["phase"], seen(world)["status"]["sendsGeneration"]) == ("settled", 2)


async def test_what_others_write_on_the_object_stays(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.shown.drained()
    key = ("hitlessnodes", NAMESPACE, "lab.alpha")
    theirs = {"metadata": {"name": "lab.alpha", "annotations": {"team": "network"}}}
    world.server.act(lambda: world.server.objects.apply(key, theirs, "kubectl", force=False, status=False))
    await store.commit((), (Put(LAYOUT.progress("alpha"), layout.encode(FINE)),))
    moved = NodeRecord("alpha", 7, Incarnation(4, "bb"), ("192.0.2.9",))
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(moved)),))
    await store.shown.drained()
    assert seen(world)["metadata"]["annotations"] == {"team": "network"}
    assert seen(world)["spec"]["addresses"] == ["192.0.2.9"]


async def test_a_removed_node_stays_to_be_seen_until_it_is_restored(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.commit((), (Put(LAYOUT.progress("alpha"), layout.encode(FINE)),))
    stone = layout.encode(Tombstone("alpha", 7, LIFE, 1000.0))
    await store.commit((), (Put(LAYOUT.tombstone("alpha"), stone), Delete(LAYOUT.node("alpha"))))
    await store.shown.drained()
    assert conditions(world) == {"Removed": ("True", "RemovedByOperator", "1970-01-01T00:16:40Z")}
    await store.commit((), (Delete(LAYOUT.tombstone("alpha")),))
    await store.shown.drained()
    assert ("hitlessnodes", NAMESPACE, "lab.alpha") not in world.server.objects.objects


async def test_trouble_with_what_is_shown_is_none_for_the_store(world: KubernetesWorld) -> None:
    store = world.connect()
    world.server.allowed = rights("hitless-agent") - {("patch", "hitlessnodes")}
    assert await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),)) is not None
    await store.shown.drained()
    assert getattr(store.shown.trouble, "code", "") == "store-forbidden"
    world.server.allowed = rights("hitless-agent")
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.shown.drained()
    assert store.shown.trouble is None
    assert seen(world)["spec"]["node"] == "alpha"


async def test_closing_waits_for_what_is_to_be_shown(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.close()
    assert seen(world)["spec"]["node"] == "alpha"


async def test_nothing_is_shown_where_that_is_not_wanted_or_the_key_is_no_nodes(world: KubernetesWorld) -> None:
    quiet, store = world.connect(show_nodes=False), world.connect()
    await quiet.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.commit((), (Put(LAYOUT.live("alpha"), b"{}"), Put(LAYOUT.node("beta"), b"no record")))
    await store.shown.drained()
    assert not [key for key in world.server.objects.objects if key[0] == "hitlessnodes"]


@pytest.mark.parametrize("node", ["alpha", "Alpha", "a_b", "x" * 63, "a..b", "-", "n\u00f6d"])
async def test_any_node_has_a_name_that_the_server_takes(world: KubernetesWorld, node: str) -> None:
    store = world.connect()
    record = NodeRecord(node, 7, LIFE, ("192.0.2.1",))
    await store.commit((), (Put(LAYOUT.node(node), layout.encode(record)),))
    await store.shown.drained()
    assert store.shown.trouble is None
    assert seen(world, shown.name_of("lab", node))["spec"]["node"] == node


def test_names_of_two_nodes_are_two() -> None:
    names = [shown.name_of(cluster, node) for cluster, node in [("a", "b-c"), ("a-b", "c"), ("A", "b-c"), ("a", "B-c")]]
    assert len(set(names)) == 4


def test_a_condition_names_a_few_and_counts_the_rest() -> None:
    behind = tuple(Behind(f"n{n:03}", "install-failed", float(n)) for n in range(500))
    body = shown.status_body("lab", Progress("alpha", LIFE, "e", Receives(1, (1,), behind), Sends(1, 1)))
    receiving = body["status"]["conditions"][0]
    assert receiving["reason"] == "InstallFailed"
    assert receiving["message"].startswith("behind: n000 (install-failed), n001")
    assert receiving["message"].endswith("and 490 more")


async def test_a_field_that_another_took_is_taken_back(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.shown.drained()
    key = ("hitlessnodes", NAMESPACE, "lab.alpha")
    theirs = {"metadata": {"name": "lab.alpha"}, "spec": {"nodeID": 8}}

    def take(force: bool) -> object:
        return world.server.objects.apply(key, theirs, "kubectl", force=force, status=False)

    with pytest.raises(Refusal):
        world.server.act(lambda: take(force=False))
    world.server.act(lambda: take(force=True))
    assert seen(world)["spec"]["nodeID"] == 8
    await store.commit((), (Put(LAYOUT.node("alpha"), layout.encode(NODE)),))
    await store.shown.drained()
    assert seen(world)["spec"]["nodeID"] == 7
