"""The `hitless` command: mounts one file a command, and turns errors into words.

stdout is the answer, stderr is information. Exit codes: 0 done or nothing to change, 1 error, 2 usage, 3 changes
pending, 4 refuted, 5 degraded, 6 timed out waiting, 7 unknown.
"""

from __future__ import annotations

import errno
import os
import sys

import typer

from hitless.cli import agent, apply, doctor, explore, firewall, key, lab, node, plan, status, verify

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Change the security state of live Linux nodes without losing or leaking a packet.",
)
app.command("agent")(agent.agent)
app.command("status")(status.status)
app.command("doctor")(doctor.doctor)
app.command("explore")(explore.explore)
app.command("plan")(plan.plan)
app.command("apply")(apply.apply)
app.command("verify")(verify.verify)
app.add_typer(key.app, name="key")
app.add_typer(node.app, name="node")
app.add_typer(firewall.app, name="firewall")
app.add_typer(lab.app, name="lab")


def _version(value: bool) -> None:
    if value:
        from hitless import __version__

        typer.echo(f"hitless {__version__}")
        raise typer.Exit


@app.callback()
def _top(version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Say which.")) -> None:
    pass


def main() -> None:
    """Entry point. A person's mistake ends in a sentence with a code and exit status 1, never in a traceback."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _FULL and error.filename is None:
            _forget_stdout()
            why = f"the answer cannot be written: {error.strerror}; give stdout room [stdout-unwritable]"
            print(why, file=sys.stderr)
            sys.exit(1)
        # Errors with a stable code are answers; anything else is a defect and shows its trace.
        if getattr(error, "code", None) is None and not hasattr(error, "faults"):
            raise
        text, code = str(error), getattr(error, "code", "")
        print(text if f"[{code}]" in text or not code else f"{text} [{code}]", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _forget_stdout() -> None:
    """What is still buffered would fail once more when Python ends, with a trace."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
