"""SPIN, a program that shares nothing with the explorer but the nodes' own transitions, comes to the same figures.

States, edges and depth are equal in every scope; a historic mistake breaks the same property after as many steps. And
SPIN is seen to notice where something is amiss: a transition that is missing, a delivery that never comes, a circle.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Final

import msgspec
import pytest

from hitless.core.verify.explore import Unknown
from hitless.core.verify.model import Scope
from hitless.core.verify.promela import KINDS, Promela, to_promela
from hitless.core.verify.scopes import MUTANTS, RULES, SHIPPED, Counterexample, explore_scopes

LIMIT_SECONDS: Final = 120.0
SHORTEST: Final = ("-DBFS", "-DSAFETY")
CIRCLES: Final = ("-DNP",)
SCOPES: Final = (
    "rotation",
    "rotation, a crash",
    "rotation, a failed install",
    "rotation, a record deleted",
    "rotation, a heartbeat runs out",
    "join, a reboot",
    "steady, any fault",
    "reboot and crash",
    "an SA vanishes and the agent dies",
    "another address and a crash",
)
"""Those of two nodes with less than 100,000 states; docs/guide/explore.md has the figures of the others."""


class Found(msgspec.Struct, frozen=True):
    """What SPIN says; `depth` is that of the violation where there is one."""

    states: int
    edges: int
    depth: int
    violated: str


def run(place: Path, *words: str) -> str:
    done = subprocess.run(words, cwd=place, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def spin(place: Path, model: Promela, *search: str) -> Found:
    """Breadth first for the shortest way to a violation, or `CIRCLES`: is there a run that never ends?"""
    (place / "handover.pml").write_text(model.model, encoding="utf-8")
    (place / "handover.h").write_text(model.tables, encoding="utf-8")
    run(place, "spin", "-a", "handover.pml")
    run(place, "gcc", "-w", "-DNOREDUCE", *(search or SHORTEST), "-o", "pan", "pan.c")
    said = run(place, "./pan", "-E", "-m100000", "-w20", *(["-l"] if search == CIRCLES else []))
    errors, reached = re.search(r"errors: (\d+)", said), re.search(r"depth reached (\d+)", said)
    violated = re.search(r"^pan:1: (?:assertion violated )?(.+?) \(at depth (\d+)\)", said, re.MULTILINE)
    stored, moved = re.search(r"(\d+) states, (?:stored|visited)", said), re.search(r"(\d+) transitions", said)
    assert errors
    assert reached
    assert stored
    assert moved
    assert bool(int(errors[1])) == bool(violated), said
    # SPIN counts the first state as if a transition led to it.
    return Found(
        int(stored[1]), int(moved[1]) - 1, int(violated[2] if violated else reached[1]), violated[1] if violated else ""
    )


def written(scope: Scope) -> Promela:
    model = to_promela(scope)
    assert isinstance(model, Promela)
    return model


@pytest.fixture(scope="module")
def rotation() -> Promela:
    return written(Scope(rules=RULES))


@pytest.mark.parametrize("name", SCOPES)
def test_spin_counts_what_the_explorer_counts(name: str, tmp_path: Path) -> None:
    model = written(msgspec.structs.replace(SHIPPED[name], rules=RULES))
    counted = model.counted
    assert counted.states > 1000
    assert spin(tmp_path, model) == Found(counted.states, counted.edges, counted.depth, "")


@pytest.mark.parametrize("name", MUTANTS)
def test_spin_refutes_every_historic_mistake_in_as_many_steps(name: str, tmp_path: Path) -> None:
    rules, scopes = MUTANTS[name]
    whole = {each: msgspec.structs.replace(scope, reduce=False) for each, scope in scopes.items()}
    refuted = explore_scopes(rules, whole)
    assert isinstance(refuted, Counterexample)
    found = spin(tmp_path, written(msgspec.structs.replace(scopes[refuted.scope], rules=rules)))
    assert (found.violated.replace("_", " "), found.depth) == (refuted.property, len(refuted.drawn.rows))


def test_both_see_the_same_of_a_mistake_that_is_not_judged(tmp_path: Path) -> None:
    rules, scopes = MUTANTS["order advertise-first"]
    model = written(msgspec.structs.replace(scopes["rotation"], rules=rules))
    unjudged = msgspec.structs.replace(model, model=f"#define UNJUDGED\n{model.model}")
    counted = model.counted
    assert spin(tmp_path, unjudged) == Found(counted.states, counted.edges, counted.depth, "")


def test_every_run_of_a_rotation_ends(rotation: Promela, tmp_path: Path) -> None:
    """More than that it may end well: there is no circle, and where nothing can happen any more all is at rest."""
    assert not spin(tmp_path, rotation, *CIRCLES).violated


def test_a_circle_would_be_noticed(rotation: Promela, tmp_path: Path) -> None:
    guard = "c_expr { (any_ages)(now.node) }"
    assert guard in rotation.model
    circling = msgspec.structs.replace(rotation, model=rotation.model.replace(guard, "true"))
    assert "non-progress cycle" in spin(tmp_path, circling, *CIRCLES).violated


def test_a_transition_that_the_explorer_never_met_would_be_noticed(rotation: Promela, tmp_path: Path) -> None:
    rows = re.findall(rf"^\{{{KINDS.index('hear')}, .*\}},\n", rotation.tables, re.MULTILINE)
    lacking = msgspec.structs.replace(rotation, tables=rotation.tables.replace(rows[-1], ""))
    assert spin(tmp_path, lacking).violated == "known"


def test_a_wedge_would_be_noticed(rotation: Promela, tmp_path: Path) -> None:
    guard = "nempty(queue[_pid]) && c_expr"
    assert guard in rotation.model
    deaf = msgspec.structs.replace(rotation, model=rotation.model.replace(guard, "false && c_expr"))
    assert spin(tmp_path, deaf).violated == "no_wedge"


def test_a_scope_that_is_too_large_is_said_to_be() -> None:
    found = to_promela(Scope(rules=RULES), limit=100)
    assert isinstance(found, Unknown)
    assert found.limit == "states_limit=100"
