"""Which store, in the words of a configuration: a table whose `kind` says what else may stand in it."""

from __future__ import annotations

import msgspec

from hitless.stores.etcd.options import EtcdOptions
from hitless.stores.kubernetes.options import KubernetesOptions


class SqliteOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="sqlite"):
    """One file for all agents of one machine: the embedded default."""

    path: str = "/var/lib/hitless/store.db"


__all__ = ["EtcdOptions", "KubernetesOptions", "SqliteOptions", "StoreOptions"]

StoreOptions = SqliteOptions | EtcdOptions | KubernetesOptions
