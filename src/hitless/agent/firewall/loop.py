"""The loop: causes gather in the inbox, one round answers all of them, and failures are tried again with pauses.

A cause is cheap and does no I/O. What a round needs besides the intent it finds out itself; the loop only decides
when, and whether the bridge has to be looked at first.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import TypeVar

import structlog

from hitless.agent.firewall.rounds import Firewall, Round
from hitless.agent.firewall.status import Board
from hitless.agent.statefile import StateFileError
from hitless.core.model.security import Intent
from hitless.core.plan.backoff import delay_seconds
from hitless.ports import BundleRefusedError, SwitchError, SwitchUnavailableError

T = TypeVar("T")
_CANARY_SECONDS = 2.0  # how long a restart of ovs-vswitchd may go unnoticed where OVSDB does not tell
_FIRST_SECONDS, _LIMIT_SECONDS = 0.2, 5.0  # an absent switch: forwarding may have stopped, so pauses stay short
_REFUSED_FIRST_SECONDS, _REFUSED_LIMIT_SECONDS = 1.0, 60.0  # a refused bundle: it will be refused again
_LOOK_TIMES = 20.0  # a look may cost a twentieth of the time; with 100,000 flows the pause grows beyond the resync's


class Inbox:
    """What has come up since the last round: the newest intent, whether to look, conditions of the intent's source."""

    def __init__(self) -> None:
        self.intent: Intent | None = None
        self.conditions: dict[str, str] = {}
        self._look = self._fresh = False
        self._arrived = asyncio.Event()

    def adopt(self, intent: Intent) -> None:
        """A new intent, complete and checked; the source's complaints are over."""
        self._fresh = self._fresh or intent is not self.intent
        self.intent = intent
        self.conditions = {}
        self._arrived.set()

    def complain(self, code: str, about: str) -> None:
        """The source has no better intent: what is in force stays."""
        self.conditions = {code: about}
        self._arrived.set()

    def look(self) -> None:
        """The bridge may have changed."""
        self._look = True
        self._arrived.set()

    async def take(self, timeout_seconds: float | None) -> tuple[bool, bool]:
        """Wait, at most so long; whether there is a new intent, and whether to look."""
        # Not `wait_for`: up to Python 3.11 it swallows a cancellation that comes together with what it waits for.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._arrived.wait()
        self._arrived.clear()
        (fresh, self._fresh), (look, self._look) = (self._fresh, False), (self._look, False)
        return fresh, look


class Loop:
    """One bridge's life. Does not end by itself; cancelled, it leaves the bridge as it is."""

    def __init__(self, firewall: Firewall, inbox: Inbox, board: Board, resync_seconds: float) -> None:
        self._firewall, self._inbox, self._board = firewall, inbox, board
        self._resync_seconds = resync_seconds
        self._failures = 0
        self._found: Mapping[str, str] = {}  # conditions of the last round
        self._look_at = self._again_at = 0.0  # of time.monotonic()
        self._settled_as: tuple[str, int] | None = None
        self.begun = asyncio.Event()  # set after the first round: only then is news of the bridge news
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """The bridge is looked at while the intent is still being read: both take their time."""
        await self._guarded(self._firewall.look)
        while True:
            fresh, look = await self._inbox.take(self._patience_seconds())
            if self._inbox.intent is None:
                await self._stand_by()
                continue
            now = time.monotonic()
            if self._failures and not fresh and now < self._again_at:
                continue  # only a new intent is a reason not to wait: the next try looks anyway
            look = look or self._failures > 0 or now >= self._look_at
            if fresh or look or await self._lacks_canary():
                await self._try(self._inbox.intent, look=look or not fresh)
            else:
                self._show({**self._inbox.conditions, **self._found})

    async def _stand_by(self) -> None:
        """No intent has ever come: nothing is written, but for the end of what a dead agent began."""
        if await self._guarded(self._firewall.release) is not None:
            self._show(self._inbox.conditions)
        self.begun.set()

    def _patience_seconds(self) -> float | None:
        now = time.monotonic()
        if self._inbox.intent is None and not self._failures:
            return None
        due = self._again_at if self._failures else min(self._look_at, now + _CANARY_SECONDS)
        return max(0.0, due - now)

    async def _lacks_canary(self) -> bool:
        try:
            return not await asyncio.to_thread(self._firewall.picture.switch.canary)
        except SwitchError:
            return True  # the round that follows finds out what it is

    async def _try(self, intent: Intent, *, look: bool) -> None:
        done = await self._guarded(lambda: self._firewall.round(intent, look=look))
        if done is not None:
            self._tell(intent, done)
        self.begun.set()

    async def _guarded(self, work: Callable[[], T]) -> T | None:
        """What blocks, in a thread; None where the switch did not do what was asked."""
        began, looks = time.monotonic(), self._firewall.picture.looks
        try:
            done = await asyncio.to_thread(work)
        except SwitchError as error:
            self._fail(error)
            return None
        finally:
            now = time.monotonic()
            if self._firewall.picture.looks != looks:
                self._look_at = now + max(self._resync_seconds, _LOOK_TIMES * (now - began))
        self._failures = 0
        return done

    def _fail(self, error: SwitchError) -> None:
        """What is in force stays. The code is told when it comes up, not at every try."""
        self._firewall.picture.forget()
        self._failures += 1
        refused = isinstance(error, BundleRefusedError)
        code = "bundle-refused" if refused else "switch-failed"
        if isinstance(error, SwitchUnavailableError):
            code = "switch-unavailable"
        limits = (_REFUSED_FIRST_SECONDS, _REFUSED_LIMIT_SECONDS) if refused else (_FIRST_SECONDS, _LIMIT_SECONDS)
        self._again_at = time.monotonic() + delay_seconds(self._failures, *limits)
        if code not in self._found:
            self._complain(code, error)
        self._found = {code: str(error)}
        self._settled_as = None
        self._show({**self._inbox.conditions, **self._found}, settled=False)

    def _complain(self, code: str, error: SwitchError) -> None:
        if code == "bundle-refused":
            self._log.error("bundle-refused", code=error.code, why=str(error))
        elif code == "switch-unavailable":
            self._log.warning("switch-unavailable", code=error.code, why=str(error))
        else:
            self._log.error("switch-failed", code=error.code, why=str(error))

    def restarting(self) -> None:
        """The tables are lost and being written again: to be called from within a round."""
        self._show({**self._inbox.conditions, "switch-restarting": ""}, settled=False)

    def _show(self, conditions: Mapping[str, str], **fields: object) -> None:
        try:
            self._board.show(conditions, **fields)
        except StateFileError as error:
            # A full disk is no reason to stop guarding.
            self._log.error("state-dir-unusable", code=error.code, why=str(error))

    def _tell(self, intent: Intent, done: Round) -> None:
        picture, status = self._firewall.picture, self._board.status
        for code, about in done.conditions.items():
            if self._found.get(code) != about:
                self._log.warning("firewall-condition", code=code, why=about)
        self._found = done.conditions
        here = tuple(each.port.name for each in done.plan.compiled.attached) if done.plan else status.ports
        flows = len(picture.ours)
        self._show(
            {**self._inbox.conditions, **done.conditions},
            generation=done.generation,
            settled=done.settled,
            flows=flows,
            flow_mods=picture.flow_mods,
            ports=here,
            ports_elsewhere=len(intent.ports) - len(here),
            unlisted=done.plan.facts.unlisted if done.plan else status.unlisted,
            cut=status.cut + done.cut,
            last_applied=time.time() if done.flow_mods else status.last_applied,
        )
        now = (done.generation, picture.flow_mods) if done.settled else None
        if now is not None and now != self._settled_as:
            self._log.info("firewall-settled", flows=flows, flow_mods=picture.flow_mods, generation=done.generation)
        self._settled_as = now
