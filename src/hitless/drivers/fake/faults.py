"""A dataplane that is slow, refuses, or dies, on purpose: wraps any other.

The lab starts agents with these faults to show what a slow installer, a failed peer or a crash between two
kernel calls does to traffic. Without a fault an operation reaches the wrapped dataplane unchanged, in order.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import msgspec

from hitless.core.model.sa import ObservedPolicy, ObservedSa, XfrmState
from hitless.core.plan.ops import AddSa, Op, Outcome, Wave
from hitless.ports import Dataplane


class Faults(msgspec.Struct, frozen=True):
    """What goes wrong. The default is nothing.

    `install_delay_seconds` passes before each operation. An AddSa whose source is `fail_in_peer` is refused with
    `injected`, the first `fail_times` times (0: for ever). Right before operation number `crash_before_operation`
    of the process's life (from 1; 0: never) the process kills itself with SIGKILL; to die after operation k,
    say k + 1.
    """

    install_delay_seconds: float = 0
    fail_in_peer: str = ""
    fail_times: int = 0
    crash_before_operation: int = 0

    @property
    def any(self) -> bool:
        return self != Faults()


def kill_this_process() -> None:
    """Die as a crash does: at once, without cleaning up."""
    os.kill(os.getpid(), signal.SIGKILL)


class FaultyDataplane:
    """Implements `Dataplane` around another one; `operations` counts those that were to be carried out."""

    def __init__(
        self,
        inner: Dataplane,
        faults: Faults,
        *,
        fails: Callable[[Op], bool] | None = None,
        pause: Callable[[float], None] = time.sleep,
        crash: Callable[[], None] = kill_this_process,
    ) -> None:
        """`fails` picks other operations to refuse than `fail_in_peer` does. `pause` takes seconds."""
        self._inner = inner
        self._faults = faults
        self._fails = fails or self._from_peer
        self._pause = pause
        self._crash = crash
        self._failed = 0
        self.operations = 0

    def observe(self) -> XfrmState:
        return self._inner.observe()

    def owns(self, thing: ObservedSa | ObservedPolicy) -> bool:
        return self._inner.owns(thing)

    def apply(self, wave: Wave) -> tuple[Outcome, ...]:
        """Carry out a wave: in one piece where no delay asks otherwise, so that faults do not change the batching."""
        outcomes: list[Outcome] = []
        good: list[Op] = []

        def flush() -> None:
            if good:
                outcomes.extend(self._inner.apply(tuple(good)))
                good.clear()

        for op in wave:
            self.operations += 1
            if self.operations == self._faults.crash_before_operation:
                flush()
                self._crash()
            if self._faults.install_delay_seconds > 0:
                flush()
                self._pause(self._faults.install_delay_seconds)
            if self._fails(op) and (not self._faults.fail_times or self._failed < self._faults.fail_times):
                self._failed += 1
                flush()
                outcomes.append(Outcome(op, "injected", "a fault injected on purpose; nothing reached the kernel"))
            else:
                good.append(op)
        flush()
        return tuple(outcomes)

    def _from_peer(self, op: Op) -> bool:
        return bool(self._faults.fail_in_peer) and isinstance(op, AddSa) and op.sa.src == self._faults.fail_in_peer
