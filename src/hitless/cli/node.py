"""`hitless node`: what a person may say about a node."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from hitless.agent.config import Config

app = typer.Typer(no_args_is_help=True, help="Remove a node from the cluster.")


@app.command("remove")
def remove(
    name: str = typer.Argument(help="The node to remove."),
    config: Path = typer.Option(..., "--config", "-c", help="Any node's configuration: it names cluster and store."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Remove a node: its peers block it, drain and delete its SAs. Nothing else ever deletes a node."""
    import asyncio

    from hitless.agent.config import load

    loaded = load(config)
    if not yes:
        typer.confirm(f"Remove {name} from cluster {loaded.cluster}? Its peers will block its traffic", abort=True)
    asyncio.run(_remove(loaded, name))
    typer.echo(f"{name} is removed, and its agent stays blocked; to take it back: hitless node restore {name}")


@app.command("restore")
def restore(
    name: str = typer.Argument(help="The node to take back."),
    config: Path = typer.Option(..., "--config", "-c", help="Any node's configuration: it names cluster and store."),
) -> None:
    """Take a removed node back. Its agent joins by itself, with a new incarnation."""
    import asyncio

    from hitless.agent.config import load

    if asyncio.run(_restore(load(config), name)):
        typer.echo(f"{name} may join again")
    else:
        typer.echo(f"{name} was not removed; nothing to do")


async def _restore(config: Config, name: str) -> bool:
    from hitless.agent.registry import Registry
    from hitless.cli.store import open_existing

    store = open_existing(config)
    try:
        return await Registry(store, config.cluster, name).restore()
    finally:
        await store.close()


async def _remove(config: Config, name: str) -> None:
    from hitless.agent.registry import Registry
    from hitless.cli.store import open_existing

    store = open_existing(config)
    try:
        await Registry(store, config.cluster, name).bury(time.time())
    finally:
        await store.close()
