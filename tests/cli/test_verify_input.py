"""`hitless verify` never says "proved" of what it did not understand, and names what a line did not do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.test_verify import verified, written

IN, IP6 = "in_port=1", "ipv6,in_port=1"


def asked(place: Path, before: list[str], plan: list[str], *more: str, wanted: int) -> str:
    words = ("--before", written(place, "b", *before), "--plan", written(place, "p", *plan))
    return verified(*words, *more, wanted=wanted)


def replaced(place: Path, line: str, match: str, wanted: int) -> str:
    """A line that takes a flow away, and one that adds it again."""
    flow = f"table=0,priority=5,{match} actions=output:2"
    return asked(place, [flow], [line, "---", f"add {flow}"], wanted=wanted)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ("delete table=0,ip6", IP6), ("delete table=255", IN), ("delete in_port=local", "in_port=LOCAL"),
        ("delete vlan_vid=0x1007", "dl_vlan=7"), ("delete icmp,tp_src=8", "icmp,icmp_type=8"), ("delete ipv4", "ip"),
        ("delete ip4", "ip"), ("delete_strict table=0,priority=5,ip,tcp", "tcp"),
        ("delete_strict,table=0,priority=5,in_port=1", IN),
    ],
)  # fmt: skip
def test_other_words_for_the_flow_delete_it(tmp_path: Path, line: str, match: str) -> None:
    assert replaced(tmp_path, line, match, 4).startswith("refuted: loss\n")


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("delete out_port=2", "flow-mod-invalid"), ("delete in_port=p1", "flow-mod-invalid"),
        ("delete xreg0=0x5", "flow-mod-not-understood"), ("delete tun_src=1.1.1.1", "flow-mod-not-understood"),
        ("modify_strict table=0,priority=9,in_port=1 actions=drop", "flow-mod-ambiguous"),
        ("add table=0,priority=20,nw_dst=10.0.0.5 actions=drop", "flow-mod-invalid"),
        ("add table=0,priority=20,tcp,tp_dst=99999 actions=drop", "flow-mod-invalid"),
        ("add table=0,priority=20 actions=conjunction(1,3/2)", "flow-mod-invalid"),
        ("add table=0,priority=20,idle_timeout=9 actions=drop", "flow-mod-invalid"),
    ],
)
def test_what_is_not_understood_wholly_is_refused_with_its_line(tmp_path: Path, line: str, code: str) -> None:
    said = replaced(tmp_path, line, IN, 2)
    assert said.startswith(f"{tmp_path}/p:1: ")
    assert said.endswith(f"[{code}]\n")


@pytest.mark.parametrize("match", ["tun_src=1.2.3.4", "mpls,mpls_label=5", "xreg0=0x5", "reg9=0x1"])
def test_a_flow_on_a_field_that_the_model_lacks_is_unknown(tmp_path: Path, match: str) -> None:
    plan = [f"add table=0,priority=5,{match} actions=output:2"]
    assert asked(tmp_path, ["table=0,priority=1 actions=drop"], plan, wanted=7).startswith("unknown: ")


def test_a_line_that_matches_no_flow_is_named(tmp_path: Path) -> None:
    said = replaced(tmp_path, "delete table=0,udp", IN, 0)
    assert said == (
        "proved: the plan changes nothing that a packet could tell\n"
        "note: line 1: `delete table=0,udp` matches no flow, and does nothing\n"
    )
    words = ("--before", f"{tmp_path}/b", "--plan", f"{tmp_path}/p", "-o", "json")
    assert json.loads(verified(*words))["notes"] == ["line 1: `delete table=0,udp` matches no flow, and does nothing"]


# --- dumps --------------------------------------------------------------------------------------------------


def test_the_dump_of_an_empty_bridge_is_a_beginning(tmp_path: Path) -> None:
    plan = ["add table=0,priority=5,in_port=1 actions=output:2"]
    assert "[dump-empty]" in asked(tmp_path, [], plan, wanted=2)
    assert asked(tmp_path, ["OFPST_FLOW reply (OF1.4) (xid=0x2):"], plan, wanted=0).startswith("proved: ")


def test_a_part_of_the_tables_is_unknown(tmp_path: Path) -> None:
    before, plan = ["table=72,priority=5,in_port=1 actions=output:2"], ["delete table=72"]
    assert "no flow of table 0" in asked(tmp_path, before, plan, wanted=7)
    whole = written(tmp_path, "whole", "table=0,priority=5 actions=output:2")
    assert "no flow of table 0" in verified("--before", whole, "--after", f"{tmp_path}/b", wanted=7)


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("table=0,priority=5 actions=set_f", "dump-cut"),
        ("table=0,priority=5 actions=set_f\n", "dump-not-understood"),
        ("table=0,priority=5 actions=output:2\n" * 2, "dump-flow-twice"),
        ("table=0,priority=99999 actions=output:2\n", "dump-not-understood"),
        ("table=0,priority=5,in_port=p1 actions=output:p2\n", "dump-not-understood"),
    ],
)
def test_what_is_no_whole_dump_is_refused(tmp_path: Path, text: str, code: str) -> None:
    (tmp_path / "dump").write_text(text)
    plan = written(tmp_path, "p", "delete in_port=1")
    assert f"[{code}]" in verified("--before", f"{tmp_path}/dump", "--plan", plan, wanted=2)


# --- what a line does in one step -----------------------------------------------------------------------------

TWO = ["table=0,priority=1 actions=resubmit(,1)",
       "table=1,priority=5,in_port=1 actions=output:2", "table=1,priority=4,in_port=1 actions=output:3"]  # fmt: skip
BOTH = "delete table=1,in_port=1"


def test_a_line_that_stands_alone_is_one_step(tmp_path: Path) -> None:
    assert asked(tmp_path, TWO, [BOTH], wanted=0).startswith("proved: ")
    # As two writes, a packet might be sent to port 3, which nobody wants.
    one_by_one = ["delete_strict table=1,priority=5,in_port=1", "delete_strict table=1,priority=4,in_port=1"]
    assert asked(tmp_path, TWO, one_by_one, wanted=4).startswith("refuted: third\n")


def test_beside_other_lines_it_counts_as_several_and_says_so(tmp_path: Path) -> None:
    other = "add table=1,priority=9,in_port=7 actions=drop"
    said = asked(tmp_path, TWO, [BOTH, other], wanted=4)
    assert f"note: line 1: `{BOTH}` counts as 2 writes here" in said
    assert asked(tmp_path, TWO, [BOTH, "---", other], wanted=0).startswith("proved: ")
    assert asked(tmp_path, TWO, [BOTH, other], "--batch-size", "1", wanted=0).startswith("proved: ")


# --- what a proof leaves open ---------------------------------------------------------------------------------

TRACKED = "table=0,priority=5,ip,in_port=1 actions=ct(table=1,zone={})"
THEN = "table=1,priority=5 actions=output:2"
OTHER = "add table=1,priority=6 actions=output:2"


@pytest.mark.parametrize(
    ("before", "plan", "words"),
    [
        (TRACKED.format(5), TRACKED.format(6), "conntrack zone"),
        ("table=0,priority=5 actions=set_field:0x1->tun_id,output:2",
         "table=0,priority=5 actions=set_field:0x2->tun_id,output:2", "another tunnel id"),
        ("table=0,priority=5 actions=output:2",
         "table=0,priority=7,ct_state=-trk,ip actions=output:2", "tracked before"),
        ("table=0,priority=5 actions=output:2",
         "table=0,priority=7,ct_state=+trk,ip actions=drop\n---\ndelete_strict table=0,priority=7,ct_state=+trk,ip",
         "tracked before"),
        ("table=0,priority=5,idle_timeout=9 actions=output:2", "table=0,priority=7 actions=output:2", "1 flows"),
        ("table=0,priority=5 actions=output:2",
         "table=0,priority=7,vlan_tci=0x0000/0x1fff actions=output:2", "OpenFlow 1.0"),
    ],
)  # fmt: skip
def test_what_a_proof_does_not_cover_is_said_where_the_change_touches_it(
    tmp_path: Path, before: str, plan: str, words: str
) -> None:
    said = asked(tmp_path, [before, THEN], [plan, OTHER], "--atomic", wanted=0)
    assert [line for line in said.splitlines() if line.startswith("not covered: ") and words in line]
    before = before.replace(",idle_timeout=9", "")
    assert "not covered" not in asked(tmp_path, [before, THEN], [OTHER], "--atomic", wanted=0)


# --- stdout ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("-o", "json")])
def test_an_answer_that_cannot_be_written_is_no_answer(tmp_path: Path, more: tuple[str, ...]) -> None:
    before = written(tmp_path, "b", THEN.replace("table=1", "table=0"))
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "hitless", "verify", "--before", before, "--after", before, *more],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=60, check=False,
        )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == (
        "the answer cannot be written: No space left on device; give stdout room [stdout-unwritable]\n"
    )
