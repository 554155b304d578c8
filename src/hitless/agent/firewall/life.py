"""One firewall agent's life around an opened switch: who feeds the inbox, and in which order things begin."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import structlog

from hitless.agent.firewall.config import Config
from hitless.agent.firewall.guard import Guard
from hitless.agent.firewall.loop import Inbox, Loop
from hitless.agent.firewall.rounds import CrashPoint, Firewall
from hitless.agent.firewall.sources import Adoption, from_files, from_store
from hitless.agent.firewall.status import Board, Status
from hitless.drivers.fake.faults import kill_this_process
from hitless.ports import Store, Switch, SwitchError


class WatchedSwitch(Switch, Protocol):
    """A switch that says when a look is worth while. What is said is a hint and is not read."""

    def changes(self) -> AsyncIterator[object]: ...


async def live(config: Config, switch: WatchedSwitch, open_store: Callable[[], Store], pid: int) -> None:
    """Run until cancelled; the bridge is left as it is. Raises StateFileError where a start is impossible."""
    inbox, directory = Inbox(), Path(config.state_dir)
    board = Board(directory, Status(node=config.node, bridge=config.bridge, pid=pid))
    board.show({})
    firewall = _firewall(config, switch)
    loop = Loop(firewall, inbox, board, config.resync_seconds)
    firewall.restarting = loop.restarting
    adoption = Adoption(inbox, directory)
    source = from_files(Path(config.intent), adoption) if config.intent else from_store(
        open_store(), config.cluster, adoption
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(loop.run())
        tasks.create_task(source)
        tasks.create_task(_watch(switch, loop.begun, inbox))


def _firewall(config: Config, switch: Switch) -> Firewall:
    if config.lab.write == "piecewise":
        from hitless.agent.firewall.historic import PiecewiseFirewall

        return PiecewiseFirewall(switch, config, crash_at(config))
    return Firewall(switch, config, crash_at(config), Guard())


def crash_at(config: Config) -> CrashPoint:
    """Ends the process at the step that the lab has chosen, and after the batch that it has counted to."""

    def point(step: str) -> None:
        if step in (config.lab.crash_at, "batch"):
            structlog.get_logger().info("crash-point", step=step)
            kill_this_process()

    return point


async def _watch(switch: WatchedSwitch, begun: asyncio.Event, inbox: Inbox) -> None:
    # What there is at the start is told as news too: one look, which covers the time until now.
    await begun.wait()
    try:
        async for _ in switch.changes():
            inbox.look()
    except SwitchError as error:
        # Looks that are due, and the canary, go on: what changes is noticed later, not never.
        structlog.get_logger().error("switch-failed", code=error.code, why=str(error))
