"""HitlessNode objects: what `kubectl get hitlessnodes` shows, one a node, with conditions and their reasons.

They are written for people and read by no program: the records are what counts. A node's own agent applies them after
each of its writes, by server-side apply, so that labels and annotations of others stay. Only the newest state of a node
is written, in the background; where that fails nothing else does, and the next write tries again.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from hitless.core.model.node import Behind, NodeRecord, Progress, Tombstone
from hitless.ports import Delete, Put, StoreError
from hitless.stores.kubernetes.api import APPLY, FIELD_MANAGER, Api
from hitless.stores.kubernetes.clock import whole_time
from hitless.stores.kubernetes.errors import RefusedError
from hitless.stores.kubernetes.record import API_VERSION

KIND = "HitlessNode"

_KEY = re.compile(r"/hitless/(?P<cluster>[^/]+)/(?P<kind>nodes|progress|tombstones)/(?P<node>.+)")
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")

MAX_NAMED_PEERS = 10
"""In a condition's message; a fleet's size is no reason for a page of text."""

Body = dict[str, Any]


class Shown:
    """Keeps the HitlessNode objects of one client's writes."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._wanted: dict[tuple[str, str], Body | None] = {}
        self._task: asyncio.Task[None] | None = None
        self.trouble: StoreError | None = None
        """Why the last attempt failed, if it did."""

    def note(self, writes: Sequence[Put | Delete]) -> None:
        """These writes were committed."""
        for write in writes:
            for path, body in _changes(write):
                self._wanted.pop(path, None)
                self._wanted[path] = body
        if self._wanted and (self._task is None or self._task.done()):
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def drained(self) -> None:
        """All that was noted has been written, or could not be."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while self._wanted:
            path = next(iter(self._wanted))
            body = self._wanted.pop(path)
            try:
                await self._apply(path, body)
                self.trouble = None
            except StoreError as error:
                self.trouble = error

    async def _apply(self, path: tuple[str, str], body: Body | None) -> None:
        name, part = path
        where = self._api.nodes(name) + part
        try:
            if body is None:
                await self._api.request("DELETE", where, repeatable=True, refusals=(404,))
                return
            params = {"fieldManager": FIELD_MANAGER, "force": "true"}
            await self._api.request(
                "PATCH", where, params=params, body=body, kind=APPLY, repeatable=True, refusals=(404,)
            )
        except RefusedError:
            return  # a status for an object that is not there (yet): the node's record makes it


def _changes(write: Put | Delete) -> list[tuple[tuple[str, str], Body | None]]:
    """What a write changes, as (object, subresource) and what is applied there; None removes the object."""
    key = _KEY.fullmatch(write.key)
    if key is None:
        return []
    cluster, node, kind = key["cluster"], key["node"], key["kind"]
    name = name_of(cluster, node)
    if isinstance(write, Delete):
        # A node that was removed stays to be seen, until its tombstone is taken away.
        return [((name, ""), None)] if kind == "tombstones" else []
    try:
        match kind:
            case "nodes":
                return [((name, ""), node_body(cluster, msgspec.json.decode(write.value, type=NodeRecord)))]
            case "progress":
                return [((name, "/status"), status_body(cluster, msgspec.json.decode(write.value, type=Progress)))]
            case _:
                return [((name, "/status"), removed_body(cluster, msgspec.json.decode(write.value, type=Tombstone)))]
    except msgspec.MsgspecError:
        return []


def name_of(cluster: str, node: str) -> str:
    """`cluster.node` where that is a name in Kubernetes, and otherwise what is left of it with a hash."""
    name = f"{cluster}.{node}"
    if _NAME.fullmatch(name) and len(name) <= 200 and ".." not in name:
        return name
    readable = re.sub("[^a-z0-9]+", "-", name.lower())[:60].strip("-")
    return f"{readable or 'node'}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"


def node_body(cluster: str, node: NodeRecord) -> Body:
    """What is applied for a node record."""
    spec = {
        "cluster": cluster,
        "node": node.name,
        "nodeID": node.node_id,
        "incarnation": node.incarnation.counter,
        "addresses": list(node.addresses),
        "prefixes": list(node.prefixes),
    }
    return _body(name_of(cluster, node.name)) | {"spec": spec}


def status_body(cluster: str, progress: Progress) -> Body:
    """What is applied to the status for a progress record."""
    since = progress.since
    status = {
        "phase": progress.phase,
        "incarnation": progress.incarnation.counter,
        "sendsGeneration": progress.sends.generation,
        "sendsRevision": progress.sends.revision,
        "receivesGenerations": list(progress.receives.generations),
        "receivesRevision": progress.receives.revision,
        "conditions": [
            _condition("Receiving", progress.receives.behind, "EveryPeer", since),
            _condition("Sending", progress.sends.behind, "EveryPeer", since),
        ],
    }
    return _body(name_of(cluster, progress.name)) | {"status": status}


def removed_body(cluster: str, tombstone: Tombstone) -> Body:
    """What is applied to the status for a tombstone. Other conditions go: nobody speaks for this node any more."""
    removed = {
        "type": "Removed",
        "status": "True",
        "reason": "RemovedByOperator",
        "message": f"removed with incarnation {tombstone.incarnation.counter}; to take it back: "
        f"hitless node restore {tombstone.name}",
        "lastTransitionTime": whole_time(tombstone.removed_at),
    }
    return _body(name_of(cluster, tombstone.name)) | {"status": {"phase": "removed", "conditions": [removed]}}


def _condition(kind: str, behind: Sequence[Behind], fine: str, since: float) -> Body:
    """True where nobody is behind; otherwise the reason is the first one's, and the message names who and why."""
    if not behind:
        message, reason = "no peer is behind", fine
    else:
        ordered = sorted(behind, key=lambda each: (each.since, each.peer))
        named = ", ".join(f"{each.peer} ({each.reason})" for each in ordered[:MAX_NAMED_PEERS])
        more = len(ordered) - MAX_NAMED_PEERS
        message = f"behind: {named}" + (f" and {more} more" if more > 0 else "")
        reason, since = _camel(ordered[0].reason), ordered[0].since
    return {
        "type": kind,
        "status": "False" if behind else "True",
        "reason": reason,
        "message": message,
        "lastTransitionTime": whole_time(since),
    }


def _camel(code: str) -> str:
    """A condition code as Kubernetes writes reasons: `key-missing` is `KeyMissing`."""
    words = re.findall("[A-Za-z0-9]+", code)
    return "".join(word[0].upper() + word[1:] for word in words) or "Unknown"


def _body(name: str) -> Body:
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": name}}
