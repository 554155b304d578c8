"""Dumps from files: what is whole, and what is refused because it may be another bridge's."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitless.agent.firewall.dumps import DumpError, ends_by_itself, is_partial, read_dump

FLOW = "cookie=0x1, duration=3.1s, table=0, n_packets=0, n_bytes=0, priority=5,in_port=1 actions=output:2\n"
LATER = "cookie=0x1, table=72, priority=5,in_port=1 actions=output:2\n"
NEUTRON = Path(__file__).parents[2] / "drivers/ovs"
HEADING = "OFPST_FLOW reply (OF1.4) (xid=0x2):\n"


def test_a_whole_dump() -> None:
    assert len(read_dump(HEADING + FLOW + LATER, "d")) == 2
    assert len(read_dump(HEADING + FLOW + HEADING + LATER, "d")) == 2  # a large one has a heading for each message


@pytest.mark.parametrize("heading", [HEADING, "NXST_FLOW reply (xid=0x4):\n"])
def test_an_empty_bridge_has_a_heading(heading: str) -> None:
    assert read_dump(heading, "d") == ()
    assert not is_partial(())


def test_a_part_has_no_flow_where_packets_begin() -> None:
    assert is_partial(read_dump(HEADING + LATER, "d"))
    assert not is_partial(read_dump(FLOW + LATER, "d"))


def test_flows_with_a_timeout_are_counted() -> None:
    timed = LATER.replace("priority", "idle_timeout=5, priority")
    assert (ends_by_itself(FLOW + LATER), ends_by_itself(FLOW + timed)) == (0, 1)
    assert len(read_dump(FLOW + timed, "d")) == 2


@pytest.mark.parametrize(
    ("text", "where", "code"),
    [
        ("", "d", "dump-empty"), ("\n\n", "d", "dump-empty"), (FLOW + LATER[:-10], "d", "dump-cut"),
        (HEADING.rstrip(), "d", "dump-cut"), (FLOW + LATER.replace("output:2", "set_f"), "d:2", "dump-not-understood"),
        (HEADING + FLOW + HEADING + LATER + FLOW, "d:5", "dump-flow-twice"),
        (FLOW + "ovs-ofctl: br0 is not a bridge\n", "d:2", "flow-text-invalid"),
        (FLOW + LATER.replace("priority=5", "priority=99999"), "d:2", "dump-not-understood"),
        (FLOW + LATER.replace("table=72", "table=255"), "d:2", "dump-not-understood"),
        (FLOW + LATER.replace("in_port=1", "in_port=p1"), "d:2", "dump-not-understood"),
        (FLOW + LATER.replace("output:2", "output:p2"), "d:2", "dump-not-understood"),
        (FLOW + LATER.replace("in_port=1", "nw_dst=10.0.0.5"), "d:2", "dump-not-understood"),
        (FLOW + LATER.replace("in_port=1", "reg5=1,reg5=2"), "d:2", "dump-not-understood"),
        (FLOW + LATER.replace("in_port=1", "tcp,tp_dst=99999"), "d:2", "dump-not-understood"),
        (FLOW + LATER.replace("output:2", "conjunction(1,3/2)"), "d:2", "dump-not-understood"),
    ],
)  # fmt: skip
def test_what_is_no_whole_dump_is_refused(text: str, where: str, code: str) -> None:
    with pytest.raises(DumpError) as caught:
        read_dump(text, "d")
    assert str(caught.value).startswith(f"{where}: ")
    assert caught.value.code == code


def test_fields_and_actions_that_only_the_model_lacks_are_no_fault_of_the_dump() -> None:
    more = LATER.replace("in_port=1", "tun_src=1.2.3.4,reg9=0x1,mpls").replace("output:2", "group:7,dec_ttl,ct(nat)")
    assert len(read_dump(FLOW + more, "d")) == 2


def test_a_dump_of_neutrons_bridge_is_understood_and_one_with_names_is_not() -> None:
    text = (NEUTRON / "neutron.txt").read_text(encoding="utf-8")
    assert len(read_dump(text, "d")) == len(text.splitlines())
    with pytest.raises(DumpError, match="--no-names"):
        read_dump((NEUTRON / "neutron_statistics.txt").read_text(encoding="utf-8"), "d")
