"""One history of records in one namespace: reads that are sure to be of it, and its epoch.

The epoch is the UID of the mark, an object among the records that the first client to come creates. UIDs are random
and never used twice, so a namespace that was deleted and made again has another one, and so has another cluster. The
mark is a record like the others so that a listing shows it in the same snapshot, and a watch its deletion in its place
among the events.

A cluster restored from a backup has the old mark, but is behind it: a listing whose revision is lower than one known
before it was asked for shows that. The client that notices removes the mark, so that all others notice too.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import msgspec

from hitless.ports import Entry, StoreError, StoreUnavailableError
from hitless.stores import rules
from hitless.stores.kubernetes import errors, record
from hitless.stores.kubernetes.api import FIELD_MANAGER, Api
from hitless.stores.kubernetes.errors import RefusedError
from hitless.stores.kubernetes.record import MARK, Record

PAGE_OBJECTS = 500
"""Objects in one answer to a listing, as `kubectl` asks for."""

WRITE = {"fieldManager": FIELD_MANAGER}


class History:
    """Which history, and how far this client has seen it. `ended`: it is known to be over; a new one is needed."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.seen = 0
        self.ended = False
        self.rolled_back = False

    def saw(self, revision: int) -> None:
        self.seen = max(self.seen, revision)

    def over(self) -> StoreUnavailableError:
        """Note that this history has ended, and say so."""
        self.ended = True
        return rules.replaced()


class Snapshot(msgspec.Struct, frozen=True):
    """All records that say something, by key, as of `revision`."""

    revision: int
    entries: Mapping[str, tuple[Entry, Record]]


class KubernetesLog:
    """Reads of one namespace. Raises StoreError and its kinds."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self._history: History | None = None
        self._learning = asyncio.Lock()

    @property
    def known_epoch(self) -> str | None:
        return self._history.epoch if self._history else None

    async def known(self) -> History:
        """The history this client works in, learned at the first contact. Raises StoreUnavailableError if it ended."""
        if self._history is None:
            async with self._learning:
                if self._history is None:
                    await self._learn()
        history = self._history
        assert history is not None  # noqa: S101 - `_learn` ends with a history or an error
        if history.ended:
            raise rules.replaced()
        return history

    async def epoch(self) -> str:
        """The epoch of what is there now; from here on this client works in it."""
        async with self._learning:
            return (await self._learn()).epoch

    async def confirm(self, history: History) -> None:
        """Make sure that this is still the history: the mark stands, so all that was read before now was of it."""
        mark = await self._mark()
        if mark is None or mark.metadata.uid != history.epoch:
            raise history.over()

    async def read(self, history: History, key: str) -> Record | None:
        """The object of a key as it is now, whatever it says."""
        raw = await self.api.find(self.api.records(record.name_of(key)))
        await self.confirm(history)
        found = None if raw is None else record.decode(raw)
        if raw is not None and found is None:
            raise StoreError("store-corrupt", f"the object {record.name_of(key)} is no record; delete it")
        return found

    async def snapshot(self, history: History, lease: int = 0) -> Snapshot:
        """Everything at one moment; with a lease, only what is bound to it. Raises StoreUnavailableError."""
        floor = history.seen
        selector = {"labelSelector": f"{record.ENDS_LABEL}={lease:x}"} if lease else {}
        revision, records = await self._pages(selector)
        if lease:
            await self.confirm(history)  # the mark has no such label
        elif not any((each.metadata.name, each.metadata.uid) == (MARK, history.epoch) for each in records):
            raise history.over()
        if revision < floor:
            history.rolled_back = True
            raise history.over()
        history.saw(revision)
        found = ((record.entry_of(each, history.epoch), each) for each in records)
        return Snapshot(revision, {entry.key: (entry, each) for entry, each in found if entry is not None})

    async def marked(self, history: History) -> list[Record]:
        """All records that are bound to a lease, or deleted."""
        _, records = await self._pages({"labelSelector": record.ENDS_LABEL})
        await self.confirm(history)
        return records

    async def revision(self, history: History) -> int:
        """The present one. Raises StoreUnavailableError where it is lower than it once was."""
        floor = history.seen
        raw = await self.api.get(self.api.records(), {"limit": "1"})
        await self.confirm(history)
        revision = int(msgspec.json.decode(raw, type=record.Objects).metadata.resourceVersion)
        if revision < floor:
            history.rolled_back = True
            raise history.over()
        history.saw(revision)
        return revision

    async def _pages(self, selector: Mapping[str, str]) -> tuple[int, list[Record]]:
        """All pages of a listing, which the server gives as of the first one; from anew where it has forgotten that."""
        found: list[Record] = []
        params = {"limit": str(PAGE_OBJECTS), **selector}
        while True:
            try:
                raw = await self.api.request(
                    "GET", self.api.records(), params=params, repeatable=True, refusals=(410,)
                )
            except RefusedError:
                found.clear()
                params.pop("continue", None)
                continue
            page = self._decode(raw)
            found += [each for each in map(record.decode, page.items) if each is not None]
            if not page.metadata.continue_:
                return int(page.metadata.resourceVersion), found
            params["continue"] = page.metadata.continue_

    def _decode(self, raw: bytes) -> record.Objects:
        try:
            return msgspec.json.decode(raw, type=record.Objects)
        except msgspec.MsgspecError:
            raise errors.meaning(errors.Status(404), self.api.place) from None

    # --- the mark

    async def _mark(self) -> Record | None:
        raw = await self.api.find(self.api.records(MARK))
        return None if raw is None else record.decode(raw)

    async def _learn(self) -> History:
        while True:
            known = self._history
            mark = await self._mark()
            if mark is None:
                await self._create_mark()
                continue
            if known is not None and known.epoch == mark.metadata.uid:
                if not known.rolled_back:
                    known.ended = False
                    return known
                await self._remove_mark(mark)
                continue
            self._history = History(mark.metadata.uid)
            return self._history

    async def _create_mark(self) -> None:
        try:
            await self.api.request(
                "POST", self.api.records(), params=WRITE, body=record.mark_body(), repeatable=True, refusals=(409,)
            )
        except RefusedError:
            return  # somebody else was faster

    async def _remove_mark(self, mark: Record) -> None:
        body = {"preconditions": {"uid": mark.metadata.uid}}
        try:
            await self.api.request(
                "DELETE", self.api.records(MARK), body=body, repeatable=True, refusals=(404, 409)
            )
        except RefusedError:
            return
