"""What a plan says of live connections is what a real Open vSwitch does with them."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.agent.firewall.bridge import DEADLINE_SECONDS, OUT, config, policy, rule

from hitless.agent.firewall import planning
from hitless.agent.firewall.rounds import Firewall
from hitless.core.firewall.pipeline import TABLES
from hitless.core.model.flow import Connection
from hitless.core.model.security import Intent
from hitless.drivers.ovs.driver import OvsSwitch
from hitless.lab.ovs import PrivateSwitch

OPEN = policy(web=(OUT, rule(80, "clients", protocol="udp")))
CLOSED = policy(web=(OUT,))
CLIENT, SERVER = ("c1", 3, "fa:16:3e:00:00:0b", "10.0.0.11", 4000), ("w1", 1, "fa:16:3e:00:00:01", "10.0.0.1", 80)
End = tuple[str, int, str, str, int]


@pytest.fixture
def switch() -> Iterator[PrivateSwitch]:
    directory = Path(tempfile.mkdtemp(prefix="ht-"))
    with PrivateSwitch(directory) as made:
        made.add_bridge("br")
        made.vsctl("set-fail-mode", "br", "secure")
        for ofport, name in enumerate(("w1", "w2", "c1"), 1):
            made.add_port("br", name, kind="dummy", ofport=ofport)
        yield made
    shutil.rmtree(directory)


def send(switch: PrivateSwitch, source: End, target: End) -> None:
    frame = (
        f"in_port({source[1]}),eth(src={source[2]},dst={target[2]}),eth_type(0x0800),"
        f"ipv4(src={source[3]},dst={target[3]},proto=17,tos=0,ttl=64,frag=no),udp(src={source[4]},dst={target[4]})"
    )
    switch.appctl("netdev-dummy/receive", source[0], frame)


def passes(switch: PrivateSwitch, state: str) -> bool:
    """Whether the last actions of Open vSwitch's own trace of the client's packet end with a port."""
    flow = (f"in_port={CLIENT[1]},udp,dl_src={CLIENT[2]},dl_dst={SERVER[2]},nw_src={CLIENT[3]},nw_dst={SERVER[3]},"
            f"nw_ttl=64,udp_src={CLIENT[4]},udp_dst={SERVER[4]}")  # fmt: skip
    answers = [word for _ in range(2) for word in ("--ct-next", f"trk,{state}")]
    last = switch.appctl("ofproto/trace", *answers, "br", flow).strip().splitlines()[-1]
    return last.removeprefix("Datapath actions: ").split(",")[-1].isdigit()


def test_live_connections_that_are_cut_and_freed(switch: PrivateSwitch, tmp_path: Path) -> None:
    driver = OvsSwitch("br", database=switch.database, run_dir=switch.run_dir, tables=TABLES)
    firewall = Firewall(driver, config(tmp_path), lambda _step: None)

    def planned(intent: Intent, before: Intent) -> planning.SavedPlan:
        return planning.make(firewall, intent, before, "n1", "br")

    firewall.round(OPEN, look=True)
    for one, other in ((CLIENT, SERVER), (SERVER, CLIENT)):
        send(switch, one, other)
    (tag,) = {each.tag for each in firewall.plan(OPEN).compiled.attached}
    wanted = Connection(tag, 17, CLIENT[3], SERVER[3], CLIENT[4], SERVER[4])
    deadline = time.monotonic() + DEADLINE_SECONDS
    while wanted not in driver.connections({tag}) and time.monotonic() < deadline:
        pass  # each look is a process of its own
    closing = planned(CLOSED, OPEN)
    assert closing.cut == (wanted,)
    assert {(each.live, each.becomes) for each in closing.noticed} == {("cut", "dropped")}
    assert all("new or new related or established" in each.packets for each in closing.noticed)
    assert all(passes(switch, state) for state in ("new", "est"))
    firewall.round(CLOSED, look=True)
    assert driver.connections({tag}) == ()
    assert not any(passes(switch, state) for state in ("new", "est"))
    opening = planned(OPEN, CLOSED)
    assert {(each.live, each.was) for each in opening.noticed} == {("freed", "dropped")}
    firewall.round(OPEN, look=True)
    assert passes(switch, "est")
