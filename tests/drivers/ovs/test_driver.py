"""What only the real switch has: versions, sockets that nobody answers, news, several at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.drivers.ovs.things import RealGround, flow

from hitless.core.firewall.pipeline import TABLES
from hitless.core.model.flow import Output
from hitless.core.plan.flows import AddFlow
from hitless.drivers.ovs.apply import explain
from hitless.drivers.ovs.driver import OvsSwitch
from hitless.drivers.ovs.ovsdb import News
from hitless.drivers.ovs.tools import ToolFailedError, UnixCtl, run
from hitless.lab.ovs import PrivateSwitch
from hitless.ports import BundleRefusedError, SwitchError, SwitchUnavailableError

WAIT_SECONDS = 20


def test_a_bridge_without_bundles_is_told_apart(real: RealGround) -> None:
    real.private.vsctl("set", "Bridge", "br0", "protocols=OpenFlow10")
    with pytest.raises(SwitchError, match="ovs-vsctl add bridge br0 protocols OpenFlow14") as caught:
        real.switch().apply((AddFlow(flow()),))
    assert caught.value.code == "switch-protocol"
    real.private.vsctl("add", "Bridge", "br0", "protocols", "OpenFlow14")
    real.switch().apply((AddFlow(flow()),))
    assert flow() in real.switch().observe().flows


def test_an_old_verdict_that_another_overlaps_is_gone_after_a_barrier(real: RealGround) -> None:
    """Open vSwitch 3.1 by itself keeps it for good: asked to modify it, it modifies the other (docs/adr/0022)."""
    private = real.private
    for number in (1, 2, 3):
        real.add_port(f"p{number}", ofport=number)
    wide, narrow = "priority=8,in_port=1,actions=output:{}", "priority=9,in_port=1,ip,nw_dst=10.0.0.64/26"

    def send(addresses: str) -> None:
        kind = "0x86dd),ipv6(" if ":" in addresses else "0x0800),ipv4("
        more = "label=0,proto=17,tclass=0,hlimit=64" if ":" in addresses else "proto=17,tos=0,ttl=64"
        ends = "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02)"
        frame = f"{ends},eth_type({kind}{addresses},{more},frag=no),udp(src=1,dst=2)"
        private.appctl("netdev-dummy/receive", "p1", frame)

    def cached() -> list[str]:
        lines = private.appctl("dpctl/dump-flows").splitlines()
        return [line.partition("actions:")[2] for line in lines if "recirc" in line]

    def waited() -> None:
        for _ in range(2):
            private.appctl("revalidator/wait")

    private.ofctl("add-flow", "br0", wide.format(2))
    send("src=fd00::1,dst=fd00::2")  # its masks are those of the second packet below, so they are looked through first
    private.ofctl("add-flow", "br0", f"{narrow},actions=drop")
    waited()
    send("src=10.0.0.1,dst=10.0.0.1")  # cached by the first bits of the destination
    private.ofctl("del-flows", "br0", narrow.removeprefix("priority=9,"))
    waited()
    send("src=10.0.0.1,dst=10.9.0.1")  # cached whatever the destination
    old = set(cached())
    assert len(cached()) == 3
    assert len(old) == 1
    private.ofctl("add-flow", "br0", wide.format(3))
    real.switch().barrier()
    send("src=10.0.0.1,dst=10.0.0.1")
    (new,) = cached()
    assert new not in old


def test_an_unknown_bridge_is_named(real: RealGround) -> None:
    absent = OvsSwitch("br9", tables=TABLES, database=real.private.database, run_dir=real.private.run_dir)
    with pytest.raises(SwitchError, match="no bridge br9") as caught:
        absent.observe()
    assert caught.value.code == "bridge-unknown"
    with pytest.raises(SwitchError, match="no name of a bridge"):
        OvsSwitch("--help", tables=TABLES)


def test_a_database_that_is_down(short_directory: Path) -> None:
    nobody = OvsSwitch("br0", tables=TABLES, database=f"unix:{short_directory}/db.sock", run_dir=str(short_directory))
    for ask in (nobody.observe, nobody.barrier, nobody.set_fail_secure):
        with pytest.raises(SwitchUnavailableError):
            ask()


def test_a_tool_that_takes_too_long() -> None:
    with pytest.raises(SwitchUnavailableError, match=r"no answer in 0\.05 s"):
        run(["sleep", "20"], 0.05)


def test_a_tool_that_is_missing() -> None:
    with pytest.raises(SwitchError) as caught:
        run(["ovs-nothing-of-the-kind"], 1)
    assert caught.value.code == "switch-tool-missing"


def test_a_line_that_the_tool_does_not_read_is_quoted() -> None:
    error = explain("ovs-ofctl: -:2: unknown keyword bogus", "unix:/run/br0.mgmt", ["add a", "add bogus=4"])
    assert isinstance(error, BundleRefusedError)
    assert "add bogus=4" in str(error)


def test_one_connection_takes_many_calls(private: PrivateSwitch) -> None:
    with UnixCtl(private.run_dir, WAIT_SECONDS) as daemon:
        assert "{" not in daemon.call("version")
        with pytest.raises(ToolFailedError, match="not a valid command"):
            daemon.call("bogus")
        assert "dpctl/flush-conntrack" in daemon.call("list-commands")


def test_a_large_bundle_in_one_piece(real: RealGround) -> None:
    flows = [flow(71, 1, ("reg5", index, 0xFFFFFFFF), actions=(Output(1),)) for index in range(5000)]
    real.switch().apply(tuple(map(AddFlow, flows)))
    assert set(flows) <= set(real.switch().observe().flows)


async def _until(news: AsyncIterator[News], wanted: set[News]) -> None:
    """Read until each of these was told since now."""
    missing = set(wanted)
    async with asyncio.timeout(WAIT_SECONDS):
        while missing:
            missing.discard(await anext(news))


def test_news_survive_restarts(short_directory: Path) -> None:
    async def play(private: PrivateSwitch) -> None:
        switch = OvsSwitch("br0", tables=TABLES, database=private.database, run_dir=private.run_dir)
        news = switch.changes()
        await _until(news, {"database", "bridge"})
        await asyncio.to_thread(private.add_port, "br0", "p1", kind="dummy")
        await _until(news, {"bridge"})
        await asyncio.to_thread(private.restart_vswitchd)
        await _until(news, {"vswitchd"})
        await asyncio.to_thread(private.kill_database)
        await asyncio.to_thread(private.start_database)
        await _until(news, {"database"})
        await asyncio.to_thread(private.remove_port, "br0", "p1")
        await _until(news, {"bridge"})
        await news.aclose()  # type: ignore[attr-defined]

    with PrivateSwitch(short_directory) as private:
        private.add_bridge("br0")
        asyncio.run(play(private))


def test_several_at_once_do_not_meet(short_directory: Path, real: RealGround) -> None:
    with PrivateSwitch(short_directory) as private:
        private.add_bridge("br0")
        other = OvsSwitch("br0", tables=TABLES, database=private.database, run_dir=private.run_dir)
        other.apply((AddFlow(flow()),))
        assert flow() in other.observe().flows
        assert flow() not in real.switch().observe().flows
