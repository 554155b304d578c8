"""The store as a stream of events: one full listing, then everything after it, for ever.

Where many nodes report one after the other, they are heard a few times a second and not one by one: to wake up for
each costs more than to understand it.

Whatever interrupts it (compaction, an unreachable store, another history) ends in another full listing; the view's
fold takes care that a listing never deletes anything.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import structlog

from hitless.core.model.layout import Layout
from hitless.core.model.view import KeySeen, Listed, NodeSeen, ProgressSeen, StoreEvent, TombstoneSeen
from hitless.core.plan.backoff import delay_seconds
from hitless.ports import CompactedError, Store, StoreError

_FIRST_SECONDS, _LIMIT_SECONDS = 0.2, 5.0
SMALL_CLUSTER = 32
"""Nodes: up to here events are few, and nobody shall wait."""
_GATHER_SECONDS = 0.25  # in a larger one: less than the loop rests after a round


async def listing(store: Store, cluster: str) -> tuple[Listed, int]:
    """The whole cluster as of one revision. Raises StoreError."""
    layout = Layout(cluster)
    epoch = await store.epoch()
    found = await store.list(layout.root)
    events = [_event(layout, entry.key, entry.value, entry.mod_revision) for entry in found.entries]
    listed = Listed(
        epoch=epoch,
        revision=found.revision,
        nodes=tuple(each.node for each in events if isinstance(each, NodeSeen)),
        keys=tuple(each.key for each in events if isinstance(each, KeySeen)),
        progress=tuple(each.progress for each in events if isinstance(each, ProgressSeen)),
        tombstones=tuple(each.tombstone for each in events if isinstance(each, TombstoneSeen)),
    )
    return listed, found.revision


async def events(store: Store, cluster: str) -> AsyncIterator[tuple[StoreEvent, ...]]:
    """Batches of store events, never split inside a revision. Does not end, and raises no StoreError."""
    log = structlog.get_logger()
    failures = 0
    while True:
        try:
            listed, revision = await listing(store, cluster)
            failures = 0
            yield (listed,)
            names = {each.record.name for each in listed.nodes}
            layout = Layout(cluster)
            async for batch in store.watch(layout.root, revision):
                found = [
                    _event(layout, each.key, each.entry.value if each.entry else None, each.revision)
                    for each in batch.events
                ]
                known = tuple(each for each in found if each is not None)
                if known:
                    yield known
                names.update(each.node.record.name for each in known if isinstance(each, NodeSeen))
                if len(names) > SMALL_CLUSTER:
                    await asyncio.sleep(_GATHER_SECONDS)
        except CompactedError:
            log.info("store-compacted")
        except StoreError as error:
            failures += 1
            log.warning("store-unavailable", code=error.code, why=str(error), failures=failures)
            await asyncio.sleep(delay_seconds(failures, _FIRST_SECONDS, _LIMIT_SECONDS))


def _event(layout: Layout, key: str, value: bytes | None, revision: int) -> StoreEvent | None:
    try:
        return layout.event(key, value, revision)
    except msgspec.MsgspecError as error:
        structlog.get_logger().error("record-unreadable", key=key, why=str(error))
        return None
