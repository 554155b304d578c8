"""From the words in a configuration to a store."""

from __future__ import annotations

from hitless.ports import Store, StoreError

KINDS = ("sqlite", "memory")


def open_store(kind: str, path: str) -> Store:
    """A store by kind. `sqlite` is the file at `path`; `memory` is empty, gone with its process, and only for tests.

    Nothing is opened yet: what is wrong with a file shows at the first call. Raises StoreError (`store-unknown-kind`).
    """
    if kind == "sqlite":
        from hitless.stores.sqlite import SqliteStore

        if not path:
            raise StoreError("store-no-path", "the sqlite store needs a path; name a file, e.g. /run/hitless/store.db")
        return SqliteStore(path)
    if kind == "memory":
        from hitless.stores.memory import MemoryStore

        return MemoryStore()
    raise StoreError("store-unknown-kind", f"there is no store of kind {kind!r}; use one of: {', '.join(KINDS)}")
