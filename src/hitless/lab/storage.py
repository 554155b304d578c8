"""Where the store of a lab lives: one file for all agents, or etcd members on a network of their own.

The members are processes in a namespace that only management links lead to, so that a node can be cut off from the
store while its traffic goes on. The lab itself stands in no namespace; a relay on loopback takes its calls there.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import re
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final, Protocol

from hitless.lab.kernel.face import LabError
from hitless.lab.probe import namespace
from hitless.lab.topology import Topology, member_address
from hitless.stores.etcd.options import DEFAULT_PORT, EtcdOptions
from hitless.stores.options import SqliteOptions, StoreOptions

_PEER_PORT: Final = 2380
_HEALTH_PORT: Final = 2381
_START_SECONDS: Final = 60.0  # three members take four seconds in a guest with one CPU
_LOOK_SECONDS: Final = 0.1
# Twice as fast as etcd's defaults, so that an election is over sooner. No fsync: nobody pulls this machine's plug.
_SETTINGS: Final = ("--heartbeat-interval=50", "--election-timeout=500", "--logger=zap", "--log-level=warn",
                    "--unsafe-no-fsync")  # fmt: skip


class StoreHome(Protocol):
    """A store that can be destroyed. `options` is for the agents, `own_options` for the lab itself."""

    @property
    def options(self) -> StoreOptions: ...
    @property
    def own_options(self) -> StoreOptions: ...

    def wipe(self) -> None:
        """Everything is gone, and an empty store of another history stands, or will stand, in its place."""
        ...

    def kill_leader(self) -> None:
        """The member that leads dies at once. LabError `no-members` where the store has none."""
        ...

    def revive(self) -> None:
        """Members that died begin again with what they have; on return they serve, and hold all that was written.

        LabError `no-members`, `no-dead-member`, `etcd-does-not-serve`.
        """
        ...

    def restart(self) -> None:
        """All members end and begin again with what they have. LabError `no-members`."""
        ...

    def close(self) -> None: ...


class FileHome:
    """A file. Who opens the next one of that name creates it, and removes what lies beside it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.options = self.own_options = SqliteOptions(str(path))

    def wipe(self) -> None:
        self._path.unlink(missing_ok=True)

    def kill_leader(self) -> None:
        raise _no_members()

    def revive(self) -> None:
        raise _no_members()

    def restart(self) -> None:
        raise _no_members()

    def close(self) -> None:
        return


class EtcdHome:
    """Members of one etcd cluster in the topology's store namespace. `directory` is for data and logs."""

    def __init__(self, topology: Topology, directory: Path, count: int) -> None:
        """Start and wait until all members serve. LabError `etcd-missing`, `etcd-does-not-serve`."""
        if shutil.which("etcd") is None:
            raise LabError("etcd-missing", "there is no etcd on this machine; install it (Debian: etcd-server)")
        self._topology, self._directory = topology, directory
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._history = 1
        self._addresses = addresses = [member_address(member) for member in range(1, count + 1)]
        self.options: StoreOptions = EtcdOptions(tuple(f"http://{each}:{DEFAULT_PORT}" for each in addresses))
        self._relays: list[Relay] = []
        directory.mkdir(parents=True, exist_ok=True)
        try:
            self._start()
            self._relays = [Relay(topology.store, (each, DEFAULT_PORT)) for each in addresses]
        except BaseException:
            self.close()
            raise
        self.own_options: StoreOptions = EtcdOptions(tuple(relay.endpoint for relay in self._relays))

    def wipe(self) -> None:
        self._kill()
        shutil.rmtree(self._directory / "data")
        self._history += 1
        self._start()

    def restart(self) -> None:
        self._kill()
        self._start()

    def kill_leader(self) -> None:
        for member, process in self._processes.items():
            if process.poll() is None and b"\netcd_server_is_leader 1\n" in self._ask(member, "/metrics"):
                process.kill()
                process.wait()
                return
        raise LabError("no-leader", "no etcd member says that it leads; is a majority of them alive?")

    def revive(self) -> None:
        dead = [member for member, process in self._processes.items() if process.poll() is not None]
        if not dead:
            raise LabError("no-dead-member", "all etcd members run; write `store kill leader` above this line")
        written = max(self._applied(member) for member in self._processes if member not in dead)
        for member in dead:
            self._spawn(member)
        self._await(dead, lambda member: self._serves(member) and self._applied(member) >= written)

    def close(self) -> None:
        for relay in self._relays:
            relay.close()
        self._kill()

    def _start(self) -> None:
        for member in range(1, len(self._addresses) + 1):
            self._spawn(member)
        self._await(self._processes, self._serves)

    def _spawn(self, member: int) -> None:
        cluster = ",".join(f"m{n}=http://{each}:{_PEER_PORT}" for n, each in enumerate(self._addresses, start=1))
        address = self._addresses[member - 1]
        client, peer = f"http://{address}:{DEFAULT_PORT}", f"http://{address}:{_PEER_PORT}"
        argv = (
            "etcd", f"--name=m{member}", f"--data-dir={self._directory / 'data' / f'm{member}'}",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}", f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}", f"--initial-cluster={cluster}",
            f"--initial-cluster-token=history-{self._history}",
            f"--listen-metrics-urls=http://{address}:{_HEALTH_PORT}", *_SETTINGS,
        )  # fmt: skip
        with (self._directory / f"m{member}.log").open("ab") as log:
            self._processes[member] = self._topology.spawn(self._topology.store, argv, stdout=log, stderr=log)

    def _await(self, members: Collection[int], ready: Callable[[int], bool]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while not all(ready(member) for member in members):
            ended = [member for member in members if self._processes[member].poll() is not None]
            if time.monotonic() > deadline or ended:
                log = self._directory / f"m{[*ended, *members][0]}.log"
                said = log.read_text("utf-8", "replace")[-500:]
                raise LabError("etcd-does-not-serve", f"etcd did not come up within {_START_SECONDS:g} s: {said}")
            time.sleep(_LOOK_SECONDS)

    def _serves(self, member: int) -> bool:
        return b'"true"' in self._ask(member, "/health")

    def _applied(self, member: int) -> float:
        """Up to where the log of all members has been applied by this one; 0 where it does not say."""
        found = re.search(rb"^etcd_server_proposals_applied_total (\S+)$", self._ask(member, "/metrics"), re.MULTILINE)
        return float(found[1]) if found else 0.0

    def _ask(self, member: int, path: str) -> bytes:
        with namespace.enter(self._topology.store):
            connection = http.client.HTTPConnection(member_address(member), _HEALTH_PORT, timeout=2)
            try:
                connection.request("GET", path)
                return connection.getresponse().read()
            except (OSError, http.client.HTTPException):
                return b""
            finally:
                connection.close()

    def _kill(self) -> None:
        for process in self._processes.values():
            process.kill()
            process.wait()
        self._processes.clear()


class Relay:
    """Takes connections on loopback and carries their bytes to an address inside a namespace, in a thread."""

    def __init__(self, name: str, target: tuple[str, int]) -> None:
        self._name, self._target = name, target
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"relay to {target[0]}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._carry, sock=self._listener))
        self._loop.run_forever()
        server.close()
        under_way = asyncio.all_tasks(self._loop)
        for task in under_way:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*under_way, return_exceptions=True))
        self._loop.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A socket belongs to the namespace in which it was made, wherever it is used from.
        with namespace.enter(self._name):
            there = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        there.setblocking(False)
        # Cancelled only when the relay ends; asyncio's streams would report a connection that is still cancelled then.
        ended = contextlib.suppress(OSError, asyncio.CancelledError)
        with ended, contextlib.closing(there), contextlib.closing(writer):
            await self._loop.sock_connect(there, self._target)
            far_reader, far_writer = await asyncio.open_connection(sock=there)
            with contextlib.closing(far_writer):
                ways = [_pump(reader, far_writer), _pump(far_reader, writer)]
                done, pending = await asyncio.wait(
                    [asyncio.ensure_future(way) for way in ways], return_when=asyncio.FIRST_COMPLETED
                )
                for task in pending:
                    task.cancel()
                await asyncio.gather(*done, *pending, return_exceptions=True)


def _no_members() -> LabError:
    return LabError("no-members", "this store is a file, and has no members; write `store etcd 3 members`")


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
