"""What one agent of a large cluster costs: start, a join, a rotation, and a quiet minute among 1,000 peers.

One real agent (`agent.life.live`) lives in a process of its own, on the executable kernel in memory and on a real
store. This process writes what all other nodes would write, in the order and with the contents that the protocol
gives: every node's watermarks move twice in a join and twice in a rotation, and what a node says first names all
whom it still waits for. The agent's CPU is what its own process used; the stand-in for the kernel is timed by itself
and left out, for a real one costs other amounts (`bench/xfrm_install.py`).

Targets: a join and a rotation at most 1 core-second each, resident memory at most 150 MB.
`--store etcd` starts a Debian etcd-server of its own on loopback. `--profile FILE` writes a cProfile of the rotation.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import cProfile
import json
import random
import resource
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec

from hitless.agent.config import Config, load
from hitless.agent.life import live
from hitless.agent.registry import Registry
from hitless.agent.run import collect_seldom
from hitless.core.ipsec.keyfile import parse
from hitless.core.model.layout import Layout, encode
from hitless.core.model.node import Behind, Incarnation, NodeRecord, Progress, Receives, Sends
from hitless.core.model.sa import XfrmState
from hitless.core.plan.ops import Outcome, Wave
from hitless.drivers.fake.kernel import FakeKernel
from hitless.ports import Put, Store
from hitless.stores.open import open_store
from hitless.telemetry.log import configure

CLUSTER, ME = "bench", "n0000"
LIMIT_SECONDS = 300.0
IDLE_SECONDS = 15.0
PUTS_A_COMMIT = 100
SHORT_LIST = 32  # as in `core.ipsec.handover`


# --- the agent's process ----------------------------------------------------------------------------------


class TimedKernel:
    """A kernel in memory whose own CPU time is counted, so that it can be taken off the agent's."""

    def __init__(self) -> None:
        self.kernel = FakeKernel(wall=time.time)
        self.port_id = self.kernel.port_id
        self.owns = self.kernel.owner.owns
        self.seconds = 0.0

    @property
    def writes(self) -> int:
        return self.kernel.writes

    def observe(self) -> XfrmState:
        began = time.thread_time()
        found = self.kernel.observe()
        self.seconds += time.thread_time() - began
        return found

    def apply(self, wave: Wave) -> tuple[Outcome, ...]:
        began = time.thread_time()
        outcomes = self.kernel.apply(wave)
        self.seconds += time.thread_time() - began
        return outcomes


def agent_process(config: Config, profile: str) -> None:
    """Live until stdin ends; every line on stdin is answered with the figures so far."""
    configure(ME, "json")
    collect_seldom()
    kernel, watch = TimedKernel(), cProfile.Profile(time.thread_time)

    async def body() -> None:
        life = asyncio.ensure_future(live(config, open_store(config.store), kernel, kernel.kernel.monitor()))
        loop = asyncio.get_running_loop()
        threading.Thread(target=answer, args=(kernel, loop, life, watch), daemon=True).start()
        with contextlib.suppress(asyncio.CancelledError):
            await life

    asyncio.run(body())
    if profile:
        watch.disable()
        watch.dump_stats(profile)


def answer(
    kernel: TimedKernel, loop: asyncio.AbstractEventLoop, life: asyncio.Future[None], watch: cProfile.Profile
) -> None:
    """Read requests, one a line, and answer each with one line of JSON; "profile" also begins the profile."""
    for line in sys.stdin:
        if line == "profile\n":
            loop.call_soon_threadsafe(watch.enable)
        status = Path("/proc/self/status").read_text()
        found = {
            "cpu": time.process_time() - kernel.seconds,
            "kernel": kernel.seconds,
            "loop": time.clock_gettime(time.pthread_getcpuclockid(threading.main_thread().ident or 0)),
            "rss_mb": int(status.split("VmRSS:")[1].split()[0]) / 1024,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
            "sas": len(kernel.kernel.observe().sas),
        }
        print(json.dumps(found), flush=True)
    loop.call_soon_threadsafe(life.cancel)


class Agent:
    """The agent's process, from the outside."""

    def __init__(self, base: Path, profile: str) -> None:
        self.log = base / "log"
        command = [sys.executable, __file__, "--life", str(base / "node.toml"), "--profile", profile]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, bufsize=1
            )

    def figures(self, request: str = "?") -> dict[str, float]:
        """CPU seconds without and of the kernel's stand-in, resident memory in MB, SAs. SystemExit if it has died."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if self.process.poll() is not None:
            raise SystemExit(self.log.read_text()[-4000:])
        self.process.stdin.write(f"{request}\n")
        return dict(json.loads(self.process.stdout.readline()))

    def stop(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()


# --- all other nodes --------------------------------------------------------------------------------------


class Peers:
    """What the other nodes write. `spread_seconds` is how far apart the first and the last of them are."""

    def __init__(self, store: Store, count: int, spread_seconds: float) -> None:
        self.store, self.layout, self.spread_seconds = store, Layout(CLUSTER), spread_seconds
        self.chance = random.Random(1)  # noqa: S311 - the same run every time
        self.nodes = [self.node(number) for number in range(1, count + 1)]
        self.said: dict[str, Progress] = {}
        self.epoch = ""

    @staticmethod
    def node(number: int) -> NodeRecord:
        return NodeRecord(
            name=f"n{number:04}",
            node_id=0x1000 + number,
            incarnation=Incarnation(1, secrets.token_hex(16)),
            addresses=(f"192.0.{2 + number // 250}.{number % 250 + 1}",),
            prefixes=(f"10.{1 + number // 250}.{number % 250}.0/24",),
        )

    async def populate(self, generation: int) -> None:
        """A cluster that has been there for long: records, ids and watermarks, all at rest."""
        self.epoch = await self.store.epoch()
        records = [Put(self.layout.node(each.name), encode(each)) for each in self.nodes]
        ids = [Put(self.layout.node_id(each.node_id), each.name.encode()) for each in self.nodes]
        revision = await self._put([*ids, *records])
        await self._put([self._progress(each, revision, (generation,), generation) for each in self.nodes])

    async def move(
        self, nodes: Sequence[NodeRecord], revision: int, holds: tuple[int, ...], generation: int,
        waiting: Iterable[str] = (), reason: str = "peer-not-ready", *, shrinking: bool = False,
    ) -> None:  # fmt: skip
        """Each of these nodes writes its watermarks, one commit each, spread over the time.

        `waiting` are those they still wait for; `shrinking` takes each off the list once it has written itself, and
        leaves a long list out, as agents do: what they said of their sending stays until the list is short.
        """
        left = dict.fromkeys(waiting)
        order = self.chance.sample(nodes, len(nodes))
        began = time.monotonic()
        for place, node in enumerate(order):
            due = began + self.spread_seconds * place / len(order)
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            if shrinking:
                left.pop(node.name, None)
            behind = tuple(Behind(name, reason, 1e9) for name in left if name != node.name)
            put = self._progress(node, revision, holds, generation, behind, keep=shrinking and len(behind) > SHORT_LIST)
            await self.store.commit([], [put])

    def _progress(
        self, node: NodeRecord, revision: int, holds: tuple[int, ...], generation: int,
        behind: tuple[Behind, ...] = (), *, keep: bool = False,
    ) -> Put:  # fmt: skip
        sends = self.said[node.name].sends if keep else Sends(revision, generation, behind)
        said = Progress(
            name=node.name,
            incarnation=node.incarnation,
            epoch=self.epoch,
            receives=Receives(revision, holds),
            sends=sends,
            phase="waiting" if behind else "steady",
            since=1e9,
        )
        self.said[node.name] = said
        return Put(self.layout.progress(node.name), encode(said))

    async def _put(self, puts: list[Put]) -> int:
        revision = 0
        for first in range(0, len(puts), PUTS_A_COMMIT):
            revision = await self.store.commit([], puts[first : first + PUTS_A_COMMIT]) or 0
        return revision

    async def agent_says(self, agent: Agent, revision: int, generation: int, *, steady: bool = False) -> None:
        """Wait until the agent receives as of this revision with this generation (and is at rest)."""
        end = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end:
            entry = await self.store.get(self.layout.progress(ME))
            said = None if entry is None else msgspec.json.decode(entry.value, type=Progress)
            ready = said and said.receives.revision >= revision and generation in said.receives.generations
            if said and ready and (not steady or (said.phase == "steady" and said.sends.generation == generation)):
                return
            if agent.process.poll() is not None:
                raise SystemExit(agent.log.read_text()[-4000:])
            await asyncio.sleep(0.1)
        raise SystemExit(f"the agent did not get there in {LIMIT_SECONDS:g} s: {entry}")


# --- the story --------------------------------------------------------------------------------------------


class Bench:
    """The phases in order, each with what the agent used for it."""

    def __init__(self, base: Path, peers: Peers, profile: str) -> None:
        self.base, self.peers, self.profile = base, peers, profile
        self.rows: list[dict[str, float | str]] = []
        self._before: dict[str, float] = {"cpu": 0.0, "kernel": 0.0, "loop": 0.0}
        self._began = time.monotonic()

    async def play(self) -> list[dict[str, float | str]]:
        """Run everything and say what it cost."""
        peers = self.peers
        key(self.base, 1)
        registry = Registry(peers.store, CLUSTER, peers.nodes[0].name)
        await registry.register_keys(parse((self.base / "keys" / "keys").read_text(), "keys"), frozenset(), {})
        await peers.populate(1)
        self._began = time.monotonic()
        agent = Agent(self.base, self.profile)
        try:
            await self._start(agent)
            await self._join(agent)
            if self.profile:
                agent.figures("profile")
            await self._rotate(agent)
            await asyncio.sleep(IDLE_SECONDS)
            self._row("idle", agent)
        finally:
            await asyncio.to_thread(agent.stop)
        return self.rows

    async def _start(self, agent: Agent) -> None:
        peers = self.peers
        mine = await self._revision(peers.layout.node(ME))
        await peers.move(peers.nodes, mine, (1,), 1, [ME])
        await peers.agent_says(agent, mine, 1)
        await peers.move(peers.nodes, mine, (1,), 1)
        await peers.agent_says(agent, mine, 1, steady=True)
        self._row("start", agent)

    async def _join(self, agent: Agent) -> None:
        peers, joiner = self.peers, Peers.node(len(self.peers.nodes) + 1)
        settled, names = list(peers.nodes), [ME, *(each.name for each in peers.nodes)]
        peers.nodes.append(joiner)
        record = Put(peers.layout.node(joiner.name), encode(joiner))
        revision = await peers.store.commit([], [record]) or 0
        await peers.move([joiner], revision, (1,), 1, names)
        await peers.move(settled, revision, (1,), 1, [joiner.name])
        await peers.move([joiner], revision, (1,), 1, names[: len(names) // 2])
        await peers.move([joiner], revision, (1,), 1)
        await peers.move(settled, revision, (1,), 1)
        await peers.agent_says(agent, revision, 1, steady=True)
        self._row("join", agent)

    async def _rotate(self, agent: Agent) -> None:
        peers, names = self.peers, [ME, *(each.name for each in self.peers.nodes)]
        key(self.base, 2)
        revision = await self._revision(peers.layout.key(2))
        await peers.move(peers.nodes, revision, (1, 2), 2, names, shrinking=True)
        await peers.agent_says(agent, revision, 2)
        await peers.move(peers.nodes, revision, (1, 2), 2)
        await peers.agent_says(agent, revision, 2, steady=True)
        self._row("rotation", agent)

    async def _revision(self, name: str) -> int:
        end = time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end:
            entry = await self.peers.store.get(name)
            if entry is not None:
                return entry.mod_revision
            await asyncio.sleep(0.05)
        raise SystemExit(f"the agent did not write {name} in {LIMIT_SECONDS:g} s: {(self.base / 'log').read_text()}")

    def _row(self, phase: str, agent: Agent) -> None:
        now, wall = agent.figures(), time.monotonic()
        self.rows.append({
            "phase": phase,
            "cpu_seconds": round(now["cpu"] - self._before["cpu"], 3),
            "of_it_loop_thread": round(now["loop"] - self._before["loop"], 3),
            "kernel_stand_in_seconds": round(now["kernel"] - self._before["kernel"], 3),
            "wall_seconds": round(wall - self._began, 1),
            "rss_mb": round(now["rss_mb"], 1),
            "peak_mb": round(now["peak_mb"], 1),
            "sas": now["sas"],
        })  # fmt: skip
        self._before, self._began = now, wall


def key(base: Path, key_id: int) -> None:
    """Hand a key out as an operator does: the file is replaced in one step."""
    (base / "keys").mkdir(exist_ok=True)
    draft = base / "keys" / ".new"
    draft.write_text(f"{key_id} rfc4106(gcm(aes)) 0x{secrets.token_hex(20)} 128\n")
    draft.replace(base / "keys" / "keys")


def configure_node(base: Path, store: str) -> Config:
    """The agent's configuration."""
    (base / "node.toml").write_text(
        f'cluster = "{CLUSTER}"\nnode = "{ME}"\naddresses = ["192.0.2.1"]\nprefixes = ["10.0.0.0/24"]\n'
        f'protected = ["10.0.0.0/8"]\nkeys = "{base}/keys"\nstate_dir = "{base}/state"\n'
        f"[ipsec]\ndrain_seconds = 2.0\n[store]\n{store}\n"
    )
    return load(base / "node.toml")


@contextlib.contextmanager
def etcd(base: Path) -> Iterator[str]:
    """A server of our own on loopback; the store's table of a configuration that uses it."""
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        client, peer = (f"http://127.0.0.1:{each.getsockname()[1]}" for each in (one, two))
    command = [
        "etcd", "--data-dir", str(base / "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
        "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
        "--log-level", "error", "--unsafe-no-fsync",
    ]  # fmt: skip
    with (base / "etcd.log").open("wb") as log, subprocess.Popen(command, stderr=log, stdout=log) as server:
        try:
            yield f'kind = "etcd"\nendpoints = ["{client}"]'
        finally:
            server.terminate()


async def measure(
    base: Path, store: str, peers: int, spread_seconds: float, profile: str
) -> list[dict[str, float | str]]:
    """All phases on one store."""
    opened = open_store(configure_node(base, store).store)
    try:
        return await Bench(base, Peers(opened, peers, spread_seconds), profile).play()
    finally:
        await opened.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "etcd"), default="sqlite")
    parser.add_argument("--peers", type=int, default=999)
    parser.add_argument("--spread", type=float, default=2.0, help="seconds between the first and the last peer's write")
    parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.add_argument("--profile", default="")
    parser.add_argument("--log", default="", help="keep the agent's log here")
    parser.add_argument("--life", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.life:
        agent_process(load(Path(options.life)), options.profile)
        return
    with tempfile.TemporaryDirectory() as place, contextlib.ExitStack() as stack:
        base = Path(place)
        store = f'path = "{base}/store.db"' if options.store == "sqlite" else stack.enter_context(etcd(base))
        rows = asyncio.run(measure(base, store, options.peers, options.spread, options.profile))
        if options.log:
            Path(options.log).write_bytes((base / "log").read_bytes())
    if options.output == "json":
        print(json.dumps(rows))
        return
    print(*(f"{name:>24}" for name in rows[0]))
    for row in rows:
        print(*(f"{value:>24}" for value in row.values()))


if __name__ == "__main__":
    main()
