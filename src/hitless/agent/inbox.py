"""What waits for the loop, in order: protocol events, and requests to look at the kernel again."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque

from hitless.core.ipsec.state import Event, KeysFiled
from hitless.core.model.view import Listed


class LookAgain:
    """Not an event of the protocol: somebody else may have changed the kernel, or it is time to make sure."""


Item = Event | LookAgain


def asks_for_look(item: Item) -> bool:
    """After a listing or with new keys, what the kernel holds may mean something else: it is read again."""
    return isinstance(item, (LookAgain, KeysFiled, Listed))


class Inbox:
    """A queue in arrival order. Putting is cheap and never blocks: events are few, and each is small."""

    def __init__(self) -> None:
        self._items: deque[Item] = deque()
        self._arrived = asyncio.Event()

    def put(self, *items: Item) -> None:
        self._items.extend(items)
        self._arrived.set()

    def take_plain(self) -> list[Event]:
        """What can be folded in without a look at the kernel, up to the first item that asks for one."""
        found: list[Event] = []
        while self._items and not asks_for_look(self._items[0]):
            item = self._items.popleft()
            if not isinstance(item, LookAgain):
                found.append(item)
        return found

    async def take(self, timeout_seconds: float | None, gather_seconds: float = 0.0) -> list[Item]:
        """Everything that waits, after a pause in which more may gather; nothing, if nothing comes in time."""
        if gather_seconds:
            await asyncio.sleep(gather_seconds)
        if not self._items:
            self._arrived.clear()
            # Not `wait_for`: up to Python 3.11 it swallows a cancellation that comes together with what it waits for.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_seconds):
                    await self._arrived.wait()
        items = list(self._items)
        self._items.clear()
        return items
