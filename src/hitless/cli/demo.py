"""`hitless lab demo`: what `make demo` runs."""

from __future__ import annotations

from pathlib import Path

import typer

from hitless.lab.kernel.choice import Preference


def demo(
    results: Path = typer.Option(Path("results/demo"), help="Where reports, logs and pictures go."),
    kernel: Preference = typer.Option("auto", help="auto takes this machine's kernel if it has ESP, else a guest."),
) -> None:
    """Rotate keys under traffic on a real kernel, done right and done as it used to be; say what was lost."""
    from hitless.lab.demo import play

    raise typer.Exit(play(typer.echo, results, kernel))
