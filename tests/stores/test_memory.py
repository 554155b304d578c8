"""The in-memory store's faults: each happens exactly when it is told."""

from __future__ import annotations

import asyncio

import pytest

from hitless.ports import Compare, Put, StoreUnavailableError
from hitless.stores.memory import MemoryStore
from hitless.stores.memory_log import MemoryLog


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


async def put(store: MemoryStore, key: str) -> int:
    return await store.commit((), (Put(key, b""),)) or 0


async def settle() -> None:
    """Let every task run until it waits for something."""
    for _ in range(10):
        await asyncio.sleep(0)


async def test_a_partitioned_client_reaches_nothing_and_hears_nothing() -> None:
    log = MemoryLog()
    cut, whole = MemoryStore(log), MemoryStore(log)
    waiting = asyncio.ensure_future(anext(cut.watch("", 0)))
    cut.partition()
    with pytest.raises(StoreUnavailableError) as caught:
        await cut.list("")
    assert caught.value.code == "store-unreachable"
    for n in range(3):
        await put(whole, f"k{n}")
    await settle()
    assert not waiting.done()
    cut.heal()
    assert [e.key for e in (await waiting).events] == ["k0", "k1", "k2"]
    assert (await cut.list("")).revision == 3


async def test_a_lost_reply_has_happened_all_the_same() -> None:
    store = MemoryStore()
    store.lose_replies()
    with pytest.raises(StoreUnavailableError):
        await store.commit((Compare("k", 0),), (Put("k", b"v"),))
    assert await store.commit((Compare("k", 0),), (Put("k", b"v"),)) is None
    assert (await store.list("")).revision == 1


async def test_held_events_come_when_released_and_in_one_batch() -> None:
    log = MemoryLog()
    slow, store = MemoryStore(log), MemoryStore(log)
    await put(store, "k0")
    slow.hold()
    watch = slow.watch("", 0)
    assert (await anext(watch)).revision == 1
    waiting = asyncio.ensure_future(anext(watch))
    for n in range(1, 5):
        await put(store, f"k{n}")
    await settle()
    assert not waiting.done()
    slow.release(upto=3)
    batch = await waiting
    assert (batch.revision, [e.key for e in batch.events]) == (3, ["k1", "k2"])
    slow.release()
    assert (await anext(watch)).revision == 5


async def test_revisions_can_be_delivered_one_by_one() -> None:
    store = MemoryStore()
    for n in range(3):
        await put(store, f"k{n}")
    store.batch(1)
    watch = store.watch("", 0)
    assert [(await anext(watch)).revision for _ in range(3)] == [1, 2, 3]


async def test_a_broken_watch_says_so_once_and_goes_on() -> None:
    store = MemoryStore()
    watch = store.watch("", 0)
    waiting = asyncio.ensure_future(anext(watch))
    await settle()
    store.break_watches()
    with pytest.raises(StoreUnavailableError):
        await waiting
    await put(store, "k")
    assert [e.key for e in (await anext(watch)).events] == ["k"]


async def test_leases_follow_the_clock_they_are_given() -> None:
    clock = FakeClock()
    log = MemoryLog(clock)
    store = MemoryStore(log)
    lease = await store.grant(10.0)
    start = await store.commit((), (Put("k", b"", lease),)) or 0
    waiting = asyncio.ensure_future(anext(store.watch("", start)))
    clock.seconds = 9.9
    log.sweep()
    await settle()
    assert not waiting.done()
    clock.seconds = 10.0
    log.sweep()
    assert [(e.key, e.entry) for e in (await waiting).events] == [("k", None)]
    await store.close()
