"""The store on an etcd cluster: what `log`, `leases` and `feed` do, behind the port."""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import Sequence

from hitless.ports import Compare, Delete, Entry, Listing, Put, StoreError, WatchBatch
from hitless.stores import rules
from hitless.stores.etcd import leases
from hitless.stores.etcd.feed import Feed
from hitless.stores.etcd.log import EtcdLog
from hitless.stores.etcd.options import EtcdOptions
from hitless.stores.watch import Watch


class EtcdStore:
    """The store in a cluster. Nothing is connected before the first call; errors appear there.

    One object belongs to one event loop. Calls raise StoreError and its kinds; a call that was cancelled, or that
    raised StoreUnavailableError, may still take effect. Raises StoreError (`store-bad-options`) when made.
    """

    def __init__(self, options: EtcdOptions) -> None:
        self._log = EtcdLog(options)
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._feeds: weakref.WeakKeyDictionary[Watch, Feed] = weakref.WeakKeyDictionary()
        self._closed = False

    async def epoch(self) -> str:
        return await self._log.epoch()

    async def get(self, key: str) -> Entry | None:
        return await self._log.get(key)

    async def list(self, prefix: str) -> Listing:
        return await self._log.list(prefix)

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        """See `ports.Store.commit`. Where the answer is lost, StoreUnavailableError is raised: look before repeating.

        Repeating it blindly could undo what somebody else did in between, or report a commit that happened as one
        whose guard did not hold.
        """
        return await self._log.commit(compares, writes)

    def watch(self, prefix: str, after: int) -> Watch:
        """See `ports.Store.watch`. Asking again after an error goes on from the last batch handed over.

        Broken connections and elections are bridged; a cluster that cannot be reached for the time of a call raises
        StoreUnavailableError.
        """
        watch = Watch(self._fetch, prefix, after, self._log.known_epoch)
        self._watches.add(watch)
        return watch

    async def grant(self, ttl_seconds: float) -> int:
        await self._log.known()
        return await leases.grant(self._log.client, ttl_seconds)

    async def keep_alive(self, lease: int) -> None:
        await self._log.known()
        await leases.keep_alive(self._log.client, lease)

    async def revoke(self, lease: int) -> None:
        await self._log.known()
        await leases.revoke(self._log.client, lease)

    async def compact(self, revision: int) -> None:
        await self._log.compact(revision)

    async def close(self) -> None:
        """End all connections; pending calls and watches raise StoreError (`store-closed`). Leases live on."""
        if self._closed:
            return
        self._closed = True
        for feed in tuple(self._feeds.values()):
            await feed.stopped()
        await self._log.client.close()
        for watch in tuple(self._watches):
            watch.wake()
        await asyncio.sleep(0)

    async def _fetch(self, watch: Watch) -> WatchBatch | None:
        if self._closed:
            raise rules.closed()
        rules.check_prefix(watch.prefix)
        history = await self._log.known()
        watch.epoch = watch.epoch or history.epoch
        if watch.epoch != history.epoch:
            raise rules.replaced()
        feed = self._feeds.get(watch)
        if feed is None:
            feed = Feed(self._log, history, watch.prefix, watch.after, _Waker(watch))
            self._feeds[watch] = feed
            # The feed's task must not outlive its reader, whom nobody obliges to say goodbye.
            weakref.finalize(watch, feed.stop).atexit = False
        try:
            return feed.take()
        except StoreError:
            del self._feeds[watch]
            raise


class _Waker:
    """Wakes a watch without keeping it alive."""

    def __init__(self, watch: Watch) -> None:
        self._watch = weakref.ref(watch)

    def __call__(self) -> None:
        watch = self._watch()
        if watch is not None:
            watch.wake()

