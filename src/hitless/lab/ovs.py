"""A private Open vSwitch: both daemons on directories of their own, beside any other on the machine.

The default datapath is the userspace one under the name `dummy`: it forwards and tracks connections like `netdev`, but
needs neither privileges nor a tap device, and any number of them run at once. Ports may be `dummy` or, with privileges,
real interfaces such as veth. `netdev` makes the tap `ovs-netdev`, hence one a network namespace; `system` is the
kernel's datapath, one a kernel, for guests.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Final, Literal, Self

from hitless.lab.kernel.face import LabError

Datapath = Literal["dummy", "netdev", "system"]

_SCHEMA: Final = Path("/usr/share/openvswitch/vswitch.ovsschema")
_TIMEOUT_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.02
# Open vSwitch 3.1 lists the CPUs at most every 10 s of the monotonic clock, beginning with 0: before that it has none.
_UPTIME_SECONDS: Final = 11.0


class OvsLabError(LabError):
    """A daemon that did not start or end, or a tool that failed; the message ends with its log."""

    def __init__(self, message: str) -> None:
        super().__init__("lab-switch-failed", message)


class PrivateSwitch:
    """Runs while the context is open; `directory` must be short enough for socket paths (about 70 letters)."""

    def __init__(self, directory: Path, *, datapath: Datapath = "dummy") -> None:
        self.directory = directory
        self.datapath = datapath
        self.run_dir = str(directory)
        self.database = f"unix:{directory}/db.sock"
        names = ("OVS_RUNDIR", "OVS_DBDIR", "OVS_LOGDIR", "OVS_SYSCONFDIR")
        self.environment = os.environ | dict.fromkeys(names, self.run_dir)
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            if not (self.directory / "conf.db").exists():
                self.run("ovsdb-tool", "create", f"{self.directory}/conf.db", str(_SCHEMA))
            self.start_database()
            self.vsctl("--no-wait", "init")
            self.start_vswitchd()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End both daemons."""
        for name in ("ovs-vswitchd", "ovsdb-server"):
            self._end(name, signal.SIGTERM)

    def add_bridge(self, bridge: str) -> None:
        """A bridge of the switch's datapath; it has the implicit NORMAL flow."""
        kind = self.datapath if self.datapath != "system" else ""
        self.vsctl("add-br", bridge, "--", "set", "Bridge", bridge, f'datapath_type="{kind}"')

    def remove_bridge(self, bridge: str) -> None:
        self.vsctl("del-br", bridge)

    def add_port(self, bridge: str, interface: str, *, kind: str = "", iface_id: str = "", ofport: int = 0) -> None:
        """An interface: an existing one, e.g. a veth's end, or `kind` "dummy" or "internal" for one to be made."""
        more = [f"type={kind}"] * bool(kind) + [f"ofport_request={ofport}"] * bool(ofport)
        more += [f"external_ids:iface-id={iface_id}"] * bool(iface_id)
        self.vsctl("add-port", bridge, interface, *(["--", "set", "Interface", interface, *more] if more else []))

    def remove_port(self, bridge: str, interface: str) -> None:
        self.vsctl("del-port", bridge, interface)

    def kill_vswitchd(self) -> None:
        """kill -9, as a crash is: no file is tidied up."""
        self._end("ovs-vswitchd", signal.SIGKILL)

    def kill_database(self) -> None:
        self._end("ovsdb-server", signal.SIGKILL)

    def start_database(self) -> None:
        self._start("ovsdb-server", f"{self.directory}/conf.db", f"--remote=punix:{self.directory}/db.sock")

    def start_vswitchd(self) -> None:
        """Returns when it answers on its management socket."""
        while time.clock_gettime(time.CLOCK_MONOTONIC) < _UPTIME_SECONDS:
            time.sleep(_POLL_SECONDS)
        extra = {"dummy": ("--enable-dummy", "--disable-system"), "netdev": ("--disable-system",), "system": ()}
        self._start("ovs-vswitchd", self.database, *extra[self.datapath])

    def restart_vswitchd(self) -> None:
        """kill -9 and start: all flows are gone but the implicit one."""
        self.kill_vswitchd()
        self.start_vswitchd()

    def vsctl(self, *argv: str) -> str:
        return self.run("ovs-vsctl", f"--db={self.database}", "--timeout=15", *argv)

    def appctl(self, *argv: str) -> str:
        return self.run("ovs-appctl", *argv)

    def ofctl(self, *argv: str, stdin: str = "") -> str:
        return self.run("ovs-ofctl", "-O", "OpenFlow14", *argv, stdin=stdin)

    def run(self, *argv: str, stdin: str = "") -> str:
        """A tool's stdout, on this switch's directories. Raises OvsLabError."""
        try:
            done = subprocess.run(
                argv, input=stdin, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False,
                env=self.environment,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise OvsLabError(f"{' '.join(argv[:4])}: {error}\n{self._log('ovs-vswitchd')}") from error
        if done.returncode:
            raise OvsLabError(f"{' '.join(argv)}: {done.stderr.strip()}\n{self._log('ovs-vswitchd')}")
        return done.stdout

    def _start(self, name: str, *argv: str) -> None:
        """In the foreground as our child, so that it is ended by its handle and nothing else can be meant."""
        pidfile = self.directory / f"{name}.pid"
        pidfile.unlink(missing_ok=True)
        command = [name, *argv, f"--pidfile={pidfile}", f"--log-file={self.directory}/{name}.log", "-vconsole:off"]
        daemon = subprocess.Popen(
            command, env=self.environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )  # fmt: skip
        self._daemons[name] = daemon
        deadline = time.monotonic() + _TIMEOUT_SECONDS
        while not self._answers(name):
            if daemon.poll() is not None or time.monotonic() > deadline:
                raise OvsLabError(f"{name} did not start; its log:\n{self._log(name)}")
            time.sleep(_POLL_SECONDS)

    def _answers(self, name: str) -> bool:
        pidfile = self.directory / f"{name}.pid"
        if not pidfile.exists():
            return False
        with contextlib.suppress(OvsLabError):
            # A pid file of an earlier one was removed, and this one writes its own before it serves.
            self.run("ovs-appctl", "-t", name, "version")
            return True
        return False

    def _end(self, name: str, how: signal.Signals) -> None:
        daemon = self._daemons.pop(name, None)
        if daemon is None:
            return
        daemon.send_signal(how)
        try:
            daemon.wait(_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()

    def _log(self, name: str) -> str:
        with contextlib.suppress(OSError):
            return (self.directory / f"{name}.log").read_text(encoding="utf-8", errors="replace")[-2000:]
        return "(no log)"
