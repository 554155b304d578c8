"""`hitless doctor` on the real kernel, as a person calls it: a healthy node, and two that are not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Final

import msgspec
import pytest

from hitless.lab import grammar
from hitless.lab.agents import COMMAND
from hitless.lab.ground import KernelGround
from hitless.lab.records import StoreRecords
from hitless.lab.run import CLUSTER
from hitless.lab.runner import Runner
from hitless.lab.storage import FileHome
from hitless.stores.open import open_store
from hitless.telemetry.doctor import Finding

pytestmark = pytest.mark.kernel

_SECONDS: Final = 60.0  # a command takes two in a guest whose CPU is busy
_DEGRADED: Final = 5


class Lab:
    """Two nodes with agents, and the doctor for them."""

    def __init__(self, runner: Runner, ground: KernelGround, work: Path) -> None:
        self._runner, self._ground, self._work = runner, ground, work

    async def do(self, *steps: str) -> None:
        """Steps of the scenario language; a wait that is not fulfilled raises EndedEarlyError."""
        for line in steps:
            step = grammar.parse_step(line, self._runner.nodes)
            assert step is not None
            await self._runner.carry_out(step)

    def in_node(self, node: str, *argv: str) -> tuple[int, bytes]:
        """Exit status and output of a program on a node."""
        log = self._work / "said"
        with log.open("wb") as stream:
            status = self._ground.spawn(node, argv, stream).wait(_SECONDS)
        return status, log.read_bytes()

    def doctor(self, node: str) -> tuple[int, tuple[Finding, ...]]:
        status, said = self.in_node(
            node, *COMMAND, "doctor", "--config", str(self._work / node / "agent.toml"), "-o", "json"
        )
        return status, msgspec.json.decode(said, type=tuple[Finding, ...])


@contextlib.asynccontextmanager
async def lab(work: Path) -> AsyncIterator[Lab]:
    scenario = grammar.parse("title Doctor\nnodes 2\ndrain 0.5s\n---\n", source="doctor", name="doctor")
    ground, home = KernelGround(scenario, prefix="doc"), FileHome(work / "store.db")
    await asyncio.to_thread(ground.up)
    store = open_store(home.own_options)
    runner = Runner(scenario, ground, StoreRecords(store, CLUSTER, home), work=work, logs=work)
    try:
        runner.populate()
        yield Lab(runner, ground, work)
    finally:
        runner.end_all()
        await store.close()
        await asyncio.to_thread(ground.down)


def play(story: Callable[[Lab], Coroutine[None, None, None]], work: Path) -> None:
    async def told() -> None:
        async with lab(work) as here:
            await story(here)

    asyncio.run(told())


def bad(found: tuple[Finding, ...]) -> list[Finding]:
    return [each for each in found if each.level != "ok"]


def test_a_healthy_node_and_one_whose_sa_was_deleted(tmp_path: Path) -> None:
    async def story(here: Lab) -> None:
        await here.do("start all", "wait settled within 60s")
        status, found = here.doctor("n1")
        assert (status, bad(found)) == (0, [])
        assert {"associations", "policies", "decryption"} <= {each.check for each in found}
        # A running agent would put it right in a second: what the doctor is for is one that does not run.
        await here.do("kill n1", "xfrm delete n1 from n2")
        status, found = here.doctor("n1")
        assert status == _DEGRADED
        (gone,) = [each for each in bad(found) if each.check == "associations"]
        assert (gone.level, gone.code) == ("failed", "sa-vanished")
        assert gone.seen.startswith("no IN SA 0x")
        assert gone.seen.endswith("with n2")
        # The other end is whole.
        assert not [each for each in bad(here.doctor("n2")[1]) if each.check == "associations"]

    play(story, tmp_path)


def test_anothers_policy_in_the_way(tmp_path: Path) -> None:
    async def story(here: Lab) -> None:
        allow = ("xfrm", "policy", "add", "src", "10.1.1.0/24", "dst", "10.1.2.0/24", "dir", "out", "priority", "1")
        assert here.in_node("n1", "ip", *allow) == (0, b"")
        await here.do("start all", "wait laggard n2 reason policy-refused within 60s")
        status, found = here.doctor("n1")
        assert status == _DEGRADED
        assert "policy-refused" in {each.code for each in bad(found)}
        first = next(each for each in bad(found) if each.check == "other policies")
        assert first.seen.startswith("out 10.1.1.0/24 > 10.1.2.0/24 allow")
        # It still says so while it is there, and the doctor has changed nothing.
        assert here.in_node("n1", "ip", "xfrm", "policy", "get", *allow[3:9])[0] == 0
        # Once it is away the agent carries on by itself.
        assert here.in_node("n1", "ip", "xfrm", "policy", "delete", *allow[3:9]) == (0, b"")
        await here.do("wait settled within 60s")
        assert "policy-refused" not in {each.code for each in here.doctor("n1")[1]}

    play(story, tmp_path)


def test_the_text_names_code_and_advice(tmp_path: Path) -> None:
    async def story(here: Lab) -> None:
        await here.do("start n1", "wait event n1 registered within 60s", "kill n1", "xfrm flush n1 policies")
        argv = [*COMMAND, "doctor", "--config", str(tmp_path / "n1" / "agent.toml")]
        status, said = here.in_node("n1", *argv)
        assert status == _DEGRADED
        assert b"FAILED   policies: missing: " in said
        assert b"is the agent running?" in said

    play(story, tmp_path)
