"""Several processes on one file: nothing is lost, nothing is seen twice, and a process that dies leaves no trace."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from hitless.stores.sqlite import SqliteStore

CLIENT = Path(__file__).with_name("client.py")


@contextlib.asynccontextmanager
async def client(*arguments: object) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, str(CLIENT), *map(str, arguments), stdout=PIPE)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


async def line(process: Process) -> list[str]:
    assert process.stdout is not None
    text = await process.stdout.readline()
    assert text, "the process has ended"
    return text.decode().split()


async def test_four_processes_count_to_two_hundred_and_a_fifth_sees_every_step(store_path: Path) -> None:
    async with contextlib.AsyncExitStack() as processes:
        watcher = await processes.enter_async_context(client("watch", store_path, 0, 200))
        assert await line(watcher) == ["ready"]
        counters = [await processes.enter_async_context(client("count", store_path, 50)) for _ in range(4)]
        seen = [await line(watcher) for _ in range(200)]
        assert seen == [[str(n), str(n)] for n in range(1, 201)]
        assert [await counter.wait() for counter in counters] == [0, 0, 0, 0]
        assert await watcher.wait() == 0
    store = SqliteStore(store_path)
    entry = await store.get("n")
    await store.close()
    assert entry is not None
    assert (entry.value, entry.mod_revision) == (b"200", 200)


async def test_four_processes_that_create_the_store_at_once_create_one(store_path: Path) -> None:
    async with contextlib.AsyncExitStack() as processes:
        counters = [await processes.enter_async_context(client("count", store_path, 1)) for _ in range(4)]
        assert [await counter.wait() for counter in counters] == [0, 0, 0, 0]
    store = SqliteStore(store_path)
    assert (await store.list("")).revision == 4
    await store.close()


@pytest.mark.parametrize("n_lines", [1, 7, 30, 61])
async def test_a_writer_that_is_killed_loses_nothing_it_committed(store_path: Path, n_lines: int) -> None:
    observer = SqliteStore(store_path)
    epoch = await observer.epoch()
    for _ in range(2):
        async with client("write", store_path) as writer:
            for _ in range(n_lines):
                revision, n = map(int, await line(writer))
            writer.kill()
            assert await writer.wait() == -9
        listing = await observer.list("")
        left, right = (int(entry.value) for entry in listing.entries)
        assert left == right, "a commit is whole or not there"
        assert left >= n
        assert listing.revision >= revision
        assert listing.revision == listing.entries[0].mod_revision == left, "no revision without its contents"
    await observer.close()
    # Nobody has the file open now: what a new process finds has come through the log's recovery.
    reopened = SqliteStore(store_path)
    assert await reopened.epoch() == epoch
    assert await reopened.list("") == listing
    await reopened.close()


async def test_a_writer_killed_while_alone_is_recovered_by_the_next(store_path: Path) -> None:
    async with client("write", store_path) as writer:
        for _ in range(20):
            revision, n = map(int, await line(writer))
        writer.kill()
        await writer.wait()
    store = SqliteStore(store_path)
    listing = await store.list("")
    await store.close()
    assert listing.revision >= revision
    assert {int(entry.value) for entry in listing.entries} == {listing.revision}
    assert listing.revision >= n
