"""A watch as a cursor: it asks its store for what lies after its position, and sleeps where there is nothing.

A cursor and not an async generator, because a generator that is cancelled while it waits is finished for good: the next
`anext` would say "no more events" where the truth is "nobody asked for a while". The position here moves only when a
batch is handed over, so a cancelled wait loses nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from hitless.ports import WatchBatch


class Watch:
    """The events under one prefix of one history, as an asynchronous iterator that never ends by itself.

    It belongs to the epoch in which it began: in another one it raises StoreUnavailableError (`store-replaced`), for a
    position means nothing there. After any error it may be asked again; it goes on where it was, if that exists.
    `epoch` is None until the store has learned one. `fetch` returns what lies after the position, or None.
    """

    def __init__(
        self, fetch: Callable[[Watch], Awaitable[WatchBatch | None]], prefix: str, after: int, epoch: str | None
    ) -> None:
        self._fetch = fetch
        self.prefix = prefix
        self.after = after
        self.epoch = epoch
        self._woken = asyncio.Event()
        self._loop: asyncio.AbstractEventLoop | None = None

    def __aiter__(self) -> Watch:
        return self

    async def __anext__(self) -> WatchBatch:
        self._loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()  # before the fetch: what happens during it must wake us
            batch = await self._fetch(self)
            if batch is not None:
                self.after = batch.revision
                return batch
            await self._woken.wait()

    def wake(self) -> None:
        """There may be something new, or something wrong. From the loop's own thread."""
        self._woken.set()

    def wake_from_thread(self) -> None:
        """The same from any thread; a loop that has ended needs no waking."""
        if self._loop is not None and not self._loop.is_closed():
            try:
                self._loop.call_soon_threadsafe(self._woken.set)
            except RuntimeError:  # closed between the question and the call
                return
