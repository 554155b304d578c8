"""One question about one state: the two rules as tables, and each defect that exploration found, by name."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from tests.core.cluster import EPOCH, ME, PEER, both, progress, record, ref, view

from hitless.core.ipsec import handover, watermarks
from hitless.core.ipsec.state import (
    Effect,
    Failure,
    Forget,
    Install,
    Installed,
    InstallFailed,
    KeysFiled,
    Observed,
    Publish,
    Recalled,
    Reincarnate,
    SaRef,
    State,
    Switch,
    Tick,
    Used,
    WakeAt,
)
from hitless.core.model.node import Tombstone
from hitless.core.model.view import NOWHERE, Listed, Recorded

replace = msgspec.structs.replace
NOW = 1000.0


def state(**fields: Any) -> State:
    """A node on generation 1 that has loaded generation 2, with all its states in the kernel."""
    usual: dict[str, Any] = {
        "me": ME,
        "view": view(progress("b", 12, (1, 2))),
        "filed": frozenset({2}),
        "held": frozenset({1, 2}),
        "observed": True,
        "kernel": both(1, 2),
        "pinned": {"b": ref("out", 1).spi},
    }
    return State(**{**usual, **fields})


def effects(of: State, kind: type[Effect], now: float = NOW) -> list[Any]:
    return [each for each in handover.step(of, [], now)[1] if isinstance(each, kind)]


@pytest.mark.parametrize(
    ("about", "generation", "reason"),
    [
        ({}, 2, ""),
        ({}, 1, "superseded"),
        ({"view": view()}, 2, "peer-not-ready"),
        ({"view": view(progress("b", 11, (1, 2)))}, 2, "peer-not-ready"),
        ({"view": view(progress("b", 12, (1, 2)), peer=13)}, 2, "peer-not-ready"),
        ({"view": view(progress("b", 12, (1, 2)), me=NOWHERE)}, 2, "peer-not-ready"),
        ({"view": view(progress("b", 12, (1, 2), counter=2))}, 2, "peer-not-ready"),
        ({"view": view(progress("b", 12, (1, 2), epoch="log-0"))}, 2, "peer-not-ready"),
        ({"view": view(progress("b", 12, (1,)))}, 2, "key-missing"),
        ({"view": view(progress("b", 12, (1,)))}, 1, ""),
        ({"view": view(progress("b", 12, (1, 2), deaf=("a",)))}, 2, "peer-install-failed"),
        ({"view": view(progress("b", 12, (1, 2), deaf=("c",)))}, 2, ""),
        ({"kernel": both(1)}, 2, "install-failed"),
    ],
)
def test_the_use_rule(about: dict[str, Any], generation: int, reason: str) -> None:
    asked = state(**about)
    assert watermarks.why_not_usable(asked, asked.view.nodes["b"], generation) == reason


def said(revision: int = 12, behind: tuple[str, ...] = (), sends: int = 2, **more: Any) -> dict[str, Any]:
    return {"view": view(progress("b", revision, (1, 2), behind=behind, sends=sends, **more))}


@pytest.mark.parametrize(
    ("about", "old", "may"),
    [
        (said(), ref("in", 1), True),
        (said(), ref("in", 2), False),
        (said(revision=1), ref("in", 1), False),
        (said(behind=("a",)), ref("in", 1), False),
        (said(behind=("c",)), ref("in", 1), True),
        (said(sends=1), ref("in", 1), False),
        (said(epoch="log-0"), ref("in", 1), False),
        (said(counter=2), ref("in", 1), False),
        ({"view": view()}, ref("in", 1), False),
        (said(), ref("out", 1), False),
        ({"pinned": {"b": ref("out", 2).spi}}, ref("out", 1), True),
        ({"pinned": {"b": ref("out", 2).spi}}, ref("out", 2), False),
        ({"pinned": {}}, ref("out", 1), False),
        ({}, SaRef("in", "stranger", 0x2000009), False),
    ],
)
def test_the_retire_rule(about: dict[str, Any], old: SaRef, may: bool) -> None:
    assert watermarks.may_retire(state(**about), old) is may


def test_a_tombstone_retires_what_is_not_in_use() -> None:
    marked = replace(view(), tombstones={"b": Recorded(Tombstone("b", 2, PEER.incarnation), 13)})
    removed = state(view=marked)
    assert watermarks.may_retire(removed, ref("in", 2))
    assert watermarks.may_retire(removed, ref("out", 2))
    assert not watermarks.may_retire(removed, ref("out", 1)), "still pinned"
    assert effects(removed, Switch) == [Switch("b", 0, 0)]


def test_nothing_is_published_before_every_receive_state_is_acknowledged() -> None:
    lacking = state(kernel=both(1, 2) - {ref("in", 2)})
    assert effects(lacking, Install) == [Install(ref("in", 2), 2)]
    assert not effects(lacking, Publish)
    done, _ = handover.step(lacking, [Installed((ref("in", 2),))], NOW)
    (published,) = effects(done, Publish)
    assert published.progress.receives.revision == 12
    assert published.progress.receives.generations == (1, 2)


def test_a_failed_install_is_an_exception_for_one_peer() -> None:
    lacking = state(kernel=both(1, 2) - {ref("in", 2)})
    failed, asked = handover.step(lacking, [InstallFailed("in", "b", 2, "no-memory")], NOW)
    (published,) = [each for each in asked if isinstance(each, Publish)]
    assert [(each.peer, each.reason) for each in published.progress.receives.behind] == [("b", "no-memory")]
    assert WakeAt(NOW + 0.5) in asked
    assert not effects(failed, Install)
    assert effects(failed, Install, NOW + 0.5) == [Install(ref("in", 2), 2)]


def test_nothing_happens_before_the_kernel_was_seen() -> None:
    assert handover.step(state(observed=False), [Tick()], NOW)[1] == ()


# --- what exploration found -------------------------------------------------------------------------------


def test_a_failure_of_a_retired_key_is_forgotten() -> None:
    """Else the node is degraded for ever, and woken at a time that has passed, again and again."""
    failure = Failure("no-memory", 2, NOW - 1)
    late = state(
        view=view(progress("b", 12, (2,), sends=2)),
        held=frozenset({2}),
        kernel=both(2),
        pinned={"b": ref("out", 2).spi},
        failures={("in", "b", 1): failure},
    )
    after, asked = handover.step(late, [], NOW)
    assert not after.failures
    assert [each.progress.phase for each in asked if isinstance(each, Publish)] == ["steady"]
    assert not [each for each in asked if isinstance(each, WakeAt) and each.at < NOW]


def test_a_new_log_does_not_bring_back_a_retired_state() -> None:
    """The peer's word of the old log still tells which generation both hold: IN 1 was deleted, and stays so."""
    retired = state(
        view=view(progress("b", 12, (1, 2))),
        kernel=both(1, 2) - {ref("in", 1)},
        pinned={"b": ref("out", 2).spi},
    )
    assert not effects(retired, Install)
    wiped, asked = handover.step(retired, [Listed("log-2", 0)], NOW)
    assert wiped.view.epoch == "log-2"
    assert not [each for each in asked if isinstance(each, Install)]


def test_a_starting_agent_sees_that_an_installed_state_is_gone() -> None:
    """It was deleted while nobody watched: the same key with counters from 0 must not come back."""
    mine = progress("a", 12, (1, 2), sends=2)
    started = State(me=ME, held=frozenset({1, 2}))
    listing = view(progress("b", 12, (1, 2)), mine)
    listed = Listed(
        EPOCH, 12, tuple(listing.nodes.values()), tuple(listing.keys.values()), tuple(listing.progress.values())
    )
    pinned = {"b": ref("out", 2).spi}
    recalled = Recalled(frozenset(Used(each, PEER.incarnation.nonce) for each in both(2)))
    for gone in (ref("in", 2), ref("out", 2)):
        seen = Observed(both(2) - {gone}, pinned)
        _, asked = handover.step(started, [listed, recalled, KeysFiled(frozenset({2})), seen], NOW)
        assert asked == (Reincarnate("sa-vanished"),)
    seen = Observed(both(2), pinned)
    whole, asked = handover.step(started, [listed, recalled, KeysFiled(frozenset({2})), seen], NOW)
    assert not [each for each in asked if isinstance(each, Reincarnate | Install)]
    assert not whole.reincarnate


def test_a_rebooted_node_keeps_the_key_that_its_peer_still_needs() -> None:
    """Its kernel is empty, and the peer has not loaded generation 2: without generation 1 they have no key."""
    reborn = record("a", 2)
    rebooted = state(
        me=reborn,
        view=replace(
            view(progress("b", 12, (1,))), nodes={"a": Recorded(reborn, 13), "b": Recorded(PEER, 2)}, revision=13
        ),
        kernel=frozenset(),
        pinned={},
    )
    after, asked = handover.step(rebooted, [], NOW)
    assert not [each for each in asked if isinstance(each, Forget)]
    assert after.held == {1, 2}
    assert {each.generation for each in asked if isinstance(each, Install)} == {1, 2}


def test_a_generation_that_the_peer_owes_nobody_is_not_used() -> None:
    """The peer knows that both hold 2 and need not have installed IN 1 for us: when OUT 2 fails we wait."""
    lacking = state(kernel=both(1, 2) - {ref("out", 2)}, pinned={})
    failed = replace(lacking, failures={("out", "b", 2): Failure("no-memory", 1, NOW + 5)})
    assert not effects(failed, Switch)
    assert effects(replace(failed, kernel=both(1, 2), failures={}), Switch) == [Switch("b", ref("out", 2).spi, 2)]


def test_an_agent_that_starts_where_all_is_well_changes_nothing() -> None:
    mine = progress("a", 12, (2,))
    listing = view(progress("b", 12, (2,)), mine)
    listed = Listed(
        EPOCH, 12, tuple(listing.nodes.values()), tuple(listing.keys.values()), tuple(listing.progress.values())
    )
    seen = Observed(both(2), {"b": ref("out", 2).spi})
    _, asked = handover.step(State(me=ME), [seen, KeysFiled(frozenset({2})), listed], NOW)
    assert {type(each) for each in asked} <= {Publish, WakeAt}, "only the words for people may differ"
