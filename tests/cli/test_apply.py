"""`hitless apply`: what it refuses, what it does, and what becomes of a change that nobody confirms."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.agent.firewall.bridge import OUT, WEB, config, firewall, policy, rule
from tests.cli.firewall_node import Node
from tests.cli.test_plan import SWAPPED, opaque_flow

from hitless.agent.firewall import confirm, locks, planning
from hitless.agent.firewall.memory import write_json
from hitless.agent.firewall.status import Status

APPLY = ("apply", "p.json", "-c", "fw.toml")
SHOP = (*WEB, rule(8080, "clients"))


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def planned(node: Node, *args: object, wanted: int = 3, **more: object) -> None:
    node.say(*args, **more)
    node.run("plan", "-c", "fw.toml", "--out", "p.json", wanted=wanted)


def test_a_plan_is_carried_out_as_the_agent_would(node: Node) -> None:
    planned(node, SHOP)
    assert "in force: " in node.run(*APPLY)
    assert node.bridge.external_ids["hitless-intent"] == node.bridge.external_ids["hitless-committed"]
    assert confirm.UNTIL not in node.bridge.external_ids
    assert "barrier" in node.bridge.calls
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")
    assert firewall(node.bridge).round(policy(SHOP), look=True).flow_mods == 0


def test_a_change_that_takes_more_than_one_bundle_is_carried_out(node: Node) -> None:
    planned(node, ports={"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("12", "clients")})
    assert len(json.loads((node.place / "p.json").read_text())["batches"]) > 1
    node.run(*APPLY)
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")


def test_a_plan_for_another_state_of_the_bridge_is_stale(node: Node) -> None:
    planned(node, SHOP)
    key, flow = next(iter(node.bridge.ours.items()))
    del node.bridge.flows[key]
    assert "[plan-stale]" in node.run(*APPLY, wanted=1)
    node.bridge.flows[key] = flow
    node.say((OUT,))
    assert "the documents say something else now" in node.run(*APPLY, wanted=1)
    node.say(SHOP)
    node.bridge.writes = 0
    node.run(*APPLY)
    assert node.bridge.writes


def test_a_plan_of_another_node_or_none_at_all_is_refused(node: Node) -> None:
    planned(node, SHOP)
    written = (node.place / "fw.toml").read_text()
    (node.place / "fw.toml").write_text(written.replace('"n1"', '"n2"'))
    assert "[plan-elsewhere]" in node.run(*APPLY, wanted=1)
    (node.place / "fw.toml").write_text(written)
    (node.place / "p.json").write_text("{}")
    assert "[plan-invalid]" in node.run(*APPLY, wanted=1)
    (node.place / "p.json").unlink()
    assert "p.json: does not exist" in node.run(*APPLY, wanted=1)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("tp_dst=8080", "tp_dst=22"),  # what is written
        ('"added": ', '"added": 1'),  # why, and how much
        ("tp_dst=8080, ", "tp_dst=22, "),  # who notices
        ('"cut": [', '"cut": [], "cut": ['),  # a second field of the same name
        ('"proved"', '"unknown"'),
        ('"node": "n1"', '"node": "n1", "more": false'),
    ],
)
def test_a_plan_that_was_edited_is_refused(node: Node, old: str, new: str) -> None:
    planned(node, SHOP)
    said = (node.place / "p.json").read_text()
    assert old in said
    (node.place / "p.json").write_text(said.replace(old, new))
    assert "[plan-invalid]" in node.run(*APPLY, wanted=1)
    assert not node.bridge.written
    (node.place / "p.json").write_text(said.replace("\n", "\r\n\t"))
    node.run(*APPLY)


def test_what_is_written_is_what_the_file_says(node: Node) -> None:
    planned(node, SHOP)
    saved = planning.read((node.place / "p.json").read_bytes())
    other = tuple(tuple(each.replace("tp_dst=8080", "tp_dst=22") for each in batch) for batch in saved.batches)
    forged = msgspec.structs.replace(saved, batches=other).sealed()
    (node.place / "p.json").write_bytes(msgspec.json.encode(forged))
    assert "[plan-stale]" in node.run(*APPLY, wanted=1)
    assert not node.bridge.written


def test_a_change_is_judged_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    from hitless.agent.firewall import guard

    judged: list[object] = []
    judge = guard.judge

    def counted(*args: Any) -> guard.Judged:
        judged.append(args)
        return judge(*args)

    monkeypatch.setattr(guard, "judge", counted)
    planned(node, SHOP)
    judged.clear()
    node.run(*APPLY)
    assert len(judged) == 1


def test_nothing_is_done_beside_an_agent(node: Node) -> None:
    planned(node, SHOP)
    with locks.bridge(config(node.place, run_dir="."), "agent"):
        said = node.run(*APPLY, wanted=1)
    assert f"process {os.getpid()}, state directory {node.place}/state" in said
    assert "[agent-alive]" in said
    with locks.bridge(config(node.place, run_dir=".", state_dir="other"), "agent"):
        assert f"{node.place}/other" in node.run(*APPLY, wanted=1)
    assert not node.bridge.written
    # What an agent leaves behind is no agent, whoever has its number now.
    write_json(node.place / "state/status.json", Status("n1", "br", os.getpid()))
    node.run(*APPLY)


def test_two_commands_do_not_write_at_once(node: Node) -> None:
    planned(node, SHOP)
    with locks.bridge(config(node.place, run_dir="."), "apply"):
        assert f"process {os.getpid()}, `hitless apply`, is writing" in node.run(*APPLY, wanted=1)
    assert not node.bridge.written


def test_a_refuted_plan_is_not_carried_out(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitless.agent.firewall.guard.stamped", lambda bundle, _stamp: (bundle,))
    planned(node, ports=SWAPPED, wanted=4)
    for more in ((), ("--accept-unknown",)):
        assert "[plan-refuted]" in node.run(*APPLY, *more, wanted=4)
    # Nor one whose file says otherwise: it is judged again right before.
    saved = planning.read((node.place / "p.json").read_bytes())
    verdict = msgspec.structs.replace(saved.verdict, verdict="proved")
    forged = msgspec.structs.replace(saved, verdict=verdict).sealed()
    (node.place / "p.json").write_bytes(msgspec.json.encode(forged))
    assert "[plan-refuted]" in node.run(*APPLY, wanted=4)
    assert not node.bridge.written


def test_what_is_unknown_is_carried_out_only_when_it_is_accepted(node: Node) -> None:
    odd = opaque_flow()
    node.bridge.flows[odd.key] = odd
    planned(node, ports={"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("12", "clients")}, wanted=7)
    said = node.run(*APPLY, wanted=7)
    assert "--accept-unknown" in said
    assert "[plan-unknown]" in said
    assert not node.bridge.written
    node.run(*APPLY, "--accept-unknown")
    assert "nothing to change" in node.run("plan", "-c", "fw.toml")
