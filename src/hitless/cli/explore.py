"""`hitless explore`: does the handover hold whatever happens? Every interleaving of a scope, or how it breaks."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

if TYPE_CHECKING:
    from hitless.core.ipsec.state import Rules
    from hitless.core.verify.explore import Proved, Unknown
    from hitless.core.verify.model import Scope
    from hitless.core.verify.scopes import Counterexample

_BUDGETS: Mapping[str, str] = {
    "crash": "crashes",
    "reboot": "reboots",
    "refusal": "refusals",
    "vanishing": "vanishings",
    "address": "moves",
    "wipe": "wipes",
    "deletion": "deletions",
    "lease": "expiries",
    "removal": "removals",
}
"""A fault's name, and what `Scope` calls how often it may happen."""

_MISTAKES = ("order", "cleanup", "absent", "select", "rebirth")
_EXIT = {"proved": 0, "refuted": 4, "unknown": 7}


def explore(  # noqa: PLR0913, PLR0917 - one parameter an option
    nodes: int | None = typer.Option(None, min=2, max=3, help="How many nodes; 2 if another scope option is given."),
    rotations: int | None = typer.Option(None, min=0, max=3, help="How many rotations; 1, or 0 with --join."),
    faults: str | None = typer.Option(None, help=f"all, none, or of {','.join(_BUDGETS)}; none if not said."),
    together: int = typer.Option(1, min=1, help="How many of these faults at most, in one run; each only once."),
    join: bool = typer.Option(False, "--join", help="Start with nodes that have only registered."),
    prompt: bool = typer.Option(False, "--prompt", help="Nodes publish at once, not a drain time later."),
    order: Literal["acked", "advertise-first"] = typer.Option("acked", help="Announce a key before it is installed."),
    cleanup: Literal["acked", "timer"] = typer.Option("acked", help="Delete an old key after a time."),
    absent: Literal["keep", "delete"] = typer.Option("keep", help="Take a missing record for a removal."),
    select: Literal["acked", "min-spi"] = typer.Option("acked", help="Send with the smallest SPI installed."),
    rebirth: Literal["new-key", "same-key"] = typer.Option("new-key", help="Keep all keys over a reboot."),
    limit: int = typer.Option(2_000_000, min=1, help="Give up a scope at so many states; some 200 bytes each."),
    svg: Path | None = typer.Option(None, help="Draw what breaks into this file."),
    promela: Path | None = typer.Option(None, help="Explore nothing: write the scope for SPIN into this directory."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Text, or JSON."),
) -> None:
    """Explore the shipped handover. Exit 0: proved in these scopes; 4: refuted; 7: too many states to tell.

    Without a scope option all scopes are explored that every build is held to. The historic mistakes that --order,
    --cleanup, --absent, --select and --rebirth switch on are each refuted.
    """
    rules = _rules(order, cleanup, absent, select, rebirth)
    asked = any(each is not None for each in (nodes, rotations, faults, promela))
    if asked or join or prompt or together > 1:
        turns = int(not join) if rotations is None else rotations
        scopes = _one_scope(nodes or 2, turns, faults or "none", together, join, prompt)
    else:
        scopes = _all_scopes(rules)
    if promela is not None:
        if svg is not None:
            why = "with --promela nothing is explored that could be drawn; leave one of them out [svg-with-promela]"
            raise typer.BadParameter(why, param_hint="--svg")
        raise typer.Exit(_write_promela(promela, rules, next(iter(scopes.values())), limit))
    raise typer.Exit(_explore(rules, scopes, limit, svg, output))


# --- what is asked ----------------------------------------------------------------------------------------


def _rules(*chosen: str) -> Rules:
    import msgspec

    from hitless.core.verify.scopes import RULES

    # A timer that runs longer than a drain is not to be seen: the model counts in drains.
    named: dict[str, Any] = dict(zip(_MISTAKES, chosen, strict=True))
    return msgspec.structs.replace(RULES, cleanup_seconds=RULES.drain_seconds, **named)


def _all_scopes(rules: Rules) -> Mapping[str, Scope]:
    """Those of every build; before them the ones in which the chosen mistakes show soonest."""
    from hitless.core.verify.scopes import MUTANTS, SHIPPED

    soonest: dict[str, Scope] = {}
    for mutant, scopes in MUTANTS.values():
        if _mistakes(mutant) <= _mistakes(rules):
            soonest |= scopes
    return {**soonest, **SHIPPED}


def _mistakes(rules: Rules) -> set[tuple[str, str]]:
    from hitless.core.ipsec.state import Rules as Good

    good = Good()
    return {(each, getattr(rules, each)) for each in _MISTAKES if getattr(rules, each) != getattr(good, each)}


def _one_scope(
    nodes: int, rotations: int, faults: str, together: int, join: bool, prompt: bool
) -> Mapping[str, Scope]:
    from hitless.core.verify.model import Scope

    # A refusal needs an install: a rotation, a join, or another fault before it.
    installs = bool(rotations or join or together > 1)
    all_faults = tuple(each for each in _BUDGETS if installs or each != "refusal")
    named = {"all": all_faults, "none": ()}.get(faults, tuple(dict.fromkeys(faults.split(","))))
    for each in named:
        if each not in _BUDGETS:
            why = f"there is no fault {each!r}; take all, none, or some of {','.join(_BUDGETS)} [fault-unknown]"
            raise typer.BadParameter(why, param_hint="--faults")
        if each not in all_faults:
            why = "nothing is installed that could be refused; add --rotations 1 or --join [fault-impossible]"
            raise typer.BadParameter(why, param_hint="--faults")
    if not (rotations or join or named):
        why = "nothing happens in this scope; add --rotations 1, --join or --faults [scope-empty]"
        raise typer.BadParameter(why, param_hint="--rotations")
    budgets: dict[str, Any] = {_BUDGETS[each]: 1 for each in named}
    scope = Scope(nodes=nodes, newest=1 + rotations, together=together, cold=join, prompt=prompt, **budgets)
    turns = "1 rotation" if rotations == 1 else f"{rotations} rotations"
    happens = f"{'any one' if together == 1 else f'up to {together}'} of {', '.join(named)}" if named else "no fault"
    return {f"{nodes} nodes{' join' if join else ''}, {turns}, {happens}": scope}


# --- what is answered -------------------------------------------------------------------------------------


def _explore(
    rules: Rules, scopes: Mapping[str, Scope], limit: int, svg: Path | None, output: Literal["text", "json"]
) -> int:
    import gc

    from hitless.core.verify.explore import Proved
    from hitless.core.verify.scopes import Counterexample, explore_scopes

    gc.disable()  # nothing here is cyclic, and looking for it costs a third of the time
    covered: dict[str, Proved] = {}
    broken: Counterexample | Unknown | None = None
    width = max(map(len, scopes))
    _row(output, f"{'SCOPE':<{width}} {'STATES':>9} {'TRANSITIONS':>11} {'DEPTH':>5}")
    for name, scope in scopes.items():
        found = explore_scopes(rules, {name: scope}, limit)
        if not isinstance(found, Proved):
            broken = found
            _row(output, f"{name:<{width}} {_verdict(found)}")
            break
        covered[name] = found
        _row(output, f"{name:<{width}} {found.states:>9} {found.edges:>11} {found.depth:>5}")
    if output == "json":
        _print_json(covered, broken)
    else:
        _print_text(covered, broken)
    if isinstance(broken, Counterexample) and svg is not None:
        _draw(broken, svg)
    elif svg is not None:
        print(f"nothing to draw: {svg} is not written", file=sys.stderr)
    return _EXIT[_verdict(broken)]


def _row(output: Literal["text", "json"], text: str) -> None:
    if output == "text":
        typer.echo(text)


def _verdict(broken: Counterexample | Unknown | None) -> str:
    from hitless.core.verify.explore import Unknown

    return "proved" if broken is None else "unknown" if isinstance(broken, Unknown) else "refuted"


def _draw(found: Counterexample, file: Path) -> None:
    from hitless.core.verify.diagram import svg

    try:
        file.write_text(svg(found.drawn), encoding="utf-8")
    except OSError as error:
        _cannot_write(file, error)  # the answer was given, and its exit status stays


def _cannot_write(file: Path, error: OSError) -> None:
    print(f"cannot write {file}: {error.strerror}; name another place [file-not-written]", file=sys.stderr)


def _seen(covered: Mapping[str, Proved]) -> list[str]:
    return sorted({each for scope in covered.values() for each in scope.seen})


def _print_text(covered: Mapping[str, Proved], broken: Counterexample | Unknown | None) -> None:
    from hitless.core.verify.diagram import text
    from hitless.core.verify.explore import Unknown
    from hitless.core.verify.model import ALWAYS

    if isinstance(broken, Unknown):
        typer.echo(f"\nunknown: {broken.limit}; nothing wrong in {broken.states} states until there")
        print("ask for fewer faults, nodes or rotations, or raise --limit [too-many-states]", file=sys.stderr)
    elif broken is not None:
        typer.echo(f"\nrefuted: {broken.property!r} does not hold\n\n{text(broken.drawn)}")
    else:
        states = sum(each.states for each in covered.values())
        typer.echo(f"\nproved in all {states} states: {', '.join(ALWAYS)}, no wedge\nseen to happen:")
        for each in _seen(covered):
            typer.echo(f"  {each}")


def _print_json(covered: Mapping[str, Proved], broken: Counterexample | Unknown | None) -> None:
    import msgspec

    from hitless.core.verify.explore import Unknown

    answer = {
        "verdict": _verdict(broken),
        "scopes": [
            {"scope": name, "states": each.states, "transitions": each.edges, "depth": each.depth, "seen": each.seen}
            for name, each in covered.items()
        ],
        "counterexample": None if isinstance(broken, Unknown) else broken,
        "limit": broken.limit if isinstance(broken, Unknown) else "",
    }
    typer.echo(msgspec.json.encode(answer).decode())


def _write_promela(directory: Path, rules: Rules, scope: Scope, limit: int) -> int:
    import msgspec

    from hitless.core.verify.explore import Unknown
    from hitless.core.verify.promela import to_promela

    try:
        found = to_promela(msgspec.structs.replace(scope, rules=rules), limit)
    except OverflowError as error:
        found = Unknown(str(error), 0, 0)
    if isinstance(found, Unknown):
        _print_text({}, found)
        return _EXIT["unknown"]
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "handover.pml").write_text(found.model, encoding="utf-8")
        (directory / "handover.h").write_text(found.tables, encoding="utf-8")
    except OSError as error:
        _cannot_write(directory, error)
        return 1
    counted = found.counted
    typer.echo(f"{directory}: handover.pml and handover.h")
    typer.echo(f"{counted.states} states and {counted.edges} transitions, {counted.depth} deep, nothing reduced")
    return 0
