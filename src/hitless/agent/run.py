"""One agent process: what is opened, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal

import structlog

from hitless.agent.config import Config
from hitless.agent.life import live
from hitless.drivers.xfrm.driver import XfrmDriver
from hitless.drivers.xfrm.monitor import XfrmMonitor
from hitless.drivers.xfrm.own import Owner
from hitless.stores.open import open_store

_YOUNG_LIMIT, _YOUNG_ROUNDS, _MIDDLE_ROUNDS = 50_000, 20, 100  # objects, searches, searches; see gc.set_threshold


def collect_seldom() -> None:
    """Let the interpreter search for cycles of garbage less often; for this process, once, when all is imported.

    The agent's values are frozen and hold no cycles: they go when nobody refers to them. With a thousand peers the
    search for cycles among them costs a fifth of a rotation's time, and finds nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_LIMIT, _YOUNG_ROUNDS, _MIDDLE_ROUNDS)


async def run(config: Config) -> None:
    """Run until SIGTERM or SIGINT. The kernel is left as it is, always.

    Raises XfrmError, StateFileError, RegistryError for what makes a start impossible.
    """
    collect_seldom()
    log = structlog.get_logger()
    log.info("started", pid=os.getpid(), mode=config.mode)
    with XfrmDriver(Owner(reqid_base=config.ipsec.reqid_base)) as driver, contextlib.closing(XfrmMonitor()) as monitor:
        store = open_store(config.store)
        body = asyncio.ensure_future(live(config, store, driver, monitor))
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, body.cancel)
        try:
            with contextlib.suppress(asyncio.CancelledError):
                await body
        finally:
            await store.close()
        log.info("stopped", writes=driver.writes)
