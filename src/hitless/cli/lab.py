"""`hitless lab`: scenarios on real kernels, and a laboratory to play in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal, NoReturn

import typer

from hitless.lab.kernel.choice import Preference

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run scenarios on a real kernel with ESP.")

_KERNEL = typer.Option("auto", help="auto takes this machine's kernel if it has ESP, else a guest.")


@app.command("list")
def list_scenarios(
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Names and titles, or JSON."),
) -> None:
    """Say which scenarios come with the program."""
    import msgspec

    from hitless.lab import scenarios

    found = [scenarios.find(name) for name in scenarios.names()]
    if output == "json":
        typer.echo(msgspec.json.encode([{"name": each.name, "title": each.title} for each in found]).decode())
        return
    width = max(len(each.name) for each in found)
    for each in found:
        typer.echo(f"{each.name:<{width}}  {each.title}")


@app.command("show")
def show(name: str = typer.Argument(..., help="A scenario's name.")) -> None:
    """Print the text of a scenario, e.g. to change a copy of it."""
    from hitless.lab import scenarios
    from hitless.lab.scenario import ScenarioError

    try:
        typer.echo(scenarios.text(name), nl=False)
    except ScenarioError as error:
        _usage_error(error, error.code)


@app.command("run")
def run(
    scenario: str = typer.Argument(..., help="A name from `hitless lab list`, or a file."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Tables, or the whole report."),
    kernel: Preference = _KERNEL,
    results: Path | None = typer.Option(None, help="Keep report, picture and logs in this directory."),
    timeout: float = typer.Option(900.0, help="Seconds for everything, the boot of a guest included."),
) -> None:
    """Run a scenario. Exit status 0 if its expectations hold, 1 if not, 2 if it cannot be read."""
    from hitless.lab import report
    from hitless.lab.outer import run_scenario
    from hitless.lab.scenario import ScenarioError

    try:
        status, found = run_scenario(scenario, kernel=kernel, results=results, timeout_seconds=timeout)
    except ScenarioError as error:
        _usage_error(error, error.code)
    if found is not None:
        typer.echo(report.to_json(found) if output == "json" else report.to_text(found), nl=False)
    raise typer.Exit(status)


@app.command("demo")
def demo(
    kernel: Preference = _KERNEL,
    results: Path = typer.Option(Path("results/demo"), help="Reports, logs and pictures go here."),
) -> None:
    """Rotate keys under traffic on a real kernel, done right and as it used to be; exit status 1 if not as told."""
    from hitless.lab.demo import play

    raise typer.Exit(play(typer.echo, results, kernel))


@app.command("up")
def up(
    nodes: int = typer.Argument(3, min=2, max=16, help="How many nodes."),
    kernel: Preference = _KERNEL,
) -> None:
    """Bring up nodes with agents, to play with.

    Where this machine's kernel has ESP they stay until `hitless lab down`: look at them with `ip netns` and
    `hitless status`. Elsewhere a guest runs in the foreground and takes the steps of the scenario language line by
    line (`key new`, `wait settled within 10s`, `link n1 delay 300ms`), or `! COMMAND` for the shell, until `quit`.
    """
    from hitless.lab.playground import up as bring_up

    raise typer.Exit(bring_up(nodes, kernel=kernel))


@app.command("down")
def down() -> None:
    """Remove everything that `hitless lab up` left on this machine. Safe to say at any time."""
    from hitless.lab.playground import down as take_down

    take_down()


def _usage_error(error: Exception, code: str) -> NoReturn:
    print(f"{error} [{code}]", file=sys.stderr)
    raise typer.Exit(2)
