"""Conjunction ids and tags: never 0, never shared, the same for everybody, and the bridge is their memory."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hitless.core.firewall import identity
from hitless.core.firewall.identity import (
    ConjunctionKey,
    KnownIds,
    TagError,
    assign_ids,
    assign_tags,
    conjunction_cookie,
    read_ids,
)
from hitless.core.model.flow import Conjunction, Flow, exact
from hitless.core.model.security import Network

keys = st.builds(
    ConjunctionKey,
    group=st.sampled_from(["app", "db", "web"]),
    direction=st.sampled_from(["ingress", "egress"]),
    ethertype=st.sampled_from(["ipv4", "ipv6"]),
    remote_kind=st.sampled_from(["group", "address-group"]),
    remote=st.sampled_from(["app", "office"]),
    protocol=st.sampled_from([-1, 6, 17]),
    tier=st.integers(0, 7),
    action=st.sampled_from(["allow", "deny"]),
    stateless=st.booleans(),
)
key_sets = st.lists(keys, max_size=12, unique=True)
few = st.frozensets(st.integers(0, 40), max_size=10)


@pytest.fixture
def _narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hashes of few values, so that they collide."""
    whole = identity._hash
    monkeypatch.setattr(identity, "_hash", lambda text, bits: whole(text, bits) % (16 if bits == 32 else 1 << bits))


def accept(key: ConjunctionKey, number: int) -> Flow:
    return Flow(82, 60, (exact("conj_id", number),), (), conjunction_cookie(key))


def test_ids_are_hashes_of_what_they_stand_for() -> None:
    """The values themselves are held: another hash would renumber every bridge at its next start."""
    key = ConjunctionKey("web", "ingress", "ipv4", "group", "app", 6, 4, "allow", stateless=False)
    assert assign_ids([key], KnownIds()) == {key: 1_012_719_814}
    assert f"{conjunction_cookie(key):#x}" == "0x687484beab7ed6ea"


@pytest.mark.usefixtures("_narrow")
@given(key_sets, few, few, st.randoms(use_true_random=False))
def test_ids_are_never_0_never_shared_and_the_same_in_any_order(
    wanted: list[ConjunctionKey], in_use: frozenset[int], resting: frozenset[int], shuffled: object
) -> None:
    known = KnownIds(in_use=in_use, resting=resting)
    ids = assign_ids(wanted, known)
    assert set(ids) == set(wanted)
    assert len({*ids.values()}) == len(ids)
    assert not {*ids.values()} & {0, *in_use, *resting}
    shuffled.shuffle(wanted)  # type: ignore[attr-defined]
    assert assign_ids(wanted, known) == ids


@pytest.mark.usefixtures("_narrow")
@given(key_sets, key_sets, few)
def test_what_the_bridge_says_is_kept_however_it_came_about(
    before: list[ConjunctionKey], after: list[ConjunctionKey], foreign: frozenset[int]
) -> None:
    others = [Flow(5, 1, (exact("conj_id", number),), ()) for number in foreign]
    first = assign_ids(before, read_ids(others))
    flows = [*others, *(accept(key, number) for key, number in first.items())]
    again = assign_ids([*before, *after], read_ids(flows))
    assert {key: again[key] for key in before} == first
    assert len({*again.values()}) == len(again)


def test_ids_in_actions_are_in_use_and_belong_to_nobody() -> None:
    clause = Flow(82, 60, (), (Conjunction(7, 1, 2), Conjunction(9, 1, 2)), conjunction_cookie(_key()))
    assert read_ids([clause]) == KnownIds({}, frozenset({7, 9}), orphans=frozenset({7, 9}))


def test_an_accept_flow_of_id_0_is_nobodys_memory() -> None:
    assert assign_ids([_key()], read_ids([accept(_key(), 0)])) == assign_ids([_key()], KnownIds())


def test_an_id_of_somebody_else_is_not_taken_over() -> None:
    foreign = Flow(82, 60, (exact("conj_id", assign_ids([_key()], KnownIds())[_key()]),), (), cookie=0x1234)
    assert assign_ids([_key()], read_ids([foreign]))[_key()] != foreign.match[0][1]


def test_clauses_whose_accept_flow_was_deleted_keep_their_id() -> None:
    own = assign_ids([_key()], KnownIds())
    clause = Flow(82, 60, (), (Conjunction(own[_key()], 1, 2),), conjunction_cookie(_key()))
    assert assign_ids([_key()], read_ids([clause])) == own
    foreign = msgspec.structs.replace(clause, cookie=0x1234)
    assert assign_ids([_key()], read_ids([clause, foreign])) != own
    resting = msgspec.structs.replace(read_ids([clause]), resting=frozenset(own.values()))
    assert assign_ids([_key()], resting) != own


def test_a_freed_id_rests() -> None:
    own = assign_ids([_key()], KnownIds())[_key()]
    assert assign_ids([_key()], KnownIds(resting=frozenset({own})))[_key()] == own + 1


names = st.lists(st.sampled_from([f"net{number}" for number in range(40)]), max_size=12, unique=True)


@pytest.mark.usefixtures("_narrow")
@given(names, st.sets(st.integers(1, 20), max_size=6), st.integers(0, 4))
def test_tags_are_kept_and_never_shared(wanted: list[str], foreign: set[int], split: int) -> None:
    old = assign_tags(map(Network, wanted[:split]), {}, foreign)
    tags = assign_tags(map(Network, wanted), old, foreign)
    assert {name: tags[name] for name in wanted[:split]} == old
    assert len({*tags.values()}) == len(wanted)
    assert all(1 <= tag <= 4094 for tag in tags.values())
    assert not {*tags.values()} & foreign


def test_a_tag_that_is_asked_for_and_kept_for_another_is_refused() -> None:
    with pytest.raises(TagError, match="belongs to network red") as caught:
        assign_tags([Network("blue", tag=7), Network("red")], {"red": 7})
    assert caught.value.code == "tag-taken"


def test_the_last_tag_can_be_had_and_then_there_is_none() -> None:
    all_but_one = frozenset(range(1, 4094))
    assert assign_tags([Network("blue")], {}, all_but_one) == {"blue": 4094}
    with pytest.raises(TagError) as caught:
        assign_tags([Network("blue"), Network("red")], {}, all_but_one)
    assert caught.value.code == "no-tag-left"


def _key() -> ConjunctionKey:
    return ConjunctionKey("web", "ingress", "ipv4", "group", "app", 6, 4, "allow", stateless=False)
