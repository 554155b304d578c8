"""Watches in Kubernetes: streams that end, break, fall silent, and are of another history."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.stores.apiserver.refusals import Refusal
from tests.stores.apiserver.server import rights
from tests.stores.apiserver.world import KubernetesWorld

from hitless.ports import CompactedError, Put, StoreError, StoreUnavailableError
from hitless.stores.kubernetes import feed

if TYPE_CHECKING:
    from tests.stores.conftest import Reader


@pytest.fixture
def world(tmp_path: Path) -> KubernetesWorld:
    return KubernetesWorld(tmp_path)


async def test_a_stream_that_breaks_is_taken_up_where_it_was(world: KubernetesWorld, reader: type[Reader]) -> None:
    store, writer = world.connect(), world.connect()
    start = (await store.list("")).revision
    watch = reader(store.watch("", start), start)
    values: list[bytes] = []
    for n in range(6):
        revision = await writer.commit((), (Put("k", b"%d" % n),)) or 0
        values += [each.entry.value for each in await watch.upto(revision) if each.entry]
        world.server.hang_up()
        await writer.get("k")
    assert values == [b"%d" % n for n in range(6)]


async def test_bookmarks_move_a_watch_on_so_that_it_outlives_compaction(
    world: KubernetesWorld, reader: type[Reader]
) -> None:
    store, writer = world.connect(), world.connect()
    start = (await store.list("")).revision
    watch = reader(store.watch("mine", start), start)
    await writer.grant(600)  # other objects move the cluster's revision, and no event tells
    revision = (await writer.list("")).revision
    assert await watch.upto(revision) == []
    world.server.act(world.server.objects.compact)
    world.server.hang_up()
    last = await writer.commit((), (Put("mine", b""),)) or 0
    assert [each.key for each in await watch.upto(last)] == ["mine"]


async def test_a_watch_that_was_away_while_history_was_forgotten_says_so(
    world: KubernetesWorld, reader: type[Reader]
) -> None:
    store, writer = world.connect(), world.connect()
    start = await writer.commit((), (Put("k", b"0"),)) or 0
    watch = store.watch("", start)
    waiting = asyncio.ensure_future(anext(watch))
    world.server.silent = True
    revision = await writer.commit((), (Put("k", b"1"),)) or 0
    world.server.act(world.server.objects.compact)
    world.server.hang_up()
    world.server.silent = False
    with pytest.raises(CompactedError) as caught:
        await waiting
    assert start < caught.value.revision <= revision
    listing = await store.list("")
    last = await writer.commit((), (Put("k", b"2"),)) or 0
    events = await reader(store.watch("", listing.revision), listing.revision).upto(last)
    assert [each.entry and each.entry.value for each in events] == [b"2"]


async def test_a_stream_on_which_nothing_comes_is_given_up(world: KubernetesWorld, reader: type[Reader]) -> None:
    store, writer = world.connect(watch_silence_seconds=0.2), world.connect()
    start = (await store.list("")).revision
    world.server.silent = True
    watch = reader(store.watch("", start), start)
    waiting = asyncio.create_task(watch.batch())
    while ("watch", "hitlessrecords") not in world.server.seen:
        await writer.get("k")
    await writer.commit((), (Put("k", b""),))
    world.server.seen.clear()
    while ("watch", "hitlessrecords") not in world.server.seen:  # another stream
        await writer.get("k")
    world.server.silent = False
    assert [each.key for each in (await waiting).events] == ["k"]


async def test_the_marks_removal_ends_every_watch(world: KubernetesWorld) -> None:
    store, other = world.connect(), world.connect()
    epoch = await store.epoch()
    start = (await store.list("")).revision
    await store.commit((), (Put("k", b""),))
    watch = store.watch("", start)
    await anext(watch)  # the stream stands: what ends it now is an event in it
    mark = next(key for key in world.server.objects.objects if key[2] == "hitless-epoch")
    world.server.act(lambda: world.server.objects.delete(mark, {}))

    async def drain() -> None:
        async for _ in watch:
            pass

    with pytest.raises(StoreUnavailableError) as caught:
        await drain()
    assert caught.value.code == "store-replaced"
    assert await other.epoch() != epoch
    with pytest.raises(StoreUnavailableError):
        await store.list("")


async def test_a_position_is_not_used_in_a_history_it_is_not_of(world: KubernetesWorld) -> None:
    """Another cluster whose revisions have come further: the server would gladly go on from there."""
    store, other = world.connect(), world.connect()
    await store.epoch()
    start = await store.commit((), (Put("k", b""),)) or 0
    watch = store.watch("", start)
    world.server.recreate()
    while await other.epoch() and (await other.list("")).revision <= start:
        await other.commit((), (Put("k", b"of the other"),))
    with pytest.raises(StoreUnavailableError) as caught:
        await anext(watch)
    assert caught.value.code == "store-replaced"


async def test_a_watch_from_the_beginning_is_not_one_from_now(world: KubernetesWorld) -> None:
    """Kubernetes takes revision 0 for "any" and would show the present as if it had just come."""
    store = world.connect()
    await store.commit((), (Put("k", b""),))
    with pytest.raises(CompactedError):
        await anext(store.watch("", 0))


async def test_a_watch_on_a_restored_cluster_ends(world: KubernetesWorld) -> None:
    store = world.connect()
    await store.epoch()
    kept = world.server.act(world.server.objects.backup)
    start = await store.commit((), (Put("k", b""),)) or 0
    watch = store.watch("", start)
    world.server.act(lambda: world.server.objects.restore(kept))
    with pytest.raises(StoreUnavailableError) as caught:
        await anext(watch)
    assert caught.value.code == "store-replaced"


async def test_a_server_that_is_behind_for_a_moment_is_asked_again(
    world: KubernetesWorld, reader: type[Reader]
) -> None:
    store = world.connect()
    start = (await store.list("")).revision
    behind = Refusal(504, "Timeout", "Too large resource version", causes=("ResourceVersionTooLarge",))
    world.server.refuse_next = []
    watch = reader(store.watch("", start), start)
    waiting = asyncio.create_task(watch.batch())
    while ("watch", "hitlessrecords") not in world.server.seen:
        await store.get("k")
    world.server.refuse_next = [behind]
    world.server.hang_up()
    while world.server.refuse_next:
        await asyncio.sleep(0)
    await store.commit((), (Put("k", b""),))
    events = (await waiting).events
    while not events:
        events = (await watch.batch()).events
    assert [each.key for each in events] == ["k"]


async def test_a_watch_without_the_right_to_it_says_so(world: KubernetesWorld) -> None:
    store = world.connect()
    start = (await store.list("")).revision
    world.server.allowed = rights("hitless-agent") - {("watch", "hitlessrecords")}
    with pytest.raises(StoreError) as caught:
        await anext(store.watch("", start))
    assert caught.value.code == "store-forbidden"
    assert "watch" in str(caught.value)


async def test_a_server_that_stays_away_ends_a_watch_and_asking_again_goes_on(
    world: KubernetesWorld, reader: type[Reader]
) -> None:
    store, writer = world.connect(request_timeout_seconds=0.3), world.connect()
    start = await writer.commit((), (Put("k", b"0"),)) or 0
    watch = store.watch("", start)
    waiting = asyncio.ensure_future(anext(watch))
    await store.get("k")
    world.server.stop_listening()
    try:
        with pytest.raises(StoreUnavailableError):
            await waiting
    finally:
        world.server.listen_again()
    revision = await writer.commit((), (Put("k", b"1"),)) or 0
    events = await reader(watch, start).upto(revision)
    assert [each.entry and each.entry.value for each in events] == [b"1"]


async def test_a_reader_that_is_slow_holds_the_stream_back_and_loses_nothing(
    world: KubernetesWorld, reader: type[Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_WAITING", 3)
    store, writer = world.connect(), world.connect()
    start = (await store.list("")).revision
    watch = reader(store.watch("", start), start)
    last = start
    for n in range(40):
        last = await writer.commit((), (Put("k", b"%d" % n),)) or 0
    assert [each.entry and each.entry.value for each in await watch.upto(last)] == [b"%d" % n for n in range(40)]
    assert max(len(each.events) for each in watch.batches) <= 3
