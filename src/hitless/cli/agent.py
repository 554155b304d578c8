"""`hitless agent`: run this node's agent in the foreground, as a service would."""

from __future__ import annotations

import sys
from pathlib import Path

import typer


def agent(
    config: Path = typer.Option(..., "--config", "-c", help="The node's configuration (TOML)."),
    check: bool = typer.Option(False, "--check", help="Check configuration and keys, then stop."),
    replay_old_behaviour: bool = typer.Option(
        False, "--replay-old-behaviour", help="Allow the [lab] section's historic mistakes. They lose packets."
    ),
) -> None:
    """Run the agent: it keeps this node's security associations, and leaves them in force when it stops."""
    from hitless.agent.config import ConfigError, load
    from hitless.agent.keys import read

    loaded = load(config)
    if loaded.lab.historic and not replay_old_behaviour:
        raise ConfigError(
            str(config), "lab", "a historic mistake is switched on, which loses packets; in a lab, add "
            "--replay-old-behaviour", "replay-not-allowed",
        )  # fmt: skip
    if check:
        read(Path(loaded.keys))
        typer.echo("configuration and keys are good")
        return
    import asyncio

    from hitless.agent.run import run
    from hitless.telemetry.log import configure

    configure(loaded.node, loaded.log)
    try:
        asyncio.run(run(loaded))
    except* KeyboardInterrupt:
        sys.exit(130)
