"""What is computed once, in bulk or from memory is the same as what is computed one by one and anew."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec
import pytest
from tests.agent.cluster import Cluster, key_line, run

from hitless.agent.execute import Executor
from hitless.agent.feed import SMALL_CLUSTER, events, listing
from hitless.agent.registry import Registry
from hitless.core.ipsec import desired, handover, watermarks
from hitless.core.ipsec.keyfile import parse
from hitless.core.ipsec.state import (
    BLOCK,
    Event,
    KeysFiled,
    Observed,
    Reincarnate,
    Removed,
    Rules,
    Sample,
    SaRef,
    State,
    Switch,
    Switched,
)
from hitless.core.model.layout import Layout, encode
from hitless.core.model.node import Behind, Incarnation, KeyRecord, NodeRecord, Progress, Receives, Sends, Tombstone
from hitless.core.model.sa import Aead, ObservedSa, Sa, SaCounters
from hitless.core.model.secret import Secret
from hitless.core.model.view import (
    KeySeen,
    Listed,
    NodeSeen,
    ProgressSeen,
    RecordAbsent,
    Recorded,
    StoreEvent,
    TombstoneSeen,
)
from hitless.core.plan.actual import actual
from hitless.ports import Put
from hitless.stores.memory import MemoryStore
from hitless.stores.memory_log import MemoryLog

NAMES = ("me", "a", "b", "c", "d")
STEPS = 60


def record(name: str, counter: int) -> NodeRecord:
    number = NAMES.index(name) + 1
    return NodeRecord(name, number, Incarnation(counter, f"{number:02x}{counter:02x}" * 8), (f"192.0.2.{number}",))


def some_progress(dice: random.Random, name: str, revision: int) -> Progress:
    def behind() -> tuple[Behind, ...]:
        return tuple(Behind(each, "x") for each in NAMES if each != name and dice.random() < 0.3)

    held = tuple(sorted(dice.sample((1, 2, 3), dice.randint(1, 3))))
    life = record(name, dice.choice((1, 1, 1, 2))).incarnation
    heard, sent = dice.randint(0, revision), dice.randint(0, revision)
    return Progress(name, life, dice.choice(("e", "e", "e", "f")), Receives(heard, held, behind()),
                    Sends(sent, max(held), behind()))  # fmt: skip


def some_event(dice: random.Random, revision: int) -> StoreEvent:
    name = dice.choice(NAMES)
    kind = dice.random()
    if kind < 0.6:
        return ProgressSeen(some_progress(dice, name, revision))
    if kind < 0.8:
        return NodeSeen(Recorded(record(name, dice.choice((1, 1, 2))), revision))
    if kind < 0.9:
        generation = dice.randint(1, 3)
        return KeySeen(Recorded(KeyRecord(generation, generation, str(generation), "x"), revision))
    if kind < 0.95:
        return TombstoneSeen(Recorded(Tombstone("d", NAMES.index("d") + 1, Incarnation(1, "")), revision))
    return RecordAbsent("c")


def some_state(dice: random.Random) -> State:
    """A node with four peers, in the middle of anything."""
    state = State(me=record("me", 1))
    nodes = tuple(Recorded(record(each, 1), 2 + place) for place, each in enumerate(NAMES))
    for event in (Listed("e", 9, nodes), KeysFiled(frozenset({1, 2})), *(some_event(dice, 20) for _ in range(12))):
        state = handover.fold(state, event, 0.0)
    refs = [
        watermarks.ref(state, way, record(peer, counter), generation)
        for way in ("in", "out") for peer in NAMES[1:] for counter in (1, 2) for generation in (1, 2, 3)
    ]  # fmt: skip
    kernel = frozenset(dice.sample(refs, dice.randint(0, len(refs)))) | {SaRef("in", "#77", 0x02000077)}
    pinned = {peer: dice.choice([BLOCK, *(ref.spi for ref in refs if ref.peer == peer)]) for peer in NAMES[1:]}
    return handover.fold(state, Observed(kernel, pinned), 0.0)


@pytest.mark.parametrize("seed", range(STEPS))
def test_a_batch_folds_to_what_its_events_fold_to(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - the same run every time
    state = some_state(dice)
    events: list[Event] = []
    for revision in range(20, 50):
        switched = Switched(dice.choice(NAMES[1:]), dice.randint(0, 5))
        local: list[Event] = [switched, Removed(tuple(sorted(state.kernel)[:2]))]
        known: list[Event] = [some_event(dice, revision)]
        events += known * dice.randint(1, 3) if dice.random() < 0.8 else local
    one_by_one = state
    for event in events:
        one_by_one = handover.fold(one_by_one, event, 1.0)
    assert handover.fold_all(state, events, 1.0) == one_by_one


@pytest.mark.parametrize("seed", range(STEPS))
def test_the_outlook_is_what_the_rules_say_peer_by_peer(seed: int) -> None:
    state = some_state(random.Random(seed))  # noqa: S311 - the same run every time
    look = watermarks.outlook(state)
    peers = [peer.record for peer in state.view.peers("me")]
    assert [each.record for each in look.peers] == peers
    for way, found, wanted in (
        ("in", look.ins, watermarks.wanted_in),
        ("out", look.outs, watermarks.wanted_out),
    ):
        refs = {watermarks.ref(state, way, peer, each) for peer in peers for each in wanted(state, peer)}  # type: ignore[arg-type]
        assert found == refs
    best = {peer.name: watermarks.ref(state, "out", peer, max(state.held)).spi for peer in peers}
    assert look.best == best
    assert list(watermarks.retirable(state, look)) == sorted(
        ref for ref in state.kernel if watermarks.may_retire(state, ref)
    )


@pytest.mark.parametrize("seed", range(STEPS))
def test_switches_are_what_the_use_rule_says_peer_by_peer(seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - the same run every time
    state = msgspec.structs.replace(some_state(dice), held=frozenset({1, 2, 3}))
    wanted = {}
    for peer in state.view.peers("me"):
        usable = [each for each in state.held if not watermarks.why_not_usable(state, peer, each)]
        pinned = state.pinned.get(peer.record.name, BLOCK)
        newer = [each for each in state.view.keys if usable and each > max(usable)]
        if usable and pinned not in {watermarks.ref(state, "out", peer.record, each).spi for each in newer}:
            wanted[peer.record.name] = watermarks.ref(state, "out", peer.record, max(usable)).spi
    _, effects = handover.step(state, [], 1.0)
    if not any(isinstance(each, Reincarnate) for each in effects):
        switches = [each for each in effects if isinstance(each, Switch)]
        found = {each.peer: each.spi for each in switches if not state.view.removed(each.peer)}
        assert found == {name: spi for name, spi in wanted.items() if state.pinned.get(name, BLOCK) != spi}


def test_the_sample_of_one_path_is_what_any_number_of_paths_gives() -> None:
    """A second path that has seen nothing adds nothing, and tells the two ways to count apart."""
    sa = Sa("192.0.2.1", "192.0.2.2", 0x02000001, 1, "tunnel", Aead("x", Secret(b"k"), 128))
    busy = ObservedSa(sa, SaCounters(packets=3, bytes=300, seq=7, oseq=9, add_time=50, replay=2, integrity_failed=1))
    silent = ObservedSa(sa, SaCounters(add_time=50))
    assert desired.sample((busy,), 60.0) == desired.sample((busy, silent), 60.0) == Sample(7, 9, 3, 300, 10.0)


@pytest.mark.parametrize("extra", [0, SMALL_CLUSTER])
def test_events_that_gather_say_the_same(extra: int) -> None:
    """With many nodes the feed hears less often. The view is the same, and nothing comes twice or out of order."""

    async def test() -> None:
        log = MemoryLog(lambda: 0.0)
        store, layout = MemoryStore(log), Layout("test")
        for number in range(extra + 1):
            name = f"n{number}"
            node = NodeRecord(name, number + 1, Incarnation(1, "00" * 16), (f"192.0.2.{number + 1}",))
            await store.commit([], [Put(layout.node(name), encode(node))])
        stream = events(store, "test")
        heard: list[StoreEvent] = [*await anext(stream)]
        for revision in range(100):
            await store.commit([], [Put(layout.progress("n0"), encode(some_progress(random.Random(1), "a", revision)))])  # noqa: S311
        while len(heard) < 101:
            heard += await asyncio.wait_for(anext(stream), 30)
        told = [each.progress for each in heard if isinstance(each, ProgressSeen)]
        assert told == [some_progress(random.Random(1), "a", revision) for revision in range(100)]  # noqa: S311

    run(test)


def test_states_that_are_tried_hold_something_to_retire() -> None:
    """The comparison above would be empty otherwise."""
    states = [some_state(random.Random(seed)) for seed in range(STEPS)]  # noqa: S311 - the same run every time
    retired = [ref for state in states for ref in watermarks.retirable(state, watermarks.outlook(state))]
    assert {ref.way for ref in retired} == {"in", "out"}


def test_a_look_from_memory_sees_what_a_look_anew_sees(tmp_path: Path) -> None:
    """After every kind of tampering, and with keys that come and go."""

    async def test() -> None:
        cluster = Cluster(tmp_path)
        cluster.key(key_line(1))
        cluster.start()
        await cluster.settled(1)
        await cluster.stop()
        config, kernel, store = cluster.config("n1"), cluster.kernels["n1"], MemoryStore(cluster.log)
        nodes = [entry.value for entry in (await store.list("/hitless/test/nodes/")).entries]
        assert len(nodes) == 3
        keys = {1: parse(key_line(1), "keys")[0], 2: parse(key_line(2), "keys")[0]}
        state = await state_of(store, config.rules)
        registry = Registry(store, "test", "n1")
        executor = Executor(kernel, registry, config.settings, lambda: 0, lambda _: None, lambda _: None)

        async def compare(state: State, held: set[int]) -> Observed:
            state = handover.fold(state, KeysFiled(frozenset(held)), 0.0)
            seen = (await executor.observe(state))[0]
            keyring = {each: keys[each] for each in held}
            looked = actual(kernel.observe(), kernel.owns)
            assert seen == desired.observed(state, keyring, looked, config.settings)
            return seen

        executor.load_keys({1: keys[1]})
        first = await compare(state, {1})
        assert len(first.kernel) == 4
        assert not first.altered
        assert await compare(state, {1}) == first
        executor.load_keys({2: keys[2]})
        await compare(state, {1, 2})
        victim = kernel.observe().sas[0]
        kernel.count(victim.sa.key, SaCounters(packets=7))
        await compare(state, {1, 2})
        other = kernel.observe().sas[1].sa
        kernel.place(ObservedSa(type(victim.sa)(**{
            **{name: getattr(victim.sa, name) for name in victim.sa.__struct_fields__}, "crypto": other.crypto,
        })))  # fmt: skip
        assert len((await compare(state, {1, 2})).altered) == 1
        kernel.remove(victim.sa.key)
        assert len((await compare(state, {1, 2})).kernel) == 3
        out = next(each.policy for each in kernel.observe().policies if each.policy.direction == "out"
                   and each.policy.template)  # fmt: skip
        kernel.remove(out.key)
        assert BLOCK in (await compare(state, {1, 2})).pinned.values()
        peer = next(node.record for node in state.view.peers("n1"))
        reborn = NodeRecord(peer.name, peer.node_id, Incarnation(17, "ab" * 16), peer.addresses, peer.prefixes)
        # Counters 1 and 17 give the same SPI: what was right for the earlier life is altered for this one.
        again = handover.fold(state, NodeSeen(Recorded(reborn, 99)), 0.0)
        assert (await compare(again, {1, 2})).altered

    run(test)


async def state_of(store: MemoryStore, rules: Rules) -> State:
    listed, _ = await listing(store, "test")
    me = next(node.record for node in listed.nodes if node.record.name == "n1")
    return handover.fold(State(me=me, rules=rules), listed, 0.0)
