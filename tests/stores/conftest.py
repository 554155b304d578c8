"""What a store must be put into so that the conformance suite can be run against it: a `World`.

A world is one history with any number of clients. To add a store (a real etcd, say) write a world for it and append it
to `WORLDS`; the tests stay as they are. Tests of this directory may be coroutines; each has a loop and a deadline.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import pytest
from tests.stores.apiserver.world import DEPARTURES as IN_KUBERNETES
from tests.stores.apiserver.world import KubernetesWorld

from hitless.ports import Store, WatchBatch, WatchEvent
from hitless.stores.memory import MemoryStore
from hitless.stores.memory_log import MemoryLog
from hitless.stores.sqlite import SqliteStore

DEADLINE_SECONDS = 60


class World(Protocol):
    """One history; `connect` gives another client of it, `recreate` wipes it behind the clients' backs."""

    def connect(self) -> Store: ...

    def recreate(self) -> None: ...

    async def aclose(self) -> None: ...


class MemoryWorld:
    def __init__(self, _: Path) -> None:
        self._log = MemoryLog()
        self._clients: list[Store] = []

    def connect(self) -> Store:
        self._clients.append(MemoryStore(self._log))
        return self._clients[-1]

    def recreate(self) -> None:
        self._log.recreate()

    async def aclose(self) -> None:
        for client in self._clients:
            await client.close()


class SqliteWorld:
    def __init__(self, tmp_path: Path) -> None:
        self._path = tmp_path / "store" / "store.db"
        self._clients: list[Store] = []

    def connect(self) -> Store:
        self._clients.append(SqliteStore(self._path))
        return self._clients[-1]

    def recreate(self) -> None:
        self._path.unlink()

    async def aclose(self) -> None:
        for client in self._clients:
            await client.close()


class EtcdWorld:
    """A real etcd that all tests share; each begins with no keys in it."""

    def __init__(self, _: Path) -> None:
        from tests.stores import etcd_process

        self._server = etcd_process.shared()
        self._server.ctl("del", "", "--from-key")
        self._clients: list[Store] = []

    def connect(self) -> Store:
        from hitless.stores.etcd.options import EtcdOptions
        from hitless.stores.etcd.store import EtcdStore

        self._clients.append(EtcdStore(EtcdOptions((self._server.endpoint,), request_timeout_seconds=20.0)))
        return self._clients[-1]

    def recreate(self) -> None:
        self._server.wipe()

    async def aclose(self) -> None:
        for client in self._clients:
            await client.close()


WORLDS: dict[str, Callable[[Path], World]] = {
    "memory": MemoryWorld, "sqlite": SqliteWorld, "etcd": EtcdWorld, "kubernetes": KubernetesWorld,
}  # fmt: skip

DEPARTURES: dict[str, Mapping[str, tuple[type[BaseException], str]]] = {"kubernetes": IN_KUBERNETES}
"""By world: what is known not to hold there. Such a test must fail, and in this way; that it does is checked."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "world" in item.fixturenames and hasattr(item, "callspec"):
            known = DEPARTURES.get(str(item.callspec.params.get("world")), {}).get(item.originalname)
            if known is not None:
                item.add_marker(pytest.mark.xfail(strict=True, raises=known[0], reason=known[1]))


@pytest.fixture(params=sorted(WORLDS))
def world(request: pytest.FixtureRequest, tmp_path: Path) -> World:
    return WORLDS[request.param](tmp_path)


class Reader:
    """Reads a watch and holds every batch against the port's promises."""

    def __init__(self, watch: AsyncIterator[WatchBatch], after: int) -> None:
        self._watch = watch
        self.revision = after
        self.batches: list[WatchBatch] = []

    async def upto(self, revision: int) -> list[WatchEvent]:
        """All events that arrive until the watch has reached a revision."""
        events: list[WatchEvent] = []
        while self.revision < revision:
            events += (await self.batch()).events
        return events

    async def batch(self) -> WatchBatch:
        batch = await anext(self._watch)
        revisions = [event.revision for event in batch.events]
        assert batch.revision > self.revision, "a batch moves on"
        assert revisions == sorted(revisions), "events are in the order of revisions"
        # No event of a revision that an earlier batch has ended: a revision is never split, and nothing comes late.
        assert all(self.revision < revision <= batch.revision for revision in revisions)
        for event in batch.events:
            assert event.entry is None or (event.entry.key, event.entry.mod_revision) == (event.key, event.revision)
        self.revision = batch.revision
        self.batches.append(batch)
        return batch


@pytest.fixture
def reader() -> type[Reader]:
    return Reader


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a test that is a coroutine, and close its world in the same loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    made: Any = arguments.get("world")

    async def body() -> None:
        try:
            async with asyncio.timeout(DEADLINE_SECONDS):
                await pyfuncitem.obj(**arguments)
        finally:
            if made is not None:
                await made.aclose()

    asyncio.run(body())
    return True


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """A file in a directory that does not exist yet."""
    return tmp_path / "state" / "store.db"
