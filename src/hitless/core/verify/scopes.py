"""Which scopes the handover is explored in, and the one question about them: do these rules hold?

`SHIPPED` are those that the shipped rules are proved in at every build, within a minute of one core. `WIDE` take
minutes and gigabytes; the last of them has more states than that. `MUTANTS` are historic mistakes, each with a scope
that is large enough to refute it.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from hitless.core.ipsec.state import Rules
from hitless.core.verify.diagram import Diagram, diagram
from hitless.core.verify.explore import STATES_LIMIT, Proved, Unknown, explore
from hitless.core.verify.explore import Counterexample as Path
from hitless.core.verify.model import ALWAYS, Action, HandoverModel, Scope, World
from hitless.core.verify.story import story

replace = msgspec.structs.replace


class Counterexample(msgspec.Struct, frozen=True):
    """What goes wrong in a scope, told in numbered sentences and drawn; the last sentence names the property."""

    scope: str
    property: str
    story: tuple[str, ...]
    drawn: Diagram


Verdict = Proved | Counterexample | Unknown
"""`Proved` counts the states and edges of all scopes together; `Unknown` names the scope and the limit."""


def explore_scopes(
    rules: Rules, scopes: Mapping[str, Scope], limit: int = STATES_LIMIT, always: tuple[str, ...] = ALWAYS
) -> Verdict:
    """Explore each scope under these rules, at most `limit` states each, until one of them does not hold.

    The model counts time in drains: `rules.retry_limit_seconds` and `rules.cleanup_seconds` must not exceed
    `rules.drain_seconds`. `always` are the invariants asked; all else is asked always.
    """
    states = edges = depth = 0
    seen: set[str] = set()
    for name, scope in scopes.items():
        # What goes first may hide that a window swallows packets, but not that their key was used before.
        reduce = scope.reduce and set(always) == set(ALWAYS)
        model = HandoverModel(replace(scope, rules=rules, reduce=reduce))
        try:
            found = explore(model, model.properties(always), limit)
            if isinstance(found, Path) and reduce:
                model, found = _shortest(model, found, limit)
        except OverflowError as error:
            return Unknown(f"{name}: {error}", states, depth)
        if isinstance(found, Path):
            return Counterexample(name, found.property, story(model, found), diagram(model, found))
        if isinstance(found, Unknown):
            return replace(found, limit=f"{name}: {found.limit}")
        states, edges, depth = states + found.states, edges + found.edges, max(depth, found.depth)
        seen.update(found.seen)
    return Proved(states, edges, depth, tuple(sorted(seen)))


def _shortest(
    reduced: HandoverModel, found: Path[World, Action], limit: int
) -> tuple[HandoverModel, Path[World, Action]]:
    """The same without anything left out, for a shortest story; the one at hand, where that is too much."""
    whole = HandoverModel(replace(reduced.scope, reduce=False))
    try:
        again = explore(whole, whole.properties(), limit)
    except OverflowError:
        return reduced, found
    return (whole, again) if isinstance(again, Path) else (reduced, found)


RULES = Rules(retry_limit_seconds=0.5)
"""The shipped rules, but that a refused install is tried again after any wait."""

SHIPPED: Mapping[str, Scope] = {
    "rotation": Scope(),
    "rotation, a crash": Scope(crashes=1),
    "rotation, a reboot": Scope(reboots=1),
    "rotation, a failed install": Scope(refusals=1),
    "rotation, an SA vanishes": Scope(vanishings=1),
    "rotation, another address": Scope(moves=1),
    "rotation, a new store": Scope(wipes=1),
    "rotation, a record deleted": Scope(deletions=1),
    "rotation, a heartbeat runs out": Scope(expiries=1),
    "rotation, a node removed": Scope(removals=1, restores=False),
    "join": Scope(newest=1, cold=True),
    "join, a reboot": Scope(newest=1, cold=True, reboots=1),
    "steady, any fault": Scope(
        newest=1, crashes=1, reboots=1, wipes=1, vanishings=1, deletions=1, expiries=1, removals=1, moves=1, together=1
    ),
    "reboot and crash": Scope(newest=1, reboots=1, crashes=1),
    "reboot and failed install": Scope(newest=1, reboots=1, refusals=1),
    "an SA vanishes and the agent dies": Scope(newest=1, vanishings=1, crashes=1),
    "another address and a crash": Scope(newest=1, moves=1, crashes=1),
    "record deleted and agent restarted": Scope(newest=1, deletions=1, crashes=1),
    "removed, restored, and a crash": Scope(newest=1, removals=1, crashes=1),
    "three nodes join": Scope(nodes=3, newest=1, cold=True),
    "three nodes, a reboot": Scope(nodes=3, newest=1, reboots=1),
    "three nodes, a record deleted and a crash": Scope(nodes=3, newest=1, deletions=1, crashes=1),
}

WIDE: Mapping[str, Scope] = {
    "rotation, a node removed and restored": Scope(removals=1),
    "two rotations": Scope(newest=3),
    "two rotations, a crash": Scope(newest=3, crashes=1),
}

_DELETED = {"a record deleted": Scope(newest=1, deletions=1)}
MUTANTS: Mapping[str, tuple[Rules, Mapping[str, Scope]]] = {
    "order advertise-first": (replace(RULES, order="advertise-first"), {"rotation": Scope()}),
    "cleanup timer": (replace(RULES, cleanup="timer", cleanup_seconds=10.0), {"rotation": Scope()}),
    "absent delete": (replace(RULES, absent="delete"), _DELETED),
    "absent delete, by lease": (replace(RULES, absent="delete"), {"a lease runs out": Scope(newest=1, expiries=1)}),
    "select min-spi": (replace(RULES, select="min-spi"), {"join": Scope(newest=1, cold=True)}),
    "rebirth same-key": (replace(RULES, rebirth="same-key"), {"reboot": Scope(newest=1, reboots=1)}),
}
