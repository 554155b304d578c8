"""What a real server does too seldom to wait for it: fragments, duplicates, progress that is late or early, endings.

The server here says what it is told. It knows the mark of one history, answers every transaction, and plays a script
to each watch: lists of responses, or None for a stream that breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from hitless.ports import CompactedError, Put, StoreError, StoreUnavailableError
from hitless.stores.etcd.errors import judge
from hitless.stores.etcd.feed import EVENTS, GUARD, MAX_WAITING_BATCHES
from hitless.stores.etcd.options import EtcdOptions
from hitless.stores.etcd.store import EtcdStore
from hitless.stores.etcd.wire import kv_pb2 as kv
from hitless.stores.etcd.wire import rpc_pb2 as rpc

if TYPE_CHECKING:
    from tests.stores.conftest import Reader

CLUSTER = 7
MARK = kv.KeyValue(key=b"/hitless/epoch", value=b"mark")


def header(revision: int, cluster_id: int = CLUSTER) -> rpc.ResponseHeader:
    return rpc.ResponseHeader(cluster_id=cluster_id, revision=revision)


def events(*items: tuple[str, int], more: bool = False, at: int = 100) -> rpc.WatchResponse:
    """Puts of keys at revisions."""
    made = [kv.Event(kv=kv.KeyValue(key=key.encode(), mod_revision=revision)) for key, revision in items]
    return rpc.WatchResponse(header=header(at), watch_id=EVENTS, fragment=more, events=made)


def progress(revision: int) -> rpc.WatchResponse:
    return rpc.WatchResponse(header=header(revision), watch_id=EVENTS)


class Script:
    """A server that follows one."""

    def __init__(self, *streams: list[rpc.WatchResponse] | None, patient: bool = False) -> None:
        """`patient`: a stream that has played stays open until the client ends it."""
        self._streams = list(streams)
        self.patient = patient
        self.revision = 100
        self.starts: list[int] = []
        self.ended = asyncio.Event()
        self.txns = 0
        self.refusals: list[tuple[grpc.StatusCode, str]] = []

    async def _range(self, _: rpc.RangeRequest, __: object) -> rpc.RangeResponse:
        return rpc.RangeResponse(header=header(self.revision), kvs=[MARK])

    async def _txn(self, request: rpc.TxnRequest, context: Any) -> rpc.TxnResponse:
        self.txns += 1
        if self.refusals:
            await context.abort(*self.refusals.pop(0))
        responses = [rpc.ResponseOp(response_range=rpc.RangeResponse()) for _ in request.success]
        return rpc.TxnResponse(header=header(self.revision), succeeded=True, responses=responses)

    async def _watch(self, requests: AsyncIterator[rpc.WatchRequest], context: Any) -> AsyncIterator[rpc.WatchResponse]:
        assert ("hasleader", "true") in context.invocation_metadata()
        context.add_done_callback(lambda _: self.ended.set())
        stream = self._streams.pop(0) if self._streams else []
        if stream is None:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader")
            return
        n_created = 0
        async for request in requests:
            if request.create_request.watch_id == EVENTS:
                self.starts.append(request.create_request.start_revision)
            yield rpc.WatchResponse(header=header(100), watch_id=request.create_request.watch_id, created=True)
            n_created += 1
            if n_created == 2:
                break
        for response in stream:
            yield response
        if self._streams and not self.patient:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed")
        await asyncio.Event().wait()

    async def __aenter__(self) -> EtcdStore:
        self._server = grpc.aio.server()
        unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
        handlers: dict[str, dict[str, Any]] = {
            "KV": {
                "Range": unary(self._range, rpc.RangeRequest.FromString, rpc.RangeResponse.SerializeToString),
                "Txn": unary(self._txn, rpc.TxnRequest.FromString, rpc.TxnResponse.SerializeToString),
            },
            "Watch": {"Watch": stream(self._watch, rpc.WatchRequest.FromString, rpc.WatchResponse.SerializeToString)},
        }
        for name, table in handlers.items():
            handler = grpc.method_handlers_generic_handler(f"etcdserverpb.{name}", table)
            self._server.add_generic_rpc_handlers((handler,))
        port = self._server.add_insecure_port("127.0.0.1:0")
        await self._server.start()
        self._store = EtcdStore(EtcdOptions((f"http://127.0.0.1:{port}",), request_timeout_seconds=5.0))
        return self._store

    async def __aexit__(self, *_: object) -> None:
        await self._store.close()
        await self._server.stop(None)


async def test_fragments_of_a_revision_are_put_together(reader: type[Reader]) -> None:
    parts = [events(("a", 11), ("b", 11), more=True), events(("c", 11), ("d", 12), more=True), events(("e", 12))]
    async with Script(parts) as store:
        batch = await reader(store.watch("", 10), 10).batch()
    assert [(e.key, e.revision) for e in batch.events] == [("a", 11), ("b", 11), ("c", 11), ("d", 12), ("e", 12)]


async def test_fragments_of_a_stream_that_breaks_are_forgotten(reader: type[Reader]) -> None:
    async with Script([events(("a", 11), more=True)], [events(("a", 11), ("b", 11))]) as store:
        batch = await reader(store.watch("", 10), 10).batch()
    assert [e.key for e in batch.events] == ["a", "b"]


async def test_a_stream_is_taken_up_where_the_last_one_broke(reader: type[Reader]) -> None:
    again = [events(("a", 11), ("b", 13), ("c", 14))]
    script = Script([events(("a", 11)), progress(13)], None, again, [events(("d", 15))])
    async with script as store:
        found = await reader(store.watch("", 10), 10).upto(15)
    assert [(e.key, e.revision) for e in found] == [("a", 11), ("c", 14), ("d", 15)]
    assert script.starts == [10, 13, 14], "at the last revision that arrived"


async def test_progress_of_a_member_that_is_behind_is_none(reader: type[Reader]) -> None:
    async with Script([progress(9), progress(10), events(("a", 11), at=50), progress(11), events(("b", 12))]) as store:
        watch = reader(store.watch("", 10), 10)
        batches = [await watch.batch() for _ in range(2)]
    assert [(b.revision, len(b.events)) for b in batches] == [(11, 1), (12, 1)], "nor is the header of events"


async def test_a_watch_that_is_read_slowly_loses_nothing(reader: type[Reader]) -> None:
    async with Script([events(("k", n)) for n in range(11, 500)]) as store:
        found = await reader(store.watch("", 10), 10).upto(499)
    assert [e.revision for e in found] == list(range(11, 500))


async def test_a_stream_is_given_up_while_nobody_reads(reader: type[Reader]) -> None:
    """It is taken up where it was, and what came meanwhile comes in one message."""
    last = 10 + MAX_WAITING_BATCHES
    one_by_one = [events(("k", n)) for n in range(11, 200)]
    at_once = [events(*(("k", n) for n in range(last, 200)))]
    script = Script(one_by_one, at_once, patient=True)
    async with script as store:
        watch = store.watch("", 10)
        first = await anext(watch)
        await asyncio.wait_for(script.ended.wait(), 10)
        rest = await reader(watch, first.revision).upto(199)
    found = [e.revision for e in (*first.events, *rest)]
    assert found == list(range(11, 200))
    assert len(script.starts) == 2
    assert script.starts[1] in {first.revision, first.revision + MAX_WAITING_BATCHES}, "where it was"


async def test_compaction_while_watching() -> None:
    gone = rpc.WatchResponse(header=header(100), watch_id=EVENTS, canceled=True, compact_revision=42)
    async with Script([gone]) as store:
        with pytest.raises(CompactedError) as caught:
            await anext(store.watch("", 10))
    assert caught.value.revision == 42


@pytest.mark.parametrize(
    ("reason", "code"), [("etcdserver: permission denied", "store-auth"), ("", "store-watch-ended")]
)
async def test_a_watch_that_the_server_ends(reason: str, code: str) -> None:
    ended = rpc.WatchResponse(header=header(100), watch_id=GUARD, canceled=True, cancel_reason=reason)
    async with Script([ended]) as store:
        with pytest.raises(StoreError) as caught:
            await anext(store.watch("", 10))
    assert caught.value.code == code


async def test_a_stream_of_another_cluster() -> None:
    foreign = rpc.WatchResponse(header=header(100, CLUSTER + 1), watch_id=EVENTS)
    async with Script([foreign]) as store:
        with pytest.raises(StoreUnavailableError) as caught:
            await anext(store.watch("", 10))
        assert caught.value.code == "store-replaced"
        with pytest.raises(StoreUnavailableError):
            await store.list("")
        assert await store.epoch()
        assert (await store.list("")).revision == 100


@pytest.mark.parametrize(
    ("status", "details", "n_asked", "code"),
    [
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: no leader", 2, ""),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: rpc not supported for learner", 2, ""),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: too many requests", 2, ""),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: request timed out", 1, "store-unreachable"),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: leader changed", 1, "store-no-leader"),
        (grpc.StatusCode.UNAVAILABLE, "etcdserver: server stopped", 1, "store-unreachable"),
        (grpc.StatusCode.UNKNOWN, "raft: stopped", 1, "store-unreachable"),
        (grpc.StatusCode.DATA_LOSS, "etcdserver: corrupt cluster", 1, "store-corrupt"),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", 1, "store-full"),
        (grpc.StatusCode.INVALID_ARGUMENT, "etcdserver: something new", 1, "store-refused"),
    ],
)
async def test_a_commit_is_asked_for_again_only_where_it_surely_did_not_happen(
    status: grpc.StatusCode, details: str, n_asked: int, code: str
) -> None:
    script = Script()
    async with script as store:
        await store.epoch()
        script.refusals.append((status, details))
        raised = ""
        try:
            await store.commit((), (Put("k", b""),))
        except StoreError as error:
            raised = error.code
    assert (script.txns, raised) == (n_asked, code)


async def test_an_answer_from_the_past_ends_the_history() -> None:
    script = Script()
    async with script as store:
        await store.list("")
        script.revision = 99
        for _ in range(2):
            with pytest.raises(StoreUnavailableError) as caught:
                await store.list("")
            assert caught.value.code == "store-replaced"


async def test_what_is_no_etcd_is_said_to_be_none() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    store = EtcdStore(EtcdOptions((f"http://127.0.0.1:{port}",), request_timeout_seconds=0.3))
    with pytest.raises(StoreError) as caught:
        await store.epoch()
    assert caught.value.code == "store-not-etcd"
    await store.close()
    await server.stop(None)


def test_every_status_has_a_verdict() -> None:
    for code in grpc.StatusCode:
        error = grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details=None)
        assert judge(error, "h:1").error.code.startswith("store-")
