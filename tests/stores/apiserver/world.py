"""The store in Kubernetes as a world of the conformance suite, and where it is known to differ from etcd."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import pytest
from tests.stores.apiserver import server

from hitless.ports import Store, StoreError
from hitless.stores.kubernetes.options import KubernetesOptions
from hitless.stores.kubernetes.store import KubernetesStore

DEPARTURES: Final[Mapping[str, tuple[type[BaseException], str]]] = {
    "test_one_commit_is_one_revision_and_the_next_is_the_next": (
        AssertionError,
        "Kubernetes changes one object at a time, and its revisions belong to the whole cluster",
    ),
    "test_a_revision_is_never_split": (AssertionError, "every write of a commit is a revision of its own"),
    "test_one_guard_that_fails_stops_every_write": (StoreError, "a guard on a key that is not written is refused"),
    "test_history_that_was_compacted_is_refused": (pytest.fail.Exception, "no client can compact a cluster's history"),
    "test_a_lease_that_ends_takes_its_keys_with_events": (AssertionError, "each key of a lease ends by itself"),
    "test_revoking_ends_a_lease_at_once_and_twice_is_no_error": (AssertionError, "leases are objects with revisions"),
    "test_a_lease_without_keys_ends_without_a_revision": (AssertionError, "leases are objects with revisions"),
}
"""Tests that this store must fail, how, and why. What it does instead is tested in test_kubernetes_departures.py."""


class KubernetesWorld:
    """A stand-in that all tests share; each begins with nothing in it."""

    def __init__(self, tmp_path: Path) -> None:
        self.server = server.shared()
        self.server.clear()
        self._path = self.server.kubeconfig(tmp_path / "access")
        self._clients: list[Store] = []

    def connect(self, **changes: float | bool | str) -> KubernetesStore:
        options = {"kubeconfig": str(self._path), "sweep_seconds": 0.05, "request_timeout_seconds": 20.0} | changes
        store = KubernetesStore(KubernetesOptions(**options))  # type: ignore[arg-type]
        self._clients.append(store)
        return store

    def recreate(self) -> None:
        self.server.recreate()

    async def aclose(self) -> None:
        for client in self._clients:
            await client.close()
