"""`hitless apply --confirm-within`, `--confirm` and `--take-back`: before the change, while it waits, and after.

The command that waits only waits and shows: `agent/firewall/reverter.py` takes the change back. Where that is dead, the
command does it.
"""

from __future__ import annotations

import contextlib
import select
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from hitless.ports import SwitchError

if TYPE_CHECKING:
    from hitless.agent.firewall.config import Config
    from hitless.agent.firewall.confirm import Confirmation
    from hitless.agent.firewall.planning import SavedPlan
    from hitless.agent.firewall.rounds import Firewall, Plan

_TIMED_OUT = 6
_POLL_SECONDS = 0.5


# --- before -----------------------------------------------------------------------------------------------


def refuse_beside_another(firewall: Firewall, directory: Path) -> None:
    """Raises PlanError while another change waits; one that is overdue is taken back first, with the lock held."""
    from hitless.agent.firewall import confirm
    from hitless.cli.plan import PlanError

    until = confirm.elsewhere(firewall.picture, directory)
    if until is not None:
        raise PlanError("confirm-pending", "another change waits for its confirmation until "
                        f"{confirm.clock(until)}, and {directory} knows nothing "
                        "of it: use the configuration that it was made with; if its state directory is lost, remove "
                        f"external_ids:{confirm.UNTIL} of the bridge, which keeps the change")  # fmt: skip
    found = confirm.awaited(directory)
    if found is None:
        firewall.picture.remember({confirm.UNTIL: ""})  # of a command that was killed right after the decision
        return
    if found.left_seconds > 0 or confirm.reverter(directory):
        raise PlanError("confirm-pending", confirm.sentence(found, directory))
    _take_back(firewall, directory, found.plan)
    raise PlanError("confirm-expired", "a change before this one was never confirmed, and is taken back now; make a "
                    "new plan")  # fmt: skip


def prepare(
    firewall: Firewall, config: Config, planned: Plan, saved: SavedPlan, seconds: float, command: str
) -> Confirmation:
    """Judge the way back, keep it, and start who will go it, before anything is written; with the lock held.

    Raises PlanError, ReverterError, StateFileError, SwitchError, and Exit where the way back is not sound.
    """
    from hitless.agent.firewall import confirm, reverter
    from hitless.cli.plan import connection

    directory, picture = Path(config.state_dir), firewall.picture
    _judge_way_back(firewall, planned)
    for each in saved.cut:
        typer.echo(f"ends, and does not come back if this is taken back:{connection(each)}")
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # before the first write: the terminal may go with it
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found = confirm.keep(picture, directory, saved.identity, saved.generation, command, seconds)
    try:
        reverter.start(config, saved.identity)
        return confirm.begin(picture, directory, found)
    except BaseException:
        confirm.drop(picture, directory, found)
        raise


def _judge_way_back(firewall: Firewall, planned: Plan) -> None:
    from hitless.agent.firewall.guard import judge
    from hitless.cli.apply import not_carried_out
    from hitless.cli.plan import PlanError
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
        not_carried_out(back.told)


# --- while it waits ---------------------------------------------------------------------------------------


def wait(firewall: Firewall, directory: Path, plan: str) -> int:
    """Until somebody has decided; the exit status. A lost terminal is what this is for: it must not end the waiting.

    Raises PlanError, and what `confirm.take_back` raises where the reverter is dead and the change is due.
    """
    from hitless.agent.firewall import confirm
    from hitless.cli.plan import PlanError

    told = False
    while (found := confirm.last(directory)) is not None and found.plan == plan and not found.outcome:
        try:
            if not told:
                told = True
                _say(f"waiting {found.left_seconds:.0f} s for `{found.command} --confirm`"
                     f"{' or Enter' if sys.stdin.isatty() else ''}")  # fmt: skip
            if found.left_seconds > 0:
                if _entered(found.left_seconds):
                    with confirm.deciding(directory, "apply"):
                        _keep(firewall, directory, plan)
            elif not confirm.reverter(directory):
                with confirm.deciding(directory, "apply"):
                    _take_back(firewall, directory, plan)
            elif found.trouble:
                raise PlanError("reversal-failed", confirm.sentence(found, directory))
            else:
                time.sleep(_POLL_SECONDS)
        except KeyboardInterrupt:
            with confirm.deciding(directory, "apply"):
                confirm.hurry(directory, plan)
    if found is None or found.plan != plan:
        raise PlanError("confirmation-lost", f"{directory} does not say any longer what becomes of this change; its "
                        "reverter, while it lives, takes it back: see `hitless plan`")  # fmt: skip
    _say("confirmed" if found.outcome == "confirmed" else f"not confirmed, taken back: {_counts(found)}")
    return 0 if found.outcome == "confirmed" else _TIMED_OUT


def _entered(left_seconds: float) -> bool:
    """Pause; whether somebody pressed Enter meanwhile."""
    pause = max(0.0, min(left_seconds, _POLL_SECONDS))
    with contextlib.suppress(OSError, ValueError):  # a terminal that has been closed
        if sys.stdin.isatty() and select.select([sys.stdin], [], [], pause)[0] and sys.stdin.readline():
            return True
        if sys.stdin.isatty():
            return False
    time.sleep(pause)
    return False


def _keep(firewall: Firewall, directory: Path, plan: str) -> None:
    from hitless.agent.firewall import confirm

    found = confirm.awaited(directory)
    if found is not None and found.plan == plan:
        confirm.confirm(firewall.picture, directory, found)


def _take_back(firewall: Firewall, directory: Path, plan: str) -> None:
    from hitless.agent.firewall import confirm
    from hitless.cli.plan import PlanError

    found = confirm.awaited(directory)
    if found is None or found.plan != plan:
        return
    try:
        confirm.take_back(firewall, directory, found, confirm.kept(directory, plan))
    except confirm.ReversalError as error:
        raise PlanError(error.code, confirm.sentence(confirm.awaited(directory) or found, directory)) from None


# --- a word from elsewhere ----------------------------------------------------------------------------------


def confirm(firewall: Firewall, directory: Path, saved: SavedPlan) -> int:
    """Keep the change, late as well, as long as it is there to be kept; the exit status. Raises PlanError."""
    from hitless.agent.firewall import confirm as words

    with contextlib.suppress(SwitchError):  # a switch that is down: what is decided here counts, its note goes later
        firewall.look()
    with words.deciding(directory, "apply"):
        found = _asked(firewall, directory, saved)
        if found.outcome == "confirmed":
            typer.echo(f"confirmed already, at {words.clock(found.decided)}")
            return 0
        words.confirm(firewall.picture, directory, found)
    late = f", {-found.left_seconds:.0f} s late: nothing had taken it back yet" * (found.left_seconds <= 0)
    typer.echo(f"confirmed{late}")
    return 0


def take_back(firewall: Firewall, directory: Path, saved: SavedPlan) -> int:
    """Take the change back at once; the exit status. Raises PlanError, ReversalError, StateFileError, SwitchError."""
    from hitless.agent.firewall import confirm as words
    from hitless.cli.plan import PlanError

    firewall.look()
    with words.deciding(directory, "apply"):
        found = _asked(firewall, directory, saved)
        if found.outcome:
            raise PlanError("nothing-to-confirm", f"the change was confirmed at {words.clock(found.decided)} and "
                            "stays; to undo it, change the documents and make a plan")  # fmt: skip
        done = words.take_back(firewall, directory, found, words.kept(directory, found.plan))
    typer.echo(f"taken back: {_counts(done)}")
    return 0


def _counts(done: Confirmation) -> str:
    return f"{done.flow_mods} flow-mods, {done.cut} connection{'s' * (done.cut != 1)} ended"


def _asked(firewall: Firewall, directory: Path, saved: SavedPlan) -> Confirmation:
    """What is awaited, or was, for a plan, with the lock held. Raises PlanError where it can only be regretted."""
    from hitless.agent.firewall import confirm
    from hitless.cli.plan import PlanError

    found = confirm.last(directory)
    if found is None or found.plan != saved.identity:
        found = confirm.lost(firewall.picture, saved.identity, saved.generation)
    if found is not None and not found.outcome and firewall.picture.said(confirm.TAKEN_BACK) == found.generation:
        # The way back is written; only that it is could not be, on a full disk.
        found = confirm.take_back(firewall, directory, found, confirm.kept(directory, found.plan))
    if found is None or found.outcome == "not-made":
        raise PlanError("nothing-to-confirm", "no change of this plan waits for a confirmation: it was never carried "
                        "out with --confirm-within, or another one was after it")  # fmt: skip
    if found.outcome == "taken-back":
        when = confirm.clock(found.decided)
        raise PlanError("confirm-expired", f"too late: the change was taken back at {when}, and is not in force; to "
                        "make it once more: `hitless plan --out FILE`, then `hitless apply FILE`")  # fmt: skip
    return found


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # the terminal may be gone
        typer.echo(text)
