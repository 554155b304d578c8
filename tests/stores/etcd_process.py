"""etcd servers for the tests: real ones, on loopback, in a directory of their own, gone with the tests.

`setpriv --pdeathsig` (util-linux) makes the kernel end a server whose parent has died, however it died.
"""

from __future__ import annotations

import atexit
import functools
import http.client
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

START_SECONDS = 30

# Faster than etcd's defaults by half, so that elections and leases end sooner; progress is told often.
TIMING = (
    "--heartbeat-interval=50",
    "--election-timeout=500",
    "--experimental-watch-progress-notify-interval=100ms",
)


PORTS = range(12_000, 32_000)
"""Below those that Linux gives to outgoing connections (net.ipv4.ip_local_port_range): one of them could otherwise
take the port of a member while it is down."""

_given: set[int] = set()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on now, and none twice."""
    found: list[int] = []
    while len(found) < count:
        port = secrets.choice(PORTS)
        with socket.socket() as probe:
            if port in _given or probe.connect_ex(("127.0.0.1", port)) == 0:
                continue
        _given.add(port)
        found.append(port)
    return found


class EtcdProcess:
    """One member. `cluster` gives the names and peer ports of all members; alone it is its own cluster."""

    def __init__(
        self,
        directory: Path,
        *,
        name: str = "one",
        peers: dict[str, int] | None = None,
        scheme: str = "http",
        arguments: Sequence[str] = (),
    ) -> None:
        self.name = name
        self.directory = directory
        self.client_port, self.health_port, own_peer_port = free_ports(3)
        self._peers = peers or {name: own_peer_port}
        self._scheme = scheme
        self._arguments = tuple(arguments)
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self.client_port}"

    @property
    def data(self) -> Path:
        return self.directory / self.name

    def start(self, *, wait: bool = True) -> EtcdProcess:
        """Start with what is in the data directory; `wait` until it serves."""
        self.directory.mkdir(parents=True, exist_ok=True)
        peer = f"http://127.0.0.1:{self._peers[self.name]}"
        cluster = ",".join(f"{name}=http://127.0.0.1:{port}" for name, port in self._peers.items())
        with (self.directory / f"{self.name}.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL", "etcd"),
                    f"--name={self.name}",
                    f"--data-dir={self.data}",
                    f"--listen-client-urls={self.endpoint}",
                    f"--advertise-client-urls={self.endpoint}",
                    f"--listen-peer-urls={peer}",
                    f"--initial-advertise-peer-urls={peer}",
                    f"--initial-cluster={cluster}",
                    f"--listen-metrics-urls=http://127.0.0.1:{self.health_port}",
                    "--logger=zap",
                    "--log-level=warn",
                    *TIMING,
                    *self._arguments,
                ],
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait()
        return self

    def wait(self) -> None:
        """Until it is healthy: it has a leader and answers."""
        deadline = time.monotonic() + START_SECONDS
        while not self.is_healthy():
            assert self._process is not None
            assert self._process.poll() is None, f"etcd ended: {self._log_text()}"
            assert time.monotonic() < deadline, f"etcd does not serve: {self._log_text()}"
            time.sleep(0.02)

    def is_healthy(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.health_port, timeout=2)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def kill(self) -> None:
        """At once, as a machine that loses power."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.send_signal(signal.SIGCONT)
                self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """It keeps its connections and says nothing, from the moment that this returns."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        while not self._is_stopped():
            time.sleep(0.001)

    def _is_stopped(self) -> bool:
        assert self._process is not None
        threads = Path(f"/proc/{self._process.pid}/task").iterdir()
        try:
            return all((each / "stat").read_text().rpartition(") ")[2].startswith("T") for each in threads)
        except FileNotFoundError:
            return False  # one ended just now

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def wipe(self) -> None:
        """The data directory is deleted and the member set up again as before."""
        self.kill()
        shutil.rmtree(self.data)
        self.start()

    def restore(self, snapshot: Path) -> str:
        """Make the data directory of a snapshot, for the cluster this member was in; what etcdctl says."""
        peer = f"http://127.0.0.1:{self._peers[self.name]}"
        return ctl(
            self.endpoint,
            *("snapshot", "restore", str(snapshot)),
            *(f"--name={self.name}", f"--initial-cluster={self.name}={peer}", f"--initial-advertise-peer-urls={peer}"),
            f"--data-dir={self.data}",
        )

    def ctl(self, *arguments: str, stdin: str = "") -> str:
        """Run etcdctl against this member; what it prints."""
        return ctl(self.endpoint, *arguments, stdin=stdin)

    def _log_text(self) -> str:
        return (self.directory / f"{self.name}.log").read_text()[-2000:]


class Cluster:
    """Three members."""

    def __init__(self, directory: Path) -> None:
        names = ("one", "two", "three")
        peers = dict(zip(names, free_ports(3), strict=True))
        self.members = [EtcdProcess(directory, name=name, peers=peers) for name in names]
        for member in self.members:
            member.start(wait=False)
        for member in self.members:
            member.wait()

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def leader(self) -> EtcdProcess:
        """The member that says of itself that it leads."""
        for member in self.members:
            fields = member.ctl("endpoint", "status", "--write-out=fields").splitlines()
            found = dict(line.replace('"', "").split(" : ", 1) for line in fields if " : " in line)
            if found["MemberID"] == found["Leader"]:
                return member
        raise AssertionError("no leader")

    def stop(self) -> None:
        for member in self.members:
            member.kill()


def ctl(endpoint: str, *arguments: str, stdin: str = "") -> str:
    done = subprocess.run(
        ["etcdctl", f"--endpoints={endpoint}", "--command-timeout=20s", *arguments],
        env={**os.environ, "ETCDCTL_API": "3"},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@functools.cache
def shared() -> EtcdProcess:
    """One server for all tests that leave it as they found it, apart from keys."""
    directory = Path(tempfile.mkdtemp(prefix="hitless-etcd-"))
    server = EtcdProcess(directory).start()

    def end() -> None:
        server.kill()
        shutil.rmtree(directory)

    atexit.register(end)
    return server
