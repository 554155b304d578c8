"""`hitless firewall`: run the firewall's agent, and ask what it does and why."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from hitless.cli import firewall_explain, firewall_files

if TYPE_CHECKING:
    from hitless.agent.firewall.config import Config
    from hitless.agent.firewall.status import Status
    from hitless.core.model.flow import Flow

app = typer.Typer(no_args_is_help=True, help="Security groups on Open vSwitch.")
app.command("explain")(firewall_explain.explain)
app.command("check")(firewall_files.check)
app.command("import")(firewall_files.import_)
app.command("push")(firewall_files.push)
app.command("schema")(firewall_files.schema)

_CONFIG = Path("/etc/hitless/firewall.toml")


@app.command("agent")
def agent(
    config: Path = typer.Option(..., "--config", "-c", help="The bridge's configuration (TOML)."),
    check: bool = typer.Option(False, "--check", help="Check configuration and intent, then stop."),
    replay_old_behaviour: bool = typer.Option(
        False, "--replay-old-behaviour", help="Allow the [lab] section's historic mistakes. They break connections."
    ),
) -> None:
    """Run the agent: it keeps the bridge's tables, and leaves them in force when it stops."""
    from hitless.agent.firewall.config import load

    loaded = load(config)
    if loaded.lab.historic and not replay_old_behaviour:
        from hitless.agent.config import ConfigError

        raise ConfigError(
            str(config), "lab", "a historic mistake is switched on, which breaks connections; in a lab, add "
            "--replay-old-behaviour", "replay-not-allowed",
        )  # fmt: skip
    if check:
        firewall_files.intent_of(loaded)
        typer.echo("configuration and intent are good")
        return
    import asyncio
    import sys

    from hitless.agent.firewall.run import run
    from hitless.telemetry.log import configure

    configure(loaded.node, loaded.log)
    try:
        asyncio.run(run(loaded))
    except* KeyboardInterrupt:
        sys.exit(130)


@app.command("status")
def status(
    config: Path = typer.Option(_CONFIG, "--config", "-c", help="The bridge's configuration (TOML)."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Text, or JSON."),
) -> None:
    """Show what this node's agent said last. Exit 5: degraded, or no agent runs; 7: none has ever run."""
    from hitless.agent.firewall import confirm, locks
    from hitless.agent.firewall.config import load
    from hitless.agent.firewall.status import read_status

    loaded = load(config)
    directory = Path(loaded.state_dir)
    found, awaited, keeper = read_status(directory), confirm.awaited(directory), locks.keeper(loaded)
    if awaited is not None and output == "text":
        typer.echo(confirm.sentence(awaited, directory), err=True)
    if found is None:
        typer.echo(f"no agent has run with state_dir {loaded.state_dir}", err=True)
        raise typer.Exit(7)
    alive = keeper is not None and keeper.what == "agent"
    if output == "json":
        import msgspec

        shown = {"alive": alive, "degraded": found.degraded, "awaited": msgspec.to_builtins(awaited),
                 **msgspec.to_builtins(found)}  # fmt: skip
        typer.echo(msgspec.json.encode(shown).decode())
    else:
        _print_status(found, alive)
    if found.degraded or not alive or awaited is not None:
        raise typer.Exit(5)


def _print_status(found: Status, alive: bool) -> None:
    import time

    from hitless.cli.status import _age as age
    from hitless.core.model.condition import title

    now = time.time()
    state = "in force" if found.settled else "not in force yet"
    typer.echo(f"{found.node}, bridge {found.bridge}: intent {found.generation or 'none'} {state}")
    typer.echo(f"  agent    {f'runs, process {found.pid}' if alive else 'does not run; the tables stay as they are'}")
    typer.echo(f"  ports    {len(found.ports)} here, {found.ports_elsewhere} not on this bridge")
    if found.unlisted:
        typer.echo(f"  unlisted {', '.join(found.unlisted)}: on this bridge and not in the intent, not filtered")
    applied = f"last change {age(now - found.last_applied)} ago" if found.last_applied else "nothing changed"
    typer.echo(f"  flows    {found.flows}; {found.flow_mods} flow-mods by this agent, {applied}")
    typer.echo(f"  cut      {found.cut} connections by this agent")
    for each in found.conditions:
        about = f": {each.about}" if each.about else ""
        typer.echo(f"  {each.code} for {age(now - each.since)}, {title(each.code)}{about}")


@app.command("flows")
def flows(
    config: Path = typer.Option(..., "--config", "-c", help="The bridge's configuration (TOML)."),
    port: str = typer.Option("", "--port", help="Only flows about this port of the intent."),
    desired: bool = typer.Option(False, "--desired", help="What the documents ask for."),
    actual: bool = typer.Option(False, "--actual", help="What the bridge has of ours (default)."),
    diff: bool = typer.Option(False, "--diff", help="What the agent would change. Exit 3 where there is something."),
    output: Literal["text", "json"] = typer.Option("text", "--output", "-o", help="Flow text, or JSON."),
) -> None:
    """Show flows as `ovs-ofctl` writes them, before + added or - deleted. Changes nothing."""
    if desired + actual + diff > 1:
        raise typer.BadParameter("give one of --desired, --actual and --diff")
    from hitless.agent.firewall.config import load

    rows = _rows(load(config), port, "diff" if diff else "desired" if desired else "actual")
    if output == "json":
        import msgspec

        typer.echo(msgspec.json.encode([{"sign": sign, **_plain(flow)} for sign, flow in rows]).decode())
    else:
        from hitless.drivers.ovs.codec import format_flow

        for sign, flow in rows:
            typer.echo(f"{sign} {format_flow(flow)}" if sign else format_flow(flow))
    if diff and rows:
        raise typer.Exit(3)


def _plain(flow: Flow) -> dict[str, Any]:
    from hitless.drivers.ovs.codec import format_flow

    return {"table": flow.table, "priority": flow.priority, "cookie": f"{flow.cookie:#018x}", "text": format_flow(flow)}


def _rows(config: Config, port: str, which: str) -> list[tuple[str, Flow]]:
    from hitless.agent.firewall.rounds import Firewall
    from hitless.agent.firewall.run import open_switch
    from hitless.core.model.flow import exact
    from hitless.core.plan.flows import AddFlow
    from hitless.ports import SwitchError

    firewall = Firewall(open_switch(config), config, lambda _step: None)
    if which == "actual" and not port:
        firewall.picture.look()
        return [("", firewall.picture.ours[key]) for key in sorted(firewall.picture.ours)]
    plan = firewall.plan(firewall_files.intent_of(config))
    if which == "diff":
        rows = [("+" if isinstance(op, AddFlow) else "-", op.flow) for op in plan.bundle]
    else:
        held = firewall.picture.ours if which == "actual" else plan.compiled.flows
        rows = [("", held[key]) for key in sorted(held)]
    if not port:
        return rows
    here = plan.facts.local.ofports.get(port)
    if here is None:
        raise SwitchError("port-unknown", f"bridge {config.bridge} has no port {port} of the intent; see "
                          "`hitless firewall status` for those that it has")  # fmt: skip
    mine = {exact("reg5", here), exact("in_port", here)}
    return [(sign, flow) for sign, flow in rows if mine.intersection(flow.match) or _leads_to(flow, here)]


def _leads_to(flow: Flow, ofport: int) -> bool:
    from hitless.core.model.flow import Output, SetField

    return SetField("reg5", ofport) in flow.actions or Output(ofport) in flow.actions
