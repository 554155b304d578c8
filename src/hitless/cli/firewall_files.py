"""`hitless firewall check`, `import`, `push` and `schema`: the intent's documents on disk and in the store."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from hitless.agent.firewall.config import Config
    from hitless.agent.firewall.shelf import Pushed
    from hitless.core.firewall.documents import Document
    from hitless.core.model.security import Intent
    from hitless.ports import Store


def check(directory: Path = typer.Argument(help="A file, or a directory of them.")) -> None:
    """Say whether an agent would take these documents: every fault with file, line and field. Exit 1 for any."""
    found = intent_of_files(directory)
    typer.echo(
        f"{directory}: good: {len(found.groups)} security groups, {len(found.address_groups)} address groups, "
        f"{len(found.networks)} networks, {len(found.ports)} ports"
    )


def import_(
    places: list[Path] = typer.Argument(help="OpenStack listings in JSON (`-f json`), or directories of them."),
    network: str = typer.Option("", help="The network ID that port listings were asked for (`--network ID`)."),
) -> None:
    """Turn what `openstack … -f json` prints into documents on stdout; what they cannot say goes to stderr."""
    import yaml

    from hitless.core.firewall.openstack import Listing, documents

    files = [file for place in places for file in (sorted(place.glob("*.json")) if place.is_dir() else [place])]
    made = documents([Listing(str(file), _json(file), network) for file in files])
    for note in made.notes:
        typer.echo(note, err=True)
    yaml.safe_dump_all(made.documents, sys.stdout, sort_keys=False)


def push(
    directory: Path = typer.Argument(help="A file, or a directory of them."),
    config: Path = typer.Option(..., "--config", "-c", help="A firewall configuration: it names cluster and store."),
) -> None:
    """Make the store hold these documents and no others. Nothing is written where one is refused."""
    import asyncio

    from hitless.agent import firewall_files
    from hitless.agent.config import ConfigError
    from hitless.agent.firewall.config import load

    loaded = load(config)
    if loaded.intent:
        raise ConfigError(str(config), "intent", "this configuration takes its intent from files; push needs one "
                          "with cluster and [store]")  # fmt: skip
    intent_of_files(directory)
    done = asyncio.run(_push(loaded, firewall_files.read(directory)))
    changed = f"{done.written} written, {done.deleted} deleted" if done.written or done.deleted else "nothing to change"
    typer.echo(f"{loaded.cluster}: {done.documents} documents, {changed}")


def schema() -> None:
    """Print the JSON Schema of a document."""
    import msgspec

    from hitless.core.firewall.schema import schema as made

    typer.echo(msgspec.json.format(msgspec.json.encode(made()), indent=2).decode())


def intent_of(config: Config) -> Intent:
    """The intent as it stands in the configuration's files or store now. Raises IntentError, StoreError."""
    import asyncio

    return intent_of_files(Path(config.intent)) if config.intent else asyncio.run(_intent_of_store(config))


def intent_of_files(place: Path) -> Intent:
    """Raises IntentError."""
    from hitless.agent import firewall_files
    from hitless.core.firewall.intent import intent

    return intent(firewall_files.read(place))


async def _intent_of_store(config: Config) -> Intent:
    from hitless.agent.firewall import shelf
    from hitless.core.firewall.intent import intent
    from hitless.ports import StoreError

    store = _open(config)
    try:
        held = shelf.Shelf(config.cluster)
        held.fill((await store.list(shelf.root(config.cluster))).entries)
    finally:
        await store.close()
    if not held.is_complete:
        raise StoreError("intent-incomplete", f"the store does not hold a whole intent for cluster {config.cluster}; "
                         "repeat `hitless firewall push`")  # fmt: skip
    return intent(held.documents())


async def _push(config: Config, documents: tuple[Document, ...]) -> Pushed:
    from hitless.agent.firewall import shelf
    from hitless.stores.open import open_store

    store = open_store(config.store)
    try:
        return await shelf.push(store, config.cluster, documents)
    finally:
        await store.close()


def _open(config: Config) -> Store:
    from hitless.cli.store import open_existing

    return open_existing(config)  # type: ignore[arg-type]  # it asks for no more than `store`


def _json(file: Path) -> Any:
    import json

    from hitless.ports import StoreError

    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError("import-unreadable", f"{file}: cannot be read as JSON: {error}; write it with "
                         "`openstack … -f json`") from None  # fmt: skip
