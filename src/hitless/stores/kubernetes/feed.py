"""What stands behind a watch: a stream of the records' changes, taken up again when it ends.

The API server ends streams as a matter of course, after minutes. The position moves with what has arrived, events and
bookmarks alike, and the next stream begins after it: nothing is lost, nothing repeated, or the server says that it has
forgotten (410), which ends the feed. After each beginning the mark is looked at, so that a position is never used in a
history that it is not of; from then on the mark's removal is an event in the stream.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import AsyncIterator, Callable

import msgspec

from hitless.ports import StoreError, StoreUnavailableError, WatchBatch, WatchEvent
from hitless.stores import rules
from hitless.stores.kubernetes import errors, record
from hitless.stores.kubernetes.errors import RefusedError, Status
from hitless.stores.kubernetes.log import History, KubernetesLog
from hitless.stores.kubernetes.record import MARK, Meta

MAX_WAITING = 2000
"""Changes that nobody has taken yet. Beyond this the stream is not read, which in time makes the server hold back."""

STREAM_SECONDS = (240, 360)
"""The server is asked to end a stream after so long, each at a time of its own, so that not all begin anew at once."""

RESUME_PAUSE_SECONDS = 0.05
"""Before a stream is taken up again; a server that ends streams at once is not hammered."""


class Line(msgspec.Struct, frozen=True):
    """A line of the stream: `type` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class Position(msgspec.Struct, frozen=True):
    """What every object has. A bookmark's has nothing else."""

    metadata: Meta


class BookmarkMeta(msgspec.Struct, frozen=True):
    resourceVersion: str  # noqa: N815 - the wire's name


class Bookmark(msgspec.Struct, frozen=True):
    metadata: BookmarkMeta


class Feed:
    """Changes under one prefix of one history, after a revision. `wake` is called when `take` has something."""

    def __init__(self, log: KubernetesLog, history: History, prefix: str, after: int, wake: Callable[[], None]) -> None:
        self._log = log
        self._history = history
        self._prefix = prefix
        self._position = after
        self._wake = wake
        self._waiting: deque[tuple[int, WatchEvent | None]] = deque()
        self._room = asyncio.Event()
        self._error: StoreError | None = None
        self._n_streams = 0
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    def take(self) -> WatchBatch | None:
        """All that has arrived, as far as a batch goes. Raises StoreError when there is no going on."""
        if self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(len(self._waiting), rules.WATCH_REVISIONS))]
            self._room.set()
            return WatchBatch(taken[-1][0], tuple(event for _, event in taken if event is not None))
        if self._error is not None:
            raise self._error
        return None

    def stop(self) -> None:
        """Nobody listens any more."""
        if not self._loop.is_closed():
            self._task.cancel()

    async def stopped(self) -> None:
        self.stop()
        await asyncio.wait([self._task])

    # --- the stream

    async def _run(self) -> None:
        """Streams, one after the other, until one cannot be had within the time of a call, or for good."""
        try:
            deadline = self._deadline()
            while True:
                n_before = self._n_streams
                try:
                    await self._stream()
                except StoreUnavailableError as error:
                    if error.code == "store-replaced" or (self._n_streams == n_before and self._loop.time() > deadline):
                        raise
                if self._n_streams > n_before:
                    deadline = self._deadline()
                await asyncio.sleep(RESUME_PAUSE_SECONDS)
        except StoreError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it was
            self._error = StoreUnavailableError("store-unreachable", f"the watch broke ({error!r}); try again")
        self._wake()

    def _deadline(self) -> float:
        return self._loop.time() + self._log.api.options.request_timeout_seconds

    async def _stream(self) -> None:
        """One stream until it ends. Raises StoreError."""
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            # 0 would mean "any revision", and begin with what is there as if it had just come.
            "resourceVersion": str(max(1, self._position)),
            "timeoutSeconds": str(random.randint(*STREAM_SECONDS)),  # noqa: S311 - nobody gains by guessing it
        }
        try:
            async with self._log.api.stream(self._log.api.records(), params) as lines:
                await self._log.confirm(self._history)
                self._n_streams += 1
                await self._receive(lines)
        except RefusedError as refused:
            await self._refused(refused.status)

    async def _receive(self, lines: AsyncIterator[bytes]) -> None:
        async for text in lines:
            if not text.strip():
                continue
            line = msgspec.json.decode(text, type=Line)
            if line.type == "ERROR":
                raise RefusedError(msgspec.json.decode(line.object, type=Status))
            if line.type == "BOOKMARK":
                revision, event = int(msgspec.json.decode(line.object, type=Bookmark).metadata.resourceVersion), None
            else:
                revision, event = self._change(line)
            if revision <= self._position:
                continue
            self._position = revision
            self._history.saw(revision)
            self._waiting.append((revision, event))
            self._wake()
            while len(self._waiting) >= MAX_WAITING:
                self._room.clear()
                await self._room.wait()

    def _change(self, line: Line) -> tuple[int, WatchEvent | None]:
        """The revision of a change, and the event that it is, if it is one under the prefix."""
        meta = msgspec.json.decode(line.object, type=Position).metadata
        revision = int(meta.resourceVersion)
        found = record.decode(line.object)
        if meta.name == MARK and line.type == "DELETED" and meta.uid == self._history.epoch:
            raise self._history.over()
        if found is None or found.spec.epoch != self._history.epoch or not found.spec.key.startswith(self._prefix):
            return revision, None
        entry = record.entry_of(found, self._history.epoch)
        if line.type == "DELETED":
            # Of one that was marked as deleted the mark was the event. This one was taken away by other hands.
            return revision, None if entry is None else WatchEvent(entry.key, revision, None)
        if entry is None and not found.spec.deleted:
            return revision, None
        return revision, WatchEvent(found.spec.key, revision, entry)

    async def _refused(self, status: Status) -> None:
        """Raises what the server's refusal means; returns where asking again is right."""
        if status.code == 410:
            raise errors.compacted(status, self._position)
        if errors.is_too_new(status):
            await self._log.revision(self._history)  # raises if the server was set back, and not merely behind
            raise errors.meaning(status, self._log.api.place)
        error = errors.meaning(status, self._log.api.place)
        if not isinstance(error, StoreUnavailableError):
            raise error
        await asyncio.sleep(RESUME_PAUSE_SECONDS)
        raise error
