"""Server-side apply in its shortest form: who owns which field, and what follows from it.

Fields are leaves. Lists are leaves too, except those that are maps by the key `type` (conditions). What a manager
applied once and leaves out now is removed, unless somebody else owns it as well; what another owns with another value
is a conflict, or taken over by force.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from tests.stores.apiserver.refusals import Refusal

Path = tuple[str, ...]
MAP_LISTS = {"conditions"}


def merge(present: dict[str, Any], applied: dict[str, Any], manager: str, *, force: bool) -> dict[str, Any]:
    """The object after an apply. Owners are kept in its field `owners`, by path."""
    result = copy.deepcopy(present)
    owners: dict[Path, set[str]] = result.setdefault("owners", {})
    wanted = dict(_leaves(applied))
    fields = dict(_leaves({name: each for name, each in result.items() if name != "owners"}))
    for path, value in wanted.items():
        others = owners.get(path, set()) - {manager}
        if others and fields.get(path) != value:
            if not force:
                raise Refusal(409, "Conflict", f"conflict with {min(others)}: .{'.'.join(path)}")
            owners[path] = set()
    for path in [path for path, who in owners.items() if manager in who and path not in wanted]:
        owners[path].discard(manager)
        if not owners[path]:
            del owners[path]
            fields.pop(path, None)
    for path, value in wanted.items():
        fields[path] = value
        owners.setdefault(path, set()).add(manager)
    return _tree(fields) | {"owners": owners}


def _leaves(value: dict[str, Any], at: Path = ()) -> Iterator[tuple[Path, Any]]:
    for name, each in value.items():
        if isinstance(each, dict):
            yield from _leaves(each, (*at, name))
        elif name in MAP_LISTS:
            for item in each:
                yield from _leaves(item, (*at, name, item["type"]))
        else:
            yield (*at, name), each


def _tree(fields: dict[Path, Any]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    for path, value in fields.items():
        node = root
        for name in path[:-1]:
            node = node.setdefault(name, {})
        node[path[-1]] = value
    return _listed(root)


def _listed(node: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, each in node.items():
        if isinstance(each, dict):
            made = _listed(each)
            found[name] = [made[key] for key in sorted(made)] if name in MAP_LISTS else made
        else:
            found[name] = each
    return found
