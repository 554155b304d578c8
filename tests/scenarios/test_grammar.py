"""The scenario language: what every line becomes, and what a person reads when a line is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from hitless.lab import grammar, scenarios
from hitless.lab import scenario as s
from hitless.lab.verbs import VERBS

HEADER = "title A test\nnodes 3\n---\n"


def actions(steps: str, header: str = HEADER) -> list[s.Action]:
    return [step.action for step in grammar.parse(header + steps, source="test.txt", name="test").steps]


def refusal(text: str) -> s.ScenarioError:
    with pytest.raises(s.ScenarioError) as caught:
        grammar.parse(text, source="test.txt", name="test")
    return caught.value


def test_header_becomes_fields() -> None:
    read = grammar.parse(
        "# why\ntitle  Two words   # and a remark\nnodes 2\nmode transport\nfamily dual-stack\nudp-port 4789\n"
        "drain 500ms\nload 250 packets/s\nstream tcp n1 n2\nstream tcp n2 n1\nfirst-key 15\n"
        "order advertise-first\ncleanup timer 2s\nabsent delete\nesn off\nresync 1s\nreplay\n---\n",
        source="test.txt",
        name="test",
    )
    assert read == s.Scenario(
        name="test", title="Two words", nodes=2, mode="transport", family="dual-stack", udp_port=4789,
        drain_seconds=0.5, load_pps=250.0, streams=(s.Stream("n1", "n2", 9), s.Stream("n2", "n1", 10)), first_key=15,
        order="advertise-first", cleanup="timer", cleanup_seconds=2.0, absent="delete", esn=False,
        resync_seconds=1.0, replay=True,
    )  # fmt: skip
    assert read.node_names == ("n1", "n2")
    assert not read.probes


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("start all", s.Start(("all",))),
        ("start n1 n3", s.Start(("n1", "n3"))),
        ("stop n2", s.Stop(("n2",))),
        ("kill n2", s.Stop(("n2",), abruptly=True)),
        ("join n4", s.Join("n4")),
        ("join n4 as n2", s.Join("n4", "n2")),
        ("rename n2 as n3", s.Rename("n2", "n3")),
        ("reboot n2", s.Reboot("n2")),
        ("remove n2", s.Membership("n2", "remove")),
        ("restore n2", s.Membership("n2", "restore")),
        ("address add n2", s.Address("n2", "add")),
        ("address use n2", s.Address("n2", "use")),
        ("address drop n2", s.Address("n2", "drop")),
        ("link n1 down", s.Link("n1", "down")),
        ("link n1 up", s.Link("n1", "up")),
        ("store wipe", s.StoreDeed("wipe")),
        ("store compact", s.StoreDeed("compact")),
        ("record delete n2", s.StoreDeed("forget", "n2")),
        ("xfrm flush n2 states", s.Flush("n2", "states")),
        ("xfrm flush n2 policies", s.Flush("n2", "policies")),
        ("xfrm delete n2 from n1", s.TouchSa("n2", "n1", "delete", inward=True)),
        ("xfrm recreate n2 to n1", s.TouchSa("n2", "n1", "recreate")),
        ("plant n1 to n2 oseq 4294967296", s.Plant("n1", "n2", 1 << 32)),
        ("foreign place", s.Foreign()),
        ("count writes", s.CountWrites()),
        ("expect foreign untouched", s.Expect(s.Untouched())),
        ("wait heartbeat n2 == 0 within 30s", s.Wait(s.Compared("heartbeat", ("n2",), "==", 0.0), 30.0)),
        ("expect event n2 incarnated reason rebooted", s.Expect(s.Logged("n2", "incarnated", "rebooted"))),
        ("crash n2 at out-installed", s.Crash("n2", "out-installed")),
        ("slow n2 install 5ms", s.SlowInstall("n2", 0.005)),
        ("fail n1 install from n3 times 3", s.FailInstall("n1", "n3", 3)),
        ("link n1 delay 300ms", s.LinkDelay("n1", 0.3)),
        ("hog cpu 4", s.Hog(4)),
        ("hog stop", s.Hog(0)),
        ("key new", s.Key("new")),
        ("key new on n1 n2", s.Key("new", ("n1", "n2"))),
        ("key id 1", s.Key("new", (), 1)),
        ("key id 15 on n1", s.Key("new", ("n1",), 15)),
        ("key copy to n3", s.Key("copy", ("n3",))),
        ("key bad same-id on n2", s.Key("same-id", ("n2",))),
        ("key bad wrong-length on n2", s.Key("wrong-length", ("n2",))),
        ("key half-written on n2", s.Key("half-written", ("n2",))),
        ("after 2m", s.After(120.0)),
        ("wait settled within 30s", s.Wait(s.Settled(), 30.0)),
        ("wait settled n1 n2 within 30s", s.Wait(s.Settled(("n1", "n2")), 30.0)),
        ("wait exited n2 within 5s", s.Wait(s.Exited("n2"), 5.0)),
        ("wait event n1 key-refused code key-hex within 5s", s.Wait(s.Logged("n1", "key-refused", "key-hex"), 5.0)),
        ("hold event n1 adopted for 5s", s.Hold(s.Logged("n1", "adopted"), 5.0)),
        ("expect laggard n3 reason key-missing", s.Expect(s.Lagging("n3", "key-missing"))),
        ("expect keys n1 == 1", s.Expect(s.Compared("keys", ("n1",), "==", 1.0))),
        ("expect sending n1 n2 >= 2", s.Expect(s.Compared("sending", ("n1", "n2"), ">=", 2.0))),
        ("expect writes n1 == 0", s.Expect(s.Compared("writes", ("n1",), "==", 0.0))),
    ],
)
def test_every_line_becomes_its_action(line: str, action: s.Action) -> None:
    assert actions(line) == [action]


def test_every_verb_is_used_by_some_scenario_that_comes_along() -> None:
    used = {step.text.split()[0] for name in scenarios.names() for step in scenarios.find(name).steps}
    assert set(VERBS) == used


def test_traffic_is_asked_for_after_the_probes() -> None:
    steps = actions("probe start\nprobe add n2\nprobe stop\nexpect lost n1 n2 == 0\nexpect XfrmInNoStates > 0\n"
                    "expect stalled_seconds < 500ms")
    assert steps[3:] == [
        s.Expect(s.Compared("lost", ("n1", "n2"), "==", 0.0)),
        s.Expect(s.Compared("XfrmInNoStates", (), ">", 0.0)),
        s.Expect(s.Compared("stalled_seconds", (), "<", 0.5)),
    ]


def test_loops_are_unrolled_and_turns_counted() -> None:
    read = grammar.parse(
        HEADER + "repeat 2\n  foreach step in drained retired\n    crash n2 at $step\n  end\nend\nhog stop\n",
        source="test.txt",
        name="test",
    )
    assert [(step.line, step.text, step.turn) for step in read.steps] == [
        (6, "crash n2 at drained", 1),
        (6, "crash n2 at retired", 2),
        (6, "crash n2 at drained", 3),
        (6, "crash n2 at retired", 4),
        (9, "hog stop", 1),
    ]


@pytest.mark.parametrize(
    ("text", "line", "code"),
    [
        ("title A\nnodes 3\n", 2, "scenario-no-steps"),
        ("title A\nnotes 3\n---\n", 2, "scenario-unknown-word"),
        ("nodes 3\n---\n", 1, "scenario-word-missing"),
        ("title A\nnodes 1\n---\n", 2, "scenario-bad-number"),
        ("title A\nnodes 3\nnodes 4\n---\n", 3, "scenario-said-twice"),
        ("title A\ndrain 5\n---\n", 2, "scenario-bad-duration"),
        ("title A\nload much packets/s\n---\n", 2, "scenario-bad-number"),
        ("title A\nload 0 packets/s\n---\n", 2, "scenario-bad-number"),
        ("title A\nreplay now\n---\n", 2, "scenario-unknown-word"),
        (HEADER + "strat all", 4, "scenario-unknown-word"),
        (HEADER + "start", 4, "scenario-word-missing"),
        (HEADER + "start n9", 4, "scenario-unknown-node"),
        (HEADER + "start everybody", 4, "scenario-unknown-node"),
        (HEADER + "\n# why\nwait settled", 6, "scenario-word-missing"),
        (HEADER + "wait settled in 5s", 4, "scenario-unknown-word"),
        (HEADER + "expect keys == 1", 4, "scenario-word-count"),
        (HEADER + "expect sending n1 == 1", 4, "scenario-word-count"),
        (HEADER + "expect losses == 1", 4, "scenario-unknown-word"),
        (HEADER + "expect keys n1 = 1", 4, "scenario-unknown-word"),
        (HEADER + "expect keys n1 == one", 4, "scenario-bad-number"),
        (HEADER + "expect lost == 0", 4, "scenario-order"),
        (HEADER + "probe start\nexpect lost == 0\nprobe stop", 5, "scenario-order"),
        (HEADER + "probe stop", 4, "scenario-order"),
        (HEADER + "probe start", 4, "scenario-order"),
        (HEADER + "probe start\nprobe stop\nprobe start", 6, "scenario-order"),
        (HEADER + "crash n2 at noon", 4, "scenario-unknown-word"),
        (HEADER + "key id 16", 4, "scenario-bad-number"),
        (HEADER + "join n2", 4, "scenario-unknown-node"),
        (HEADER + "start n4\njoin n4", 4, "scenario-unknown-node"),
        (HEADER + "repeat 2\nkey new", 4, "scenario-missing-end"),
        (HEADER + "end", 4, "scenario-stray-end"),
        (HEADER + "repeat 1000\nrepeat 1000\nkey new\nend\nend", 6, "scenario-too-long"),
        ("title A\nstream tcp n1 n7\nnodes 3\n---\nkey new", 2, "scenario-unknown-node"),
    ],
)
def test_a_wrong_line_is_named_with_its_place(text: str, line: int, code: str) -> None:
    error = refusal(text)
    assert (error.line, error.code) == (line, code)
    assert str(error).startswith(f"test.txt:{line}: ")


def test_a_refusal_says_how_the_line_should_look() -> None:
    assert "write `fail n1 install from n3 times 3`" in str(refusal(HEADER + "fail n1 install of n3 times 3"))


def test_a_joining_node_is_known_afterwards() -> None:
    assert actions("join n4\nexpect keys n4 == 1")[0] == s.Join("n4")


def test_one_step_by_itself() -> None:
    assert grammar.parse_step("  # nothing", ["n1"]) is None
    step = grammar.parse_step("kill n1", ["n1"])
    assert step is not None
    assert step.action == s.Stop(("n1",), abruptly=True)
    for line in ("kill n2", "join n1", "probe start", "repeat 3"):
        with pytest.raises(s.ScenarioError):
            grammar.parse_step(line, ["n1"])


def test_only_a_store_with_members_loses_one() -> None:
    for line, action in (
        ("store kill leader", s.StoreDeed("kill-leader")),
        ("store revive", s.StoreDeed("revive")),
        ("store restart", s.StoreDeed("restart")),
        ("store cut n2", s.Link("n2", "down", to_store=True)),
        ("store mend n2", s.Link("n2", "up", to_store=True)),
    ):
        assert actions(line + "\n", "title A test\nnodes 3\nstore etcd 3 members\n---\n") == [action]
        assert refusal(HEADER + line + "\n").code == "scenario-order"
    assert grammar.parse("title T\nstore etcd\n---\n", source="t", name="t").etcd_members == 1
    assert grammar.parse("title T\nstore sqlite\n---\n", source="t", name="t").etcd_members == 0


def test_live_traffic_is_asked_for_while_the_probes_run() -> None:
    steps = actions(
        "probe watch\nsend n1 n2 1500\nwait received n1 n2 == 1500 within 5s\nhold silence n1 n2 > 1s for 2s\n"
        "probe stop\nexpect healed n1 n2 within 5s\nexpect healed within 300ms\n"
    )
    assert steps[:3] == [
        s.Probe("watch"), s.Send("n1", "n2", 1500), s.Wait(s.Compared("received", ("n1", "n2"), "==", 1500.0), 5.0),
    ]  # fmt: skip
    assert steps[5:] == [
        s.Expect(s.Compared("healed", ("n1", "n2"), "<=", 5.0)), s.Expect(s.Compared("healed", (), "<=", 0.3)),
    ]  # fmt: skip
    for late in ("send n1 n2 5", "expect silence n1 n2 > 1s", "expect received n1 n2 > 0"):
        assert refusal(HEADER + late + "\n").code == "scenario-order"


@pytest.mark.parametrize("name", scenarios.names())
def test_every_scenario_that_comes_along_is_readable_and_expects_something(name: str) -> None:
    read = scenarios.find(name)
    assert read.name == name
    assert any(isinstance(step.action, s.Expect) for step in read.steps)
    assert read.replay == name.startswith("replay-")
    expected = {step.text for step in read.steps if isinstance(step.action, s.Expect)}
    assert any(text.startswith("expect plaintext == 0") for text in expected) or name == "policies-flushed"


def test_a_file_is_found_by_its_path_and_a_missing_one_explains_itself(tmp_path: Path) -> None:
    file = tmp_path / "mine.txt"
    file.write_text(HEADER + "start all\n", encoding="utf-8")
    assert scenarios.find(str(file)).name == "mine"
    for word, code in ((str(tmp_path / "none.txt"), "scenario-unreadable"), ("none", "scenario-unknown")):
        with pytest.raises(s.ScenarioError) as caught:
            scenarios.find(word)
        assert caught.value.code == code


@pytest.mark.parametrize(
    ("relation", "holds"),
    [("==", (False, True, False)), ("!=", (True, False, True)), ("<", (True, False, False)),
     ("<=", (True, True, False)), (">", (False, False, True)), (">=", (False, True, True))],
)  # fmt: skip
def test_relations(relation: s.Relation, holds: tuple[bool, ...]) -> None:
    compared = s.Compared("lost", (), relation, 2.0)
    assert tuple(compared.holds(value) for value in (1.0, 2.0, 3.0)) == holds


def test_an_unknown_number_equals_nothing() -> None:
    assert not s.Compared("sending", ("n1", "n2"), "==", 2.0).holds(float("nan"))
    assert not s.Compared("sending", ("n1", "n2"), ">=", 0.0).holds(float("nan"))
