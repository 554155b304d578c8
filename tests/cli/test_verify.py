"""`hitless verify` on dumps of anybody's bridge: what it reads, what it answers, and how it says that it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hitless.cli import main

EXAMPLES = Path(__file__).parents[2] / "examples/verify"
BEFORE = f"{EXAMPLES}/before.txt"
RESTART = f"{EXAMPLES}/restart.txt"


def verified(*words: str, wanted: int = 0) -> str:
    done = CliRunner().invoke(main.app, ["verify", *words])
    assert done.exit_code == wanted, (done.output, done.exception)
    return done.output


def told(*words: str, wanted: int) -> dict[str, object]:
    found: dict[str, object] = json.loads(verified(*words, "-o", "json", wanted=wanted))
    return found


# --- the example --------------------------------------------------------------------------------------------


def test_reused_ids_let_a_packet_through() -> None:
    found = told("--before", BEFORE, "--plan", RESTART, wanted=4)
    assert found["verdict"] == "refuted"
    assert found["kind"] in {"leak", "leaked-connection"}
    assert "10.94.128.8 → 10.94.128.77" in str(found["story"])
    assert found["first"]
    assert found["missing"]


@pytest.mark.parametrize("how", [(), ("--batch-size", "1"), ("--batch-size", "6")])
def test_ids_that_are_never_reused_leave_connections_marked(how: tuple[str, ...]) -> None:
    found = told("--before", BEFORE, "--plan", f"{EXAMPLES}/restart-fresh-ids.txt", *how, wanted=4)
    assert found["kind"] == "poison-stays"
    assert "10.94.128.8 → 10.94.128.196" in str(found["story"])


@pytest.mark.parametrize("plan", ["restart.txt", "restart-fresh-ids.txt"])
def test_one_bundle_is_proved(plan: str) -> None:
    assert verified("--before", BEFORE, "--plan", f"{EXAMPLES}/{plan}", "--atomic").startswith("proved: ")


def test_two_dumps_are_enough() -> None:
    after = ("--before", BEFORE, "--after", f"{EXAMPLES}/after.txt")
    assert verified(*after, wanted=4).startswith("refuted: ")
    assert verified(*after, "--atomic").startswith("proved: ")
    assert verified("--before", BEFORE, "--after", BEFORE) == (
        "proved: the plan changes nothing that a packet could tell\n"
    )


def test_the_plan_leads_to_the_second_dump() -> None:
    from hitless.agent.firewall import flowmods
    from hitless.core.plan.flows import AddFlow, by_key
    from hitless.drivers.ovs.codec import parse_dump

    tables = by_key(parse_dump(Path(BEFORE).read_text()))
    batches = flowmods.read(Path(RESTART).read_text(), tables.values(), "x")
    for op in (op for batch in batches for line in batch for op in line.ops):
        if isinstance(op, AddFlow):
            tables[op.flow.key] = op.flow
        else:
            del tables[op.flow.key]
    assert tables == by_key(parse_dump((EXAMPLES / "after.txt").read_text()))


def test_a_dump_of_openflow_1_0_with_statistics_is_the_same(tmp_path: Path) -> None:
    old = Path(BEFORE).read_text().replace("exec(set_field:0x1->ct_mark)", "exec(load:0x1->NXM_NX_CT_MARK[])")
    old = re.sub(r"set_field:(0x\w+)->reg(\d)", r"load:\1->NXM_NX_REG\2[]", old)
    old = re.sub(r"table=(\d+), ", r"duration=9682.9s, table=\1, n_packets=0, n_bytes=0, idle_age=9, ", old)
    assert "NXM_NX_REG7" in old
    before = written(tmp_path, "old.txt", "NXST_FLOW reply (xid=0x4):", *old.splitlines())
    assert verified("--before", before, "--after", BEFORE).startswith("proved: the plan changes nothing")
    assert verified("--before", before, "--plan", RESTART, wanted=4) == verified(
        "--before", BEFORE, "--plan", RESTART, wanted=4
    )


def test_what_cannot_be_a_dump_is_no_proof(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    empty = written(tmp_path, "empty", "")
    assert "[dump-empty]" in verified("--before", empty, "--plan", RESTART, wanted=2)
    assert "[dump-empty]" in verified("--before", BEFORE, "--after", empty, wanted=2)
    monkeypatch.setattr("hitless.cli.verify._LARGEST", 1 << 10)
    assert "[file-too-large]" in verified("--before", "/dev/zero", "--plan", RESTART, wanted=2)


# --- plans --------------------------------------------------------------------------------------------------


def written(place: Path, name: str, *lines: str) -> str:
    (place / name).write_text("\n".join(lines) + "\n")
    return str(place / name)


ONE = "table=0, priority=5,in_port=1 actions=output:2"
OTHER = "cookie=0x7, table=0, priority=6,in_port=1 actions=output:3"


@pytest.mark.parametrize(
    ("plan", "wanted"),
    [
        # The new flow first, then the old one away: somebody always serves.
        (["table=0,priority=6,in_port=1 actions=output:2", "---", "delete_strict table=0,priority=5,in_port=1"], 0),
        (["delete_strict table=0,priority=5,in_port=1", "---", "add table=0,priority=6,in_port=1 actions=output:2"], 4),
        # Without a barrier no order is promised.
        (["table=0,priority=6,in_port=1 actions=output:2", "delete_strict table=0,priority=5,in_port=1"], 4),
        (["modify table=0,in_port=1 actions=output:9"], 0),
        (["modify_strict priority=5,in_port=1 actions=output:9  # one write"], 0),
        (["delete cookie=0x9/-1"], 0),
    ],
)
def test_flow_mods_are_replayed_as_they_stand(tmp_path: Path, plan: list[str], wanted: int) -> None:
    verified("--before", written(tmp_path, "b", ONE), "--plan", written(tmp_path, "p", *plan), wanted=wanted)


def test_a_plan_of_ours_is_read_and_is_bundles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.agent.firewall.bridge import WEB, rule
    from tests.cli.firewall_node import Node

    from hitless.drivers.ovs.codec import format_flow

    node = Node(tmp_path, monkeypatch)
    dump = written(tmp_path, "dump.txt", *map(format_flow, node.flows.values()))
    node.say((*WEB, rule(8080, "clients")))
    node.run("plan", "-c", "fw.toml", "--out", "p.json", wanted=3)
    assert verified("--before", dump, "--plan", "p.json").startswith("proved: one atomic bundle")
    (tmp_path / "p.json").write_text('{"node": 1}')
    assert "[plan-invalid]" in verified("--before", dump, "--plan", "p.json", wanted=2)


def test_what_is_not_understood_is_unknown(tmp_path: Path) -> None:
    before = written(tmp_path, "b", "table=0, priority=5,ip actions=group:7", "table=0, priority=4 actions=drop")
    plan = written(tmp_path, "p", "table=0,priority=6,tcp actions=output:2", "table=0,priority=7,udp actions=output:2")
    assert verified("--before", before, "--plan", plan, wanted=7).startswith("unknown: ")


# --- mistakes -----------------------------------------------------------------------------------------------


def test_a_line_that_is_no_flow_is_named_with_its_number(tmp_path: Path) -> None:
    bad = written(tmp_path, "bad", ONE, "", "table=0, priority=x actions=drop")
    good = written(tmp_path, "good", ONE)
    said = verified("--before", bad, "--after", good, wanted=2)
    assert said.startswith(f"{bad}:3: ")
    assert said.endswith("[flow-text-invalid]\n")
    said = verified("--before", good, "--plan", bad, wanted=2)
    assert said.startswith(f"{bad}:3: ")
    assert said.endswith("[flow-mod-invalid]\n")


def test_what_cannot_be_read_or_is_not_whole_is_usage(tmp_path: Path) -> None:
    good = written(tmp_path, "good", ONE)
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    for bad in (f"{tmp_path}/none", str(tmp_path), f"{tmp_path}/binary"):
        assert "[file-unreadable]" in verified("--before", bad, "--after", good, wanted=2)
    verified("--before", good, wanted=2)
    verified("--before", good, "--after", good, "--plan", good, wanted=2)
    verified("--before", good, "--after", good, "--batch-size", "-1", wanted=2)


# --- the guide ----------------------------------------------------------------------------------------------


def test_the_guide_shows_what_the_command_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(EXAMPLES)
    guide = (EXAMPLES.parents[1] / "docs/guide/plan-and-verify.md").read_text(encoding="utf-8")
    shown = re.findall(r"^```\n\$ hitless verify (.*?)\n(.*?)^```$", guide, re.MULTILINE | re.DOTALL)
    assert len(shown) >= 4
    for words, output in shown:
        wanted = {"proved": 0, "refuted": 4}[output.split(":")[0]]
        assert verified(*words.split(), wanted=wanted) == output, words
