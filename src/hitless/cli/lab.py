"""`hitless lab`: scenarios on real kernels, and a laboratory to play in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NoReturn

import typer

from hitless.lab.kernel.choice import Preference

if TYPE_CHECKING:
    from hitless.lab.firewall.report import FirewallReport
    from hitless.lab.report import Report

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Run scenarios on a real kernel with ESP.")

_KERNEL = typer.Option("auto", help="auto takes this machine's kernel if it has ESP, else a guest.")


@app.command("list")
def list_scenarios(
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Names and titles, or JSON."),
) -> None:
    """Say which scenarios come with the program."""
    import msgspec

    from hitless.lab import scenarios
    from hitless.lab.firewall import outer

    found = [(name, scenarios.find(name).title) for name in scenarios.names()]
    found += [(name, outer.read(name)[0].title) for name in scenarios.firewall_names()]
    if output == "json":
        typer.echo(msgspec.json.encode([{"name": name, "title": title} for name, title in found]).decode())
        return
    width = max(len(name) for name, _ in found)
    for name, title in found:
        typer.echo(f"{name:<{width}}  {title}")


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
    scenario: list[str] = typer.Argument(..., help="Names from `hitless lab list`, or files."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Tables, or the whole report."),
    kernel: Preference = _KERNEL,
    results: Path | None = typer.Option(None, help="Keep report, picture and logs in this directory."),
    timeout: float = typer.Option(900.0, help="Seconds for a scenario, the boot of a guest included."),
) -> None:
    """Run scenarios, several in one guest. Exit status 0 if all expectations hold, 1 if not, 2 if one cannot be read.

    Of several each leaves its results in a directory of its name; with `-o json` there is a line of JSON for each.
    """
    from hitless.lab import outer
    from hitless.lab.firewall import outer as firewall
    from hitless.lab.scenario import ScenarioError

    found: Report | FirewallReport | None
    try:
        if len(scenario) > 1:
            raise typer.Exit(_run_several(scenario, output, kernel, results, timeout))
        if firewall.concerns(scenario[0]):
            status, found = firewall.run_scenario(scenario[0], kernel=kernel, results=results, timeout_seconds=timeout)
        else:
            status, found = outer.run_scenario(scenario[0], kernel=kernel, results=results, timeout_seconds=timeout)
    except ScenarioError as error:
        _usage_error(error, error.code)
    if found is not None:
        typer.echo(_told(found, output), nl=False)
    raise typer.Exit(status)


def _told(found: Report | FirewallReport, output: Literal["text", "json"], *, line: bool = False) -> str:
    """A report as text, or as JSON: indented, or in one line."""
    import msgspec

    from hitless.lab import report
    from hitless.lab.firewall import report as firewall

    if output == "json":
        compact = msgspec.json.encode(found)
        return (compact if line else msgspec.json.format(compact, indent=2)).decode() + "\n"
    return report.to_text(found) if isinstance(found, report.Report) else firewall.to_text(found)


def _run_several(
    scenarios: list[str], output: Literal["text", "json"], kernel: Preference, results: Path | None, timeout: float
) -> int:
    import tempfile
    from contextlib import ExitStack

    from hitless.lab.firewall import outer as firewall
    from hitless.lab.guests import Guests

    worst = 0
    with ExitStack() as stack:
        place = results or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hitless-results-")))
        on_switch = [each for each in scenarios if firewall.concerns(each)]
        in_guests = [each for each in scenarios if each not in on_switch]
        guests = stack.enter_context(Guests(in_guests, results=place, kernel=kernel, limit_seconds=timeout))
        for outcome in guests.outcomes():
            worst = max(worst, outcome.status)
            if outcome.trouble:
                print(f"{outcome.name}: {outcome.trouble}", file=sys.stderr)
            if outcome.report is not None:
                typer.echo(_told(outcome.report, output, line=True), nl=output == "text")
        for each in on_switch:
            where = place / firewall.read(each)[0].name
            status, found = firewall.run_scenario(each, kernel=kernel, results=where, timeout_seconds=timeout)
            worst = max(worst, status)
            if found is not None:
                typer.echo(_told(found, output, line=True), nl=output == "text")
    return worst


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
