"""The store in a Kubernetes namespace: what `log`, `writes`, `leases`, `feed` and `shown` do, behind the port."""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Sequence

from hitless.ports import Compare, Delete, Entry, Listing, Put, StoreError, WatchBatch
from hitless.stores import rules
from hitless.stores.kubernetes.api import Api
from hitless.stores.kubernetes.feed import Feed
from hitless.stores.kubernetes.leases import Leases
from hitless.stores.kubernetes.log import KubernetesLog
from hitless.stores.kubernetes.options import KubernetesOptions
from hitless.stores.kubernetes.shown import Shown
from hitless.stores.kubernetes.writes import Writer
from hitless.stores.watch import Watch


class KubernetesStore:
    """The store in a namespace. Nothing is read or connected before the first call; errors appear there.

    One object belongs to one event loop. Calls raise StoreError and its kinds; a call that was cancelled, or that
    raised StoreUnavailableError, may still take effect. Raises StoreError (`store-bad-options`) when made.
    """

    def __init__(self, options: KubernetesOptions) -> None:
        self._options = options
        self._api = Api(options)
        self._log = KubernetesLog(self._api)
        self._leases = Leases(self._api)
        self._writer = Writer(self._log, self._leases)
        self.shown = Shown(self._api)
        self._watches: weakref.WeakSet[Watch] = weakref.WeakSet()
        self._feeds: weakref.WeakKeyDictionary[Watch, Feed] = weakref.WeakKeyDictionary()
        self._sweeper: asyncio.Task[None] | None = None
        self._closed = False

    async def epoch(self) -> str:
        return await self._log.epoch()

    async def get(self, key: str) -> Entry | None:
        rules.check_key(key)
        return (await self._writer.present(await self._log.known(), key))[1]

    async def list(self, prefix: str) -> Listing:
        """See `ports.Store.list`. The revision is the cluster's: it moves on without any record changing."""
        rules.check_prefix(prefix)
        history = await self._log.known()
        found = await self._writer.living(history, await self._log.snapshot(history))
        entries = (entry for key, (entry, _) in sorted(found.entries.items()) if key.startswith(prefix))
        return Listing(found.revision, tuple(entries))

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        """See `ports.Store.commit`. A commit of one write is one revision, all or nothing.

        Several writes are as many revisions, made in their order; the last one is returned. One that stops half-way
        raises StoreUnavailableError (`store-commit-partial`). Raises StoreError (`store-guard-unsupported`) for a
        guard on a key that the commit does not write.
        """
        revision = await self._writer.commit(compares, writes)
        if revision is not None and self._options.show_nodes:
            self.shown.note(writes)
        return revision

    def watch(self, prefix: str, after: int) -> Watch:
        """See `ports.Store.watch`. Asking again after an error goes on from the last batch handed over.

        Streams that end are taken up again; a server that cannot be reached for the time of a call raises
        StoreUnavailableError. History is what the API server keeps, by default five minutes.
        """
        watch = Watch(self._fetch, prefix, after, self._log.known_epoch)
        self._watches.add(watch)
        return watch

    async def grant(self, ttl_seconds: float) -> int:
        await self._log.known()
        return await self._leases.grant(ttl_seconds)

    async def keep_alive(self, lease: int) -> None:
        await self._log.known()
        await self._leases.keep_alive(lease)

    async def revoke(self, lease: int) -> None:
        await self._log.known()
        await self._leases.remove(lease)
        await self._writer.end_lease(lease)

    async def compact(self, revision: int) -> None:
        """Nothing: Kubernetes compacts by itself, every five minutes, and lets no client do it. The future is refused.

        Raises StoreError (`store-future-revision`).
        """
        current = await self._log.revision(await self._log.known())
        if revision > current:
            raise rules.future_revision(revision, current)

    async def close(self) -> None:
        """End all connections; pending calls and watches raise StoreError (`store-closed`). Leases live on."""
        if self._closed:
            return
        self._closed = True
        await self.shown.drained()
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait([self._sweeper])
        for feed in tuple(self._feeds.values()):
            await feed.stopped()
        await self._api.close()
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
            self._sweep()
        try:
            return feed.take()
        except StoreError:
            del self._feeds[watch]
            raise

    def _sweep(self) -> None:
        if self._sweeper is None or self._sweeper.done():
            sweeping = _sweep(self._writer, self._watches, self._options.sweep_seconds)
            self._sweeper = asyncio.get_running_loop().create_task(sweeping)


async def _sweep(writer: Writer, watches: weakref.WeakSet[Watch], sweep_seconds: float) -> None:
    """End leases in time for those who watch; those who read find out by themselves.

    Everybody who watches does this, and there is about one lease for each of them. Whoever finds N leases waits N times
    as long, so that together they look about once in `sweep_seconds`, however many they are, and without an election.
    """
    n_leases = 1
    while watches:
        await asyncio.sleep(sweep_seconds * max(1, n_leases) * random.uniform(0.5, 1.5))  # noqa: S311 - to spread them
        try:
            n_leases = await writer.sweep()
        except StoreError:
            continue  # whoever watches hears of it from the feed


class _Waker:
    """Wakes a watch without keeping it alive."""

    def __init__(self, watch: Watch) -> None:
        self._watch = weakref.ref(watch)

    def __call__(self) -> None:
        watch = self._watch()
        if watch is not None:
            watch.wake()
