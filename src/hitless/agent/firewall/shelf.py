"""The firewall's documents in the store: one JSON document a key, and a manifest that says when they are complete.

    /hitless/CLUSTER/firewall/KIND/NAME    a document, as in a file
    /hitless/CLUSTER/firewall/manifest     how many documents there are, and a digest over all

A store has a limit on what one commit may hold, so a policy comes in several. A reader that meets half of it sees that
from the manifest, which is written last, and goes on with what it has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from hitless.core.firewall.documents import Document, read
from hitless.core.firewall.schema import VERSION
from hitless.ports import Compare, Delete, Entry, Put, Store, StoreError
from hitless.stores.rules import MAX_COMMIT_BYTES, MAX_COMMIT_ITEMS


class Manifest(msgspec.Struct, frozen=True):
    """What belongs together. `digest` is SHA-256 in hexadecimal over all keys and values, in key order."""

    documents: int
    digest: str


class Pushed(msgspec.Struct, frozen=True):
    """What a push did; all 0 where the store held the same already."""

    documents: int
    written: int
    deleted: int


def root(cluster: str) -> str:
    return f"/hitless/{cluster}/firewall/"


def manifest_key(cluster: str) -> str:
    return f"{root(cluster)}manifest"


class Shelf:
    """The documents of one cluster as they come from the store; each is read once, however often others change."""

    def __init__(self, cluster: str) -> None:
        self._manifest_key = manifest_key(cluster)
        self._values: dict[str, bytes] = {}
        self._read: dict[str, tuple[Document, ...]] = {}

    def fill(self, entries: Iterable[Entry]) -> None:
        """Everything that there is, from a listing."""
        new = {each.key: each.value for each in entries}
        for key in [key for key in self._values if new.get(key) != self._values[key]]:
            self.take(key, None)
        for key, value in new.items():
            self.take(key, value)

    def take(self, key: str, value: bytes | None) -> None:
        """A key's new value, None where it was deleted."""
        if self._values.get(key) != value:
            self._read.pop(key, None)
        if value is None:
            self._values.pop(key, None)
        else:
            self._values[key] = value

    @property
    def is_empty(self) -> bool:
        return not self._values

    @property
    def manifest(self) -> Manifest | None:
        try:
            return msgspec.json.decode(self._values.get(self._manifest_key, b""), type=Manifest)
        except msgspec.MsgspecError:
            return None

    @property
    def is_complete(self) -> bool:
        """Whether the documents are those, all those and only those of the manifest."""
        return self.manifest == manifest_of(self._documents())

    def documents(self) -> tuple[Document, ...]:
        """All documents, faulty ones among them; their places are `store:KEY`."""
        for key, value in self._documents().items():
            if key not in self._read:
                self._read[key] = read(value.decode("utf-8", "replace"), f"store:{key}")
        return tuple(each for key in sorted(self._read) for each in self._read[key])

    def _documents(self) -> dict[str, bytes]:
        return {key: value for key, value in self._values.items() if key != self._manifest_key}


def manifest_of(values: Mapping[str, bytes]) -> Manifest:
    """The manifest of documents by key."""
    digest = hashlib.sha256()
    for key, value in sorted(values.items()):
        digest.update(f"{key} {hashlib.sha256(value).hexdigest()}\n".encode())
    return Manifest(len(values), digest.hexdigest())


async def push(store: Store, cluster: str, documents: Sequence[Document]) -> Pushed:
    """Make the store hold these documents and no others. They must have been checked. Raises StoreError.

    Another push that ends meanwhile makes this one fail with `push-raced`: agents adopt nothing until one is whole.
    """
    wanted = {f"{root(cluster)}{each.kind}/{each.name}": _text(each) for each in documents}
    key = manifest_key(cluster)
    found = {each.key: each for each in (await store.list(root(cluster))).entries}
    manifest, held = found.pop(key, None), {each.key: each.value for each in found.values()}
    puts = [Put(name, value) for name, value in sorted(wanted.items()) if held.get(name) != value]
    gone = [Delete(name) for name in sorted(held.keys() - wanted.keys())]
    last = Put(key, msgspec.json.encode(manifest_of(wanted)))
    guard = Compare(key, manifest.mod_revision if manifest else 0)
    if puts or gone or manifest is None or manifest.value != last.value:
        chunks: list[list[Put | Delete]] = [*_chunks([*puts, *gone]), [last]]
        for writes in chunks:
            if await store.commit([guard], writes) is None:
                raise StoreError("push-raced", "another push ended while this one was under way, and agents take "
                                 "neither until one is whole; run this push again")  # fmt: skip
    return Pushed(len(wanted), len(puts), len(gone))


def _chunks(writes: Sequence[Put | Delete]) -> Iterator[list[Put | Delete]]:
    chunk: list[Put | Delete] = []
    n_bytes = 0
    for each in writes:
        size = len(each.key.encode()) + (len(each.value) if isinstance(each, Put) else 0)
        # The guard's key counts too; it is shorter than what is left here.
        if chunk and (len(chunk) == MAX_COMMIT_ITEMS or n_bytes + size > MAX_COMMIT_BYTES // 2):
            yield chunk
            chunk, n_bytes = [], 0
        chunk.append(each)
        n_bytes += size
    if chunk:
        yield chunk


def _text(document: Document) -> bytes:
    whole = {"apiVersion": VERSION, "kind": document.kind, "metadata": {"name": document.name},
             "spec": _said(msgspec.to_builtins(document.spec))}  # fmt: skip
    return msgspec.json.encode(whole, order="deterministic")


def _said(value: Any) -> Any:
    """Without fields that are absent: a document has no null."""
    if isinstance(value, dict):
        return {key: _said(each) for key, each in value.items() if each is not None}
    return [_said(each) for each in value] if isinstance(value, (list, tuple)) else value
