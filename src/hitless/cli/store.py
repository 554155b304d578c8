"""The store of a configuration, for commands that ask about a cluster and must not found one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hitless.agent.config import Config
    from hitless.ports import Store


def open_existing(config: Config) -> Store:
    """The store, where there is one. Raises StoreError `store-missing`.

    Agents create the file. A command that did so would answer a mistyped path with an empty cluster.
    """
    from hitless.ports import StoreError
    from hitless.stores.open import open_store
    from hitless.stores.options import SqliteOptions

    if isinstance(config.store, SqliteOptions) and not Path(config.store.path).exists():
        raise StoreError(
            "store-missing",
            f"there is no store at {config.store.path}: no agent has run with this configuration yet, or store.path "
            "is not the one that the agents use",
        )
    return open_store(config.store)
