"""Two implementations, one behaviour: any sequence of calls, on two clients and a clock of its own, has equal results.

The in-memory store is short enough to be believed; what SQLite's transactions make of the same calls must equal it,
call by call, error by error, and at the end event by event.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from hitless.ports import Compare, Delete, Put, Store, StoreError, WatchBatch
from hitless.stores.memory import MemoryStore
from hitless.stores.memory_log import MemoryLog
from hitless.stores.sqlite import SqliteStore

HISTORY_EVENTS = 12
"""So small that sequences of calls compact by themselves."""

KEYS = st.sampled_from(["a", "a/1", "a/2", "b", "\U0010ffff"])
PREFIXES = st.sampled_from(["", "a", "a/", "b", "\U0010ffff", "c"])
ALL = 1000
"""Watch from revision 0: shows exactly what has been compacted."""

CLIENTS = st.integers(0, 1)
LEASES = st.integers(0, 3)
"""The n-th lease that was granted, if there are so many; 0 is none."""

PUTS = st.tuples(st.just("put"), KEYS, st.binary(max_size=2), LEASES)
DELETES = st.tuples(st.just("delete"), KEYS)
WRITES = st.lists(st.one_of(PUTS, PUTS, DELETES), max_size=3)
BURSTS = st.lists(PUTS, min_size=2, max_size=4, unique_by=lambda put: put[1])
GUARDS = st.lists(st.tuples(KEYS, st.sampled_from(["right", "absent", "wrong"])), max_size=2)
CALLS = st.one_of(
    st.tuples(st.just("commit"), CLIENTS, GUARDS, WRITES),
    st.tuples(st.just("commit"), CLIENTS, st.just([]), WRITES),
    # More commits than anything else: without entries, leases that hold some, and a history, the rest says nothing.
    *[st.tuples(st.just("commit"), CLIENTS, st.just([]), BURSTS)] * 4,
    st.tuples(st.just("get"), CLIENTS, KEYS),
    st.tuples(st.just("list"), CLIENTS, PREFIXES),
    *[st.tuples(st.just("grant"), CLIENTS, st.sampled_from([20.0, 5.0, 5.0, 1.0, 0.0]))] * 2,
    st.tuples(st.just("keep_alive"), CLIENTS, LEASES),
    st.tuples(st.just("revoke"), CLIENTS, LEASES),
    st.tuples(st.just("compact"), CLIENTS, st.integers(-2, 3)),
    st.tuples(st.just("watch"), CLIENTS, PREFIXES, st.sampled_from([0, 1, 3, 8, ALL])),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 1.0, 4.0, 20.0])),
)
Call = tuple[object, ...]


class Side:
    """One implementation under test: its clients, its clock, and its own numbers for the leases."""

    def __init__(self, directory: Path | None) -> None:
        self.seconds = 100.0
        if directory is None:
            log = MemoryLog(lambda: self.seconds, HISTORY_EVENTS)
            self.clients: list[Store] = [MemoryStore(log), MemoryStore(log)]
        else:
            self.clients = [
                SqliteStore(directory / "store.db", now=lambda: self.seconds, history_events=HISTORY_EVENTS)
                for _ in range(2)
            ]
        self.leases = [0]

    def lease(self, n: int) -> int:
        return self.leases[n] if n < len(self.leases) else 999_999

    def name_of(self, result: object) -> str:
        """A result as text, with the leases' own numbers replaced by the order in which they were granted."""
        text = repr(result)
        for n, lease in enumerate(self.leases[1:], 1):
            text = text.replace(f"lease={lease})", f"lease=#{n})")
        return text

    async def call(self, call: Call) -> str:
        try:
            return self.name_of(await self._call(*call))
        except StoreError as error:
            return f"{type(error).__name__} {error.code} {getattr(error, 'revision', '')}"

    async def _call(self, verb: object, *arguments: object) -> object:
        if verb == "wait":
            (seconds,) = arguments
            assert isinstance(seconds, float)
            self.seconds += seconds
            return None
        index, *rest = arguments
        assert isinstance(index, int)
        return await getattr(self, f"_{verb}")(self.clients[index], *rest)

    async def _commit(self, store: Store, guards: list[tuple[str, str]], writes: list[tuple[Any, ...]]) -> object:
        compares = []
        for key, kind in guards:
            entry = await store.get(key)
            right = entry.mod_revision if entry else 0
            compares.append(Compare(key, {"right": right, "absent": 0, "wrong": right + 1}[kind]))
        made: list[Put | Delete] = []
        for write in writes:
            if write[0] == "put":
                made.append(Put(write[1], write[2], self.lease(write[3])))
            else:
                made.append(Delete(write[1]))
        return await store.commit(compares, made)

    async def _get(self, store: Store, key: str) -> object:
        return await store.get(key)

    async def _list(self, store: Store, prefix: str) -> object:
        return await store.list(prefix)

    async def _grant(self, store: Store, ttl_seconds: float) -> object:
        self.leases.append(await store.grant(ttl_seconds))
        return len(self.leases)

    async def _keep_alive(self, store: Store, n: int) -> None:
        await store.keep_alive(self.lease(n))

    async def _revoke(self, store: Store, n: int) -> None:
        await store.revoke(self.lease(n))

    async def _compact(self, store: Store, offset: int) -> None:
        revision = (await store.list("")).revision
        await store.compact(revision + offset - 2)

    async def _watch(self, store: Store, prefix: str, back: int) -> object:
        """Everything since some revisions ago, as far as there is anything."""
        revision = (await store.list("")).revision
        if back == 0:
            return None
        batch: WatchBatch = await anext(store.watch(prefix, max(0, revision - back))) if revision else WatchBatch(0, ())
        return batch

    async def close(self) -> None:
        for client in self.clients:
            await client.close()


def put(key: str, lease: int = 0) -> Call:
    return ("commit", 0, [], [("put", key, b"", lease)])


# Two leases end in one sweep, the later granted first; and a history that is one event over its limit.
@example([("grant", 0, 20.0), ("grant", 0, 5.0), put("a", 1), put("b", 2), ("wait", 20.0), ("watch", 1, "", 3)])
@example([put("a") for _ in range(HISTORY_EVENTS + 2)])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(CALLS, min_size=25, max_size=40))
def test_every_call_has_the_same_result_on_both(calls: list[Call]) -> None:
    async def run(directory: Path) -> None:
        model, real = Side(None), Side(directory)
        try:
            async with asyncio.timeout(60):
                for call in [*calls, ("list", 0, ""), ("watch", 1, "", ALL), ("list", 1, "")]:
                    expected = await model.call(call)
                    assert await real.call(call) == expected, call
        finally:
            await model.close()
            await real.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(run(Path(directory)))
