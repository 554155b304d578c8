"""A stand-in for the Kubernetes API server: the part of its REST interface that the store uses, over real HTTP.

It is written from the documentation (API concepts, KEP-5504, KEP-956, apimachinery's Status) and is no proof that a
real server does the same. It is strict where it can be: objects are pruned and checked by the project's own resource
definitions, preconditions are kept, revisions have gaps, and rights are those of the project's own role.

This is its HTTP side: one thread with a loop of its own, a port, and faults as switches. `objects` lies behind it.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Coroutine, Mapping
from email.utils import formatdate
from functools import cache
from pathlib import Path
from time import time
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from tests.stores.apiserver.objects import Event, Key, Object, Objects, documents
from tests.stores.apiserver.refusals import Refusal

T = TypeVar("T")
TOKEN = "not-a-secret"
NAMESPACE = "hitless"
GROUPS = {
    "hitless.dev/v1alpha1": {"hitlessrecords": "HitlessRecord", "hitlessnodes": "HitlessNode"},
    "coordination.k8s.io/v1": {"leases": "Lease"},
}
BOOKMARK_SECONDS = 0.05
"""A real server sends one a minute."""


def rights(role: str) -> frozenset[tuple[str, str]]:
    """Verbs and resources of a role in the project's own rbac.yaml."""
    for each in documents("rbac.yaml"):
        if each["kind"] == "Role" and each["metadata"]["name"] == role:
            return frozenset(
                (verb, resource) for rule in each["rules"] for resource in rule["resources"] for verb in rule["verbs"]
            )
    raise LookupError(role)


class Request:
    def __init__(self, method: str, target: str, headers: Mapping[str, str], body: bytes) -> None:
        parts = urlsplit(target)
        self.method, self.headers, self.body = method, headers, body
        self.query = dict(parse_qsl(parts.query))
        self.path = unquote(parts.path)
        segments = self.path.strip("/").split("/")
        # apis/GROUP/VERSION/namespaces/NAMESPACE/RESOURCE[/NAME[/SUBRESOURCE]]
        if len(segments) < 6 or segments[0] != "apis" or segments[3] != "namespaces":
            raise Refusal(404, "", "404 page not found")
        self.group, self.namespace, self.resource = "/".join(segments[1:3]), segments[4], segments[5]
        self.name = segments[6] if len(segments) > 6 else ""
        self.sub = segments[7] if len(segments) > 7 else ""

    @property
    def verb(self) -> str:
        if self.method == "GET":
            return "get" if self.name else "watch" if self.query.get("watch") == "true" else "list"
        return {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}[self.method]

    @property
    def right(self) -> tuple[str, str]:
        return self.verb, self.resource + (f"/{self.sub}" if self.sub else "")

    @property
    def key(self) -> Key:
        return self.resource, self.namespace, self.name

    def json(self) -> Object:
        if len(self.body) > 3 * 1024 * 1024:
            raise Refusal(413, "RequestEntityTooLarge", "limit is 3145728")
        found = json.loads(self.body) if self.body else {}
        assert isinstance(found, dict)
        return found


class ApiServer:
    """Start with `ApiServer()`; the faults below may be set from any thread, the objects only through `act`."""

    def __init__(self) -> None:
        self.objects = Objects()
        self.seen: list[tuple[str, str]] = []
        self.port = 0
        self.reset()
        self._loop = asyncio.new_event_loop()
        self._connections: set[asyncio.StreamWriter] = set()
        self._news = asyncio.Event()
        self.objects.changed = self._news.set
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), daemon=True)
        self._thread.start()
        started.wait(10)

    def reset(self) -> None:
        """No faults, nobody seen, and the rights of an agent."""
        self.seen.clear()
        self.allowed = rights("hitless-agent")
        self.crds = True
        self.namespaces = {NAMESPACE}
        self.ahead_seconds = 0.0  # of this machine's clock
        self.page_objects = 10**6  # at most so many in one answer to a listing
        self.refuse_next: list[Refusal] = []
        self.lose_replies = 0  # so many writes take effect and are not answered
        self.before_write: Callable[[Request], None] | None = None
        self.before_next_page: Callable[[], object] | None = None
        self.silent = False  # watches say nothing, not even bookmarks

    # --- for tests, from their thread

    def act(self, action: Callable[[], T]) -> T:
        """Do something to the objects in the server's own thread."""

        async def run() -> T:
            return action()

        return self._wait(run())

    def clear(self) -> None:
        """As new, with the same port."""
        self.reset()
        self.act(self.objects.wipe)

    def recreate(self) -> None:
        """Another cluster behind the same address."""
        self.act(self.objects.wipe)

    def hang_up(self) -> None:
        """All connections there are break."""

        async def abort() -> None:
            for each in tuple(self._connections):
                each.transport.abort()

        self._wait(abort())

    def stop_listening(self) -> None:
        async def stop() -> None:
            self._server.close()
            for each in tuple(self._connections):
                each.transport.abort()

        self._wait(stop())

    def listen_again(self) -> None:
        async def listen() -> None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

        self._wait(listen())

    def kubeconfig(self, directory: Path, token: str = TOKEN, namespace: str = NAMESPACE) -> Path:
        """A kubeconfig file for this server."""
        path = directory / "kubeconfig"
        directory.mkdir(parents=True, exist_ok=True)
        path.write_text(
            json.dumps(
                {
                    "current-context": "here",
                    "clusters": [{"name": "here", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
                    "users": [{"name": "node", "user": {"token": token}}],
                    "contexts": [
                        {"name": "here", "context": {"cluster": "here", "user": "node", "namespace": namespace}}
                    ],
                }
            )
        )
        return path

    def close(self) -> None:
        self.stop_listening()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    def _wait(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    # --- HTTP

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = int(self._server.sockets[0].getsockname()[1])
        started.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        try:
            while True:
                first = await reader.readexactly(1)
                if not first.isalpha():  # TLS, say
                    writer.write(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                    return
                head = (first + await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
                method, target, _ = head[0].split(" ")
                headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in head[1:] if line)}
                body = await reader.readexactly(int(headers.get("content-length", "0")))
                await self._answer(method, target, headers, body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            self._connections.discard(writer)
            writer.close()

    async def _answer(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        try:
            request = Request(method, target, headers, body)
            self._admit(request)
            if request.verb == "watch":
                await self._watch(request, writer)
                return
            code, answer = 200, self._do(request)
        except Refusal as refusal:
            plain = b"404 page not found" if refusal.is_plain else json.dumps(refusal.status).encode()
            self._send(writer, refusal.code, plain, "text/plain" if refusal.is_plain else "application/json")
            return
        if method != "GET" and self.lose_replies:
            self.lose_replies -= 1
            raise ConnectionAbortedError
        self._send(writer, code, json.dumps(answer, ensure_ascii=False).encode(), "application/json")

    def _send(self, writer: asyncio.StreamWriter, code: int, body: bytes, kind: str) -> None:
        writer.write(self._head(code, kind) + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)

    def _head(self, code: int, kind: str) -> bytes:
        date = formatdate(int(time() + self.ahead_seconds), usegmt=True)
        return f"HTTP/1.1 {code} Answer\r\nContent-Type: {kind}\r\nDate: {date}\r\n".encode()

    def _admit(self, request: Request) -> None:
        """Authentication, authorization, discovery, in the server's order."""
        if request.headers.get("authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized", "Unauthorized")
        self.seen.append(request.right)
        if self.refuse_next:
            raise self.refuse_next.pop(0)
        if request.right not in self.allowed:
            verb, resource = request.right
            message = f'{resource} is forbidden: User "node" cannot {verb} resource "{resource}"'
            raise Refusal(403, "Forbidden", message, kind=resource)
        if request.resource not in GROUPS.get(request.group, {}) or not self.crds:
            raise Refusal(404, "", "404 page not found")
        if request.method == "POST" and request.namespace not in self.namespaces:
            name = request.namespace
            raise Refusal(404, "NotFound", f'namespaces "{name}" not found', name=name, kind="namespaces")

    def _do(self, request: Request) -> Object:
        if request.method != "GET" and self.before_write is not None:
            self.before_write(request)
        match request.verb:
            case "get":
                return self._shown(request, self.objects.get(request.key))
            case "list":
                return self._list(request)
            case "create":
                self._check_manager(request)
                return self._shown(
                    request, self.objects.create(request.resource, request.namespace, request.json())
                )
            case "update":
                self._check_manager(request)
                return self._shown(request, self.objects.update(request.key, request.json()))
            case "patch":
                return self._apply(request)
            case _:
                self.objects.delete(request.key, request.json().get("preconditions", {}))
                # A Status without a revision: this is why the store cannot learn that of a deletion.
                return {"kind": "Status", "apiVersion": "v1", "status": "Success", "details": {"name": request.name}}

    def _check_manager(self, request: Request) -> None:
        if request.query.get("fieldManager") != "hitless":
            raise Refusal(400, "BadRequest", "fieldManager is missing")

    def _apply(self, request: Request) -> Object:
        self._check_manager(request)
        if request.headers["content-type"] != "application/apply-patch+yaml":
            raise Refusal(415, "UnsupportedMediaType", "only apply")
        force, status = request.query.get("force") == "true", request.sub == "status"
        manager = request.query["fieldManager"]
        return self._shown(
            request, self.objects.apply(request.key, request.json(), manager, force=force, status=status)
        )

    def _list(self, request: Request) -> Object:
        # A page is as of the first one's revision. Here, where there is no old one to read, any change ends that.
        begin, revision = 0, self.objects.revision
        if "continue" in request.query:
            if self.before_next_page is not None:
                act, self.before_next_page = self.before_next_page, None
                act()
            begin, revision = (int(each) for each in request.query["continue"].split("."))
            if revision <= self.objects.compacted or revision != self.objects.revision:
                raise Refusal(410, "Expired", "The provided continue parameter is too old")
        found = self.objects.list(request.resource, request.namespace, _selector(request.query))
        limit = min(int(request.query.get("limit", "0")) or 10**6, self.page_objects)
        page = found[begin : begin + limit]
        metadata = {"resourceVersion": str(revision)}
        if begin + limit < len(found):
            metadata["continue"] = f"{begin + limit}.{revision}"
        kind = GROUPS[request.group][request.resource]
        return {"kind": f"{kind}List", "metadata": metadata, "items": [self._shown(request, each) for each in page]}

    def _shown(self, request: Request, found: Object) -> Object:
        kind = GROUPS[request.group][request.resource]
        shown = {name: each for name, each in found.items() if name != "owners"}
        return shown | {"apiVersion": request.group, "kind": kind}

    # --- watching

    async def _watch(self, request: Request, writer: asyncio.StreamWriter) -> None:
        after = int(request.query["resourceVersion"])
        writer.write(self._head(200, "application/json") + b"Transfer-Encoding: chunked\r\n\r\n")
        if after == 0:  # "any": what is there, as if it had just come
            for each in self.objects.list(request.resource, request.namespace, lambda _: True):
                self._line(writer, "ADDED", self._shown(request, each))
            await self._changes(request, writer, self.objects.revision)
        elif after < self.objects.compacted or after < 2:
            oldest = self.objects.compacted or 2
            message = f"too old resource version: {after} ({oldest})"
            self._line(writer, "ERROR", Refusal(410, "Expired", message).status)
        elif after > self.objects.revision:
            refusal = Refusal(504, "Timeout", "Too large resource version", causes=("ResourceVersionTooLarge",))
            self._line(writer, "ERROR", refusal.status)
        else:
            await self._changes(request, writer, after)
        writer.write(b"0\r\n\r\n")

    async def _changes(self, request: Request, writer: asyncio.StreamWriter, after: int) -> None:
        generation, told = self.objects.generation, after
        while not writer.is_closing() and generation == self.objects.generation:
            self._news.clear()
            if not self.silent:
                for event in [each for each in self.objects.events if each.revision > told]:
                    if event.key[:2] == (request.resource, request.namespace):
                        self._tell(request, writer, event)
                if request.query.get("allowWatchBookmarks") == "true" and self.objects.revision > after:
                    after = self.objects.revision
                    meta = {"metadata": {"resourceVersion": str(after), "creationTimestamp": None}, "spec": {}}
                    self._line(writer, "BOOKMARK", meta)
                told = self.objects.revision
                await writer.drain()
            try:
                await asyncio.wait_for(self._news.wait(), BOOKMARK_SECONDS)
            except TimeoutError:
                continue
        writer.transport.abort()

    def _tell(self, request: Request, writer: asyncio.StreamWriter, event: Event) -> None:
        self._line(writer, event.kind, self._shown(request, event.object))

    def _line(self, writer: asyncio.StreamWriter, kind: str, found: Mapping[str, Any]) -> None:
        line = json.dumps({"type": kind, "object": found}, ensure_ascii=False).encode() + b"\n"
        # In two chunks: whoever takes a chunk for a line finds out.
        for part in (line[: len(line) // 2], line[len(line) // 2 :]):
            writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")


def _selector(query: Mapping[str, str]) -> Callable[[Mapping[str, str]], bool]:
    wanted = [part.partition("=") for part in query.get("labelSelector", "").split(",") if part]
    return lambda labels: all(labels.get(key) == value if sign else key in labels for key, sign, value in wanted)


@cache
def shared() -> ApiServer:
    """One for all tests of this process."""
    return ApiServer()
