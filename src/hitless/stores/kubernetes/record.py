"""A key and its value as an object of the resource `hitlessrecords`, and back.

All keys are objects of one resource, since Kubernetes orders revisions within a resource only (KEP-5504). The object's
name is readable as far as the key allows and unique by a hash; the key itself is in the spec. A value that is printable
text stands there as text, so that `kubectl get -o yaml` shows it, and any other in base64.

What Kubernetes does not keep is kept in the spec: the revision in which a key was created, the lease, and the epoch.
A record of another epoch than the mark's was written by somebody who had not noticed that the history changed: it is
as good as absent. And so is one that is marked as deleted: the API server tells nobody which revision a deletion has,
so a key is deleted by a write that says so, which has a revision like any other; the object is removed thereafter.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

import msgspec

from hitless.ports import Entry

API_VERSION = "hitless.dev/v1alpha1"
KIND = "HitlessRecord"

MARK = "hitless-epoch"
"""The object whose UID is the epoch. No record's name: those end in a hash."""

ENDS_LABEL = "hitless.dev/ends"
"""Finds what ends: its value is the lease, in hexadecimal, or `deleted`."""


class Meta(msgspec.Struct, frozen=True):
    name: str
    uid: str
    resourceVersion: str  # noqa: N815 - the wire's name


class Spec(msgspec.Struct, frozen=True, omit_defaults=True):
    """`text` or `data` is the value, `lease` in hexadecimal, `created` is empty where this is the first revision."""

    key: str = ""
    epoch: str = ""
    text: str | None = None
    data: str | None = None
    lease: str = ""
    created: str = ""
    deleted: bool = False


class Record(msgspec.Struct, frozen=True):
    metadata: Meta
    spec: Spec = Spec()

    @property
    def revision(self) -> int:
        return int(self.metadata.resourceVersion)


class Metadata(msgspec.Struct, frozen=True):
    """Of a list. `continue_` asks for the next part of it."""

    resourceVersion: str = "0"  # noqa: N815 - the wire's name
    continue_: str = msgspec.field(default="", name="continue")


class Objects(msgspec.Struct, frozen=True):
    items: tuple[msgspec.Raw, ...]
    metadata: Metadata = Metadata()


def name_of(key: str) -> str:
    """The object's name: a DNS subdomain (RFC 1123) of at most 74 characters."""
    digest = hashlib.sha256(key.encode()).hexdigest()[:32]
    readable = re.sub("[^a-z0-9]+", "-", "-".join(key.lower().split("/")[-2:]))[:40].strip("-")
    return f"{readable}-{digest}" if readable else f"r-{digest}"


def decode(raw: bytes | msgspec.Raw) -> Record | None:
    """An object, or None for what somebody else made and is no record."""
    try:
        record = msgspec.json.decode(raw, type=Record)
        int(record.metadata.resourceVersion)
    except (msgspec.MsgspecError, ValueError):
        return None
    return record


def entry_of(record: Record, epoch: str) -> Entry | None:
    """What the record says; None where that is nothing."""
    spec = record.spec
    if spec.deleted or not spec.key or spec.epoch != epoch or name_of(spec.key) != record.metadata.name:
        return None
    try:
        value = base64.b64decode(spec.data, validate=True) if spec.data is not None else (spec.text or "").encode()
        lease, created = int(spec.lease or "0", 16), int(spec.created or "0")
    except (ValueError, binascii.Error):
        return None
    return Entry(spec.key, value, created or record.revision, record.revision, lease)


def put_body(key: str, value: bytes, lease: int, epoch: str, over: Record | None) -> dict[str, Any]:
    """The object for a value. `over` is what it replaces, at exactly that revision."""
    text = _printable(value)
    entry = None if over is None else entry_of(over, epoch)
    spec = Spec(
        key=key,
        epoch=epoch,
        text=text,
        data=None if text is not None else base64.b64encode(value).decode(),
        lease=f"{lease:x}" if lease else "",
        created=str(entry.create_revision) if entry else "",
    )
    return _body(key, spec, over)


def deleted_body(entry: Entry, epoch: str, over: Record) -> dict[str, Any]:
    """The object that says that the key is gone."""
    return _body(entry.key, Spec(key=entry.key, epoch=epoch, deleted=True), over)


def mark_body() -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": MARK}, "spec": {}}


def _body(key: str, spec: Spec, over: Record | None) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name_of(key)}
    if spec.lease or spec.deleted:
        metadata["labels"] = {ENDS_LABEL: spec.lease or "deleted"}
    if over is not None:
        metadata |= {"uid": over.metadata.uid, "resourceVersion": over.metadata.resourceVersion}
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": msgspec.to_builtins(spec)}


def _printable(value: bytes) -> str | None:
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return text if text.isprintable() else None
