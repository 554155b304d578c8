"""A bridge in memory with a handful of ports, documents to go with it, and agents that live on both."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from hitless.agent.firewall.config import Config
from hitless.agent.firewall.life import live
from hitless.agent.firewall.rounds import Firewall
from hitless.agent.firewall.status import Status, read_status
from hitless.core.firewall.documents import read
from hitless.core.firewall.intent import intent
from hitless.core.firewall.pipeline import TABLES
from hitless.core.model.flow import Flow, FlowKey, Interface
from hitless.core.model.security import Intent
from hitless.drivers.fake.switch import FakeSwitch
from hitless.ports import Store

DEADLINE_SECONDS = 30.0
WRITES = {"apply", "remember", "set_tags", "set_fail_secure", "set_restore_wait", "barrier", "cut"}


class Crash(BaseException):
    """The process died here."""


def rule(port: int, remote: str = "", *, protocol: str = "tcp", **more: Any) -> dict[str, Any]:
    """An ingress rule, by default from members of a group."""
    other = {"remote": {"prefix" if "." in remote else "group": remote}} if remote else {}
    return {"direction": "ingress", "ethertype": "ipv4", "protocol": protocol, "port": port, **other, **more}


OUT = {"direction": "egress", "ethertype": "ipv4"}
WEB: tuple[dict[str, Any], ...] = (OUT, rule(80, "clients"), rule(443, "10.9.0.0/16"))


def documents(
    web: Iterable[dict[str, Any]] = WEB, ports: dict[str, tuple[str, str]] | None = None, network: str = "blue"
) -> list[dict[str, Any]]:
    """Two groups, a network, and ports by name: (last octet, group)."""
    there = {"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("11", "clients")} if ports is None else ports

    def document(kind: str, name: str, **spec: Any) -> dict[str, Any]:
        return {"apiVersion": "hitless/v1", "kind": kind, "metadata": {"name": name}, "spec": spec}

    return [
        document("Network", network),
        document("SecurityGroup", "web", rules=list(web)),
        document("SecurityGroup", "clients", rules=[OUT]),
        *(
            document("Port", name, network=network, mac=f"fa:16:3e:00:00:{int(last):02x}",
                     addresses=[f"10.0.0.{last}"], groups=[group])
            for name, (last, group) in there.items()
        ),
    ]  # fmt: skip


def text(found: list[dict[str, Any]]) -> str:
    return "\n---\n".join(json.dumps(each) for each in found)


def policy(*args: Any, **more: Any) -> Intent:
    return intent(read(text(documents(*args, **more)), "intent.yaml"))


class Bridge(FakeSwitch):
    """A fake switch that says when to look, and who knows what is ours."""

    def __init__(self, *names: str, **more: Any) -> None:
        there = [Interface(name, number) for number, name in enumerate(names or ("w1", "w2", "c1"), 1)]
        super().__init__(tables=TABLES, interfaces=there, **more)
        self.news = asyncio.Event()

    async def changes(self) -> AsyncIterator[object]:
        while True:
            yield "bridge"
            await self.news.wait()
            self.news.clear()

    @property
    def ours(self) -> dict[FlowKey, Flow]:
        return {key: flow for key, flow in self.flows.items() if self.owns(flow)}

    @property
    def written(self) -> list[str]:
        """Names of the calls that change something, or wait for a change."""
        return [each for each in self.calls if each in WRITES]


def config(place: Path, **changes: Any) -> Config:
    values: dict[str, Any] = {"node": "n1", "bridge": "br", "intent": str(place / "intent"),
                              "state_dir": str(place / "state")}  # fmt: skip
    return Config(**{**values, **changes})


def firewall(switch: FakeSwitch, *, crash_at: str = "", **changes: Any) -> Firewall:
    """A process's firewall; it dies at a step."""

    def point(step: str) -> None:
        if step == crash_at:
            raise Crash(step)

    return Firewall(switch, config(Path("/nowhere"), **changes), point)


class Agent:
    """Agents that live one after the other on one bridge, one directory of documents and one state directory."""

    def __init__(self, place: Path, bridge: Bridge) -> None:
        self.place, self.bridge = place, bridge
        self.life: asyncio.Task[None] | None = None

    def say(self, found: list[dict[str, Any]] | str) -> None:
        """Put documents in place, in one step."""
        directory = self.place / "intent"
        directory.mkdir(exist_ok=True)
        draft = directory / ".new"
        draft.write_text(found if isinstance(found, str) else text(found), encoding="utf-8")
        draft.replace(directory / "all.yaml")

    def start(self, store: Store | None = None, **changes: Any) -> None:
        def opened() -> Store:
            assert store is not None
            return store

        self.life = asyncio.create_task(live(config(self.place, **changes), self.bridge, opened, os.getpid()))

    async def stop(self) -> None:
        assert self.life is not None
        self.life.cancel()
        await asyncio.gather(self.life, return_exceptions=True)

    @property
    def status(self) -> Status:
        if self.life is not None and self.life.done():
            self.life.result()  # an agent that died: say why
        return read_status(self.place / "state") or Status(node="", bridge="", pid=0)

    @property
    def codes(self) -> set[str]:
        return {each.code for each in self.status.conditions}

    async def settled(self, flow_mods: int | None = None) -> Status:
        async def holds() -> bool:
            found = self.status
            return found.settled and flow_mods in {None, found.flow_mods}

        await until(holds)
        return self.status


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), DEADLINE_SECONDS * 2))


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await holds():
            await asyncio.sleep(0.005)
