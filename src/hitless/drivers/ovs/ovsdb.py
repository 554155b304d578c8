"""What Open vSwitch's database holds about one bridge, through `ovs-vsctl`, and news of it through `ovsdb-client`.

Reads are one transaction with JSON output. Writes that only have to be remembered do not wait for ovs-vswitchd: they
must work while it is down. Writes that change forwarding return when it is in force.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from hitless.core.model.flow import Interface
from hitless.drivers.ovs.tools import ToolFailedError, is_unreachable, run, unavailable
from hitless.ports import SwitchError

_RETRY_SECONDS: Final = 0.5  # between attempts to reach a database or daemon that is restarting
_CHUNK_BYTES: Final = 65_536
_RESTORE_WAIT: Final = "flow-restore-wait"
_WATCHED: Final = {"Interface": "name,ofport,external_ids", "Port": "name,tag", "Bridge": "name,ports,fail_mode"}

News = Literal["database", "bridge", "vswitchd"]
"""Reconnected to the database; ports, tags or bridges changed; ovs-vswitchd went or came back."""


class Facts(msgspec.Struct, frozen=True):
    """The database's part of a BridgeState, and the Port record of every interface name."""

    interfaces: tuple[Interface, ...]
    external_ids: tuple[tuple[str, str], ...]
    fail_mode: str
    restore_wait: bool
    ports: Mapping[str, str]


class Database:
    """One bridge's records. Every method raises SwitchError."""

    def __init__(self, bridge: str, database: str, timeout_seconds: float) -> None:
        self.bridge = bridge
        self.database = database
        self.timeout_seconds = timeout_seconds

    def read(self) -> Facts:
        """All of it as of one moment."""
        bridges, ports, interfaces, switches = self._tables(
            *("--columns=ports,fail_mode,external_ids", "list", "Bridge", self.bridge),
            *("--", "--columns=_uuid,name,tag,interfaces", "list", "Port"),
            *("--", "--columns=_uuid,name,ofport,external_ids", "list", "Interface"),
            *("--", "--columns=other_config", "list", "Open_vSwitch", "."),
        )
        members, fail_mode, external_ids = bridges[0]
        known = {uuid[1]: row for uuid, *row in interfaces}
        found, port_of = [], {}
        for uuid, name, tag, holds in ports:
            if uuid[1] in {each[1] for each in _many(members)}:
                for each in _many(holds):
                    interface = _interface(known[each[1]], tag)
                    found.append(interface)
                    port_of[interface.name] = name
        return Facts(
            tuple(sorted(found, key=lambda each: each.name)),
            tuple(sorted(_map(external_ids).items())),
            next(iter(_many(fail_mode)), ""),
            _map(switches[0][0]).get(_RESTORE_WAIT) == "true",
            port_of,
        )

    def remember(self, values: Mapping[str, str]) -> None:
        """Set `external_ids` of the bridge; an empty value removes its key."""
        argv: list[str] = []
        for key, value in values.items():
            if value:
                pair = f"external_ids:{json.dumps(key)}={json.dumps(value)}"
                argv += ["--", "set", "Bridge", self.bridge, pair]
            else:
                argv += ["--", "remove", "Bridge", self.bridge, "external_ids", json.dumps(key)]
        if argv:
            self._run("--no-wait", *argv)

    def set_tags(self, tags: Mapping[str, int]) -> None:
        """Access ports by interface name, in one transaction. A name that the bridge does not have is an error."""
        ports = self.read().ports
        if missing := sorted(set(tags) - set(ports)):
            raise SwitchError("interface-unknown", f"bridge {self.bridge} has no interface {', '.join(missing)}. Its "
                              f"tag was not set; add the port, see `ovs-vsctl list-ports {self.bridge}`")  # fmt: skip
        argv = [word for name, tag in tags.items() for word in ("--", "set", "Port", ports[name], f"tag={tag}")]
        if argv:
            self._run(*argv)

    def set_fail_secure(self) -> None:
        """Nothing where it is so already. Else Open vSwitch forgets all flows of a bridge without a controller.

        (ofproto/connmgr.c, connmgr_set_fail_mode: "if there are no controllers, flush".) Write them anew right after.
        """
        self._run("--", "set", "Bridge", self.bridge, "fail_mode=secure")

    def set_restore_wait(self, wait: bool) -> None:
        """Does not wait for ovs-vswitchd, which may be about to start."""
        change = ["set", "Open_vSwitch", ".", f"other_config:{_RESTORE_WAIT}=true"]
        if not wait:
            change = ["remove", "Open_vSwitch", ".", "other_config", _RESTORE_WAIT]
        self._run("--no-wait", "--", *change)

    def _tables(self, *commands: str) -> list[list[Any]]:
        text = self._run("--format=json", "--no-wait", "--", *commands)
        return [json.loads(line)["data"] for line in text.splitlines()]

    def _run(self, *argv: str) -> str:
        try:
            return run(["ovs-vsctl", "--no-syslog", f"--db={self.database}", *argv], self.timeout_seconds)
        except ToolFailedError as error:
            raise self._explain(error.text) from error

    def _explain(self, text: str) -> SwitchError:
        if "no row" in text and "Bridge" in text:
            return SwitchError("bridge-unknown", f"there is no bridge {self.bridge}. Create it with `ovs-vsctl add-br "
                               f"{self.bridge}`, or correct the bridge's name in the configuration")  # fmt: skip
        if is_unreachable(text):
            return unavailable("ovsdb-server", text)
        return SwitchError("switch-tool-failed", f"ovs-vsctl on bridge {self.bridge} failed: {text[:500]}. Nothing of "
                           "this transaction is in force")  # fmt: skip


async def changes(database: str, run_dir: str) -> AsyncIterator[News]:
    """News since the last one, each kind once, for as long as one iterates; survives restarts of both daemons.

    The first to come is `database` and `bridge`: what is there at the start. News are hints: look what it is.
    """
    pending: dict[News, None] = {}
    woken = asyncio.Event()

    def tell(news: News) -> None:
        pending[news] = None
        woken.set()

    tasks = [asyncio.create_task(_follow_table(database, table, tell)) for table in _WATCHED]
    tasks.append(asyncio.create_task(_follow_daemon(run_dir, tell)))
    for task in tasks:
        task.add_done_callback(lambda _: woken.set())
    try:
        while True:
            await woken.wait()
            woken.clear()
            for task in tasks:
                if task.done():
                    task.result()
            while pending:
                news = next(iter(pending))
                del pending[news]
                yield news
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _follow_table(database: str, table: str, tell: Callable[[News], None]) -> None:
    """Anything that the monitor prints is a change; it ends when the database goes."""
    argv = ("ovsdb-client", "--format=json", "monitor", database, "Open_vSwitch", table, _WATCHED[table])
    while True:
        try:
            monitor = await asyncio.create_subprocess_exec(
                *argv, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
            )
        except FileNotFoundError as error:
            raise SwitchError("switch-tool-missing", "ovsdb-client is not installed or not on PATH; install Open "
                              "vSwitch's command line tools (the package openvswitch-switch)") from error  # fmt: skip
        assert monitor.stdout is not None  # noqa: S101 - PIPE was asked for
        first = True
        try:
            while await monitor.stdout.read(_CHUNK_BYTES):
                if first:
                    tell("database")
                first = False
                tell("bridge")
        finally:
            # A child that has ended by itself is reaped first, or asyncio would wonder about an unknown process.
            if not monitor.stdout.at_eof():
                with contextlib.suppress(ProcessLookupError):
                    monitor.kill()
            await monitor.wait()
        await asyncio.sleep(_RETRY_SECONDS)


async def _follow_daemon(run_dir: str, tell: Callable[[News], None]) -> None:
    """A connection to ovs-vswitchd's management socket ends when the daemon does, at once."""
    met = False
    while True:
        with contextlib.suppress(OSError, ValueError):
            pid = int(Path(run_dir, "ovs-vswitchd.pid").read_text(encoding="ascii"))
            reader, writer = await asyncio.open_unix_connection(f"{run_dir}/ovs-vswitchd.{pid}.ctl")
            if met:
                tell("vswitchd")
            met = True
            try:
                while await reader.read(_CHUNK_BYTES):
                    pass
            finally:
                writer.close()
                tell("vswitchd")
        await asyncio.sleep(_RETRY_SECONDS)


def _interface(row: Sequence[Any], tag: Any) -> Interface:
    name, ofport, external_ids = row
    number = next(iter(_many(ofport)), -1)  # -1, as Open vSwitch has it for a port that could not be added
    return Interface(_map(external_ids).get("iface-id") or name, number, next(iter(_many(tag)), 0))


def _many(value: Any) -> list[Any]:
    """A set in OVSDB's JSON (RFC 7047, 5.1): one element stands alone."""
    return value[1] if isinstance(value, list) and value[:1] == ["set"] else [value]


def _map(value: Any) -> dict[str, str]:
    return dict(value[1])
