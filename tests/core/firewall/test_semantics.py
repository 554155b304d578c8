"""The compiled tables mean what security groups mean: random policies, random packets, a simple reference."""

from __future__ import annotations

from collections import Counter

import pytest
from tests.core.firewall.draw import NETWORKS, Draw
from tests.core.firewall.evaluated import STATE, arrival, compiled, run
from tests.core.firewall.reference import Case, allowed

from hitless.core.model.flow import Action, Flow, SetField
from hitless.core.verify.classifier import Commit, Step, Tables, Trail

POLICIES, PACKETS = 120, 150


@pytest.mark.parametrize("seed", range(POLICIES))
def test_what_comes_out_is_what_is_allowed(seed: int) -> None:
    draw = Draw(seed)
    intent = draw.intent()
    local = draw.local(intent)
    tables = Tables(compiled(intent, local).flows.values())
    for _ in range(PACKETS):
        case = draw.case(intent, local)
        trail = run(tables, case, local)
        passes = allowed(intent, case)
        assert frozenset(trail.sent) == (arrival(case, local) if passes else frozenset()), f"{case}\n{told(trail)}"
        assert trail.commits == commits(case, trail, passes=passes), f"{case}\n{told(trail)}"
        assert not disputed(trail), f"{case}\n{told(trail)}"


def test_random_cases_meet_what_matters() -> None:
    """Both verdicts in every state, decided by plain rules, by conjunctions and by their absence."""
    seen: Counter[str] = Counter()
    for seed in range(0, POLICIES, 4):
        draw = Draw(seed)
        intent = draw.intent()
        local = draw.local(intent)
        tables = Tables(compiled(intent, local).flows.values())
        for _ in range(PACKETS):
            case = draw.case(intent, local)
            trail = run(tables, case, local)
            seen[f"{case.state} {'passes' if trail.sent else 'does not'}"] += 1
            for step in trail.steps:
                if step.table in {72, 82} and step.flow is not None:
                    conjunction = any(field == "conj_id" for field, _, _ in step.flow.match)
                    seen["conjunction" if conjunction else f"priority {step.flow.priority}"] += 1
    wanted = {f"{state} {how}" for state in STATE for how in ("passes", "does not")} - {"invalid passes"}
    wanted |= {"conjunction"} | {f"priority {number}" for number in (0, 50, 69, 71, 90, 94, 95, 100)}
    assert not {each for each in wanted if seen[each] < 10}, seen


def commits(case: Case, trail: Trail, *, passes: bool) -> tuple[Commit, ...]:
    """An allowed connection is entered, or its mark taken away; a live one that is denied is marked; nothing else."""
    if len(trail.passes) == 1:
        return ()  # nobody looked the connection up
    end = case.source or case.destination
    assert end is not None
    zone = NETWORKS[end.network]
    if passes and case.state == "new":
        return (Commit(zone),)
    if case.state == "established" and passes == case.marked:
        return (Commit(zone, 0 if passes else 1),)
    return ()


def disputed(trail: Trail) -> list[Step]:
    """Look-ups whose effect depends on an order among equals that Open vSwitch does not promise."""
    return [each for each in trail.steps for rival in each.rivals if effect(rival) != effect(each.flow)]


def effect(flow: Flow | None) -> tuple[Action, ...]:
    """What a flow does, but for the note of which conjunction it was (reg7)."""
    actions = flow.actions if flow else ()
    return tuple(each for each in actions if not (isinstance(each, SetField) and each.field == "reg7"))


def told(trail: Trail) -> str:
    return "\n".join(f"{step.table}: {step.flow}" for step in trail.steps)
