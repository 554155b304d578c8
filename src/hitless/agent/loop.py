"""The loop: inbox, fold, step, carry out, again. Everything that decides is pure and lives in the core.

What a round costs grows with the number of peers, and so does the number of events: a thousand nodes that report one
after the other must not cause a thousand rounds. After a round that was dear the loop lets events gather for a while,
so that a storm keeps it busy for a fiftieth of the time or so; in a small cluster nobody waits.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

import structlog

from hitless.agent.execute import Executor
from hitless.agent.feed import SMALL_CLUSTER
from hitless.agent.inbox import Inbox, LookAgain, asks_for_look
from hitless.core.ipsec.handover import fold, fold_all, step
from hitless.core.ipsec.state import Event, Incarnated, Reincarnate, State, Tick
from hitless.core.model.view import Listed
from hitless.ports import Clock

_RETRY_SECONDS = 0.5
_REST_TIMES, _REST_LIMIT_SECONDS = 50.0, 0.5  # of the CPU time that a round took; the limit is what a person waits
_ROUNDS_LIMIT = 10_000  # effects that never come to rest would be a defect of the protocol: stop rather than spin

Rebirth = Callable[[State, str], Awaitable[Incarnated]]


class Loop:
    """One node's life. `rebirth` begins a new incarnation and makes it known."""

    def __init__(self, state: State, inbox: Inbox, executor: Executor, rebirth: Rebirth, clock: Clock) -> None:
        self.state = state
        self._inbox, self._executor, self._rebirth, self._clock = inbox, executor, rebirth, clock
        self._listed = self._settled = False
        self._log = structlog.get_logger()

    async def run(self) -> None:
        """For ever, or until cancelled: the kernel then stays as it is."""
        rest_seconds = 0.0
        while True:
            items = await self._inbox.take(self._patience_seconds(), rest_seconds)
            began = time.thread_time()
            self._listed = self._listed or any(isinstance(each, Listed) for each in items)
            look = self._listed and any(asks_for_look(each) for each in items)
            events: list[Event] = [each for each in items if not isinstance(each, LookAgain)] or [Tick()]
            if look:
                self.state = fold_all(self.state, events, self._clock.monotonic())
                events = list(await self._executor.observe(self.state))
            await self._come_to_rest(events)
            self._tell_settled()
            rest_seconds = self._rest_seconds(time.thread_time() - began)

    async def _come_to_rest(self, events: list[Event]) -> None:
        for _ in range(_ROUNDS_LIMIT):
            self.state, effects = step(self.state, events, self._clock.monotonic())
            await self._executor.stand(self.state)
            if any(isinstance(each, Reincarnate) for each in effects):
                born = await self._rebirth(self.state, self.state.reincarnate)
                self.state = fold(self.state, born, self._clock.monotonic())
                events = list(await self._executor.observe(self.state))
                continue
            events = await self._executor.carry_out(self.state, effects)
            if not events:
                return
            if self._is_small:  # elsewhere news would come in one by one, and each would cost a round
                events += self._inbox.take_plain()
        raise RuntimeError("the handover does not come to rest")

    @property
    def _is_small(self) -> bool:
        return len(self.state.view.nodes) <= SMALL_CLUSTER

    def _rest_seconds(self, cost_seconds: float) -> float:
        if self._is_small:
            return 0.0
        return min(_REST_LIMIT_SECONDS, _REST_TIMES * cost_seconds)

    def _patience_seconds(self) -> float | None:
        waits = []
        if self._executor.wake_at is not None:
            waits.append(max(0.0, self._executor.wake_at - self._clock.monotonic()))
        if self._executor.retry:
            self._executor.retry = False
            waits.append(_RETRY_SECONDS)
        return min(waits) if waits else None

    def _tell_settled(self) -> None:
        progress = self.state.published
        settled = progress is not None and progress.phase == "steady"
        if progress is not None and settled and not self._settled:
            self._log.info("settled", generation=progress.sends.generation, writes=self._executor.writes)
        self._settled = settled
