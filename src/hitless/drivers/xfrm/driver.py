"""Kernel XFRM as a `Dataplane`: observe, apply, owns.

The driver lives in the network namespace in which it was made: the socket is opened there and stays there. It does
not log and does not decide.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from types import TracebackType

from hitless.core.model.sa import ObservedPolicy, ObservedSa, XfrmState
from hitless.core.plan.ops import Outcome, Wave
from hitless.drivers.xfrm.apply import apply_wave
from hitless.drivers.xfrm.netlink import NetlinkKernel
from hitless.drivers.xfrm.own import Owner
from hitless.drivers.xfrm.socket import XfrmSocket

_DEFAULT_OWNER = Owner()


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Hold back the cycle collector: a dump makes 100,000 small values without a single cycle.

    Walking them again and again more than doubled the time to delete 20,000 SAs.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


class XfrmDriver:
    """Implements `Dataplane` over one netlink socket. One thread at a time."""

    def __init__(self, owner: Owner = _DEFAULT_OWNER, answer_seconds: float = 5.0) -> None:
        """Raises XfrmError `xfrm-unavailable` where the kernel has no XFRM netlink."""
        self.owner = owner
        self._socket = XfrmSocket(answer_seconds)
        self._kernel = NetlinkKernel(self._socket)

    @property
    def writes(self) -> int:
        """Messages sent over the driver's life that change the kernel."""
        return self._kernel.writes

    @property
    def port_id(self) -> int:
        """The netlink port that the kernel names as the cause of this driver's changes (`Change.pid`)."""
        return self._socket.port_id

    def observe(self) -> XfrmState:
        """All SAs and policies of the namespace. Raises XfrmError where the kernel cannot be asked."""
        with _collector_paused():
            return XfrmState(tuple(self._kernel.sas()), tuple(self._kernel.policies()))

    def apply(self, wave: Wave) -> tuple[Outcome, ...]:
        """Carry out a wave in order. Raises XfrmError only where the kernel cannot be asked at all."""
        with _collector_paused():
            return apply_wave(self._kernel, self.owner, wave)

    def owns(self, thing: ObservedSa | ObservedPolicy) -> bool:
        return self.owner.owns(thing)

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> XfrmDriver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
