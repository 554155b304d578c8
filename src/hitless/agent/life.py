"""One agent's life around an opened kernel and store: who feeds the inbox, and in which order things begin."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from pathlib import Path
from typing import Protocol

import structlog

from hitless.agent import feed, keys
from hitless.agent.config import Config
from hitless.agent.execute import CrashPoint, Executor
from hitless.agent.inbox import Inbox, LookAgain
from hitless.agent.loop import Loop
from hitless.agent.node import Node
from hitless.agent.registry import HEARTBEAT_SECONDS, Registry, RegistryError
from hitless.core.ipsec.handover import fold
from hitless.core.ipsec.keyfile import KeyFileError
from hitless.core.ipsec.keyring import KeyRefusedError
from hitless.core.ipsec.state import Doubted, KeysFiled, Recalled, State
from hitless.core.model.node import NodeRecord
from hitless.core.model.view import KeySeen, Listed, RecordAbsent
from hitless.core.plan.backoff import delay_seconds
from hitless.drivers.fake.faults import Faults, FaultyDataplane, kill_this_process
from hitless.ports import Dataplane, Monitor, Store, StoreError

_FIRST_SECONDS, _LIMIT_SECONDS = 0.2, 5.0


class Kernel(Dataplane, Protocol):
    """A dataplane that counts its writes and knows the netlink port it makes them from."""

    @property
    def writes(self) -> int: ...

    @property
    def port_id(self) -> int: ...


class SystemClock:
    """The machine's time. Monotonic for decisions; wall time only for people."""

    def monotonic(self) -> float:
        return time.monotonic()

    def wall(self) -> float:
        return time.time()


class SystemEntropy:
    """The kernel's randomness."""

    def token(self, n_bytes: int) -> bytes:
        return secrets.token_bytes(n_bytes)


async def live(config: Config, store: Store, kernel: Kernel, monitor: Monitor) -> None:
    """Run until cancelled; the kernel is left as it is. Raises StateFileError, RegistryError."""
    clock, inbox = SystemClock(), Inbox()
    registry = Registry(store, config.cluster, config.node, leased_record=config.lab.absent == "delete")
    node = Node(config, registry, SystemEntropy(), lambda reason: inbox.put(Doubted(reason)))
    executor = Executor(
        _dataplane(config, kernel), registry, config.settings, lambda: kernel.writes, _crash_at(config), node.write_used
    )
    # The guards stand before anything is asked of anyone.
    blank = State(me=node.record, rules=config.rules)
    await executor.observe(blank)
    await executor.stand(blank)
    me = await _begin(node)
    state = State(me=me, rules=config.rules, wall_offset_seconds=clock.wall() - clock.monotonic())
    state = fold(state, Recalled(node.used()), clock.monotonic())
    loop = Loop(state, inbox, executor, node.rebirth, clock)
    asyncio.get_running_loop().add_reader(monitor.fileno(), _look_at, monitor, kernel.port_id, inbox)
    keys_due = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_feed(store, config, node, inbox, keys_due))
            tasks.create_task(_watch_keys(Path(config.keys), keys_due))
            tasks.create_task(_keys(config, registry, loop, executor, node, inbox, keys_due))
            tasks.create_task(_resync(config.ipsec.resync_seconds, node, inbox))
            tasks.create_task(_beat(registry, node))
            tasks.create_task(loop.run())
    finally:
        asyncio.get_running_loop().remove_reader(monitor.fileno())


def _dataplane(config: Config, kernel: Kernel) -> Dataplane:
    lab = config.lab
    faults = Faults(lab.install_delay_seconds, lab.fail_in_peer, lab.fail_times, lab.crash_before_operation)
    return FaultyDataplane(kernel, faults) if faults.any else kernel


def _crash_at(config: Config) -> CrashPoint:
    def point(step: str) -> None:
        if step == config.lab.crash_at:
            structlog.get_logger().info("crash-point", step=step)
            kill_this_process()

    return point


async def _begin(node: Node) -> NodeRecord:
    failures = 0
    while True:
        try:
            return await node.begin()
        except (StoreError, RegistryError) as error:
            failures += 1
            structlog.get_logger().warning("waiting-to-begin", code=error.code, why=str(error), failures=failures)
            await asyncio.sleep(delay_seconds(failures, _FIRST_SECONDS, _LIMIT_SECONDS))


async def _feed(store: Store, config: Config, node: Node, inbox: Inbox, keys_due: asyncio.Event) -> None:
    async for batch in feed.events(store, config.cluster):
        inbox.put(*batch)
        if any(isinstance(each, (Listed, KeySeen)) for each in batch):
            keys_due.set()  # the store may have lost our keys' records, or know one of our keys under a newer number
        if any(isinstance(each, Listed) or each == RecordAbsent(config.node) for each in batch):
            await node.register()


async def _watch_keys(place: Path, keys_due: asyncio.Event) -> None:
    async for _ in keys.changes(place):
        keys_due.set()


async def _keys(
    config: Config,
    registry: Registry,
    loop: Loop,
    executor: Executor,
    node: Node,
    inbox: Inbox,
    keys_due: asyncio.Event,
) -> None:
    log, place, filed = structlog.get_logger(), Path(config.keys), frozenset[int]()
    failures = 0
    while True:
        await keys_due.wait()
        keys_due.clear()
        try:
            found, records = await registry.register_keys(keys.read(place), loop.state.held, node.key_records())
        except KeyFileError as error:
            for fault in error.faults:
                log.error("key-refused", code=fault.code, why=str(fault))
        except KeyRefusedError as error:
            log.error("key-refused", code=error.code, why=str(error))
        except StoreError as error:
            failures += 1
            log.warning("store-unavailable", code=error.code, why=str(error), failures=failures)
            await asyncio.sleep(delay_seconds(failures, _FIRST_SECONDS, _LIMIT_SECONDS))
            keys_due.set()
        else:
            failures = 0
            node.remember_keys(records)
            if frozenset(found) != filed:
                filed = frozenset(found)
                executor.load_keys(found)
                inbox.put(KeysFiled(filed))


async def _resync(seconds: float, node: Node, inbox: Inbox) -> None:
    while True:
        await asyncio.sleep(seconds)
        inbox.put(LookAgain())
        await node.register()


async def _beat(registry: Registry, node: Node) -> None:
    lease = 0
    while True:
        with contextlib.suppress(StoreError):  # an unreachable store is told by those who need it
            lease = await registry.beat(node.record, lease)
        await asyncio.sleep(HEARTBEAT_SECONDS / 3)


def _look_at(monitor: Monitor, own_port: int, inbox: Inbox) -> None:
    # Our own changes are announced too; they are known already. Soft and hard expiry come from the kernel (pid 0).
    if any(change.pid != own_port for change in monitor.read()):
        inbox.put(LookAgain())
