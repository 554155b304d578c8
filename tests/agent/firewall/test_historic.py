"""The historic way of writing does what it is there for: everything anew, in pieces, and it can die between them."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.agent.firewall.bridge import Bridge, Crash, config, firewall, policy

from hitless.agent.firewall.config import LabConfig
from hitless.agent.firewall.historic import PiecewiseFirewall
from hitless.agent.firewall.life import _firewall
from hitless.core.firewall.identity import read_ids


def historic(switch: Bridge, **lab: object) -> PiecewiseFirewall:
    def point(step: str) -> None:
        if step == "batch":
            raise Crash(step)

    made = config(Path("/nowhere"), lab=LabConfig(write="piecewise", **lab))  # type: ignore[arg-type]
    return PiecewiseFirewall(switch, made, point)


def test_every_start_writes_everything_and_a_round_in_between_nothing() -> None:
    switch, intent = Bridge(), policy()
    process = historic(switch)
    assert process.round(intent, look=True).flow_mods >= 100
    assert process.round(intent, look=True).flow_mods == 0
    before = set(switch.ours)
    again = historic(switch).round(intent, look=True)
    assert again.flow_mods >= 100
    assert set(switch.ours) == before
    assert "barrier" not in switch.calls


def test_it_can_die_between_two_batches() -> None:
    switch = Bridge()
    with pytest.raises(Crash):
        historic(switch, crash_after_batches=1).round(policy(), look=True)
    assert switch.writes == 100


def test_ids_are_chosen_as_they_once_were() -> None:
    found = {}
    for ids in ("hash", "fresh", "reused"):
        switch = Bridge()
        firewall(switch).round(policy(), look=True)
        held = read_ids(switch.ours.values()).in_use
        historic(switch, ids=ids, order_seed=7).round(policy(), look=True)
        found[ids] = read_ids(switch.ours.values()).in_use, held
    assert found["hash"][0] == found["hash"][1]
    assert max(found["reused"][0]) < 100
    assert min(found["fresh"][0]) > max(found["fresh"][1])


def test_the_configuration_chooses() -> None:
    made = config(Path("/nowhere"), lab=LabConfig(write="piecewise"))
    assert isinstance(_firewall(made, Bridge()), PiecewiseFirewall)
    assert not isinstance(_firewall(config(Path("/nowhere")), Bridge()), PiecewiseFirewall)
