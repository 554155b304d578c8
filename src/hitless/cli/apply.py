"""`hitless apply`: carry out a saved plan as the agent would, on a node whose agent does not run.

Refused are plans that were refuted, changed, or made for another state of the bridge. With `--confirm-within` the
change is taken back unless a person says in time that they are still there (`apply_confirm.py`).
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from hitless.agent.firewall.config import Config
    from hitless.agent.firewall.guard import Judged, Told
    from hitless.agent.firewall.picture import Picture
    from hitless.agent.firewall.planning import SavedPlan
    from hitless.agent.firewall.rounds import Firewall, Plan, Verify
    from hitless.core.model.security import Intent
    from hitless.core.plan.flows import Bundle


class _Once:
    """Judges what is asked twice, by this command and by the round that writes, once."""

    def __init__(self, guard: Verify) -> None:
        self._guard = guard
        self._said: tuple[int, Bundle, Judged] | None = None

    def __call__(self, picture: Picture, bundle: Bundle) -> Judged:
        if self._said is None or self._said[:2] != (picture.looks, bundle):
            self._said = (picture.looks, bundle, self._guard(picture, bundle))
        return self._said[2]


def apply(
    plan: Path = typer.Argument(help="What `hitless plan --out FILE` wrote."),
    config: Path = typer.Option(..., "--config", "-c", help="The firewall's configuration (TOML)."),
    confirm_within: float = typer.Option(0.0, min=0.0, help="Take it back unless confirmed within so many seconds."),
    confirm: bool = typer.Option(False, "--confirm", help="Keep the change that waits for this plan's confirmation."),
    take_back: bool = typer.Option(False, "--take-back", help="Take back at once the change of this plan that waits."),
    accept_unknown: bool = typer.Option(False, "--accept-unknown", help="Carry it out though the check cannot tell."),
) -> None:
    """Carry out a plan. Exit 0: in force; 4: refuted; 6: not confirmed and taken back; 7: the check cannot tell."""
    from hitless.agent.firewall import locks
    from hitless.agent.firewall.config import load
    from hitless.agent.firewall.guard import Guard
    from hitless.agent.firewall.rounds import Firewall
    from hitless.agent.firewall.run import open_switch
    from hitless.cli import apply_confirm
    from hitless.cli.plan import PlanError, read_plan
    from hitless.telemetry.log import configure

    if confirm + take_back + bool(confirm_within) > 1:
        raise typer.BadParameter("give one of --confirm-within, --confirm and --take-back")
    loaded, saved = load(config), read_plan(plan)
    configure(loaded.node, loaded.log)
    if (saved.node, saved.bridge) != (loaded.node, loaded.bridge):
        raise PlanError("plan-elsewhere", f"{plan} is for node {saved.node}, bridge {saved.bridge}; this "
                        f"configuration is for {loaded.node}, {loaded.bridge}; give the one that it was made with, or "
                        "make a plan with this one")  # fmt: skip
    guard = _Once(Guard(accept_unknown=accept_unknown))
    firewall = Firewall(open_switch(loaded), loaded, lambda _step: None, guard)
    firewall.by_hand = True
    if confirm or take_back:
        answer = apply_confirm.confirm if confirm else apply_confirm.take_back
        raise typer.Exit(answer(firewall, Path(loaded.state_dir), saved))
    command = f"hitless apply {plan.absolute()} -c {config.absolute()}"
    with locks.bridge(loaded, "apply"):
        waits = _carry_out(firewall, loaded, saved, guard, confirm_within, command)
    raise typer.Exit(apply_confirm.wait(firewall, Path(loaded.state_dir), saved.identity) if waits else 0)


def _carry_out(
    firewall: Firewall, config: Config, saved: SavedPlan, guard: Verify, confirm_seconds: float, command: str
) -> bool:
    """Write it; whether it waits for a confirmation."""
    from hitless.agent.firewall import confirm, memory
    from hitless.agent.statefile import StateFileError
    from hitless.cli import apply_confirm
    from hitless.cli.firewall_files import intent_of
    from hitless.cli.plan import PlanError
    from hitless.ports import SwitchError

    directory = Path(config.state_dir)
    with confirm.deciding(directory, "apply"):
        firewall.look()
        apply_confirm.refuse_beside_another(firewall, directory)
        if saved.verdict.verdict == "refuted":
            not_carried_out(saved.verdict)
        intent = intent_of(config)
        planned = _still_right(firewall, saved, intent, guard)
        if not (confirm_seconds and planned.bundle):
            memory.write_intent(directory, intent)
            _write(firewall, intent)
            return False
        found = apply_confirm.prepare(firewall, config, planned, saved, confirm_seconds, command)
        try:
            memory.write_intent(directory, intent)
            _write(firewall, intent)
        except (PlanError, StateFileError):
            confirm.drop(firewall.picture, directory, found)
            raise
        except KeyboardInterrupt:  # what is written is not known: back to what was
            confirm.hurry(directory, found.plan)
            return True
        except BaseException:
            confirm.hurry(directory, found.plan)
            raise
        with contextlib.suppress(StateFileError, SwitchError):  # the time then runs from before the first write
            confirm.begin(firewall.picture, directory, found)
    return True


def _write(firewall: Firewall, intent: Intent) -> None:
    """Raises PlanError where nothing was written, SwitchError where nobody knows."""
    from hitless.cli.plan import PlanError

    done = firewall.round(intent, look=False)
    if not done.settled:
        code, why = next(iter(done.conditions.items()))
        raise PlanError(code, why)
    with contextlib.suppress(OSError):  # the terminal may be gone
        typer.echo(f"in force: {done.flow_mods} flow-mods, {done.cut} connection{'s' * (done.cut != 1)} ended")


def not_carried_out(told: Told) -> NoReturn:
    """Say a verdict, and end with its status."""
    from hitless.cli.verify import EXIT, verdict_lines

    for line in verdict_lines(told):
        typer.echo(line)
    hint = "; --accept-unknown carries it out all the same" if told.verdict == "unknown" else ""
    print(f"nothing was written{hint} [plan-{told.verdict}]", file=sys.stderr)
    raise typer.Exit(EXIT[told.verdict])


def _still_right(firewall: Firewall, saved: SavedPlan, intent: Intent, guard: Verify) -> Plan:
    """The same plan, made and judged anew. Raises PlanError where it is not the same, Exit where it is not sound."""
    from hitless.agent.firewall.planning import basis, written
    from hitless.cli.plan import PlanError

    now = firewall.plan(intent)
    what = ""
    if now.generation != saved.generation:
        what = "the documents say something else now"
    elif basis(firewall.picture, now) != saved.basis:
        what = "the bridge's flows or ports are not those that it was made for"
    elif now.bundle:
        judged = guard(firewall.picture, now.bundle)
        if not judged.accepted:
            not_carried_out(judged.told)
        if written(judged) != saved.batches:
            what = "the same change would be written in other steps now"
    if what:
        raise PlanError("plan-stale", f"{what}; nothing was written, make a new plan")
    return now
