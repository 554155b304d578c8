"""One real etcd: what it adds to the conformance suite. Epochs, restoring, logging in, limits, and lost replies."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.stores import etcd_process
from tests.stores.etcd_process import EtcdProcess

from hitless.ports import CompactedError, Compare, Delete, Put, StoreError, StoreUnavailableError, WatchBatch
from hitless.stores.etcd.options import DEFAULT_EPOCH_KEY, EtcdOptions
from hitless.stores.etcd.store import EtcdStore

if TYPE_CHECKING:
    from tests.stores.conftest import Reader


@contextlib.asynccontextmanager
async def opened(*endpoints: str, **options: object) -> AsyncIterator[EtcdStore]:
    store = EtcdStore(EtcdOptions(endpoints, **{"request_timeout_seconds": 20.0, **options}))  # type: ignore[arg-type]
    try:
        yield store
    finally:
        await store.close()


async def put(store: EtcdStore, key: str, value: bytes = b"") -> int:
    revision = await store.commit((), (Put(key, value),))
    assert revision is not None
    return revision


async def exhaust(watch: AsyncIterator[WatchBatch]) -> None:
    """Read until it raises; it may report progress before."""
    async for _ in watch:
        pass


async def fill(store: EtcdStore) -> None:
    for n in range(50):
        await put(store, f"k{n}", bytes(200_000))


@pytest.fixture
def server() -> EtcdProcess:
    """The shared server, empty."""
    server = etcd_process.shared()
    server.ctl("del", "", "--from-key")
    return server


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EtcdProcess]:
    """A server of the test's own, to be mistreated. Not started."""
    made = EtcdProcess(tmp_path / "etcd")
    yield made
    made.kill()


# --- epochs


async def test_the_mark_is_written_once_and_shown_to_nobody(server: EtcdProcess, reader: type[Reader]) -> None:
    async with opened(server.endpoint) as one, opened(server.endpoint) as other:
        epochs = await asyncio.gather(one.epoch(), other.epoch())
        assert epochs[0] == epochs[1]
        found = server.ctl("get", DEFAULT_EPOCH_KEY, "--write-out=fields")
        assert '"Version" : 1' in found
        listing = await one.list("")
        assert listing.entries == ()
        assert await one.get(DEFAULT_EPOCH_KEY) is None
        for write in (Put(DEFAULT_EPOCH_KEY, b""), Delete(DEFAULT_EPOCH_KEY)):
            with pytest.raises(StoreError) as caught:
                await one.commit((), (write,))
            assert caught.value.code == "store-reserved-key"
        watch = reader(other.watch("", listing.revision - 1), listing.revision - 1)
        assert await watch.upto(listing.revision) == [], "the mark's revision is progress and no event"


async def test_two_epochs_of_a_cluster_with_one_id(own: EtcdProcess) -> None:
    own.start()
    async with opened(own.endpoint) as store:
        first = await store.epoch()
        own.wipe()
        second = await store.epoch()
    assert first.split(":")[0] == second.split(":")[0], "etcd gives a cluster that is set up again its old id"
    assert first != second


async def test_a_mark_that_is_deleted_ends_the_history_for_everybody(server: EtcdProcess) -> None:
    async with opened(server.endpoint) as store, opened(server.endpoint) as other:
        epoch = await store.epoch()
        start = await put(other, "k")
        watch = other.watch("k", start)
        revision = await put(other, "k")
        while (await anext(watch)).revision < revision:
            pass
        server.ctl("del", DEFAULT_EPOCH_KEY)
        with pytest.raises(StoreUnavailableError) as caught:
            await exhaust(watch)
        assert caught.value.code == "store-replaced"
        with pytest.raises(StoreUnavailableError):
            await store.commit((), (Put("k", b"mistaken"),))
        assert await store.epoch() != epoch
        assert await store.epoch() == await other.epoch()


async def test_a_cluster_that_was_restored_from_a_snapshot_is_another_history(own: EtcdProcess) -> None:
    own.start()
    snapshot = own.directory / "snapshot.db"
    async with opened(own.endpoint) as store, opened(own.endpoint) as idle:
        epoch = await store.epoch()
        assert await idle.epoch() == epoch
        await put(store, "k", b"old")
        own.ctl("snapshot", "save", str(snapshot))
        for n in range(5):
            await put(store, "k", b"%d" % n)
        own.kill()
        shutil.rmtree(own.data)
        restored = own.restore(snapshot)
        assert "added member" in restored
        own.start()
        with pytest.raises(StoreUnavailableError) as caught:
            await store.commit((), (Put("k", b"mistaken"),))
        assert caught.value.code == "store-replaced"
        new = await store.epoch()
        assert new != epoch
        found = await store.get("k")
        assert found is not None
        assert found.value == b"old", "and the commit reached nobody"
        with pytest.raises(StoreUnavailableError) as caught:
            await idle.list("")
        assert caught.value.code == "store-replaced"
        assert await idle.epoch() == new


# --- watches


async def test_the_whole_revision_of_a_compaction_counts_as_gone(server: EtcdProcess) -> None:
    """etcd itself would serve a watch from that revision on, without the deletion that happened in it."""
    async with opened(server.endpoint) as store:
        start = await put(store, "k")
        deleted = await store.commit((), (Delete("k"),))
        assert deleted is not None
        await store.compact(deleted)
        with pytest.raises(CompactedError):
            await anext(store.watch("", start))


async def test_a_quiet_watch_learns_how_far_it_has_come(server: EtcdProcess, reader: type[Reader]) -> None:
    async with opened(server.endpoint) as store:
        start = await put(store, "mine")
        watch = reader(store.watch("mine", start), start)
        for _ in range(3):
            assert await watch.upto(await put(store, "theirs")) == []
        await store.compact(watch.revision)
        assert [e.key for e in await watch.upto(await put(store, "mine"))] == ["mine"]


async def test_a_watch_survives_the_server(own: EtcdProcess, reader: type[Reader]) -> None:
    own.start()
    async with opened(own.endpoint) as store:
        start = await put(store, "k", b"0")
        watch = reader(store.watch("", start), start)
        waiting = asyncio.create_task(watch.upto(start + 3))
        await put(store, "k", b"1")
        own.kill()
        own.start()
        await put(store, "k", b"2")
        await put(store, "k", b"3")
        assert [(e.revision, e.entry and e.entry.value) for e in await waiting] == [
            (start + 1, b"1"),
            (start + 2, b"2"),
            (start + 3, b"3"),
        ]


async def test_a_watch_nobody_reads_any_more_leaves_the_server(server: EtcdProcess) -> None:
    async with opened(server.endpoint) as store:
        start = await put(store, "k")
        before = asyncio.all_tasks()
        watch = store.watch("k", start - 1)
        await anext(watch)
        assert asyncio.all_tasks() > before
        del watch
        while asyncio.all_tasks() - before:
            await asyncio.sleep(0.01)


# --- logging in


@pytest.fixture
def guarded(own: EtcdProcess, tmp_path: Path) -> EtcdProcess:
    """A server with authentication and the user `node`, who may do everything below `/hitless/`."""
    own.start()
    (tmp_path / "password").write_text("correct\n")
    for command in (
        "user add root:root",
        "user grant-role root root",
        "user add node:correct",
        "role add node",
        "role grant-permission node --prefix=true readwrite /hitless/",
        "user grant-role node node",
        "auth enable",
    ):
        own.ctl(*command.split())
    return own


async def test_a_user_logs_in(guarded: EtcdProcess, tmp_path: Path, reader: type[Reader]) -> None:
    secrets = {"user": "node", "password_file": str(tmp_path / "password")}
    async with opened(guarded.endpoint, **secrets) as store:
        start = await put(store, "/hitless/k")
        watch = reader(store.watch("/hitless/", start), start)
        lease = await store.grant(60)
        revision = await store.commit((), (Put("/hitless/live", b"", lease),)) or 0
        assert [e.key for e in await watch.upto(revision)] == ["/hitless/live"]
        await store.keep_alive(lease)
        await store.revoke(lease)
        for refused in (store.get("elsewhere"), anext(store.watch("elsewhere", start)), store.list("")):
            with pytest.raises(StoreError) as caught:
                await refused
            assert caught.value.code == "store-auth"
            assert not isinstance(caught.value, StoreUnavailableError), "trying again does not help"


async def test_a_token_that_is_no_longer_good_is_renewed(guarded: EtcdProcess, tmp_path: Path) -> None:
    secrets = {"user": "node", "password_file": str(tmp_path / "password")}
    async with opened(guarded.endpoint, **secrets) as store:
        await put(store, "/hitless/k", b"1")
        guarded.ctl("--user=root:root", "user", "add", "another:one")  # every token is of an older state now
        await put(store, "/hitless/k", b"2")
        store._log.client._token = "forged"
        for endpoint in store._log.client._endpoints:
            assert endpoint.connection is not None
            store._log.client._identify(endpoint.connection)
        await put(store, "/hitless/k", b"3")
        guarded.ctl("--user=root:root", "user", "passwd", "node", "--interactive=false", stdin="changed\n")
        guarded.kill()
        guarded.start()
        (tmp_path / "password").write_text("changed\n")
        await put(store, "/hitless/k", b"4")


@pytest.mark.parametrize("user", ["node", "nobody", ""])
async def test_who_may_not_in_is_told_so(guarded: EtcdProcess, tmp_path: Path, user: str) -> None:
    (tmp_path / "wrong").write_text("not the password")
    secrets = {"user": user, "password_file": str(tmp_path / "wrong")} if user else {}
    async with opened(guarded.endpoint, **secrets) as store:
        with pytest.raises(StoreError, match="password_file") as caught:
            await store.epoch()
        assert caught.value.code == "store-auth"
        assert "not the password" not in str(caught.value)


async def test_a_user_where_there_are_none(server: EtcdProcess, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x")
    async with opened(server.endpoint, user="node", password_file=str(tmp_path / "password")) as store:
        await put(store, "k")


# --- limits


async def test_what_etcd_finds_too_large_is_said_to_be(own: EtcdProcess) -> None:
    own._arguments = ("--max-request-bytes=1000", "--max-txn-ops=10")
    own.start()
    async with opened(own.endpoint) as store:
        before = await put(store, "k")
        for writes in ((Put("k", bytes(2000)),), tuple(Delete(str(n)) for n in range(11)), (Put("k", bytes(900_000)),)):
            with pytest.raises(StoreError, match="split it") as caught:
                await store.commit((), writes)
            assert caught.value.code == "store-commit-too-large"
        assert (await store.list("")).revision == before


async def test_one_guard_of_a_commit_is_taken(server: EtcdProcess) -> None:
    async with opened(server.endpoint) as store:
        guards = [Compare(str(n), 0) for n in range(128)]
        assert await store.commit(guards[:127], [Put(f"w{n}", b"") for n in range(128)])
        with pytest.raises(StoreError) as caught:
            await store.commit(guards, ())
        assert caught.value.code == "store-commit-too-large"


async def test_a_server_that_is_full_is_said_to_be(own: EtcdProcess) -> None:
    own._arguments = (f"--quota-backend-bytes={1 << 20}",)
    own.start()
    async with opened(own.endpoint) as store:
        await store.epoch()
        with pytest.raises(StoreUnavailableError) as caught:
            await fill(store)
        assert caught.value.code == "store-full"
        assert "disarm" in str(caught.value)
        assert (await store.list("k")).entries, "reading goes on"


async def test_a_lease_longer_than_etcd_gives(server: EtcdProcess) -> None:
    async with opened(server.endpoint) as store:
        for ttl_seconds in (1e12, 1e300):
            with pytest.raises(StoreError) as caught:
                await store.grant(ttl_seconds)
            assert caught.value.code == "store-bad-ttl"


async def test_keys_of_others_that_are_no_text_are_passed_over(server: EtcdProcess, reader: type[Reader]) -> None:
    async with opened(server.endpoint) as store:
        start = await put(store, "a")
        server.ctl("put", b"a\xff".decode("utf-8", "surrogateescape"), "theirs")
        last = await put(store, "b")
        assert [e.key for e in (await store.list("")).entries] == ["a", "b"]
        assert [e.key for e in await reader(store.watch("", start), start).upto(last)] == ["b"]


# --- nobody there


async def test_a_server_that_is_not_there(own: EtcdProcess) -> None:
    async with opened(own.endpoint, request_timeout_seconds=0.3) as store:
        start = 1
        for call in (store.epoch(), store.commit((), (Put("k", b""),)), anext(store.watch("", start))):
            with pytest.raises(StoreUnavailableError, match=str(own.client_port)) as caught:
                await call
            assert caught.value.code == "store-unreachable"
            assert "refused" in str(caught.value)


async def test_a_port_that_says_nothing() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        async with opened(endpoint, request_timeout_seconds=0.3) as store:
            with pytest.raises(StoreUnavailableError) as caught:
                await store.epoch()
    assert caught.value.code == "store-timeout"


async def test_calls_and_watches_end_when_the_store_is_closed(own: EtcdProcess) -> None:
    own.start()
    async with opened(own.endpoint) as store:
        start = await put(store, "k")
        own.pause()
        calls = [
            asyncio.ensure_future(call)
            for call in (store.get("k"), put(store, "k"), store.grant(5), store.keep_alive(1), store.list(""))
        ]
        watch = asyncio.ensure_future(anext(store.watch("", start)))
        (endpoint,) = store._log.client._endpoints
        while endpoint.connection is None or endpoint.connection.idle:
            await asyncio.sleep(0.01)
        await store.close()
        for waiting in (*calls, watch):
            with pytest.raises(StoreError) as caught:
                await waiting
            assert caught.value.code == "store-closed"


async def test_a_call_that_is_cancelled_is_cancelled(own: EtcdProcess) -> None:
    own.start()
    async with opened(own.endpoint) as store:
        await store.epoch()
        own.pause()
        waiting = asyncio.ensure_future(store.get("k"))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        own.resume()
        assert await store.get("k") is None


# --- lost replies


class Proxy:
    """Stands before a server; when told, it passes requests on, and cuts the connection instead of the first reply."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.losing = 0
        self.lost = 0
        self._served: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Proxy:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.endpoint = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._served.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self._port)
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer, is_reply=False)),
            asyncio.create_task(self._pump(up_reader, writer, is_reply=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            for each in (writer, up_writer):
                each.close()
                with contextlib.suppress(ConnectionError):
                    await each.wait_closed()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_reply: bool) -> None:
        while data := await reader.read(65536):
            # A reply to a call is larger than the acknowledgements and pings of HTTP/2.
            if is_reply and self.losing and len(data) > 60:
                self.losing -= 1
                self.lost += 1
                return
            writer.write(data)
            await writer.drain()


async def test_a_commit_whose_reply_is_lost_is_not_repeated(server: EtcdProcess) -> None:
    async with Proxy(server.client_port) as proxy, opened(proxy.endpoint) as store:
        before = await put(store, "k", b"0")
        for n in range(1, 4):
            proxy.losing = 1
            with pytest.raises(StoreUnavailableError, match="may or may not") as caught:
                await store.commit((Compare("k", before),), (Put("k", b"%d" % n),))
            assert caught.value.code == "store-unreachable"
            found = await store.get("k")
            assert found is not None
            assert (found.value, found.mod_revision) == (b"%d" % n, before + 1), "it happened, once"
            before = found.mod_revision
        assert proxy.lost == 3


async def test_what_can_be_repeated_is_although_replies_are_lost(server: EtcdProcess) -> None:
    async with Proxy(server.client_port) as proxy, opened(proxy.endpoint) as store:
        revision = await put(store, "k", b"1")
        proxy.losing = 1
        found = await store.get("k")
        assert found is not None
        proxy.losing = 1
        lease = await store.grant(60)
        assert server.ctl("lease", "list").split().count(f"{lease:016x}") == 1
        proxy.losing = 1
        await store.keep_alive(lease)
        proxy.losing = 1
        assert await store.commit((Compare("k", revision),), ()) == revision
        proxy.losing = 1
        await store.revoke(lease)
        proxy.losing = 1
        await store.compact(revision)
        proxy.losing = 1
        assert await store.epoch()
        assert proxy.lost == 7
