"""Three members, one of which is killed, paused or cut off: nothing is lost, nothing comes twice, all is in order."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.stores.etcd_process import Cluster, EtcdProcess

from hitless.ports import Compare, Put, StoreUnavailableError
from hitless.stores.etcd.options import EtcdOptions
from hitless.stores.etcd.store import EtcdStore

if TYPE_CHECKING:
    from tests.stores.conftest import Reader


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "etcd")
    yield made
    made.stop()


def connect(*endpoints: str, request_timeout_seconds: float = 20.0, connect_timeout_seconds: float = 2.0) -> EtcdStore:
    return EtcdStore(
        EtcdOptions(
            endpoints,
            request_timeout_seconds=request_timeout_seconds,
            connect_timeout_seconds=connect_timeout_seconds,
        )
    )


class Writer:
    """Counts up a key by compare-and-swap, looking again where the outcome is unknown; knows what it has committed."""

    def __init__(self, store: EtcdStore, key: str) -> None:
        self._store = store
        self._key = key
        self.committed: list[tuple[int, int]] = []
        self.unknown = 0

    async def run(self, count: int) -> None:
        """Until the key is at `count`."""
        number, guard = 0, 0
        while number < count:
            put = Put(self._key, b"%d" % (number + 1))
            try:
                revision = await self._store.commit((Compare(self._key, guard),), (put,))
            except StoreUnavailableError:
                self.unknown += 1
                revision = None
            if revision is None:  # it may have happened, even after an earlier look
                revision = await self._look_again(number + 1)
                if revision is None:
                    continue
            number, guard = number + 1, revision
            self.committed.append((revision, number))

    async def _look_again(self, number: int) -> int | None:
        """The revision of the commit that may have happened, if it has."""
        while True:
            try:
                entry = await self._store.get(self._key)
            except StoreUnavailableError:
                continue
            found = int(entry.value) if entry is not None else 0
            assert number - 1 <= found <= number, "nobody else writes here"
            return entry.mod_revision if entry is not None and found == number else None


async def watch(
    store: EtcdStore, reader: type[Reader], start: int, keys: set[str], count: int
) -> list[tuple[int, int]]:
    """Revision and number of every event, until all keys are at `count`."""
    checked = reader(store.watch("n/", start), start)
    found: list[tuple[int, int]] = []
    left = set(keys)
    while left:
        try:
            batch = await checked.batch()
        except StoreUnavailableError:
            continue
        for event in batch.events:
            assert event.entry is not None
            found.append((event.revision, int(event.entry.value)))
            if int(event.entry.value) == count:
                left.discard(event.key)
    return found


@pytest.mark.parametrize("victim", ["leader", "follower", "each"])
async def test_members_killed_while_commits_and_watches_go_on(
    cluster: Cluster, reader: type[Reader], victim: str
) -> None:
    count = 150
    stores = [connect(*cluster.endpoints) for _ in range(4)]
    start = (await stores[0].list("")).revision
    writers = [Writer(store, f"n/{n}") for n, store in enumerate(stores[:2])]
    keys = {"n/0", "n/1"}
    watches = [asyncio.create_task(watch(store, reader, start, keys, count)) for store in stores]
    work = asyncio.gather(*(writer.run(count) for writer in writers))

    async def written(least: int) -> None:
        while min(len(writer.committed) for writer in writers) < least and not work.done():
            await asyncio.sleep(0.005)

    leader = await asyncio.to_thread(cluster.leader)
    followers = [member for member in cluster.members if member is not leader]
    victims = {"leader": [leader], "follower": followers[:1], "each": [leader, *followers]}[victim]
    for n, member in enumerate(victims):
        await written(20 + 40 * n)
        assert not work.done(), "it is killed while there is work"
        member.kill()
        await written(40 + 40 * n)
        await asyncio.to_thread(member.start)
    await work
    committed = sorted(pair for writer in writers for pair in writer.committed)
    assert len({revision for revision, _ in committed}) == 2 * count
    for found in await asyncio.gather(*watches):
        assert found == committed
    for store in stores:
        await store.close()


async def test_a_leader_that_falls_silent_is_left(cluster: Cluster, reader: type[Reader]) -> None:
    """Its connections stay up and nothing comes over them: only a deadline, or the others' leader, tells."""
    leader = await asyncio.to_thread(cluster.leader)
    store = connect(*cluster.endpoints, request_timeout_seconds=3)
    store._log.client._endpoints.sort(key=lambda e: not leader.endpoint.endswith(e.target))
    start = (await store.list("")).revision
    checked = reader(store.watch("", start), start)
    before = await store.commit((), (Put("before", b""),))
    assert before is not None
    assert [e.key for e in await checked.upto(before)] == ["before"]
    leader.pause()
    with pytest.raises(StoreUnavailableError) as caught:
        await store.commit((), (Put("k", b"1"),))
    assert caught.value.code == "store-timeout"
    assert await store.get("k") is None, "it is still in the silent leader's inbox"
    revision = await store.commit((Compare("k", 0),), (Put("k", b"2"),))
    assert revision is not None
    # The stream to the silent leader is given up when its pings stay unanswered.
    assert [e.revision for e in await checked.upto(revision)] == [revision]
    leader.resume()
    await store.close()


async def test_a_watch_at_a_member_without_a_leader_moves_on(cluster: Cluster, reader: type[Reader]) -> None:
    """The member lives, its stream too; but it learns of nothing any more. (`hasleader` makes it say so.)"""
    survivor, *rest = cluster.members
    store, other = connect(survivor.endpoint), connect(rest[0].endpoint, rest[1].endpoint)
    start = await store.commit((), (Put("k", b"0"),))
    assert start is not None
    watching = connect(survivor.endpoint, request_timeout_seconds=1.0)
    checked = reader(watching.watch("k", start), start)
    waiting = asyncio.ensure_future(checked.batch())
    await watching.get("k")
    for member in rest:
        member.kill()
    with pytest.raises(StoreUnavailableError) as caught:
        await waiting
    assert caught.value.code in {"store-no-leader", "store-timeout"}
    impatient = connect(survivor.endpoint, request_timeout_seconds=1.0)
    with pytest.raises(StoreUnavailableError) as caught:
        await impatient.get("k")
    assert caught.value.code in {"store-no-leader", "store-timeout"}
    for member in rest:
        member.start(wait=False)
    for member in rest:
        await asyncio.to_thread(member.wait)
    revision = await other.commit((), (Put("k", b"1"),))
    assert revision is not None
    assert [e.revision for e in await checked.upto(revision)] == [revision]
    for each in (store, other, watching, impatient):
        await each.close()


async def test_an_endpoint_that_is_down_is_passed_over_and_found_again(tmp_path: Path) -> None:
    servers = EtcdProcess(tmp_path / "up").start(), EtcdProcess(tmp_path / "down")
    try:
        store = connect(servers[1].endpoint, servers[0].endpoint)
        for _ in range(5):
            assert await store.commit((), (Put("k", b""),))
        assert store._log.client._endpoints[0].target == f"127.0.0.1:{servers[0].client_port}"
        await store.close()
    finally:
        servers[0].kill()


async def test_every_member_is_somebodys_first() -> None:
    endpoints = tuple(f"http://127.0.0.{n}" for n in range(1, 4))
    firsts: set[str] = set()
    while len(firsts) < 3:
        firsts.add(connect(*endpoints)._log.client._endpoints[0].target)


async def test_endpoints_of_two_clusters_are_noticed(tmp_path: Path) -> None:
    servers = [EtcdProcess(tmp_path / str(n), name=f"n{n}").start() for n in range(2)]
    try:
        store = connect(*(server.endpoint for server in servers))
        await store.epoch()
        first = store._log.client._endpoints[0].target
        next(server for server in servers if server.endpoint.endswith(first)).kill()
        with pytest.raises(StoreUnavailableError, match="more than one cluster") as caught:
            await store.list("")
        assert caught.value.code == "store-replaced"
        await store.close()
    finally:
        for server in servers:
            server.kill()
