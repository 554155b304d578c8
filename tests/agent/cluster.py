"""A few agents in one process, on fake kernels and one in-memory store: the real loop, the real protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

from hitless.agent.config import Config, IpsecConfig, LabConfig
from hitless.agent.life import live
from hitless.core.model.sa import Policy, Sa
from hitless.drivers.fake.kernel import FakeKernel
from hitless.stores.memory import MemoryStore
from hitless.stores.memory_log import MemoryLog
from hitless.telemetry.status import NodeStatus, read

DEADLINE_SECONDS = 30.0
DRAIN_SECONDS = 0.05


def run(test: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), DEADLINE_SECONDS * 2))


def key_line(key_id: int, seed: int | None = None) -> str:
    return f"{key_id} rfc4106(gcm(aes)) 0x{((seed or key_id) % 251 + 1).to_bytes(1, 'big').hex() * 20} 128\n"


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not await holds():
            await asyncio.sleep(0.005)


class Cluster:
    """Nodes n1, n2 …: `start` and `stop` their agents, `key` hands out key files."""

    def __init__(self, place: Path, names: tuple[str, ...] = ("n1", "n2", "n3")) -> None:
        self.log = MemoryLog()
        self.place = place
        self.kernels = {name: FakeKernel() for name in names}
        self.lives: dict[str, asyncio.Task[None]] = {}
        self._store = MemoryStore(self.log)

    def config(self, name: str, lab: LabConfig | None = None, **changes: Any) -> Config:
        number = int(name[1:])
        values: dict[str, Any] = {
            "cluster": "test",
            "node": name,
            "addresses": (f"192.0.2.{number}",),
            "prefixes": (f"10.1.{number}.0/24",),
            "protected": ("10.1.0.0/16",),
            "keys": str(self.place / name / "keys"),
            "state_dir": str(self.place / name / "state"),
            "ipsec": IpsecConfig(drain_seconds=DRAIN_SECONDS),
            "lab": lab or LabConfig(),
        }
        return Config(**{**values, **changes})

    def key(self, line: str, *names: str) -> None:
        for name in names or self.kernels:
            file = self.place / name / "keys" / "keys"
            file.parent.mkdir(parents=True, exist_ok=True)
            draft = file.with_name(".new")
            draft.write_text(line)
            draft.replace(file)

    def start(self, *names: str, lab: LabConfig | None = None, **changes: Any) -> None:
        for name in names or self.kernels:
            kernel, config = self.kernels[name], self.config(name, lab, **changes)
            life = live(config, MemoryStore(self.log), kernel, kernel.monitor())
            self.lives[name] = asyncio.create_task(life)

    async def stop(self, *names: str) -> None:
        for name in names or tuple(self.lives):
            life = self.lives.pop(name)
            life.cancel()
            await asyncio.gather(life, return_exceptions=True)

    async def status(self) -> dict[str, NodeStatus]:
        for life in self.lives.values():
            if life.done():
                life.result()  # an agent that died: say why
        await self._store.epoch()  # a store that was created anew is asked for its new history first
        return {node.name: node for node in await read(self._store, "test")}

    async def settled(self, generation: int, *names: str) -> None:
        async def holds() -> bool:
            nodes = await self.status()
            wanted = names or tuple(self.lives)
            return set(wanted) <= nodes.keys() and all(
                nodes[name].phase == "steady" and nodes[name].generation == generation for name in wanted
            )

        await until(holds)

    def records(self) -> dict[str, int]:
        """Every record and the revision that wrote it, heartbeats left out."""
        return {each.key: each.mod_revision for each in self.log.list("/").entries if "/live/" not in each.key}

    def sas(self, name: str) -> list[Sa]:
        return [each.sa for each in self.kernels[name].observe().sas]

    def policies(self, name: str) -> list[Policy]:
        return [each.policy for each in self.kernels[name].observe().policies]

    def generations(self, name: str) -> set[int]:
        """Generations whose SAs the kernel holds, by the first byte of the SPI."""
        return {(sa.spi >> 24) - 1 for sa in self.sas(name)}

    def pinned(self, name: str) -> dict[str, int]:
        """Destination prefix to the SPI that its OUT policy pins."""
        return {
            policy.selector.dst: policy.template.spi
            for policy in self.policies(name)
            if policy.direction == "out" and policy.template
        }
