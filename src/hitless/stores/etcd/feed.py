"""What stands behind a watch: a stream from some member, taken up elsewhere when it breaks.

The position moves with what has arrived, so a broken stream loses and repeats nothing: the next one starts at the last
revision that arrived and what is known already is dropped. It starts *at* it and not after it, because etcd keeps
serving watches from exactly the revision that was compacted, although deletions of that revision may be gone (3.4.23
does); a watch that has seen up to revision r needs what is later, and asking for r makes etcd refuse in just the cases
in which something later than r may be missing.

The same serves a reader who looks in now and then: while he is away there is no stream.

A second watch on the same stream stands guard at the mark of the history (see `log`): where that is deleted or
changed, this feed ends.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

import grpc
import grpc.aio

from hitless.ports import CompactedError, StoreError, StoreUnavailableError, WatchBatch, WatchEvent
from hitless.stores.etcd import errors
from hitless.stores.etcd.connection import WATCH, Connection
from hitless.stores.etcd.log import EtcdLog, History, key_range
from hitless.stores.etcd.wire import kv_pb2 as kv
from hitless.stores.etcd.wire import rpc_pb2 as rpc

EVENTS, GUARD = 1, 2
"""Numbers of the two watches of a stream."""

MAX_WAITING_BATCHES = 16
"""Beyond this the stream is given up until somebody reads: memory stays bounded, and what comes meanwhile arrives in a
few messages when the stream is taken up again. etcd sends one message a revision to a watch that keeps up."""

RESUME_PAUSE_SECONDS = 0.05
"""Before a stream is taken up again; a member that accepts streams and ends them at once is not hammered."""


class Feed:
    """Batches of one prefix of one history, from after a revision on. `wake` is called when `take` has something."""

    def __init__(self, log: EtcdLog, history: History, prefix: str, after: int, wake: Callable[[], None]) -> None:
        self._log = log
        self._history = history
        self._prefix = prefix
        self._position = after
        self._wake = wake
        self._batches: deque[WatchBatch] = deque()
        self._room = asyncio.Event()
        self._error: StoreError | None = None
        self._fragments: list[kv.Event] = []
        self._n_streams = 0
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(self._run())

    def take(self) -> WatchBatch | None:
        """All that has arrived, if anything has, as one batch. Raises StoreError when there is no going on."""
        if self._batches:
            self._room.set()
            events = tuple(event for batch in self._batches for event in batch.events)
            revision = self._batches[-1].revision
            self._batches.clear()
            return WatchBatch(revision, events)
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
            while True:
                n_before = self._n_streams
                try:
                    await self._log.client.anywhere(self._stream)
                except StoreUnavailableError as error:
                    if self._n_streams == n_before or error.code in {"store-replaced", "store-watch-ended"}:
                        raise
                while self._is_full:
                    self._room.clear()
                    await self._room.wait()
                await asyncio.sleep(RESUME_PAUSE_SECONDS)
        except StoreError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - whoever waits must be told, whatever it was
            self._error = StoreUnavailableError("store-unreachable", f"the watch broke ({error!r}); try again")
        self._wake()

    async def _stream(self, connection: Connection, seconds: float) -> None:
        """One stream until it breaks, or enough waits to be read. Raises AioRpcError, TimeoutError, StoreError."""
        self._fragments.clear()
        stream = connection.stream(WATCH)
        try:
            async with asyncio.timeout(seconds):
                await stream.write(self._request())
                guard = rpc.WatchCreateRequest(key=self._log.epoch_key.encode(), watch_id=GUARD)
                await stream.write(rpc.WatchRequest(create_request=guard))
                n_created = 0
                early: list[rpc.WatchResponse] = []
                while n_created < 2:
                    response = await self._read(stream)
                    n_created += response.created
                    early.append(response)
                # The guard stands now: a history that ended before is found here, one that ends later by the guard.
                await self._log.confirm(self._history)
            self._n_streams += 1
            for response in early:
                await self._receive(response, connection.target)
            while not self._is_full:
                await self._receive(await self._read(stream), connection.target)
        finally:
            stream.cancel()

    @property
    def _is_full(self) -> bool:
        return len(self._batches) >= MAX_WAITING_BATCHES

    def _request(self) -> rpc.WatchRequest:
        key, end = key_range(self._prefix)
        return rpc.WatchRequest(
            create_request=rpc.WatchCreateRequest(
                key=key,
                range_end=end,
                start_revision=max(1, self._position),
                progress_notify=True,
                watch_id=EVENTS,
            )
        )

    async def _read(self, stream: grpc.aio.StreamStreamCall[rpc.WatchRequest, rpc.WatchResponse]) -> rpc.WatchResponse:
        response = await stream.read()
        if isinstance(response, rpc.WatchResponse):
            return response
        # The server has ended the stream without an error status: it shuts down.
        raise TimeoutError

    # --- what arrives

    async def _receive(self, response: rpc.WatchResponse, target: str) -> None:
        if response.header.cluster_id != self._history.cluster_id:
            self._history.ended = True
            raise errors.not_one_cluster()
        if response.canceled:
            self._canceled(response, target)
        if response.watch_id == GUARD:
            if response.events:
                await self._log.confirm(self._history)
            return
        self._fragments.extend(response.events)
        if response.created or response.fragment:
            return
        batch = self._batch(response.header.revision)
        self._fragments.clear()
        if batch is None:
            return
        self._position = batch.revision
        self._history.saw(batch.revision)
        self._batches.append(batch)
        self._wake()

    def _batch(self, header_revision: int) -> WatchBatch | None:
        """What is new of the events that have arrived. Without any, the header says how far the watch has come.

        (With events it does not: a watch that catches up gets them in parts, under the header of the whole.)
        """
        revision = self._fragments[-1].kv.mod_revision if self._fragments else header_revision
        if revision <= self._position:
            return None
        events = (self._event(each) for each in self._fragments if each.kv.mod_revision > self._position)
        return WatchBatch(revision, tuple(event for event in events if event is not None))

    def _event(self, event: kv.Event) -> WatchEvent | None:
        key = self._log.key(event.kv)
        if key is None:
            return None
        entry = self._log.entry(event.kv) if event.type == kv.Event.PUT else None
        return WatchEvent(key, event.kv.mod_revision, entry)

    def _canceled(self, response: rpc.WatchResponse, target: str) -> None:
        """The server ends one of the watches, and says why. Raises what that means."""
        if response.compact_revision:
            raise CompactedError(response.compact_revision)
        if "permission denied" in response.cancel_reason or "auth" in response.cancel_reason:
            raise errors.auth(response.cancel_reason)
        raise StoreUnavailableError(
            "store-watch-ended",
            f"etcd at {target} ended a watch ({response.cancel_reason or 'without a reason'}); try again later",
        )
