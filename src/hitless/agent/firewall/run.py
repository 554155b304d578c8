"""One firewall agent's process: what is opened, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal

import structlog

from hitless.agent.firewall import locks
from hitless.agent.firewall.config import Config
from hitless.agent.firewall.life import live
from hitless.core.firewall.pipeline import TABLES
from hitless.drivers.ovs.driver import OvsSwitch
from hitless.ports import Store

# Flows are frozen and hold no cycles: searching for some among a hundred thousand of them costs time and finds nothing.
_COLLECT_SELDOM = (50_000, 20, 100)
_PATIENCE_SECONDS = 10.0  # for a command that is writing, or an agent that is on its way out


def open_switch(config: Config) -> OvsSwitch:
    """The bridge of a configuration. Raises SwitchError (`bridge-unknown`) for a name that is none."""
    return OvsSwitch(config.bridge, tables=TABLES, database=config.database, run_dir=config.run_dir)


async def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT. The bridge is left as it is, always.

    Raises HeldError, StateFileError, SwitchError, StoreError for what makes a start impossible.
    """
    with locks.bridge(config, "agent", _PATIENCE_SECONDS):
        await _run(config)


async def _run(config: Config) -> None:
    gc.freeze()
    gc.set_threshold(*_COLLECT_SELDOM)
    log = structlog.get_logger()
    log.info("started", pid=os.getpid(), mode="firewall")
    stores: list[Store] = []

    def store() -> Store:
        from hitless.stores.open import open_store

        stores.append(open_store(config.store))
        return stores[0]

    body = asyncio.ensure_future(live(config, open_switch(config), store, os.getpid()))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, body.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await body
    finally:
        for each in stores:
            await each.close()
    log.info("stopped")
