"""One history of an etcd cluster: reads and commits that are sure to be of it, and its epoch.

etcd's cluster id does not tell histories apart: it is computed from the members' URLs and a token, so a cluster whose
data was deleted and that was set up again as before has the same id, and its revisions start at 1 again. So there is a
mark: one key (`epoch_key`) with 128 random bits that the first client to come writes. The epoch is cluster id and
mark. Every read and commit is a transaction that is guarded by the mark; in another history it does nothing.

A cluster restored from a snapshot has the mark of the old one, but is behind it: a linearizable answer whose revision
is lower than one known before the question shows that. The client that notices changes the mark, so that all others
notice too. (One that asks only after the revisions have caught up cannot see it; see the guide on restoring.)
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Sequence

from hitless.ports import (
    CompactedError,
    Compare,
    Delete,
    Entry,
    LeaseExpiredError,
    Listing,
    Put,
    StoreError,
)
from hitless.stores import rules
from hitless.stores.etcd import errors
from hitless.stores.etcd.client import Client
from hitless.stores.etcd.connection import COMPACT, RANGE, TXN, Connection
from hitless.stores.etcd.options import EtcdOptions
from hitless.stores.etcd.wire import kv_pb2 as kv
from hitless.stores.etcd.wire import rpc_pb2 as rpc

MAX_GUARDS = rules.MAX_COMMIT_ITEMS - 1
"""One of the 128 that etcd allows guards the history."""

ALL_KEYS = (b"\0", b"\0")
"""etcd's way to say "from the first key to the last" (rpc.proto, RangeRequest.range_end)."""


class History:
    """Which history, and how far this client has seen it. `ended`: it is known to be over; a new one is needed."""

    def __init__(self, cluster_id: int, mark: bytes, seen: int) -> None:
        self.cluster_id = cluster_id
        self.mark = mark
        self.seen = seen
        self.ended = False
        self.rolled_back = False

    @property
    def epoch(self) -> str:
        return f"{self.cluster_id:016x}:{self.mark.decode('ascii', 'backslashreplace')}"

    def saw(self, revision: int) -> None:
        """Some linearizable answer or event was of this revision."""
        self.seen = max(self.seen, revision)

    def check(self, header: rpc.ResponseHeader, floor: int) -> None:
        """Refuse an answer of another cluster, or of an earlier time than what was known when the question was asked.

        Raises StoreUnavailableError (`store-replaced`).
        """
        if header.cluster_id != self.cluster_id:
            self.ended = True
            raise errors.not_one_cluster()
        if header.revision < floor:
            self.ended = self.rolled_back = True
            raise rules.replaced()
        self.saw(header.revision)


class EtcdLog:
    """Reads, commits and compaction of one cluster. Raises StoreError and its kinds."""

    def __init__(self, options: EtcdOptions) -> None:
        self.client = Client(options, self._greet)
        self.epoch_key = options.epoch_key
        self._mark_key = options.epoch_key.encode()
        self._history: History | None = None
        self._learning = asyncio.Lock()

    # --- the history

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
            history = await self._learn()
            return history.epoch

    async def confirm(self, history: History) -> None:
        """Make sure that this is still the history. Raises StoreUnavailableError."""
        await self._pinned(history, (), (), repeatable=True)

    async def _learn(self) -> History:
        while True:
            known = self._history
            floor = known.seen if known else 0
            try:
                response = await self.client.call(RANGE, rpc.RangeRequest(key=self._mark_key))
            except StoreError as error:
                if error.code == "store-replaced":
                    continue  # the greeting found out first, and now knows
                raise
            if not response.kvs:
                await self._claim(rpc.Compare(target=rpc.Compare.VERSION, key=self._mark_key, version=0))
                continue
            mark = response.kvs[0].value
            if known is not None and (known.cluster_id, known.mark) == (response.header.cluster_id, mark):
                if known.rolled_back or response.header.revision < floor:
                    known.rolled_back = True
                    await self._claim(rpc.Compare(target=rpc.Compare.VALUE, key=self._mark_key, value=mark))
                    continue
                if not known.ended:
                    return known
            self._history = History(response.header.cluster_id, mark, response.header.revision)
            return self._history

    async def _claim(self, guard: rpc.Compare) -> None:
        """Set a new mark, unless somebody else was faster. Doing it twice is as good as once: the guard is then off."""
        put = rpc.PutRequest(key=self._mark_key, value=secrets.token_hex(16).encode())
        await self.client.call(TXN, rpc.TxnRequest(compare=[guard], success=[rpc.RequestOp(request_put=put)]))

    async def _greet(self, connection: Connection, seconds: float) -> None:
        """What happens on every new connection before it is used: is this the cluster, and not a restored one?"""
        history = self._history
        floor = history.seen if history else 0
        response = await connection.ask(RANGE, rpc.RangeRequest(key=self._mark_key), seconds)
        if history is None or history.ended:
            return
        history.check(response.header, floor)
        self._check_mark(history, response.kvs)

    def _check_mark(self, history: History, found: Sequence[kv.KeyValue]) -> None:
        if not found or found[0].value != history.mark:
            history.ended = True
            raise rules.replaced()

    async def _pinned(
        self,
        history: History,
        guards: Sequence[rpc.Compare],
        operations: Sequence[rpc.RequestOp],
        *,
        repeatable: bool,
    ) -> rpc.TxnResponse:
        """A transaction that does nothing in another history."""
        floor = history.seen
        pin = rpc.Compare(target=rpc.Compare.VALUE, key=self._mark_key, value=history.mark)
        look = rpc.RequestOp(request_range=rpc.RangeRequest(key=self._mark_key))
        request = rpc.TxnRequest(compare=[pin, *guards], success=operations, failure=[look])
        response = await self.client.call(TXN, request, repeatable=repeatable)
        history.check(response.header, floor)
        if not response.succeeded:
            self._check_mark(history, response.responses[0].response_range.kvs)
        return response

    # --- reading

    async def get(self, key: str) -> Entry | None:
        rules.check_key(key)
        entries = (await self._range(key.encode(), b"")).entries
        return entries[0] if entries else None

    async def list(self, prefix: str) -> Listing:
        rules.check_prefix(prefix)
        return await self._range(*key_range(prefix))

    async def _range(self, key: bytes, end: bytes) -> Listing:
        operation = rpc.RequestOp(request_range=rpc.RangeRequest(key=key, range_end=end))
        response = await self._pinned(await self.known(), (), (operation,), repeatable=True)
        found = (self.entry(each) for each in response.responses[0].response_range.kvs)
        return Listing(response.header.revision, tuple(entry for entry in found if entry is not None))

    def entry(self, found: kv.KeyValue) -> Entry | None:
        """A key's value; None for what is not ours to show: the mark, and keys that are not UTF-8."""
        key = self.key(found)
        if key is None:
            return None
        return Entry(key, found.value, found.create_revision, found.mod_revision, found.lease)

    def key(self, found: kv.KeyValue) -> str | None:
        if found.key == self._mark_key:
            return None
        try:
            return found.key.decode()
        except UnicodeDecodeError:
            return None

    # --- writing

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        """See `ports.Store.commit`. One whose outcome is unknown raises StoreUnavailableError and is not repeated."""
        rules.check_commit(compares, writes)
        if len(compares) > MAX_GUARDS:
            raise errors.too_large(f"{len(compares)} guards, at most {MAX_GUARDS} fit")
        if any(write.key == self.epoch_key for write in writes):
            raise StoreError(
                "store-reserved-key", f"{self.epoch_key!r} is where the store keeps its epoch; write to another key"
            )
        guards = [
            rpc.Compare(target=rpc.Compare.MOD, key=compare.key.encode(), mod_revision=compare.mod_revision)
            for compare in compares
        ]
        history = await self.known()
        try:
            response = await self._pinned(history, guards, [_operation(w) for w in writes], repeatable=not writes)
        except LeaseExpiredError:
            leases = [write.lease for write in writes if isinstance(write, Put) and write.lease]
            raise rules.lease_gone(leases[0]) from None
        return response.header.revision if response.succeeded else None

    async def compact(self, revision: int) -> None:
        history = await self.known()
        current = (await self._pinned(history, (), (), repeatable=True)).header.revision
        if revision > current:
            raise rules.future_revision(revision, current)
        try:
            await self.client.call(COMPACT, rpc.CompactionRequest(revision=revision))
        except CompactedError:
            return  # it was done before, that far or further


def key_range(prefix: str) -> tuple[bytes, bytes]:
    """First key and end of everything with a prefix. UTF-8 has no byte 0xff, so there is always a next one."""
    if not prefix:
        return ALL_KEYS
    key = prefix.encode()
    return key, key[:-1] + bytes([key[-1] + 1])


def _operation(write: Put | Delete) -> rpc.RequestOp:
    if isinstance(write, Put):
        put = rpc.PutRequest(key=write.key.encode(), value=bytes(write.value), lease=write.lease)
        return rpc.RequestOp(request_put=put)
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=write.key.encode()))
