"""The embedded store: one file, any number of processes of one machine, no server.

SQLite blocks, so each store object owns one thread that does nothing but run calls on its connection, one after the
other. While somebody watches, the same thread looks for other processes' commits in between: `PRAGMA data_version`
reads one counter in shared memory. (Being told by inotify would need a second thread and a handle on a `-wal` file that
comes and goes; looking ten times a second costs about 0.3 % of a CPU, most of it the thread's waking.)
"""

from __future__ import annotations

import asyncio
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from hitless.ports import Compare, Delete, Entry, Listing, Put, StoreError, WatchBatch
from hitless.stores import rules
from hitless.stores.sqlite_log import SqliteLog
from hitless.stores.watch import Watch

T = TypeVar("T")

POLL_FASTEST_SECONDS = 0.010
"""Between two looks while things happen: well below the round trip of a decision over several nodes."""

POLL_SLOWEST_SECONDS = 0.100
"""Between two looks on a quiet store: what a first event waits at most, and where idling is cheap enough."""

POLL_SHARE_OF_QUIET = 0.05
"""The next look comes after this share of the time since something last happened, so 2 s of quiet is slowest."""


class SqliteStore:
    """The store in the file at `path`. Nothing is opened before the first call; errors appear there.

    `now` is the leases' clock in seconds and must agree between all processes that use the file (see `sqlite_log`).
    One object belongs to one event loop; several objects may share a file, also within a process.
    Calls raise StoreError and its kinds; a call that was cancelled may still take effect.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        now: Callable[[], float] = time.monotonic,
        history_events: int = rules.HISTORY_EVENTS,
    ) -> None:
        self._log = SqliteLog(Path(path).absolute(), now, history_events)
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._watches_lock = threading.Lock()
        # Not bounded: a job is a caller that awaits it, so there are never more than callers.
        # Not a SimpleQueue: in CPython 3.11 its get(timeout) can wait for ever when the thread is preempted past the
        # deadline (the remaining time turns negative, and that means no limit). Seen on a busy single CPU.
        self._jobs: queue.Queue[Callable[[], None] | None] = queue.Queue()
        self._announced: tuple[str | None, int] = (None, 0)
        self._eventful_at = time.monotonic()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="hitless-store", daemon=True)

    # --- the port

    async def epoch(self) -> str:
        return await self._call(self._log.epoch)

    async def get(self, key: str) -> Entry | None:
        return await self._call(lambda: self._log.get(key))

    async def list(self, prefix: str) -> Listing:
        return await self._call(lambda: self._log.list(prefix))

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        return await self._call(lambda: self._log.commit(compares, writes))

    def watch(self, prefix: str, after: int) -> Watch:
        """See `ports.Store.watch`. Asking again after an error goes on from the last batch handed over."""
        watch = Watch(self._fetch, prefix, after, self._log.known_epoch)
        with self._watches_lock:
            self._watches.add(watch)
        return watch

    async def grant(self, ttl_seconds: float) -> int:
        return await self._call(lambda: self._log.grant(ttl_seconds))

    async def keep_alive(self, lease: int) -> None:
        await self._call(lambda: self._log.keep_alive(lease))

    async def revoke(self, lease: int) -> None:
        await self._call(lambda: self._log.revoke(lease))

    async def compact(self, revision: int) -> None:
        await self._call(lambda: self._log.compact(revision))

    async def close(self) -> None:
        """Finish the calls that are under way and close the file; pending watches raise StoreError (`store-closed`)."""
        if not self._closed:
            self._closed = True
            if self._thread.is_alive():
                self._jobs.put(None)
                await asyncio.get_running_loop().run_in_executor(None, self._thread.join)
            self._wake()

    # --- the callers' side

    async def _fetch(self, watch: Watch) -> WatchBatch | None:
        def read() -> WatchBatch | None:
            # What the client knew before the reading, even if that is what makes it fail.
            watch.epoch = watch.epoch or self._log.known_epoch
            watch.epoch, batch = self._log.events(watch.prefix, watch.after, watch.epoch)
            return batch

        return await self._call(read)

    async def _call(self, action: Callable[[], T]) -> T:
        if self._closed:
            raise rules.closed()
        if not self._thread.is_alive():
            self._thread.start()
        future: Future[T] = Future()

        def job() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    result = action()
                except BaseException as error:  # noqa: BLE001 - it belongs to the caller, whatever it is
                    future.set_exception(error)
                else:
                    future.set_result(result)

        self._jobs.put(job)
        return await asyncio.wrap_future(future)

    # --- the thread's side

    def _run(self) -> None:
        while True:
            try:
                job = self._jobs.get(timeout=self._patience())
            except queue.Empty:
                self._poll()
            else:
                if job is None:
                    break
                job()
            self._announce()
        self._log.close()

    def _patience(self) -> float | None:
        """Seconds to wait for a call before looking for other processes' commits; None while nobody watches."""
        if not self._watches:
            return None
        quiet_seconds = time.monotonic() - self._eventful_at
        return min(max(quiet_seconds * POLL_SHARE_OF_QUIET, POLL_FASTEST_SECONDS), POLL_SLOWEST_SECONDS)

    def _poll(self) -> None:
        try:
            self._log.poll()
        except StoreError:
            self._wake()  # the watches ask for themselves, and whoever waits in one is told what is wrong

    def _announce(self) -> None:
        """Wake the watches if the history has grown, through whatever call that was noticed."""
        state = (self._log.known_epoch, self._log.seen)
        if state != self._announced:
            self._announced = state
            self._eventful_at = time.monotonic()
            self._wake()

    def _wake(self) -> None:
        with self._watches_lock:
            watches = tuple(self._watches)
        for watch in watches:
            watch.wake_from_thread()
