"""What every store promises, in etcd's terms. Nothing here knows which store it runs against (see `conftest.World`).

Where etcd may do either of two things, the tests accept both: progress may come late, batches may be cut anywhere
between revisions, a lease may end later than asked, and a watch from just before a compaction may still be served.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from hitless.ports import (
    CompactedError,
    Compare,
    Delete,
    Entry,
    LeaseExpiredError,
    Put,
    Store,
    StoreError,
    StoreUnavailableError,
)

if TYPE_CHECKING:
    from tests.stores.conftest import Reader, World

LONG_SECONDS = 600.0
"""A lease that does not end during a test."""


async def put(store: Store, key: str, value: bytes = b"", lease: int = 0) -> int:
    revision = await store.commit((), (Put(key, value, lease),))
    assert revision is not None
    return revision


async def now(store: Store) -> int:
    return (await store.list("")).revision


# --- keys, values, revisions


async def test_what_was_put_is_what_another_client_gets(world: World) -> None:
    one, other = world.connect(), world.connect()
    revision = await put(one, "node/a", b"\x00\xff binary")
    assert await other.get("node/a") == Entry("node/a", b"\x00\xff binary", revision, revision)


async def test_an_absent_key_is_none_and_an_empty_value_is_a_value(world: World) -> None:
    store = world.connect()
    assert await store.get("nothing") is None
    await put(store, "empty", b"")
    found = await store.get("empty")
    assert found is not None
    assert found.value == b""


async def test_create_revision_stays_and_mod_revision_moves(world: World) -> None:
    store = world.connect()
    created = await put(store, "k", b"1")
    changed = await put(store, "k", b"2")
    assert changed > created
    assert await store.get("k") == Entry("k", b"2", created, changed)


async def test_a_key_that_was_deleted_is_created_anew(world: World) -> None:
    store = world.connect()
    first = await put(store, "k")
    await store.commit((), (Delete("k"),))
    again = await put(store, "k")
    found = await store.get("k")
    assert found is not None
    assert (found.create_revision, found.mod_revision) == (again, again)
    assert again > first + 1, "the deletion took a revision"


async def test_one_commit_is_one_revision_and_the_next_is_the_next(world: World) -> None:
    store = world.connect()
    before = await put(store, "a")
    revision = await store.commit((), (Put("b", b"1"), Put("c", b"2"), Delete("a")))
    assert revision == before + 1
    listing = await store.list("")
    assert listing.revision == revision
    assert [(e.key, e.mod_revision) for e in listing.entries] == [("b", revision), ("c", revision)]


async def test_deleting_what_is_absent_is_no_error_and_no_revision(world: World) -> None:
    store = world.connect()
    before = await put(store, "a")
    assert await store.commit((), (Delete("b"),)) == before
    assert await now(store) == before


async def test_a_commit_without_writes_only_checks(world: World) -> None:
    store = world.connect()
    before = await put(store, "a")
    assert await store.commit((Compare("a", before),), ()) == before
    assert await store.commit((Compare("a", before + 1),), ()) is None
    assert await now(store) == before


async def test_list_is_sorted_and_only_the_prefix(world: World) -> None:
    store = world.connect()
    keys = ["n", "n/", "n/a", "n/b", "n/ä", "n/\U0010ffff", "n/\U0010ffffx", "n0", "m/z", "n/\U0001f511", "n/%", "N/a"]
    for key in keys:
        await put(store, key)
    assert [e.key for e in (await store.list("n/")).entries] == sorted(k for k in keys if k.startswith("n/"))
    assert [e.key for e in (await store.list("")).entries] == sorted(keys)
    assert [e.key for e in (await store.list("n/\U0010ffff")).entries] == ["n/\U0010ffff", "n/\U0010ffffx"]
    assert (await store.list("absent/")).entries == ()


# --- guards


async def test_a_guard_holds_only_for_exactly_its_revision(world: World) -> None:
    store = world.connect()
    assert await store.commit((Compare("k", 1),), (Put("k", b"x"),)) is None
    first = await store.commit((Compare("k", 0),), (Put("k", b"1"),))
    assert first is not None
    assert await store.commit((Compare("k", 0),), (Put("k", b"x"),)) is None
    second = await store.commit((Compare("k", first),), (Put("k", b"2"),))
    assert second is not None
    assert await store.commit((Compare("k", first),), (Put("k", b"x"),)) is None
    assert await store.get("k") == Entry("k", b"2", first, second)


async def test_one_guard_that_fails_stops_every_write(world: World) -> None:
    store = world.connect()
    revision = await put(store, "a")
    guards = (Compare("a", revision), Compare("b", 7))
    assert await store.commit(guards, (Put("c", b""), Delete("a"))) is None
    listing = await store.list("")
    assert [e.key for e in listing.entries] == ["a"]
    assert listing.revision == revision


async def test_clients_that_count_together_lose_nothing(world: World) -> None:
    async def count(store: Store, times: int) -> None:
        while times:
            entry = await store.get("n")
            value, guard = (int(entry.value), entry.mod_revision) if entry else (0, 0)
            if await store.commit((Compare("n", guard),), (Put("n", b"%d" % (value + 1)),)) is not None:
                times -= 1

    clients = [world.connect() for _ in range(4)]
    await asyncio.gather(*(count(client, 10) for client in clients))
    entry = await clients[0].get("n")
    assert entry is not None
    assert entry.value == b"40"


# --- refusals that etcd would make too


@pytest.mark.parametrize(
    ("writes", "code"),
    [
        ((Put("k", b"1"), Put("k", b"2")), "store-duplicate-key"),
        ((Put("k", b"1"), Delete("k")), "store-duplicate-key"),
        ((Put("", b""),), "store-bad-key"),
        ((Put("\ud800", b""),), "store-bad-key"),
        (tuple(Delete(str(n)) for n in range(129)), "store-commit-too-large"),
        ((Put("k", bytes(1024 * 1024)),), "store-commit-too-large"),
    ],
)
async def test_a_commit_no_store_can_take(world: World, writes: tuple[Put | Delete, ...], code: str) -> None:
    store = world.connect()
    before = await put(store, "present")
    with pytest.raises(StoreError) as caught:
        await store.commit((), writes)
    assert caught.value.code == code
    assert await now(store) == before


async def test_a_commit_at_the_limit_is_taken(world: World) -> None:
    store = world.connect()
    await store.commit((), tuple(Put(f"k{n:03}", bytes(8000)) for n in range(128)))
    assert len((await store.list("k")).entries) == 128


# --- watching


async def test_a_watch_delivers_what_comes_and_what_came_before_it(world: World, reader: type[Reader]) -> None:
    store, other = world.connect(), world.connect()
    start = await put(store, "n/a", b"1")
    second = await put(store, "n/a", b"2")
    watch = reader(other.watch("n/", start), start)
    third = await put(store, "n/b", b"3")
    events = await watch.upto(third)
    assert [(e.key, e.revision, e.entry and e.entry.value) for e in events] == [
        ("n/a", second, b"2"),
        ("n/b", third, b"3"),
    ]
    assert events[0].entry == Entry("n/a", b"2", start, second)


async def test_a_waiting_watch_is_woken_by_another_client(world: World, reader: type[Reader]) -> None:
    store, other = world.connect(), world.connect()
    start = await now(store)
    watch = reader(other.watch("", start), start)
    for n in range(5):
        waiting = asyncio.create_task(watch.batch())
        revision = await put(store, f"k{n}")
        batch = await waiting
        assert [(e.key, e.revision) for e in batch.events] == [(f"k{n}", revision)]


async def test_a_deletion_is_an_event(world: World, reader: type[Reader]) -> None:
    store = world.connect()
    start = await put(store, "k", b"1")
    revision = await store.commit((), (Delete("k"),))
    assert revision is not None
    (event,) = await reader(store.watch("k", start), start).upto(revision)
    assert (event.key, event.revision, event.entry) == ("k", revision, None)


async def test_a_revision_is_never_split(world: World, reader: type[Reader]) -> None:
    store, other = world.connect(), world.connect()
    start = await now(store)
    watch = reader(other.watch("", start), start)
    last = start
    for n in range(20):
        last = await store.commit((), tuple(Put(f"k{i:03}", b"%d" % n) for i in range(100))) or 0
    events = await watch.upto(last)  # the reader itself refuses a revision in two batches
    assert [e.revision for e in events] == [r for r in range(start + 1, last + 1) for _ in range(100)]


async def test_the_events_of_a_commit_keep_its_order(world: World, reader: type[Reader]) -> None:
    store = world.connect()
    start = await put(store, "gone")
    revision = await store.commit((), (Put("z", b""), Delete("gone"), Put("a", b"")))
    assert revision is not None
    assert [e.key for e in await reader(store.watch("", start), start).upto(revision)] == ["z", "gone", "a"]


async def test_progress_is_reported_where_nothing_matches(world: World, reader: type[Reader]) -> None:
    store, other = world.connect(), world.connect()
    start = await now(store)
    watch = reader(other.watch("mine/", start), start)
    revision = await put(store, "theirs/k")
    assert await watch.upto(revision) == []


async def test_a_long_history_arrives_whole(world: World, reader: type[Reader]) -> None:
    store = world.connect()
    start = await now(store)
    last = start
    for n in range(1200):
        last = await put(store, f"k{n % 7}", b"%d" % n)
    events = await reader(store.watch("k3", start), start).upto(last)
    assert [int(e.entry.value) for e in events if e.entry] == [n for n in range(1200) if n % 7 == 3]


async def test_a_watch_that_was_cancelled_while_waiting_goes_on(world: World, reader: type[Reader]) -> None:
    store = world.connect()
    start = await now(store)
    watch = reader(store.watch("", start), start)
    waiting = asyncio.create_task(watch.batch())
    await store.get("k")  # the watch has been scheduled and has found nothing
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    revision = await put(store, "k")
    assert [e.key for e in await watch.upto(revision)] == ["k"]


async def test_two_watches_do_not_share_events(world: World, reader: type[Reader]) -> None:
    store = world.connect()
    start = await now(store)
    one, other = reader(store.watch("a", start), start), reader(store.watch("b", start), start)
    revision = await store.commit((), (Put("a", b""), Put("b", b""))) or 0
    assert [e.key for e in await one.upto(revision)] == ["a"]
    assert [e.key for e in await other.upto(revision)] == ["b"]


# --- compaction


async def test_history_that_was_compacted_is_refused(world: World, reader: type[Reader]) -> None:
    store, other = world.connect(), world.connect()
    start = await put(store, "k", b"0")
    revisions = [await put(store, "k", b"%d" % n) for n in range(1, 6)]
    await store.compact(revisions[2])
    with pytest.raises(CompactedError) as caught:
        await anext(other.watch("", start))
    assert caught.value.code == "store-compacted"
    assert start < caught.value.revision <= revisions[2]
    events = await reader(other.watch("", revisions[2]), revisions[2]).upto(revisions[4])
    assert [e.revision for e in events] == revisions[3:], "what is newer than the compaction is there"
    found = await other.get("k")
    assert found is not None
    assert found.value == b"5", "the present is never compacted"


async def test_compacting_again_or_less_is_no_error_and_the_future_is_refused(world: World) -> None:
    store = world.connect()
    await put(store, "k", b"1")
    revision = await put(store, "k", b"2")
    await store.compact(revision)
    await store.compact(revision)
    await store.compact(revision - 1)
    with pytest.raises(StoreError) as caught:
        await store.compact(revision + 1)
    assert caught.value.code == "store-future-revision"


async def test_a_watch_at_the_present_outlives_compaction(world: World, reader: type[Reader]) -> None:
    store = world.connect()
    start = await put(store, "k", b"1")
    watch = reader(store.watch("", start), start)
    await store.compact(start)
    revision = await put(store, "k", b"2")
    assert [e.revision for e in await watch.upto(revision)] == [revision]


# --- leases


async def test_a_lease_that_ends_takes_its_keys_with_events(world: World, reader: type[Reader]) -> None:
    store, other = world.connect(), world.connect()
    lease = await store.grant(0.2)
    start = await put(store, "live/b", b"", lease)
    start = await store.commit((), (Put("live/a", b"", lease), Put("stay", b""))) or 0
    watch = reader(other.watch("", start), start)
    batch = await watch.batch()
    while not batch.events:
        batch = await watch.batch()
    assert [(e.key, e.entry) for e in batch.events] == [("live/a", None), ("live/b", None)]
    assert len({e.revision for e in batch.events}) == 1, "one lease, one revision"
    assert [e.key for e in (await store.list("")).entries] == ["stay"]
    with pytest.raises(LeaseExpiredError) as caught:
        await store.keep_alive(lease)
    assert caught.value.code == "store-lease-expired"
    with pytest.raises(LeaseExpiredError):
        await put(store, "live/a", b"", lease)
    assert await store.get("live/a") is None


async def test_a_lease_ends_although_nobody_watches(world: World) -> None:
    store, other = world.connect(), world.connect()
    await put(store, "live", b"", await store.grant(0.2))
    while await other.get("live") is not None:
        await asyncio.sleep(0.02)
    assert (await other.list("")).entries == ()


async def test_a_lease_outlives_its_client(world: World) -> None:
    store, other = world.connect(), world.connect()
    lease = await store.grant(LONG_SECONDS)
    await put(store, "live", b"", lease)
    await store.close()
    found = await other.get("live")
    assert found is not None
    assert found.lease == lease
    await other.keep_alive(lease)


async def test_revoking_ends_a_lease_at_once_and_twice_is_no_error(world: World, reader: type[Reader]) -> None:
    store = world.connect()
    lease, bystander = await store.grant(LONG_SECONDS), await store.grant(LONG_SECONDS)
    assert lease != bystander
    await put(store, "mine", b"", lease)
    start = await put(store, "theirs", b"", bystander)
    await store.revoke(lease)
    await store.revoke(lease)
    assert [e.key for e in await reader(store.watch("", start), start).upto(start + 1)] == ["mine"]
    assert [e.key for e in (await store.list("")).entries] == ["theirs"]
    assert await now(store) == start + 1
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(lease)
    await store.keep_alive(bystander)


async def test_a_lease_without_keys_ends_without_a_revision(world: World) -> None:
    store = world.connect()
    before = await put(store, "k")
    await store.revoke(await store.grant(LONG_SECONDS))
    assert await now(store) == before


async def test_a_put_without_the_lease_sets_a_key_free(world: World) -> None:
    store = world.connect()
    one, other = await store.grant(LONG_SECONDS), await store.grant(LONG_SECONDS)
    for key in ("freed", "moved", "bound"):
        await put(store, key, b"", one)
    await put(store, "freed", b"kept")
    await put(store, "moved", b"kept", other)
    await store.revoke(one)
    assert [(e.key, e.lease) for e in (await store.list("")).entries] == [("freed", 0), ("moved", other)]


async def test_a_lease_nobody_granted(world: World) -> None:
    store = world.connect()
    with pytest.raises(LeaseExpiredError):
        await put(store, "k", b"", 12345)
    with pytest.raises(LeaseExpiredError):
        await store.keep_alive(12345)
    await store.revoke(12345)
    assert await store.commit((Compare("k", 9),), (Put("k", b"", 12345),)) is None, "guards come first"


@pytest.mark.parametrize("ttl_seconds", [0.0, -1.0, float("nan"), float("inf")])
async def test_a_time_that_is_none(world: World, ttl_seconds: float) -> None:
    store = world.connect()
    with pytest.raises(StoreError) as caught:
        await store.grant(ttl_seconds)
    assert caught.value.code == "store-bad-ttl"


# --- one history and another


async def test_the_epoch_is_the_same_for_all_and_stays(world: World) -> None:
    one, other = world.connect(), world.connect()
    epoch = await one.epoch()
    assert epoch
    await put(one, "k")
    await one.compact(await now(one))
    assert await other.epoch() == epoch
    await one.close()
    assert await world.connect().epoch() == epoch


async def test_a_store_that_was_recreated_refuses_until_its_epoch_is_asked_for(world: World) -> None:
    store, other = world.connect(), world.connect()
    epoch = await store.epoch()
    assert await other.epoch() == epoch
    for n in range(5):
        await put(store, "k", b"%d" % n)
    world.recreate()
    for client in (store, other):
        for _ in range(2):
            with pytest.raises(StoreUnavailableError):
                await client.get("k")
            with pytest.raises(StoreUnavailableError):
                await client.list("")
            with pytest.raises(StoreUnavailableError):
                await client.commit((Compare("k", 0),), (Put("k", b"mistaken"),))
    for client in (store, other):
        new = await client.epoch()
        assert new != epoch
        assert await client.epoch() == new
        assert (await client.list("")).entries == ()
    assert await store.epoch() == await other.epoch()
    await put(store, "k", b"new")
    found = await other.get("k")
    assert found is not None
    assert found.value == b"new"


async def test_a_watch_does_not_cross_over_into_another_history(world: World) -> None:
    store, other = world.connect(), world.connect()
    await store.epoch()
    start = await put(store, "k")
    watch = other.watch("", start)
    waiting = asyncio.ensure_future(anext(watch))
    await other.get("k")
    world.recreate()
    with pytest.raises(StoreUnavailableError):
        await waiting
    await other.epoch()
    await store.epoch()
    while await now(store) <= start:
        await put(store, "k")
    with pytest.raises(StoreUnavailableError):
        await anext(watch)


# --- the end


async def test_a_closed_store_says_so_and_closing_twice_is_no_error(world: World) -> None:
    store = world.connect()
    start = await now(store)
    waiting = asyncio.ensure_future(anext(store.watch("", start)))
    await store.get("k")
    await store.close()
    await store.close()
    with pytest.raises(StoreError) as caught:
        await waiting
    assert caught.value.code == "store-closed"
    with pytest.raises(StoreError) as caught:
        await store.get("k")
    assert caught.value.code == "store-closed"


async def test_closing_a_store_that_was_never_used(world: World) -> None:
    store = world.connect()
    await store.close()
    with pytest.raises(StoreError):
        await store.epoch()
