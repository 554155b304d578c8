"""What the store in Kubernetes does where it cannot do as etcd does: the other half of each entry of `DEPARTURES`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.stores import test_conformance
from tests.stores.apiserver.refusals import Refusal
from tests.stores.apiserver.server import Request
from tests.stores.apiserver.world import DEPARTURES, KubernetesWorld

from hitless.agent.registry import Registry
from hitless.core.model.layout import Layout, encode
from hitless.core.model.node import Incarnation, NodeRecord
from hitless.ports import CompactedError, Compare, Delete, LeaseExpiredError, Put, StoreError, StoreUnavailableError

if TYPE_CHECKING:
    from tests.stores.conftest import Reader

NODE = NodeRecord("alpha", 7, Incarnation(1, "aa"), ("192.0.2.1",))


@pytest.fixture
def world(tmp_path: Path) -> KubernetesWorld:
    return KubernetesWorld(tmp_path)


def test_every_departure_is_a_test_of_the_suite() -> None:
    assert not [name for name in DEPARTURES if not hasattr(test_conformance, name)]


# --- several writes


async def test_several_writes_are_as_many_revisions_in_their_order(
    world: KubernetesWorld, reader: type[Reader]
) -> None:
    store = world.connect()
    start = await store.commit((), (Put("a", b""),)) or 0
    revision = await store.commit((), (Put("z", b"1"), Delete("a"), Put("b", b"2"))) or 0
    events = await reader(store.watch("", start), start).upto(revision)
    assert [(each.key, each.entry and each.entry.value) for each in events] == [("z", b"1"), ("a", None), ("b", b"2")]
    assert len({each.revision for each in events}) == 3
    assert events[-1].revision == revision


async def test_a_guard_that_fails_among_several_writes_stops_all_of_them(world: KubernetesWorld) -> None:
    store = world.connect()
    revision = await store.commit((), (Put("a", b"1"),)) or 0
    for guards in ((Compare("a", 0), Compare("b", 0)), (Compare("b", 0), Compare("a", revision + 1))):
        assert await store.commit(guards, (Put("b", b"x"), Put("a", b"x"))) is None
    assert [(each.key, each.value) for each in (await store.list("")).entries] == [("a", b"1")]


async def test_a_guard_on_a_key_that_is_not_written_is_refused(world: KubernetesWorld) -> None:
    store = world.connect()
    with pytest.raises(StoreError) as caught:
        await store.commit((Compare("a", 0),), (Put("b", b""),))
    assert caught.value.code == "store-guard-unsupported"
    assert (await store.list("")).entries == ()


async def test_a_commit_that_is_overtaken_half_way_says_so(world: KubernetesWorld) -> None:
    store, other = world.connect(), world.connect()
    first = await store.commit((), (Put("guarded", b"1"),)) or 0
    held = world.server.objects

    def overtake(request: Request) -> None:
        """Somebody changes the guarded object after the guard was looked at and before it is written."""
        if request.verb == "update" and request.name.startswith("guarded"):
            world.server.before_write = None
            held.update(request.key, {"metadata": {"name": request.name}, "spec": held.get(request.key)["spec"]})

    world.server.before_write = overtake
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((Compare("guarded", first),), (Put("early", b""), Put("guarded", b"2"), Put("late", b"")))
    assert caught.value.code == "store-commit-partial"
    assert "1 of 3" in str(caught.value)
    assert [(each.key, each.value) for each in (await other.list("")).entries] == [("early", b""), ("guarded", b"1")]


async def test_a_server_that_fails_half_way_leaves_a_commit_that_says_so(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.epoch()

    def fail(request: Request) -> None:
        if request.verb == "create" and request.json()["spec"].get("key") == "b":
            raise Refusal(422, "Invalid", "something else is wrong")

    world.server.before_write = fail
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((), (Put("a", b""), Put("b", b"")))
    assert caught.value.code == "store-commit-partial"
    with pytest.raises(StoreError) as alone:
        await store.commit((), (Put("b", b""),))
    assert alone.value.code == "store-refused", "where nothing was written, the error is the server's"


async def test_a_removal_that_stops_half_way_can_be_repeated(world: KubernetesWorld) -> None:
    """`hitless node remove` writes the tombstone first, so that what stays half done is never a node without one."""
    store, layout = world.connect(show_nodes=False), Layout("lab")
    registry = Registry(store, "lab", "alpha")
    await registry.write_node(NODE)

    def fail(request: Request) -> None:
        if request.verb == "update":  # marking the node's record as deleted
            raise Refusal(503, "ServiceUnavailable", "etcd has no leader")

    world.server.before_write = fail
    with pytest.raises(StoreUnavailableError) as caught:
        await registry.bury()
    assert caught.value.code == "store-commit-partial"
    assert await registry.is_removed()
    assert await store.get(layout.node("alpha")) is not None
    world.server.before_write = None
    await registry.bury()
    assert [each.key for each in (await store.list("")).entries] == [layout.tombstone("alpha")]


async def test_a_node_that_registers_while_it_is_removed_is_removed_by_the_next_attempt(
    world: KubernetesWorld
) -> None:
    store, other, layout = world.connect(show_nodes=False), world.connect(show_nodes=False), Layout("lab")
    registry = Registry(store, "lab", "alpha")
    await registry.write_node(NODE)
    reborn = NodeRecord("alpha", 7, Incarnation(2, "bb"), ("192.0.2.1",))

    def register(request: Request) -> None:
        """In the server's thread, as the tombstone is about to be written: the node registers with a new life."""
        if request.verb == "create" and request.json()["metadata"]["name"].startswith("tombstones"):
            world.server.before_write = None
            held = world.server.objects
            key = next(each for each in held.objects if each[2].startswith("nodes-alpha"))
            spec = held.get(key)["spec"] | {"text": encode(reborn).decode()}
            held.update(key, {"metadata": {"name": key[2]}, "spec": spec})

    world.server.before_write = register
    with pytest.raises(StoreUnavailableError):
        await registry.bury()
    assert await registry.is_removed(), "a tombstone stands for the name, whatever the incarnation"
    assert await store.get(layout.node("alpha")) is not None
    await registry.bury()
    assert await Registry(other, "lab", "alpha").is_removed()
    assert await other.get(layout.node("alpha")) is None


# --- revisions and history


async def test_revisions_have_gaps_and_listings_have_the_clusters(world: KubernetesWorld) -> None:
    store = world.connect()
    one = await store.commit((), (Put("a", b""),)) or 0
    other = await store.commit((), (Put("b", b""),)) or 0
    assert other > one + 1
    await store.grant(600)
    listing = await store.list("")
    assert listing.revision > other
    assert [each.mod_revision for each in listing.entries] == [one, other]


async def test_compacting_is_left_to_the_cluster(world: KubernetesWorld, reader: type[Reader]) -> None:
    store = world.connect()
    start = await store.commit((), (Put("k", b"1"),)) or 0
    revision = await store.commit((), (Put("k", b"2"),)) or 0
    await store.compact(revision)
    events = await reader(store.watch("", start), start).upto(revision)
    assert [each.revision for each in events] == [revision], "nothing was compacted"
    world.server.act(world.server.objects.compact)
    with pytest.raises(CompactedError) as caught:
        await anext(store.watch("", start))
    assert start < caught.value.revision <= revision


# --- leases


async def test_the_keys_of_a_lease_end_one_by_one(world: KubernetesWorld, reader: type[Reader]) -> None:
    store, other = world.connect(), world.connect()
    lease = await store.grant(15)
    start = await store.commit((), (Put("live/b", b"", lease), Put("live/a", b"", lease), Put("stay", b""))) or 0
    watch = reader(other.watch("", start), start)
    world.server.ahead_seconds = 17.0
    events = (await watch.batch()).events
    while len(events) < 2:
        events += (await watch.batch()).events
    assert sorted((each.key, each.entry) for each in events) == [("live/a", None), ("live/b", None)]
    assert len({each.revision for each in events}) == 2
    assert [each.key for each in (await store.list("")).entries] == ["stay"]
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(lease)


async def test_revoking_takes_the_keys_of_the_lease_and_no_others(world: KubernetesWorld) -> None:
    store = world.connect()
    lease, bystander = await store.grant(600), await store.grant(600)
    await store.commit((), (Put("mine", b"", lease), Put("theirs", b"", bystander)))
    await store.revoke(lease)
    await store.revoke(lease)
    assert [each.key for each in (await store.list("")).entries] == ["theirs"]
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(lease)
    await store.keep_alive(bystander)
