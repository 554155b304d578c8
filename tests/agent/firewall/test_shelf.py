"""Documents in the store: complete or not taken, and pushes that meet each other."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from tests.agent.firewall.bridge import documents, run, text

from hitless.agent.firewall import shelf
from hitless.core.firewall.documents import read
from hitless.core.firewall.intent import intent
from hitless.ports import Compare, Delete, Put, StoreError
from hitless.stores.memory import MemoryStore
from hitless.stores.memory_log import MemoryLog
from hitless.stores.rules import MAX_COMMIT_BYTES, MAX_COMMIT_ITEMS

DOCUMENTS = read(text(documents()), "intent.yaml")


class Counting(MemoryStore):
    """Notes the size of every commit; `between` is somebody else's turn before the commit of that number."""

    def __init__(self, log: MemoryLog) -> None:
        super().__init__(log)
        self.sizes: list[int] = []
        self.last: list[str] = []
        self.lost_at = 0

    async def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        self.sizes.append(len(writes))
        self.last = [each.key for each in writes]
        return None if len(self.sizes) == self.lost_at else await super().commit(compares, writes)


def test_what_is_pushed_means_what_was_read() -> None:
    async def test() -> None:
        store = MemoryStore(MemoryLog())
        await shelf.push(store, "demo", DOCUMENTS)
        held = shelf.Shelf("demo")
        held.fill((await store.list(shelf.root("demo"))).entries)
        assert held.is_complete
        there, here = intent(held.documents()), intent(DOCUMENTS)
        assert there.ports["w1"].place.file == "store:/hitless/demo/firewall/Port/w1"
        assert {**there.ports}.keys() == {**here.ports}.keys()
        assert [rule.identity for rule in there.groups["web"].rules] == [
            rule.identity for rule in here.groups["web"].rules
        ]

    run(test)


def test_commits_respect_the_stores_limits_and_the_manifest_comes_last() -> None:
    async def test() -> None:
        ports = {f"p{n}": (str(n % 250 + 1), "web") for n in range(300)}
        store = Counting(MemoryLog())
        await shelf.push(store, "demo", read(text(documents(ports=ports)), "x"))
        assert len(store.sizes) >= 4
        assert max(store.sizes) <= MAX_COMMIT_ITEMS
        assert store.last == [shelf.manifest_key("demo")]
        large = [Put(f"k{n}", bytes(MAX_COMMIT_BYTES // 4)) for n in range(5)]
        assert [len(each) for each in shelf._chunks(large)] == [1, 1, 1, 1, 1]

    run(test)


@pytest.mark.parametrize("lost_at", [1, 2])
def test_a_push_that_another_one_overtook_says_so(lost_at: int) -> None:
    async def test() -> None:
        store = Counting(MemoryLog())
        store.lost_at = lost_at
        with pytest.raises(StoreError) as caught:
            await shelf.push(store, "demo", DOCUMENTS)
        assert caught.value.code == "push-raced"
        held = shelf.Shelf("demo")
        held.fill((await store.list(shelf.root("demo"))).entries)
        assert not held.is_complete
        await shelf.push(store, "demo", DOCUMENTS)
        held.fill((await store.list(shelf.root("demo"))).entries)
        assert held.is_complete

    run(test)


@pytest.mark.parametrize("harm", ["missing", "altered", "added", "manifest gone", "manifest damaged"])
def test_anything_but_what_the_manifest_names_is_not_complete(harm: str) -> None:
    async def test() -> None:
        store = MemoryStore(MemoryLog())
        await shelf.push(store, "demo", DOCUMENTS)
        held = shelf.Shelf("demo")
        held.fill((await store.list(shelf.root("demo"))).entries)
        port, manifest = shelf.root("demo") + "Port/w1", shelf.manifest_key("demo")
        key, value = {
            "missing": (port, None), "altered": (port, b"{}"), "added": (port + "x", b"{}"),
            "manifest gone": (manifest, None), "manifest damaged": (manifest, b"{"),
        }[harm]  # fmt: skip
        assert held.is_complete
        held.take(key, value)
        assert not held.is_complete

    run(test)
