"""The handover, explored: the shipped rules are proved within each scope, the historic mistakes are refuted.

Every scope visits all interleavings of delivery (late, single, together), slow effects and time. Wider scopes than
these are walked at random, with fixed seeds: a walk proves nothing, but each ends with the question whether all is
well once faults stop.
"""

from __future__ import annotations

import random
import xml.etree.ElementTree as ET

import msgspec
import pytest

from hitless.core.ipsec import handover
from hitless.core.ipsec.state import Publish, WakeAt
from hitless.core.model.layout import Layout
from hitless.core.verify import node as nodes
from hitless.core.verify.diagram import STORE, svg, text
from hitless.core.verify.explore import Always, Properties, Proved, Unknown, explore
from hitless.core.verify.explore import Counterexample as Path
from hitless.core.verify.model import ALWAYS, FAULTS, HandoverModel, Scope, World
from hitless.core.verify.scopes import MUTANTS, RULES, SHIPPED, Counterexample, explore_scopes

replace = msgspec.structs.replace


@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_rules_hold(name: str) -> None:
    found = explore_scopes(RULES, {name: SHIPPED[name]})
    assert isinstance(found, Proved), "\n".join(found.story) if isinstance(found, Counterexample) else found.limit
    budgets = dict(zip(FAULTS, SHIPPED[name].budgets(), strict=True))
    survived = {each for each in budgets if budgets[each] and (each != "remove" or SHIPPED[name].restores)}
    assert {f"all is well after a {each}" for each in survived} <= set(found.seen)


def test_a_rotation_is_proved_with_any_one_of_all_faults() -> None:
    rotations = [scope for name, scope in SHIPPED.items() if name.startswith("rotation")]
    assert [sum(each) for each in zip(*(scope.budgets() for scope in rotations), strict=True)] == [1] * len(FAULTS)
    assert not any(scope.prompt for scope in rotations)


def test_removal_and_lease_expiry_are_seen_to_happen() -> None:
    found = explore_scopes(RULES, {"any": SHIPPED["steady, any fault"]})
    assert isinstance(found, Proved)
    assert {"a removed node is cut off", "all is well without a heartbeat"} <= set(found.seen)


def test_no_view_is_told_of_a_heartbeat() -> None:
    """What the model says of leases: they run out unheard."""
    layout = Layout("test")
    assert layout.event(layout.live("n1"), None, 5) is None


def refuted(mutant: str, always: tuple[str, ...] = ("decryptable", "no key reuse", "sound")) -> Counterexample:
    rules, scopes = MUTANTS[mutant]
    found = explore_scopes(rules, scopes, always=always)
    assert isinstance(found, Counterexample)
    assert found.story[-1].startswith(f"=> {found.property}: ")
    return found


@pytest.mark.parametrize("mutant", MUTANTS)
def test_every_historic_mistake_is_refuted(mutant: str) -> None:
    assert len(refuted(mutant).drawn.rows) > 0


def test_advertising_before_installing_is_refuted() -> None:
    found = refuted("order advertise-first")
    assert found.property == "decryptable"
    assert len(found.story) <= 14, "the shortest story"
    promises = [line for line in found.story if "publishes that it receives generations 1 and 2" in line]
    assert any("is not in the kernel yet" in line for line in promises), "\n".join(found.story)


@pytest.mark.parametrize("mutant", ["absent delete", "absent delete, by lease"])
def test_deleting_what_is_absent_is_refuted(mutant: str) -> None:
    """The documented blackhole: a record vanishes and returns, and the same key starts again at 0 on one side."""
    told = refuted(mutant).story[0]
    assert "record vanishes from the store" in told or "heartbeat runs out" in told


def test_deleting_by_a_timer_is_refuted() -> None:
    assert refuted("cleanup timer").story[-2:] == (
        "8. n1 deletes its IN state of generation 1 from n2",
        "=> decryptable: n1 cannot decrypt what n2 sends with generation 1",
    )


def test_the_smallest_spi_is_sent_with_before_anybody_can_receive_it() -> None:
    assert refuted("select min-spi").property == "decryptable"


def test_the_same_key_after_a_reboot_is_refuted_twice() -> None:
    """It is a key used again; and on the wire, a blackhole: the peer's replay window has seen it all."""
    assert refuted("rebirth same-key").property == "no key reuse"
    blackhole = refuted("rebirth same-key", ("decryptable",))
    assert blackhole.property == "decryptable"
    assert "reboots" in blackhole.story[0]
    assert "the replay window of n2 swallows all of it, for ever" in blackhole.story[-1]


def test_a_limit_is_said_by_name() -> None:
    found = explore_scopes(RULES, {"rotation": Scope()}, limit=100)
    assert isinstance(found, Unknown)
    assert found.limit == "rotation: states_limit=100"


def test_a_counterexample_is_drawn() -> None:
    drawn = refuted("order advertise-first").drawn
    assert drawn.lanes == ("n1", STORE, "n2")
    lines = text(drawn).splitlines()
    assert len(lines) == len(drawn.rows) + 2
    arrows = {(row.source, row.target): line for row, line in zip(drawn.rows, lines[1:-1], strict=True)}
    assert "|--------->|" in arrows["n1", STORE]
    assert "|--------->|" in arrows[STORE, "n2"]
    picture = ET.fromstring(svg(drawn))  # noqa: S314 - our own text
    words = [each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert words == [*drawn.lanes, *(row.text for row in drawn.rows), drawn.verdict]


WALKED = Scope(crashes=1, refusals=1, wipes=1, removals=1, expiries=1, vanishings=1, moves=1, deletions=1, reduce=False)


@pytest.mark.parametrize("seed", range(4))
def test_the_fast_way_ahead_is_the_plain_one(seed: int) -> None:
    model, dice = HandoverModel(WALKED), random.Random(seed)  # noqa: S311 - a schedule, not a secret
    world = next(iter(model.init()))
    for _ in range(300):
        usual, faulty = model.ahead(world)
        assert set(usual) == {model.next(world, each) for each in model.usual(world)} - {world}
        assert set(faulty) == {model.next(world, each) for each in model.faulty(world)}
        world = dice.choice([*usual, *(faulty if dice.random() < 0.05 else ())] or [next(iter(model.init()))])


def all_that_is_wrong(scope: Scope) -> tuple[int, set[tuple[str, str]]]:
    """How many worlds there are, and what breaks in any of them and at which node: nobody stops at the first."""
    model, found = HandoverModel(scope), set[tuple[str, str]]()

    def note(world: World) -> str:
        wrong = zip(ALWAYS, (model.undecryptable(world), model.reused(world), model.wrong(world)), strict=True)
        found.update((name, text.split()[0]) for name, text in wrong if text and SWALLOWED not in text)
        return ""

    result = explore(model, Properties([Always("noted", note)], seen=model.seen))
    assert isinstance(result, Proved)
    return result.states, found


SWALLOWED = "counts from 0 again"
"""A key was used before where this is said, and that is what no reduction hides."""
REDUCED = {
    "rotation": Scope(),
    "a new store": Scope(newest=1, wipes=1, crashes=1, together=1),
    "an SA vanishes": Scope(newest=1, vanishings=1),
    "another address and a crash": Scope(newest=1, moves=1, crashes=1),
    "removed, and restored": Scope(newest=1, removals=1),
    "three nodes, a record deleted": Scope(nodes=3, newest=1, deletions=1, prompt=True),
    **{name: replace(scope, rules=rules) for name, (rules, scopes) in MUTANTS.items() for scope in scopes.values()},
    **{f"{name}, refused": Scope(refusals=1, rules=rules) for name, (rules, _) in MUTANTS.items()},
}


@pytest.mark.parametrize("name", REDUCED)
def test_what_is_left_out_hides_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is wrong in the whole that is not wrong in what is visited; nor the other way round."""
    few, reduced = all_that_is_wrong(REDUCED[name])
    many, full = all_that_is_wrong(replace(REDUCED[name], reduce=False))
    assert few < many
    assert reduced == full
    monkeypatch.setattr(nodes, "trimmed", lambda node: node)
    more, remembered = all_that_is_wrong(replace(REDUCED[name], reduce=False))
    assert many <= more
    assert remembered <= full


def test_with_one_peer_nothing_that_it_can_see_waits() -> None:
    """Why `prompt` makes no difference to two nodes: what waits for the publish interval is for people only."""
    model = HandoverModel(Scope(refusals=1, reduce=False))
    assert isinstance(explore(model, Properties[World]()), Proved)
    waits = 0
    for node in model._nodes.values:
        said = [replace(node.state, published_at=at) for at in (nodes.NOW, -1e9)]
        now, later = ([each for each in handover.step(state, (), nodes.NOW)[1] if not isinstance(each, WakeAt)]
                      for state in said)  # fmt: skip
        unseen = [each for each in later if each not in now]
        assert [each for each in later if each in now] == now
        assert all(isinstance(each, Publish) and nodes.plain(each.progress) == node.said for each in unseen)
        waits += len(unseen)
    assert waits


def test_a_story_from_what_is_visited_is_a_story() -> None:
    """Where the whole is too large for a shortest one: each step is a step, and what goes first is told as well."""
    rules, scopes = MUTANTS["order advertise-first"]
    model = HandoverModel(replace(scopes["rotation"], rules=rules))
    found = explore(model, model.properties())
    assert isinstance(found, Path)
    world = found.start
    for action, after in found.steps:
        assert model.next(world, action) == after
        world = after
    assert model.undecryptable(world)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "scope",
    [
        pytest.param(Scope(newest=3, crashes=1, refusals=2, reboots=2), id="two-rotations-all-local-faults"),
        pytest.param(Scope(cold=True, newest=3, refusals=2, reboots=1), id="join-in-mid-rotation"),
        pytest.param(Scope(newest=2, wipes=1, crashes=1), id="rotation-in-a-new-store"),
        pytest.param(Scope(nodes=3, newest=3, crashes=1, refusals=1, reboots=1), id="three-nodes"),
    ],
)
def test_random_walks_end_well(scope: Scope, seed: int) -> None:
    model, dice = HandoverModel(scope), random.Random(seed)  # noqa: S311 - a schedule, not a secret
    start = next(iter(model.init()))
    for _ in range(12):
        world = start
        for _ in range(dice.randint(20, 160)):
            offered = list(model.actions(world))
            faults = [each for each in offered if each.what in FAULTS]
            usual = [each for each in offered if each.what not in FAULTS]
            world = model.next(world, dice.choice(faults if faults and dice.random() < 0.1 else usual))
            assert not model.undecryptable(world)
            assert not model.reused(world)
            assert not model.wrong(world)
        assert model.done(_finished(model, world))


def _finished(model: HandoverModel, world: World) -> World:
    """No more faults: every key is loaded, and everything that can happen happens."""
    while True:
        world = model.settled(world)
        assert not model.undecryptable(world)
        loads = [each for each in model.actions(world) if each.what == "load"]
        if not loads:
            return world
        world = model.next(world, loads[0])
