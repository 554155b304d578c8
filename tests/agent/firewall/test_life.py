"""An agent's life on a bridge in memory: where its intent comes from, what it says, what it does when things fail."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from tests.agent.firewall.bridge import OUT, Agent, Bridge, config, documents, policy, rule, run, text, until

from hitless.agent.firewall import facts, life, shelf
from hitless.agent.firewall.config import LabConfig
from hitless.agent.firewall.memory import read_intent
from hitless.core.firewall.documents import read
from hitless.core.model.flow import Interface
from hitless.ports import Put, StoreUnavailableError, SwitchError
from hitless.stores.memory import MemoryStore
from hitless.stores.memory_log import MemoryLog

SHOP = (OUT, rule(80, "clients"))


def test_an_agent_settles_follows_its_files_and_restarts_without_a_write(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(tmp_path, Bridge())
        agent.say(documents())
        with capture_logs() as logs:
            agent.start()
            first = await agent.settled()
            assert first.flows == first.flow_mods == len(agent.bridge.ours)
            assert (first.ports, first.ports_elsewhere, first.pid) == (("c1", "w1", "w2"), 0, os.getpid())
            assert not first.degraded
            agent.say(documents(SHOP))
            wanted = facts.generation(policy(SHOP))

            async def changed() -> bool:
                return agent.status.settled and agent.status.generation == wanted

            await until(changed)
        told = [each["event"] for each in logs]
        assert [each for each in told if each != "firewall-condition"] == [
            "intent-adopted", "firewall-applied", "firewall-settled"] * 2  # fmt: skip
        await agent.stop()
        agent.bridge.calls.clear()
        agent.start()
        assert (await agent.settled(flow_mods=0)).flows == len(agent.bridge.ours)
        assert not agent.bridge.written
        await agent.stop()

    run(test)


def test_bad_documents_are_refused_and_the_last_good_intent_stays(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(tmp_path, Bridge())
        agent.say(documents())
        agent.start()
        good = await agent.settled()
        tables = agent.bridge.ours
        with capture_logs() as logs:
            agent.say(text(documents()).replace('"blue"', '"bleu"', 1))

            async def refused() -> bool:
                return "intent-refused" in agent.codes

            await until(refused)
            refusals = [each for each in logs if each["event"] == "intent-refused"]
        assert refusals
        assert {each["code"] for each in refusals} == {"intent-reference"}
        assert agent.status.settled
        assert agent.status.degraded
        assert (agent.status.generation, agent.bridge.ours) == (good.generation, tables)
        await agent.stop()

        agent.start()  # a successor knows it from its state directory
        await until(refused)
        await agent.settled(flow_mods=0)
        agent.say(documents())

        async def forgiven() -> bool:
            return not agent.codes

        await until(forgiven)
        await agent.stop()

    run(test)


def test_without_any_intent_nothing_is_written_but_a_stale_wait_is_ended(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(tmp_path, Bridge())
        agent.bridge.external_ids[facts.RESTORING] = "1"
        agent.bridge.restore_wait = True
        agent.say("nonsense: [")
        agent.start()

        async def refused() -> bool:
            return "intent-refused" in agent.codes and not agent.bridge.restore_wait

        await until(refused)
        assert agent.bridge.written == ["set_restore_wait", "remember"]
        assert not agent.bridge.ours
        assert not agent.status.settled
        await agent.stop()

    run(test)


def test_a_switch_that_is_away_is_waited_for(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(tmp_path, Bridge())
        agent.say(documents())
        agent.bridge.up = False
        with capture_logs() as logs:
            agent.start()

            async def missed() -> bool:
                return "switch-unavailable" in agent.codes

            await until(missed)
            assert not agent.status.settled
            agent.bridge.up = True
            await agent.settled()
            assert not agent.codes
            agent.bridge.restart()
            agent.bridge.news.set()

            async def restored() -> bool:
                return any(each["event"] == "switch-restarted" for each in logs) and agent.status.settled

            await until(restored)
        assert sum(each["event"] == "switch-unavailable" for each in logs) == 1
        assert len(agent.bridge.ours) == agent.status.flows
        await agent.stop()

    run(test)


def test_lost_tables_are_noticed_without_any_news(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(tmp_path, Bridge())
        agent.say(documents())
        agent.start()
        flows = (await agent.settled()).flows
        agent.bridge.restart()

        async def restored() -> bool:
            return len(agent.bridge.ours) == flows and agent.status.settled

        await until(restored)
        await agent.stop()

    run(test)


def test_a_refused_bundle_is_told_with_its_flow_and_tried_again(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(tmp_path, Bridge())
        agent.bridge.refuses = lambda op: "OFPBAC_X" if op.flow.table == 82 else ""
        agent.say(documents())
        agent.start()

        async def refused() -> bool:
            return "bundle-refused" in agent.codes

        await until(refused)
        assert "OFPBAC_X" in agent.status.conditions[0].about
        assert not agent.bridge.ours
        agent.bridge.refuses = lambda _op: ""
        await agent.settled()
        assert not agent.codes
        await agent.stop()

    run(test)


def test_a_port_that_is_plugged_in_is_guarded_at_once(tmp_path: Path) -> None:
    async def test() -> None:
        agent = Agent(tmp_path, Bridge("w1", "c1"))
        agent.say(documents())
        agent.start()
        assert (await agent.settled()).ports == ("c1", "w1")
        assert agent.status.ports_elsewhere == 1
        agent.bridge.interfaces["w2"] = Interface("w2", 12)
        agent.bridge.news.set()

        async def guarded() -> bool:
            return agent.status.ports == ("c1", "w1", "w2") and agent.status.settled

        await until(guarded)
        assert agent.bridge.interfaces["w2"].tag == agent.bridge.interfaces["w1"].tag
        await agent.stop()

    run(test)


# --- the store ----------------------------------------------------------------------------------------------


def test_documents_come_through_the_store(tmp_path: Path) -> None:
    async def test() -> None:
        store = MemoryStore(MemoryLog())
        agent = Agent(tmp_path, Bridge())
        agent.start(store, intent="", cluster="demo")

        async def missing() -> bool:
            return "intent-incomplete" in agent.codes

        await until(missing)
        assert not agent.bridge.written
        many = documents(ports={f"p{n}": (str(n), "web") for n in range(1, 200)} | {"w1": ("201", "web")})
        pushed = await shelf.push(store, "demo", read(text(many), "x"))
        assert (pushed.documents, pushed.written, pushed.deleted) == (203, 203, 0)
        assert (await agent.settled()).ports == ("w1",)
        fewer = documents(SHOP)
        assert (await shelf.push(store, "demo", read(text(fewer), "x"))).deleted == 199
        wanted = facts.generation(policy(SHOP))

        async def followed() -> bool:
            return agent.status.settled and agent.status.generation == wanted

        await until(followed)
        again = await shelf.push(store, "demo", read(text(fewer), "x"))
        assert (again.written, again.deleted) == (0, 0)
        await agent.stop()
        remembered = read_intent(tmp_path / "state")
        assert remembered is not None
        assert facts.generation(remembered) == wanted

    run(test)


def test_half_a_push_is_not_taken_and_an_absent_store_is_no_reason_to_stop(tmp_path: Path) -> None:
    async def test() -> None:
        log = MemoryLog()
        store = MemoryStore(log)
        agent = Agent(tmp_path, Bridge())
        await shelf.push(store, "demo", read(text(documents()), "x"))
        agent.start(store, intent="", cluster="demo")
        good = await agent.settled()
        key = shelf.root("demo") + "SecurityGroup/web"
        await store.commit((), [Put(key, text(documents(SHOP)[1:2]).encode())])

        async def incomplete() -> bool:
            return "intent-incomplete" in agent.codes

        await until(incomplete)
        assert (agent.status.generation, agent.status.flow_mods) == (good.generation, good.flow_mods)
        await agent.stop()
        agent.start(store, intent="", cluster="demo")
        await until(incomplete)
        await agent.settled(flow_mods=0)
        await agent.stop()

    run(test)


class Away(MemoryStore):
    """Cannot be reached while `away`."""

    away = True

    async def epoch(self) -> str:
        if self.away:
            raise StoreUnavailableError("store-unavailable", "nobody answers")
        return await super().epoch()


def test_a_store_that_is_away_at_the_start_leaves_the_last_good_intent_in_force(tmp_path: Path) -> None:
    async def test() -> None:
        log = MemoryLog()
        agent = Agent(tmp_path, Bridge())
        await shelf.push(MemoryStore(log), "demo", read(text(documents()), "x"))
        agent.start(MemoryStore(log), intent="", cluster="demo")
        good = await agent.settled()
        await agent.stop()
        agent.bridge.restart()
        store = Away(log)
        agent.start(store, intent="", cluster="demo")

        async def restored() -> bool:
            return agent.status.settled and agent.codes == {"store-unavailable"}

        await until(restored)
        assert (agent.status.generation, len(agent.bridge.ours)) == (good.generation, good.flows)
        store.away = False

        async def back() -> bool:
            return not agent.codes

        await until(back)
        await agent.stop()

    run(test)


def test_news_that_end_are_made_up_for_by_looks(tmp_path: Path) -> None:
    class Deaf(Bridge):
        async def changes(self) -> AsyncIterator[object]:
            if self.interfaces:
                raise SwitchError("switch-tool-missing", "ovsdb-client is not installed")
            yield "never"

    async def test() -> None:
        agent = Agent(tmp_path, Deaf("w1"))
        agent.say(documents())
        with capture_logs() as logs:
            agent.start(resync_seconds=0.05)
            await agent.settled()
            agent.bridge.interfaces["w2"] = Interface("w2", 5)

            async def guarded() -> bool:
                return agent.status.ports == ("w1", "w2") and agent.status.settled

            await until(guarded)
        assert "switch-failed" in {each["event"] for each in logs}
        await agent.stop()

    run(test)


# --- the lab ------------------------------------------------------------------------------------------------


def test_the_lab_chooses_where_an_agent_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    died: list[str] = []
    monkeypatch.setattr(life, "kill_this_process", lambda: died.append("killed"))
    point = life.crash_at(config(tmp_path, lab=LabConfig(crash_at="applied")))
    with capture_logs() as logs:
        for step in ("observed", "compiled", "applied", "barrier"):
            point(step)
    assert died == ["killed"]
    assert [each["step"] for each in logs] == ["applied"]
