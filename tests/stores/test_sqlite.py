"""The embedded store's file: who may read it, what is refused, and what happens when it is taken away while in use."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from hitless.ports import CompactedError, Compare, Put, StoreError, StoreUnavailableError
from hitless.stores import sqlite_file
from hitless.stores.etcd.store import EtcdStore
from hitless.stores.open import open_store
from hitless.stores.options import EtcdOptions, SqliteOptions
from hitless.stores.sqlite import SqliteStore


class FakeClock:
    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def refusal(path: Path) -> StoreError:
    """What the first call on a file says, twice the same: nothing is half open."""
    store = SqliteStore(path)
    codes = []
    for _ in range(2):
        with pytest.raises(StoreError) as caught:
            await store.get("k")
        codes.append(caught.value.code)
    await store.close()
    assert codes[0] == codes[1]
    assert ";" in str(caught.value), "what to do next"
    return caught.value


# --- creation


async def test_only_its_owner_can_read_it(store_path: Path) -> None:
    before = os.umask(0)
    try:
        store = SqliteStore(store_path)
        await store.commit((), (Put("k", b"v"),))
    finally:
        os.umask(before)
    assert mode(store_path.parent) == 0o700
    assert {path.name: mode(path) for path in store_path.parent.iterdir()} == {
        "store.db": 0o600,
        "store.db-wal": 0o600,
        "store.db-shm": 0o600,
    }
    await store.close()


async def test_a_creation_that_was_interrupted_is_finished_by_the_next(store_path: Path) -> None:
    store_path.parent.mkdir()
    store_path.touch(0o600)
    store = SqliteStore(store_path)
    assert await store.commit((), (Put("k", b"v"),)) == 1
    await store.close()


async def test_orphans_of_a_deleted_store_are_not_taken_up(store_path: Path) -> None:
    old = SqliteStore(store_path)
    await old.commit((), (Put("old", b"v"),))
    store_path.unlink()  # and the -wal and -shm stay
    new = SqliteStore(store_path)
    assert (await new.list("")).entries == ()
    await new.commit((), (Put("new", b"v"),))
    await old.close()  # must leave the new store's -wal alone
    third = SqliteStore(store_path)
    assert [e.key for e in (await third.list("")).entries] == ["new"]
    assert await third.commit((Compare("new", 1),), (Put("new", b"w"),)) == 2
    assert [e.value for e in (await new.list("")).entries] == [b"w"]
    await new.close()
    await third.close()


# --- files that are refused, and left as they are


def text_file(path: Path) -> None:
    path.write_bytes(b"this is not a database\n" * 400)


def foreign_database(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.commit()
    connection.close()


def newer_schema(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA application_id = {sqlite_file.APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {sqlite_file.SCHEMA_VERSION + 1}")
    connection.close()


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (text_file, "store-not-a-database"),
        (foreign_database, "store-foreign-file"),
        (newer_schema, "store-newer-schema"),
        (Path.mkdir, "store-cannot-open"),
    ],
)
async def test_what_is_not_our_store_is_refused(tmp_path: Path, make: Callable[[Path], None], code: str) -> None:
    path = tmp_path / "file"
    make(path)
    before = path.read_bytes() if path.is_file() else b""
    error = await refusal(path)
    assert error.code == code
    assert str(path) in str(error)
    assert (path.read_bytes() if path.is_file() else b"") == before


async def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = await refusal(tmp_path / "file" / "store.db")
    assert error.code == "store-cannot-open"
    assert isinstance(error, StoreUnavailableError)


async def test_a_damaged_file(store_path: Path) -> None:
    store = SqliteStore(store_path)
    for n in range(200):
        await store.commit((), (Put(f"k{n:04}", bytes(500)),))
    await store.close()
    with store_path.open("r+b") as file:
        file.seek(4096)  # the header stays, every tree is rubbish
        file.write(b"\xa5" * (store_path.stat().st_size - 4096))
    assert (await refusal(store_path)).code == "store-corrupt"


# --- trouble while in use


async def test_a_file_held_by_another_writer(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite_file, "BUSY_SECONDS", 0.01)
    store = SqliteStore(store_path)
    revision = await store.commit((), (Put("k", b"v"),))
    other = sqlite3.connect(store_path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((), (Put("k", b"w"),))
    assert caught.value.code == "store-busy"
    found = await store.get("k")
    assert found is not None, "reading goes on"
    other.execute("ROLLBACK")
    other.close()
    assert await store.commit((Compare("k", revision or 0),), (Put("k", b"w"),)) is not None
    await store.close()


async def pragma(store: SqliteStore, text: str) -> None:
    """Put a store's own connection into a state that is hard to make outside."""

    def run() -> None:
        with store._log._connected() as connection:
            connection.execute(f"PRAGMA {text}").fetchall()

    await store._call(run)


async def test_a_full_disk_changes_nothing_and_passes(store_path: Path) -> None:
    store = SqliteStore(store_path)
    revision = await store.commit((), (Put("k", b"v"),))
    await pragma(store, "max_page_count = 1")  # SQLite keeps what it has and refuses to grow: SQLITE_FULL
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((), (Put("k", b"w"), Put("big", bytes(100_000))))
    assert caught.value.code == "store-full"
    listing = await store.list("")
    assert (listing.revision, [e.key for e in listing.entries]) == (revision, ["k"])
    await pragma(store, "max_page_count = 100000")
    assert await store.commit((), (Put("big", bytes(100_000)),)) == (revision or 0) + 1
    await store.close()


async def test_a_read_only_file(store_path: Path) -> None:
    store = SqliteStore(store_path)
    await store.commit((), (Put("k", b"v"),))
    await pragma(store, "query_only = 1")
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((), (Put("k", b"w"),))
    assert caught.value.code == "store-read-only"
    assert await store.commit((), (Put("k", b"w"),)) == 2, "the connection was made anew"
    await store.close()


async def test_a_deleted_directory_is_noticed_by_a_watch_that_waits(store_path: Path) -> None:
    store = SqliteStore(store_path)
    epoch = await store.epoch()
    start = await store.commit((), (Put("k", b"v"),))
    waiting = asyncio.ensure_future(anext(store.watch("", start or 0)))
    await store.get("k")
    shutil.rmtree(store_path.parent)
    with pytest.raises(StoreUnavailableError) as caught:
        await waiting
    assert caught.value.code == "store-replaced"
    assert await store.epoch() != epoch
    await store.close()


async def test_a_commit_into_a_file_that_vanished_meanwhile_is_not_reported_as_done(store_path: Path) -> None:
    store = SqliteStore(store_path)
    await store.epoch()

    def vanish() -> None:
        with store._log._writing() as (connection, head):
            store._log._write(connection, head, (Put("k", b"v"),))
            store_path.unlink()

    with pytest.raises(StoreUnavailableError) as caught:
        await store._call(vanish)
    assert caught.value.code == "store-vanished"
    await store.close()


async def test_a_file_put_back_to_an_earlier_state_becomes_another_history(store_path: Path, tmp_path: Path) -> None:
    first = SqliteStore(store_path)
    epoch = await first.epoch()
    await first.commit((), (Put("k", b"1"),))
    await first.close()
    shutil.copy(store_path, tmp_path / "backup")
    store, other = SqliteStore(store_path), SqliteStore(store_path)
    for n in range(3):
        await store.commit((), (Put("k", b"%d" % n),))
    await other.list("")
    store_path.unlink()
    shutil.copy(tmp_path / "backup", tmp_path / "state" / "new")
    for suffix in ("-wal", "-shm"):
        store_path.with_name(store_path.name + suffix).unlink()
    (tmp_path / "state" / "new").rename(store_path)
    for client in (store, other):
        with pytest.raises(StoreUnavailableError) as caught:
            await client.get("k")
        assert caught.value.code == "store-replaced"
    assert await store.epoch() == await other.epoch() != epoch
    found = await store.get("k")
    assert found is not None
    assert found.value == b"1"
    await store.close()
    await other.close()


# --- housekeeping


async def test_history_has_a_limit_of_its_own(store_path: Path) -> None:
    store = SqliteStore(store_path, history_events=100)
    for n in range(150):
        await store.commit((), (Put("k", b"%d" % n),))
    with pytest.raises(CompactedError) as caught:
        await anext(store.watch("", 0))
    oldest = caught.value.revision
    assert 150 - 110 <= oldest <= 150 - 100
    batch = await anext(store.watch("", oldest))
    assert [e.revision for e in batch.events] == list(range(oldest + 1, 151))
    await store.close()


async def test_leases_of_an_earlier_boot_start_anew(store_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr(sqlite_file, "boot_id", lambda: "first")
    store = SqliteStore(store_path, now=clock)
    lease = await store.grant(30.0)
    await store.commit((), (Put("k", b"v", lease),))
    await store.close()
    monkeypatch.setattr(sqlite_file, "boot_id", lambda: "second")
    clock.seconds = 5.0  # the clock of the new boot
    store = SqliteStore(store_path, now=clock)
    assert await store.get("k") is not None
    clock.seconds = 34.9
    assert await store.get("k") is not None
    clock.seconds = 35.0
    assert await store.get("k") is None
    await store.close()


async def test_keeping_alive_extends_by_the_leases_own_time(store_path: Path) -> None:
    clock = FakeClock()
    store = SqliteStore(store_path, now=clock)
    lease = await store.grant(30.0)
    await store.commit((), (Put("k", b"v", lease),))
    clock.seconds += 29.0
    await store.keep_alive(lease)
    clock.seconds += 29.0
    assert await store.get("k") is not None
    clock.seconds += 1.0
    assert await store.get("k") is None
    await store.close()


async def test_opening_by_kind(store_path: Path) -> None:
    store = open_store(SqliteOptions(str(store_path)))
    assert await store.commit((), (Put("k", b"v"),)) == 1
    await store.close()
    with pytest.raises(StoreError) as caught:
        open_store(SqliteOptions(""))
    assert caught.value.code == "store-no-path"
    assert isinstance(open_store(EtcdOptions(("http://127.0.0.1:2379",))), EtcdStore)
