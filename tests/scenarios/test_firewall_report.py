"""What a firewall run says of itself, and what the lab says to the agent."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
import pytest

from hitless.agent.firewall import config, status
from hitless.lab.firewall import agent, report
from hitless.lab.firewall import scenario as s
from hitless.lab.firewall.agent import FirewallAgent
from hitless.lab.firewall.bridge import Bridge
from hitless.lab.firewall.checker import Examined
from hitless.lab.firewall.conditions import Witnesses, find
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.report import Counts, FirewallReport
from hitless.lab.firewall.streams import StreamResult, TrafficResult
from hitless.lab.report import Expectation

HELD, NOT_HELD = Expectation("expect broken == 0", True, "0"), Expectation("expect broken == 0", False, "1")
QUIET = StreamResult("quiet", 10, 10, 10, 10, silence_reply_seconds=0.3)
DEAD = StreamResult("dead", 10, 4, 4, 4, lost_reply=6, silence_reply_seconds=9.0, broken=True,
                    recovered_after_seconds=None)  # fmt: skip
OPEN = StreamResult("open", 10, 3, leaked_forward=3, silence_forward_seconds=7.0)


def build(*expectations: Expectation, overruns: int = 0) -> FirewallReport:
    counts = Counts(
        traffic=TrafficResult((QUIET, DEAD, OPEN), overruns=overruns, duration_seconds=2.0),
        pairs=Examined(7, 3, 0.1, 20, 30, 4, 5),
        passing=frozenset({"quiet", "dead"}), cut=2, marks=1, flow_mods=12, flows=900,
    )  # fmt: skip
    return report.build("fw-x", ("6.1", "Open vSwitch 3.1.0"), counts, expectations)


def test_a_report_sums_up_and_comes_back_from_json() -> None:
    found = build(NOT_HELD)
    assert (found.ok, found.lost, found.leaked, found.broken, found.sent) == (False, 6, 3, 1, 44)
    assert (found.dead_pairs_max, found.wrongly_open_max, found.pairs_asked, found.tables) == (4, 5, 50, 3)
    assert found.longest_silence_seconds == 9.0  # a stream that must drop is silent, and that is right
    assert report.from_json(report.to_json(found)) == found


@pytest.mark.parametrize(("held", "overruns", "ok"), [(HELD, 0, True), (HELD, 1, False), (NOT_HELD, 0, False)])
def test_a_run_is_ok_where_all_held_and_nothing_was_thrown_away(held: Expectation, overruns: int, ok: bool) -> None:
    assert build(held, overruns=overruns).ok is ok
    assert build(overruns=overruns).ok is False  # nothing expected, nothing shown


def test_the_text_says_who_was_hurt_and_how_many_were_not() -> None:
    text = report.to_text(build(HELD))
    assert text.startswith("fw-x: passed\n")
    assert [line.split()[0] for line in text.splitlines() if line.startswith(("dead ", "open ", "quiet "))] == [
        "dead", "open",
    ]  # fmt: skip
    assert "1 streams lost nothing" in text
    assert "4 dead, 5 wrongly open" in text


# --- the agent ------------------------------------------------------------------------------------------


def ground(tmp_path: Path) -> FirewallGround:
    return FirewallGround(tmp_path / "switch", ())


@pytest.mark.parametrize(
    ("scenario", "reaches", "kind"),
    [
        (s.Scenario("x", "T"), True, None),
        (s.Scenario("x", "T", source="store"), True, "SqliteOptions"),
        (s.Scenario("x", "T", source="store"), False, "EtcdOptions"),
        (s.Scenario("x", "T", write="piecewise", ids="reused", order=3, replay=True), True, None),
    ],
)
def test_the_agent_understands_its_configuration(
    tmp_path: Path, scenario: s.Scenario, reaches: bool, kind: str | None
) -> None:
    here = FirewallAgent(scenario, ground(tmp_path), tmp_path, tmp_path / "log")
    here.reaches_store, here.crash_at = reaches, "barrier"
    found = config.load(here.configure())
    assert (found.lab.write, found.lab.ids, found.lab.order_seed) == (scenario.write, scenario.ids, scenario.order)
    assert found.lab.crash_at == "barrier"
    assert bool(found.intent) == (kind is None)
    assert kind in (None, type(found.store).__name__)


def test_the_lab_and_the_agent_name_the_same_steps() -> None:
    assert s.STEPS == config.STEPS


def test_settled_is_said_by_this_process_about_the_newest_documents(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = FirewallAgent(s.Scenario("x", "T"), ground(tmp_path), tmp_path, tmp_path / "log")
    monkeypatch.setattr(agent, "COMMAND", (sys.executable, "-c", "import signal; signal.pause()"))
    here.start()
    try:
        pid = here.pid
        assert not holds(here), "nothing has been said yet"
        for said, expected in (
            (status.Status("lab", "br", pid + 1, "new", settled=True), False),
            (status.Status("lab", "br", pid, "old", settled=True), False),
            (status.Status("lab", "br", pid, "new", settled=False), False),
            (status.Status("lab", "br", pid, "new", settled=True), True),
        ):
            (tmp_path / "state").mkdir(exist_ok=True)
            (tmp_path / "state" / "status.json").write_bytes(msgspec.json.encode(said))
            assert holds(here) is expected, said
    finally:
        here.stop(abruptly=True)


def holds(here: FirewallAgent) -> bool:
    nowhere = Bridge(FirewallGround(here.documents, ()))
    witnesses = Witnesses(
        agent=here, bridge=nowhere, flow_mods=int, snapshot=tuple, members=lambda _: (), noted={}, superseded="old",
    )  # fmt: skip
    return find(s.Settled(), witnesses).holds
