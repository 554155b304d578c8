"""The ground: it is there at once, whole, and leaves nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.lab.firewall.conftest import PORTS, PREFIX

from hitless.lab.firewall.ground import FirewallGround, GroundPort
from hitless.lab.kernel import LabError
from hitless.lab.probe import namespace

OTHER = f"{PREFIX}x"


def test_down_leaves_nothing_and_up_takes_over_what_a_crash_left(tmp_path: Path) -> None:
    crashed = FirewallGround(tmp_path / "one", PORTS, prefix=OTHER)
    crashed.up()
    left = namespace.inhabitants(crashed.switch_namespace)
    assert len(left) == 2  # the database and the switch
    with FirewallGround(tmp_path / "two", PORTS[:2], prefix=OTHER) as ground:
        assert not set(left) & set(namespace.inhabitants(ground.switch_namespace))
        assert namespace.names(OTHER) == (f"{OTHER}-s-a", f"{OTHER}-s-b", ground.switch_namespace)
        assert ground.ofports() == {"a": 1, "b": 2}
    assert namespace.names(OTHER) == ()
    crashed.down()


def test_a_failure_on_the_way_up_leaves_nothing(tmp_path: Path) -> None:
    bad = GroundPort("d", "02:00:00:00:00:01", ("10.0.0.300",))
    with pytest.raises(ValueError, match="300"):
        FirewallGround(tmp_path, (*PORTS, bad), prefix=OTHER).up()
    assert namespace.names(OTHER) == ()


def test_a_killed_switch_comes_back_with_all_ports_and_without_flows(ground: FirewallGround) -> None:
    before = ground.ofports()
    ground.kill_switch()
    ground.start_switch()
    assert ground.ofports() == before
    assert "actions=" not in ground.ofctl("dump-flows")  # fail mode secure: not even NORMAL


def test_a_port_that_is_plugged_in_elsewhere_has_another_number(ground: FirewallGround) -> None:
    ground.unplug("b")
    assert ground.ofports() == {"a": 1, "c": 3}
    ground.plug("b", 7)
    assert ground.ofports() == {"a": 1, "b": 7, "c": 3}
    ground.unplug("b")
    ground.plug("b", 2)
    assert ground.ofports() == {"a": 1, "b": 2, "c": 3}


@pytest.mark.parametrize(
    "ports",
    [(PORTS[0], PORTS[0]), (GroundPort("a-name-of-sixteen", "02:00:00:00:00:01"),), (GroundPort("br-fw", "02::1"),)],
)
def test_names_that_cannot_be_interfaces_are_refused(tmp_path: Path, ports: tuple[GroundPort, ...]) -> None:
    with pytest.raises(LabError) as caught:
        FirewallGround(tmp_path, ports)
    assert caught.value.code == "bad-ground"


def test_asking_for_what_is_not_there_says_so(ground: FirewallGround) -> None:
    for ask, code in (
        (lambda: ground.station("nobody"), "no-such-port"),
        (lambda: ground.owner("192.0.2.1"), "no-such-address"),
        (lambda: GroundPort("d", "02:00:00:00:00:04", ("10.0.0.4",)).address(ipv6=True), "no-such-address"),
    ):
        with pytest.raises(LabError) as caught:
            ask()
        assert caught.value.code == code
