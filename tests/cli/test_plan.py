"""`hitless plan`: what a person reads before a change, and what is saved of it; nothing is ever written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.agent.firewall.bridge import OUT, WEB, WRITES, rule
from tests.cli.firewall_node import Node

from hitless.core.model.flow import Connection, Flow, Normal, Opaque, exact

SWAPPED = {"w1": ("11", "clients"), "w2": ("2", "web"), "c1": ("1", "web")}  # MAC, address and group, at once
P = {"w1": ("1", "web"), "w2": ("2", "web"), "c1": ("11", "clients")}


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    return Node(tmp_path, monkeypatch)


def zone(node: Node) -> int:
    return int(node.bridge.external_ids["hitless-tags"].removeprefix("blue:"))


def test_nothing_to_change_is_exit_0_and_asks_nothing(node: Node) -> None:
    assert "is in force, nothing to change" in node.run("plan", "-c", "fw.toml")
    assert not WRITES & set(node.bridge.calls)


def test_what_all_ports_share_is_told_in_one_line(node: Node) -> None:
    node.bridge.flows = {}
    said = node.run("plan", "-c", "fw.toml", wanted=3)
    assert said.count("what all ports share") == 1


def test_a_rule_that_comes_is_named_with_its_place(node: Node) -> None:
    node.say((*WEB, rule(8080, "clients", name="alt")))
    said = node.run("plan", "-c", "fw.toml", wanted=3)
    assert "flows added, 0 replaced, 0 deleted, in one bundle" in said
    assert "conjunction web/" in said or "rule web/alt (intent/all.yaml:" in said
    assert "intent/all.yaml:" in said
    assert "proved: one atomic bundle" in said
    assert not WRITES & set(node.bridge.calls)


def test_a_rule_that_goes_is_named_from_the_last_good_intent(node: Node) -> None:
    node.say((OUT, rule(80, "clients")))
    said = node.run("plan", "-c", "fw.toml", wanted=3)
    assert "-2         rule web/" in said
    assert "10.9.0.0/16" in said


def test_packets_that_fare_differently_are_told_with_one_of_them(node: Node) -> None:
    node.say((*WEB, rule(8443, "10.7.0.0/16")))
    found = json.loads(node.run("plan", "-c", "fw.toml", "-o", "json", wanted=3))
    assert found["noticed"]
    assert any("8443" in each["packets"] and each["was"] == "dropped" for each in found["noticed"])
    assert all(each["witness"] for each in found["noticed"])


def test_each_kind_of_packets_says_what_becomes_of_live_connections(node: Node) -> None:
    node.say((OUT, rule(80, "clients", name="kept"), rule(22, "clients", name="new")))
    said = node.run("plan", "-c", "fw.toml", wanted=3)
    assert "packets that fare differently, in 2 kinds:\n" in said
    assert "  tcp, tp_dst=22, new or new related or established" in said
    assert "dropped → 2 places\n" in said
    assert "dl_dst=fa:16:3e:00:00:01: dropped → port w1\n" in said
    assert "nw_src=10.9.0.0/16" in said
    assert "      live connections among them pass again\n" in said
    assert "      live connections among them are cut\n" in said
    assert "  established connections: 1 kind cuts them, 1 kind lets them pass again\n" in said
    assert "      one of them: in_port=c1, 10.0.0.11 → " in said


def test_as_many_kinds_are_told_as_are_asked_for(node: Node) -> None:
    node.say((OUT, *(rule(8000 + each, f"10.{each}.0.0/16") for each in range(6))))
    said = node.run("plan", "-c", "fw.toml", "--cubes", "2", wanted=3)
    assert "in 2 kinds, and there are more (--cubes N, --all):" in said
    assert said.count("one of them: ") == 2
    few = json.loads(node.run("plan", "-c", "fw.toml", "--cubes", "2", "-o", "json", wanted=3))
    assert (len(few["noticed"]), few["more"]) == (2, True)
    every = json.loads(node.run("plan", "-c", "fw.toml", "--all", "-o", "json", wanted=3))
    assert len(every["noticed"]) == 8
    assert not every["more"]
    assert {each["live"] for each in every["noticed"]} == {"cut", "freed"}


def test_members_are_named_and_a_port_that_moves_is_written_in_stages(node: Node) -> None:
    node.say(ports={**P, "c1": ("12", "clients")})
    said = node.run("plan", "-c", "fw.toml", wanted=3)
    assert "bundles, one after the other:" in said
    assert "member 10.0.0.12 of group:clients on network blue" in said
    assert "member 10.0.0.11 of group:clients on network blue" in said
    assert "port c1 (intent/all.yaml:" in said


def test_connections_that_end_and_that_live_again_are_told(node: Node) -> None:
    ends = Connection(zone(node), 6, "10.9.0.1", "10.0.0.1", 40000, 443)
    lives = Connection(zone(node), 6, "10.0.0.11", "10.0.0.1", 40001, 80, mark=1)
    stays = Connection(zone(node), 6, "10.0.0.11", "10.0.0.1", 40002, 80)
    node.bridge.tracked = [ends, lives, stays]
    node.say((OUT, rule(80, "clients")))
    said = node.run("plan", "-c", "fw.toml", wanted=3)
    assert "1 live connection ends:\n  protocol 6, 10.9.0.1 port 40000 → 10.0.0.1 port 443" in said
    assert "1 connection that was cut lives again:\n  protocol 6, 10.0.0.11 port 40001" in said
    assert "40002" not in said


def test_a_plan_that_is_refuted_is_exit_4_with_the_story(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hitless.agent.firewall.guard.stamped", lambda bundle, _stamp: (bundle,))
    node.say(ports=SWAPPED)
    said = node.run("plan", "-c", "fw.toml", "--out", "p.json", wanted=4)
    assert "refuted: " in said
    assert "  1. " in said
    saved = json.loads((node.place / "p.json").read_text())
    assert saved["verdict"]["verdict"] == "refuted"
    assert saved["verdict"]["story"][0].startswith("1. ")


def test_what_cannot_be_told_is_exit_7(node: Node) -> None:
    odd = opaque_flow()
    node.bridge.flows[odd.key] = odd
    node.say(ports={**P, "c1": ("12", "clients")})
    said = node.run("plan", "-c", "fw.toml", wanted=7)
    assert "unknown: " in said


def opaque_flow() -> Flow:
    """Somebody else's flow in the way of tracked packets, with an action that the check does not understand."""
    return Flow(72, 99, (exact("reg5", 1),), (Opaque("group:7"),), 5)


def test_a_saved_plan_says_everything_that_was_shown(node: Node) -> None:
    node.say((*WEB, rule(8080, "clients")))
    shown = json.loads(node.run("plan", "-c", "fw.toml", "--out", "p.json", "-o", "json", wanted=3))
    saved = json.loads((node.place / "p.json").read_text())
    assert shown == saved
    assert saved["verdict"]["verdict"] == "proved"
    verbs = ("add cookie=", "delete_strict cookie=")
    assert all(line.startswith(verbs) for batch in saved["batches"] for line in batch)
    assert "[file-not-written]" in node.run("plan", "-c", "fw.toml", "--out", "/dev/null/p.json", wanted=1)


def test_a_configuration_that_is_neither_kind_is_refused(node: Node) -> None:
    (node.place / "odd.toml").write_text('node = "n1"\n')
    assert "[config-kind-unclear]" in node.run("plan", "-c", "odd.toml", wanted=1)
    assert "[config-unreadable]" in node.run("plan", "-c", "none.toml", wanted=1)
    (node.place / "ipsec.toml").write_text('cluster = "c"\nnode = "n1"\naddresses = ["192.0.2.1"]\nkeys = "k"\n')
    node.run("plan", "-c", "ipsec.toml", "--out", "p.json", wanted=2)


def test_other_peoples_flow_in_our_way_is_said(node: Node) -> None:
    node.say((*WEB, rule(8443, "10.7.0.0/16")))
    before = set(node.flows)
    intruder = next(key for key in _wanted(node) if key not in before)
    node.bridge.flows[intruder] = Flow(*intruder, (Normal(),), 7)
    assert "[flow-key-taken]" in node.run("plan", "-c", "fw.toml", wanted=1)


def _wanted(node: Node) -> list[tuple[int, int, tuple[tuple[str, int, int], ...]]]:
    from tests.agent.firewall.bridge import firewall

    from hitless.cli.firewall_files import intent_of_files

    return list(firewall(node.bridge).plan(intent_of_files(node.place / "intent")).compiled.flows)


# --- IPsec --------------------------------------------------------------------------------------------------


def test_ipsec_has_waves_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cli.test_doctor import Patient
    from typer.testing import CliRunner

    from hitless.cli import main
    from hitless.core.plan.ops import DelPolicy

    patient = Patient(tmp_path, monkeypatch)
    monkeypatch.setattr("hitless.agent.config.load", lambda _file: patient.config())
    (tmp_path / "n1.toml").write_text('keys = "k"\n')

    def asked(*more: str, wanted: int) -> str:
        done = CliRunner().invoke(main.app, ["plan", "-c", f"{tmp_path}/n1.toml", *more])
        assert done.exit_code == wanted, (done.output, done.exception)
        return done.output

    assert asked(wanted=0) == "n1: nothing to change\n"
    inward = next(each for each in patient.kernel.observe().policies if each.policy.direction == "in")
    patient.kernel.apply((DelPolicy(inward.policy.key),))
    said = asked(wanted=3).splitlines()
    assert said[:2] == ["n1: 1 operation in 1 wave", "wave 1:"]
    assert said[2].startswith("  set-policy in 10.1.")
    found = json.loads(asked("-o", "json", wanted=3))
    assert found == {"node": "n1", "waves": [[said[2].strip()]], "notes": []}
