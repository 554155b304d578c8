"""What lies behind the interface: objects with revisions of one counter, a history that can be forgotten, and rules."""

from __future__ import annotations

import copy
import re
import uuid
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.stores.apiserver import apply
from tests.stores.apiserver.refusals import Refusal

PACKAGING = Path(__file__).parents[3] / "packaging" / "kubernetes"
yaml: Any = import_module("yaml")  # it comes with the client library, without types

Object = dict[str, Any]
Key = tuple[str, str, str]
"""Resource, namespace, name."""

OTHERS_WRITE = 2
"""Revisions that the rest of a cluster takes before each write of ours: ours are never dense."""

MAX_OBJECT_BYTES = 1536 * 1024
_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


def documents(file: str) -> list[Object]:
    return [each for each in yaml.safe_load_all((PACKAGING / file).read_text("utf-8")) if each]


def schemas() -> dict[str, Object]:
    """The schema of each of the project's resources."""
    found = {}
    for crd in documents("crds.yaml"):
        version = crd["spec"]["versions"][0]
        found[crd["spec"]["names"]["plural"]] = version["schema"]["openAPIV3Schema"]
    return found


class Event:
    def __init__(self, kind: str, revision: int, key: Key, before: Object | None, after: Object) -> None:
        self.kind, self.revision, self.key, self.before, self.object = kind, revision, key, before, after


class Objects:
    """One etcd's worth of objects. One thread at a time."""

    def __init__(self) -> None:
        self._schemas = schemas()
        self.changed: Callable[[], None] = lambda: None
        self.wipe()

    def wipe(self) -> None:
        """Another etcd: nothing in it, and revisions from the start."""
        self.revision = 1
        self.compacted = 0
        self.objects: dict[Key, Object] = {}
        self.events: list[Event] = []
        self.generation = uuid.uuid4()
        self.changed()

    def backup(self) -> tuple[int, dict[Key, Object]]:
        return self.revision, copy.deepcopy(self.objects)

    def restore(self, kept: tuple[int, dict[Key, Object]]) -> None:
        """The same objects, UIDs and revisions as when the backup was made; watches end."""
        self.wipe()
        self.revision, self.objects = kept[0], copy.deepcopy(kept[1])
        self.compacted = self.revision

    def compact(self) -> None:
        """Forget all history up to now, as the server does every five minutes."""
        self.compacted = self.revision
        self.events.clear()

    def get(self, key: Key) -> Object:
        if key not in self.objects:
            raise Refusal(404, "NotFound", f'{key[0]} "{key[2]}" not found', name=key[2], kind=key[0])
        return self.objects[key]

    def list(self, resource: str, namespace: str, selector: Callable[[Mapping[str, str]], bool]) -> list[Object]:
        found = (each for key, each in sorted(self.objects.items()) if key[:2] == (resource, namespace))
        return [each for each in found if selector(each["metadata"].get("labels", {}))]

    def create(self, resource: str, namespace: str, body: Object) -> Object:
        name = body["metadata"]["name"]
        key = (resource, namespace, name)
        if not _NAME.fullmatch(name) or len(name) > 253:
            raise Refusal(422, "Invalid", f'metadata.name: Invalid value: "{name}"')
        if body["metadata"].get("resourceVersion"):
            raise Refusal(400, "BadRequest", "resourceVersion should not be set on objects to be created")
        if key in self.objects:
            raise Refusal(409, "AlreadyExists", f'{resource} "{name}" already exists', name=name, kind=resource)
        made = self._checked(resource, body)
        made["metadata"] |= {"namespace": namespace, "uid": str(uuid.uuid4())}
        return self._store("ADDED", key, made)

    def update(self, key: Key, body: Object) -> Object:
        """Replace. Raises Refusal 409 unless revision and UID, where they are given, are the present ones."""
        before = self.get(key)
        self._check_preconditions(key, before, body["metadata"])
        after = self._checked(key[0], body)
        after["metadata"] |= {"namespace": key[1], "uid": before["metadata"]["uid"]}
        if "status" in before:
            after["status"] = before["status"]
        return self._store("MODIFIED", key, after)

    def apply(self, key: Key, body: Object, manager: str, *, force: bool, status: bool) -> Object:
        """Server-side apply of the object, or of its status alone."""
        before = self.objects.get(key)
        if before is None and status:
            self.get(key)
        part = {"status": body.get("status", {})} if status else {k: v for k, v in body.items() if k != "status"}
        base = before or {"metadata": {"name": key[2], "uid": str(uuid.uuid4()), "namespace": key[1]}}
        merged = apply.merge(base, part, manager + ("/status" if status else ""), force=force)
        return self._store("MODIFIED" if before else "ADDED", key, self._checked(key[0], merged))

    def delete(self, key: Key, preconditions: Mapping[str, str]) -> Object:
        before = self.get(key)
        self._check_preconditions(key, before, preconditions)
        del self.objects[key]
        self.revision += 1 + OTHERS_WRITE
        gone = copy.deepcopy(before)
        gone["metadata"]["resourceVersion"] = str(self.revision)  # of the deletion, as etcd3's watcher does it
        self._announce(Event("DELETED", self.revision, key, before, gone))
        return before

    def _check_preconditions(self, key: Key, present: Object, wanted: Mapping[str, str]) -> None:
        for field in ("resourceVersion", "uid"):
            if wanted.get(field) and wanted[field] != present["metadata"][field]:
                message = f'Operation cannot be fulfilled on {key[0]} "{key[2]}": the object has been modified'
                raise Refusal(409, "Conflict", message, name=key[2], kind=key[0])

    def _store(self, kind: str, key: Key, made: Object) -> Object:
        if len(str(made)) > MAX_OBJECT_BYTES:
            raise Refusal(500, "", "etcdserver: request is too large")
        self.revision += 1 + OTHERS_WRITE
        made["metadata"]["resourceVersion"] = str(self.revision)
        before = self.objects.get(key)
        self.objects[key] = made
        self._announce(Event(kind, self.revision, key, before, copy.deepcopy(made)))
        return made

    def _announce(self, event: Event) -> None:
        self.events.append(event)
        self.changed()

    def _checked(self, resource: str, body: Object) -> Object:
        made = copy.deepcopy(body)
        schema = self._schemas.get(resource)
        if schema is not None:
            metadata, owners = made.pop("metadata"), made.pop("owners", None)
            made = _prune(made, schema, resource)
            made["metadata"] = metadata
            if owners is not None:
                made["owners"] = owners
        return made


def _prune(value: Any, schema: Mapping[str, Any], path: str) -> Any:
    """Drop what the schema does not know, as the server does, and refuse what contradicts it."""
    kinds: dict[str, type | tuple[type, ...]] = {
        "object": dict, "array": list, "string": str, "integer": int, "boolean": bool
    }
    if not isinstance(value, kinds[schema["type"]]):
        raise Refusal(422, "Invalid", f"{path}: must be of type {schema['type']}")
    if isinstance(value, dict):
        known = schema.get("properties", {})
        missing = set(schema.get("required", ())) - value.keys()
        if missing:
            raise Refusal(422, "Invalid", f"{path}.{min(missing)}: Required value")
        return {name: _prune(each, known[name], f"{path}.{name}") for name, each in value.items() if name in known}
    if isinstance(value, list):
        return [_prune(each, schema["items"], path) for each in value]
    if isinstance(value, str) and not re.search(schema.get("pattern", ""), value):
        raise Refusal(422, "Invalid", f"{path}: should match {schema['pattern']}")
    if value not in schema.get("enum", [value]):
        raise Refusal(422, "Invalid", f"{path}: Unsupported value: {value!r}")
    return value
