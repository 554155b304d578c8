"""From a configuration to a store. Each kind brings its own libraries, which are imported only where it is used."""

from __future__ import annotations

from hitless.ports import Store, StoreError
from hitless.stores.options import KubernetesOptions, SqliteOptions, StoreOptions


def open_store(options: StoreOptions) -> Store:
    """The store that the options describe. Nothing is contacted yet: what is wrong shows at the first call.

    Raises StoreError: `store-no-path`, `store-library-missing`.
    """
    if isinstance(options, SqliteOptions):
        from hitless.stores.sqlite import SqliteStore

        if not options.path:
            raise StoreError("store-no-path", "the sqlite store needs a path; name a file, e.g. /run/hitless/store.db")
        return SqliteStore(options.path)
    if isinstance(options, KubernetesOptions):
        from hitless.stores.kubernetes.store import KubernetesStore

        return KubernetesStore(options)
    try:
        from hitless.stores.etcd.store import EtcdStore
    except ImportError as error:
        raise StoreError(
            "store-library-missing", f"the etcd store needs a library that is not installed ({error.name}); "
            "install hitless with it: pip install 'hitless[etcd]'",
        ) from None  # fmt: skip
    return EtcdStore(options)
