"""The store as the lab sees it: who says what, and what can happen to what was said."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from hitless.core.model.layout import Layout
from hitless.lab.conditions import Status
from hitless.lab.storage import StoreHome
from hitless.ports import Delete, Store, StoreError
from hitless.stores.options import StoreOptions
from hitless.telemetry import status

T = TypeVar("T")


class Records(Protocol):
    """What the runner needs of the store."""

    async def statuses(self) -> Sequence[Status]:
        """What the nodes publish. Empty where the store cannot say: a condition then does not hold."""
        ...

    async def heartbeat(self, node: str) -> bool | None:
        """Whether the node's heartbeat is there; None where the store cannot say."""
        ...

    async def forget(self, node: str) -> None:
        """Delete all records of a node, its id excepted."""
        ...

    async def wipe(self) -> None:
        """The store is gone with everything in it; an empty one of another history takes its place."""
        ...

    async def compact(self) -> None:
        """The store forgets its history; who is behind must list again."""
        ...

    async def kill_leader(self) -> None:
        """The store's leading member dies."""
        ...

    async def revive(self) -> None:
        """Members that died come back; on return they hold everything that was written."""
        ...

    async def restart(self) -> None:
        """The store's servers end and begin again with what they have."""
        ...

    @property
    def options(self) -> StoreOptions:
        """How agents find the store."""
        ...


class StoreRecords:
    """Records of one cluster. `store` is a connection to what lives at `home`."""

    def __init__(self, store: Store, cluster: str, home: StoreHome) -> None:
        self._store, self._cluster, self._layout, self._home = store, cluster, Layout(cluster), home

    @property
    def options(self) -> StoreOptions:
        return self._home.options

    async def statuses(self) -> Sequence[Status]:
        return await self._ask(lambda: status.read(self._store, self._cluster)) or ()

    async def heartbeat(self, node: str) -> bool | None:
        key = self._layout.live(node)
        found = await self._ask(lambda: self._store.list(key))
        return None if found is None else any(entry.key == key for entry in found.entries)

    async def _ask(self, question: Callable[[], Awaitable[T]]) -> T | None:
        """The answer; None where the store has none now. After a wipe the new history is taken up by asking for it."""
        try:
            return await question()
        except StoreError:
            with contextlib.suppress(StoreError):
                await self._store.epoch()
            return None

    async def forget(self, node: str) -> None:
        keys = (self._layout.node(node), self._layout.progress(node), self._layout.live(node))
        await self._store.commit([], [Delete(key) for key in keys])

    async def wipe(self) -> None:
        await asyncio.to_thread(self._home.wipe)

    async def compact(self) -> None:
        await self._store.compact((await self._store.list(self._layout.root)).revision)

    async def kill_leader(self) -> None:
        await asyncio.to_thread(self._home.kill_leader)

    async def revive(self) -> None:
        await asyncio.to_thread(self._home.revive)

    async def restart(self) -> None:
        await asyncio.to_thread(self._home.restart)
