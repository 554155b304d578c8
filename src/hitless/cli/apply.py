"""`hitless apply`: carry out a saved plan as the agent would, on a node whose agent does not run.

Refused are plans that were refuted or made for another state of the bridge. With `--confirm-within` the change is taken
back unless a person says in time that they are still there.
"""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    from hitless.agent.firewall.config import Config
    from hitless.agent.firewall.confirm import Pending
    from hitless.agent.firewall.guard import Told
    from hitless.agent.firewall.planning import SavedPlan
    from hitless.agent.firewall.rounds import Firewall, Plan
    from hitless.core.model.security import Intent

_TIMED_OUT = 6
_POLL_SECONDS = 0.5
_LOOK_TIMES = 10.0  # asking costs a dump; it may take a tenth of the time


def apply(
    plan: Path = typer.Argument(help="What `hitless plan --out FILE` wrote."),
    config: Path = typer.Option(..., "--config", "-c", help="The firewall's configuration (TOML)."),
    confirm_within: float = typer.Option(0.0, min=0.0, help="Take it back unless confirmed within so many seconds."),
    confirm: bool = typer.Option(False, "--confirm", help="Keep the change that waits for this plan's confirmation."),
    accept_unknown: bool = typer.Option(False, "--accept-unknown", help="Carry it out though the check cannot tell."),
) -> None:
    """Carry out a plan. Exit 0: in force; 4: refuted; 6: not confirmed and taken back; 7: the check cannot tell."""
    from hitless.agent.firewall.config import load
    from hitless.agent.firewall.guard import Guard
    from hitless.agent.firewall.rounds import Firewall
    from hitless.agent.firewall.run import open_switch
    from hitless.cli.plan import PlanError, read_plan
    from hitless.telemetry.log import configure

    loaded, saved = load(config), read_plan(plan)
    configure(loaded.node, loaded.log)
    if (saved.node, saved.bridge) != (loaded.node, loaded.bridge):
        raise PlanError("plan-elsewhere", f"{plan} is for node {saved.node}, bridge {saved.bridge}; this "
                        f"configuration is for {loaded.node}, {loaded.bridge}")  # fmt: skip
    firewall = Firewall(open_switch(loaded), loaded, lambda _step: None, Guard(accept_unknown=accept_unknown))
    firewall.look()
    if confirm:
        _confirm(firewall, Path(loaded.state_dir), saved)
        return
    _refuse_beside_agent(loaded)
    _take_back_what_expired(firewall, Path(loaded.state_dir))
    if saved.verdict.verdict == "refuted" or (saved.verdict.verdict == "unknown" and not accept_unknown):
        _not_carried_out(saved.verdict)
    raise typer.Exit(_carry_out(firewall, loaded, saved, confirm_within))


def _carry_out(firewall: Firewall, config: Config, saved: SavedPlan, confirm_seconds: float) -> int:
    from hitless.agent.firewall import memory
    from hitless.cli.firewall_files import intent_of
    from hitless.cli.plan import PlanError

    intent, directory = intent_of(config), Path(config.state_dir)
    waits = None
    planned = _still_right(firewall, saved, intent)
    if confirm_seconds and planned.bundle:
        waits = _prepare_way_back(firewall, planned, directory, saved, confirm_seconds)
    memory.write_intent(directory, intent)
    firewall.confirming = waits is not None
    done = firewall.round(intent, look=False)
    if not done.settled:
        _forget(firewall)
        if done.judged is not None:
            _not_carried_out(done.judged.told)
        code, why = next(iter(done.conditions.items()))
        raise PlanError(code, why)
    typer.echo(f"in force: {done.flow_mods} flow-mods, {done.cut} connections ended")
    return _wait(firewall, directory, waits, confirm_seconds) if waits else 0


def _not_carried_out(told: Told) -> NoReturn:
    from hitless.cli.verify import EXIT, verdict_lines

    for line in verdict_lines(told):
        typer.echo(line)
    hint = "; --accept-unknown carries it out all the same" if told.verdict == "unknown" else ""
    print(f"nothing was written{hint} [plan-{told.verdict}]", file=sys.stderr)
    raise typer.Exit(EXIT[told.verdict])


# --- what speaks against it -------------------------------------------------------------------------------


def _refuse_beside_agent(config: Config) -> None:
    from hitless.agent.firewall.status import read_status
    from hitless.cli.plan import PlanError

    found = read_status(Path(config.state_dir))
    if found is not None and Path(f"/proc/{found.pid}").exists():
        raise PlanError("agent-alive", f"an agent keeps this bridge (process {found.pid}) and makes it what the "
                        "documents say: it has done this or would undo it; stop it first")  # fmt: skip


def _still_right(firewall: Firewall, saved: SavedPlan, intent: Intent) -> Plan:
    """The same plan, made anew. Raises PlanError where it is not the same."""
    from hitless.agent.firewall.planning import digest
    from hitless.cli.plan import PlanError

    now = firewall.plan(intent)
    what = ""
    if now.generation != saved.generation:
        what = "the documents say something else now"
    elif digest(firewall.picture, now) != saved.digest:
        what = "the bridge's flows or ports are not those that it was made for"
    if what:
        raise PlanError("plan-stale", f"{what}; nothing was written, make a new plan")
    return now


# --- the way back -----------------------------------------------------------------------------------------


def _prepare_way_back(
    firewall: Firewall, planned: Plan, directory: Path, saved: SavedPlan, seconds: float
) -> Pending:
    """Judge the way back, and keep it, before anything is written."""
    from hitless.agent.firewall import confirm
    from hitless.agent.firewall.guard import judge
    from hitless.cli.plan import PlanError, connection
    from hitless.core.plan.flows import diff

    picture = firewall.picture
    if picture.bridge is None or picture.bridge.fail_mode != "secure":
        raise PlanError("confirm-impossible", "the bridge's fail_mode is not secure yet, and setting it empties its "
                        "tables: there is no way back from that; apply without --confirm-within")  # fmt: skip
    after = planned.compiled.flows
    ports = [each.ofport for each in picture.bridge.interfaces]
    back = judge((*after.values(), *picture.others.values()), diff(picture.ours, after, picture.others), ports)
    if not back.accepted:
        print("the way back is not sound, and only a change with one can wait for a confirmation:", file=sys.stderr)
        _not_carried_out(back.told)
    for each in saved.cut:
        typer.echo(f"ends, and does not come back if this is taken back:{connection(each)}")
    waits = confirm.Pending(time.time() + seconds, saved.identity)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # before the first write: the terminal may go with it
    confirm.keep(picture, directory, waits)
    return waits


def _wait(firewall: Firewall, directory: Path, waits: Pending, seconds: float) -> int:
    """Until somebody confirms, or not. A lost terminal is what this is for: it must not end the waiting."""
    from hitless.agent.firewall import confirm

    waits = confirm.Pending(time.time() + seconds, waits.plan)
    with contextlib.suppress(KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        firewall.picture.remember({confirm.UNTIL: waits.text})
        _say(f"waiting {seconds:g} s for `hitless apply --confirm`" + (" or Enter" if sys.stdin.isatty() else ""))
        while time.time() < waits.until:
            if _entered(firewall, waits.until - time.time()) or confirm.pending(firewall.picture) is None:
                _forget(firewall)
                _say("confirmed")
                return 0
    return _take_back(firewall, directory, waits)


def _entered(firewall: Firewall, left_seconds: float) -> bool:
    """Look and pause; whether somebody pressed Enter meanwhile."""
    from hitless.ports import SwitchError

    began = time.monotonic()
    with contextlib.suppress(SwitchError):  # a switch that restarts: what it holds then is seen when it is back
        firewall.look()
    pause = max(0.0, min(left_seconds, max(_POLL_SECONDS, _LOOK_TIMES * (time.monotonic() - began))))
    if sys.stdin.isatty():
        if not select.select([sys.stdin], [], [], pause)[0]:
            return False
        if sys.stdin.readline():
            return True
    time.sleep(pause)  # no terminal, or one that has been closed
    return False


def _take_back(firewall: Firewall, directory: Path, waits: Pending) -> int:
    """Exit status 6, or what the check says against going back."""
    from hitless.agent.firewall import confirm
    from hitless.agent.firewall.guard import Guard
    from hitless.cli.plan import PlanError

    firewall.look()
    if confirm.pending(firewall.picture) is None:
        _say("confirmed")
        return 0
    reversal = confirm.kept(directory, waits.plan)
    if reversal is None:
        raise PlanError("reversal-missing", f"{directory} does not hold the way back, so the change stays; keep it "
                        "with `hitless apply --confirm`, or change the documents")  # fmt: skip
    judged = Guard()(firewall.picture, confirm.way_back(firewall.picture, reversal))
    if not judged.accepted:
        _not_carried_out(judged.told)
    cut = confirm.go_back(firewall, directory, reversal, judged)
    _say(f"not confirmed, taken back: {sum(map(len, judged.batches))} flow-mods, {len(cut)} connections ended")
    return _TIMED_OUT


def _take_back_what_expired(firewall: Firewall, directory: Path) -> None:
    """What a command left that died while it waited. Raises PlanError."""
    from hitless.agent.firewall import confirm
    from hitless.cli.plan import PlanError

    waits = confirm.pending(firewall.picture)
    if waits is None:
        return
    left = waits.until - time.time()
    if left > 0:
        raise PlanError("confirm-pending", f"another change waits {left:.0f} s more for its confirmation; keep it with "
                        "`hitless apply --confirm PLAN`, or let it be taken back first")  # fmt: skip
    _take_back(firewall, directory, waits)
    raise PlanError("confirm-expired", "a change before this one was never confirmed, and is taken back now; make a "
                    "new plan")  # fmt: skip


def _confirm(firewall: Firewall, directory: Path, saved: SavedPlan) -> None:
    from hitless.agent.firewall import confirm
    from hitless.cli.plan import PlanError

    waits = confirm.pending(firewall.picture)
    if waits is None or waits.plan != saved.identity:
        raise PlanError("nothing-to-confirm", "no change of this plan waits for a confirmation: it was confirmed or "
                        "taken back, or never carried out with --confirm-within")  # fmt: skip
    if waits.until <= time.time() and confirm.kept(directory, waits.plan) is not None:
        raise PlanError("confirm-expired", "too late: the time for a confirmation is over, and the change is being "
                        "taken back, by its own command or the next `hitless apply`")  # fmt: skip
    _forget(firewall)
    typer.echo("confirmed")


def _forget(firewall: Firewall) -> None:
    from hitless.agent.firewall.confirm import UNTIL

    firewall.picture.remember({UNTIL: ""})


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        typer.echo(text)
