"""Where the intent comes from, files or the store, and what is done where none comes.

Bad input is refused whole. The last good intent stays in force: the one that this process had, else the one that the
state directory remembers, else none, and then nothing is written to the bridge.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import structlog

from hitless.agent.firewall import facts, memory, shelf
from hitless.agent.firewall.loop import Inbox
from hitless.agent.firewall.shelf import Shelf
from hitless.agent.statefile import StateFileError
from hitless.core.firewall.faults import IntentError
from hitless.core.firewall.intent import intent as read_documents
from hitless.core.model.security import Intent
from hitless.core.plan.backoff import delay_seconds
from hitless.ports import CompactedError, Store, StoreError

_FIRST_SECONDS, _LIMIT_SECONDS = 0.2, 5.0


class Adoption:
    """Takes intents up, or complains; keeps the last good one on disk."""

    def __init__(self, inbox: Inbox, directory: Path) -> None:
        self._inbox, self._directory = inbox, directory
        self._log = structlog.get_logger()
        self._complained: object = None

    def adopt(self, intent: Intent, source: str) -> None:
        """A complete, checked intent; it is remembered before anything of it is in force."""
        self._complained = None
        if intent == self._inbox.intent:
            self._inbox.adopt(self._inbox.intent)
            return
        try:
            memory.write_intent(self._directory, intent)
        except StateFileError as error:
            self._log.error("state-dir-unusable", code=error.code, why=str(error))
        if self._inbox.intent is None or facts.generation(intent) != facts.generation(self._inbox.intent):
            self._announce(intent, source)
        self._inbox.adopt(intent)

    def refuse(self, error: IntentError) -> None:
        """Every fault in the log, the first one as the condition. The same faults again are no news."""
        self.fall_back()
        if self._complained != error.faults:
            self._complained = error.faults
            for fault in error.faults:
                self._log.error("intent-refused", code=fault.code, why=str(fault))
        self._inbox.complain("intent-refused", str(error.faults[0]))

    def miss(self, code: str, why: str) -> None:
        """There is no intent to be had now."""
        self.fall_back()
        self._inbox.complain(code, why)

    def fall_back(self) -> None:
        """What was in force last, where this process has nothing yet."""
        if self._inbox.intent is not None:
            return
        try:
            last = memory.read_intent(self._directory)
        except StateFileError as error:
            self._log.error("state-dir-unusable", code=error.code, why=str(error))
            return
        if last is not None:
            self._announce(last, "remembered")
            self._inbox.adopt(last)

    def _announce(self, intent: Intent, source: str) -> None:
        self._log.info(
            "intent-adopted", generation=facts.generation(intent), source=source, groups=len(intent.groups),
            ports=len(intent.ports), networks=len(intent.networks),
        )  # fmt: skip


async def from_files(place: Path, adoption: Adoption) -> None:
    """Read at once and after every change. Does not end."""
    from hitless.agent import firewall_files

    async for _ in firewall_files.changes(place):
        try:
            found = await asyncio.to_thread(lambda: read_documents(firewall_files.read(place)))
            adoption.adopt(found, str(place))
        except IntentError as error:
            adoption.refuse(error)


async def from_store(store: Store, cluster: str, adoption: Adoption) -> None:
    """List, then watch; whatever interrupts that ends in another listing. Does not end."""
    log, held, failures = structlog.get_logger(), Shelf(cluster), 0
    while True:
        try:
            await store.epoch()
            found = await store.list(shelf.root(cluster))
            held.fill(found.entries)
            failures = 0
            _take(held, cluster, adoption)
            async for batch in store.watch(shelf.root(cluster), found.revision):
                for event in batch.events:
                    held.take(event.key, event.entry.value if event.entry else None)
                if batch.events:
                    _take(held, cluster, adoption)
        except CompactedError:
            log.info("store-compacted")
        except StoreError as error:
            failures += 1
            log.warning("store-unavailable", code=error.code, why=str(error), failures=failures)
            adoption.miss("store-unavailable", str(error))
            await asyncio.sleep(delay_seconds(failures, _FIRST_SECONDS, _LIMIT_SECONDS))


def _take(held: Shelf, cluster: str, adoption: Adoption) -> None:
    if not held.is_complete:
        what = "no documents" if held.is_empty else "documents that are not those of their manifest"
        adoption.miss("intent-incomplete", f"the store has {what} for cluster {cluster}; `hitless firewall push` "
                      "writes them, and ends a push that was cut off")  # fmt: skip
        return
    try:
        adoption.adopt(read_documents(held.documents()), f"store:{shelf.root(cluster)}")
    except IntentError as error:
        adoption.refuse(error)
