"""`hitless status`: which generation each node sends with, since when, and who is waited for."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

if TYPE_CHECKING:
    from hitless.agent.config import Config
    from hitless.telemetry.status import NodeStatus

_POLL_SECONDS = 0.2


def status(
    config: Path = typer.Option(..., "--config", "-c", help="Any node's configuration: it names cluster and store."),
    output: Literal["table", "json"] = typer.Option("table", "--output", "-o", help="A table, or JSON."),
    wait: float = typer.Option(0.0, help="Wait up to this many seconds until every node is steady (else exit 6)."),
) -> None:
    """Show the cluster as the store has it. Exit 5: not steady; 6: --wait ran out; 7: no node is registered."""
    import asyncio

    from hitless.agent.config import load

    loaded = load(config)
    nodes = asyncio.run(_read(loaded, wait))
    if output == "json":
        _print_json(loaded.cluster, nodes)
    else:
        _print_table(loaded.cluster, nodes)
    if not _steady(nodes):
        raise typer.Exit(6 if wait else 5 if nodes else 7)


async def _read(config: Config, wait_seconds: float) -> tuple[NodeStatus, ...]:
    import asyncio

    from hitless.cli.store import open_existing
    from hitless.telemetry.status import read

    store = open_existing(config)
    end = time.monotonic() + wait_seconds
    try:
        while True:
            nodes = await read(store, config.cluster)
            if _steady(nodes) or time.monotonic() >= end:
                return nodes
            await asyncio.sleep(_POLL_SECONDS)
    finally:
        await store.close()


def _steady(nodes: tuple[NodeStatus, ...]) -> bool:
    # No node at all is not steady: nothing is known.
    return all(node.phase == "steady" for node in nodes) and len({node.generation for node in nodes}) == 1


def _print_json(cluster: str, nodes: tuple[NodeStatus, ...]) -> None:
    import msgspec

    typer.echo(msgspec.json.encode({"cluster": cluster, "steady": _steady(nodes), "nodes": nodes}).decode())


def _print_table(cluster: str, nodes: tuple[NodeStatus, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from hitless.core.model.condition import title

    now = time.time()
    table = Table("NODE", "ALIVE", "SENDS WITH", "FOR", "PHASE", "HOLDS", "WAITS FOR", box=box.SIMPLE_HEAD, title=None)
    for node in nodes:
        waits = [f"{each.peer}: {each.reason} for {_age(now - each.since)}" for each in node.laggards]
        sends = f"generation {node.generation} (key {node.key_id})" if node.generation else "-"
        holds = " ".join(map(str, node.holds)) or "-"
        age = _age(now - node.since) if node.since else "-"
        table.add_row(node.name, "yes" if node.alive else "no", sends, age, node.phase, holds, "\n".join(waits) or "-")
    # A pipe has no width: rows must not be folded there.
    console = Console(width=None if sys.stdout.isatty() else 200)
    if not nodes:
        console.print(f"cluster {cluster}: no node is registered")
        return
    console.print(table)
    for reason in sorted({each.reason for node in nodes for each in node.laggards}):
        console.print(f"{reason}: {title(reason)}", highlight=False)


def _age(seconds: float) -> str:
    """A duration as people say it: 12 s, 4 min, 3 h, 2 d."""
    for limit, size, unit in ((120, 1, "s"), (7200, 60, "min"), (172800, 3600, "h")):
        if seconds < limit:
            return f"{max(0, int(seconds // size))} {unit}"
    return f"{int(seconds // 86400)} d"
