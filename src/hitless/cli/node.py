"""`hitless node`: what a person may say about a node."""

from __future__ import annotations

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
    """Remove a node for good: its peers block it, drain and delete its SAs. Nothing else ever deletes a node."""
    import asyncio

    from hitless.agent.config import load

    loaded = load(config)
    if not yes:
        typer.confirm(f"Remove {name} from cluster {loaded.cluster}? Its peers will block its traffic", abort=True)
    asyncio.run(_remove(loaded, name))
    typer.echo(f"{name} is removed; stop its agent too, or it stays blocked")


async def _remove(config: Config, name: str) -> None:
    from hitless.agent.registry import Registry
    from hitless.stores.open import open_store

    store = open_store(config.store.kind, config.store.path)
    try:
        await Registry(store, config.cluster, name).bury()
    finally:
        await store.close()
