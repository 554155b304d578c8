"""Who has a bridge in hand: locks that end with the process that holds them, whatever it dies of.

A number in a file proves nothing: it outlives a stop and a reboot, and is then another process's. The kernel gives an
flock(2) up when its holder is gone, so whoever gets one is alone, and whoever does not reads in the file who is there.

An agent holds `bridge.lock` in its state directory while it lives, and `hitless apply` while it writes; both hold
`hitless-BRIDGE.lock` in Open vSwitch's run directory too, which shows an agent of another state directory on the same
bridge. `confirm.lock` is held by whoever begins, keeps or takes back a change that waits for a confirmation, and
`reverter.lock` by the process that will take it back. Files stay: a lock on a file that is removed and made anew would
be held twice.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal

import msgspec

from hitless.agent.statefile import StateFileError

if TYPE_CHECKING:
    from hitless.agent.firewall.config import Config

CONFIRM: Final = "confirm.lock"
REVERTER: Final = "reverter.lock"
_BRIDGE: Final = "bridge.lock"
_POLL_SECONDS: Final = 0.05
_LETTERS: Final = 4096  # of what a holder says of itself


class Holder(msgspec.Struct, frozen=True):
    """Who holds a lock: which command, as which process, with which state directory."""

    what: Literal["agent", "apply", "reverter", "somebody"]
    pid: int = 0
    state_dir: str = ""


class HeldError(Exception):
    """Another process has the bridge in hand; `code` is `agent-alive`, `apply-running` or `confirm-busy`."""

    def __init__(self, holder: Holder, what: str) -> None:
        self.holder = holder
        self.code = {"agent": "agent-alive", "apply": "apply-running"}.get(holder.what, "confirm-busy")
        next_step = {
            "agent-alive": f"process {holder.pid}, state directory {holder.state_dir}, makes it what its documents "
            "say: it has done this or would undo it; stop it first",
            "apply-running": f"process {holder.pid}, `hitless apply`, is writing; repeat this when it has ended",
            "confirm-busy": f"process {holder.pid} is deciding about a change that waits; repeat this when it has",
        }[self.code]
        super().__init__(f"{what} is in other hands: {next_step}")


@contextlib.contextmanager
def held(
    file: Path, me: Holder, what: str, patience_seconds: float = 1.0, *, make: bool = True
) -> Iterator[None]:
    """Hold a lock. `what` names in an error what it is for; `make` its directory. Raises HeldError, StateFileError."""
    descriptor = _opened(file, make=make)
    try:
        deadline = time.monotonic() + patience_seconds
        while not _taken(descriptor, fcntl.LOCK_EX):
            if time.monotonic() >= deadline:
                raise HeldError(_said(descriptor), what)
            time.sleep(_POLL_SECONDS)
        with contextlib.suppress(OSError):  # a full disk: the lock holds, only its holder's name is not known
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, msgspec.json.encode(me), 0)
        yield
    finally:
        os.close(descriptor)


def holder(file: Path) -> Holder | None:
    """Who holds a lock now; None where nobody does."""
    try:
        descriptor = os.open(file, os.O_RDONLY)
    except OSError:
        return None
    try:
        return None if _taken(descriptor, fcntl.LOCK_SH) else _said(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def bridge(config: Config, what: Literal["agent", "apply"], patience_seconds: float = 1.0) -> Iterator[None]:
    """Have a bridge in hand, against all who use its state directory or, where that can be written, its run directory.

    Raises HeldError, StateFileError.
    """
    me = Holder(what, os.getpid(), str(Path(config.state_dir).absolute()))
    with contextlib.ExitStack() as stack:
        ours, theirs = _names(config)
        stack.enter_context(held(ours, me, f"bridge {config.bridge}", patience_seconds))
        with contextlib.suppress(StateFileError):  # Open vSwitch's own directory may be closed to us
            stack.enter_context(held(theirs, me, f"bridge {config.bridge}", patience_seconds, make=False))
        yield


def keeper(config: Config) -> Holder | None:
    """Who has a bridge in hand now."""
    return next((found for file in _names(config) if (found := holder(file)) is not None), None)


def _names(config: Config) -> tuple[Path, Path]:
    return Path(config.state_dir) / _BRIDGE, Path(config.run_dir) / f"hitless-{config.bridge}.lock"


def _opened(file: Path, *, make: bool) -> int:
    try:
        if make:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise StateFileError(f"{file}: {error.strerror}; what becomes of the bridge is kept there: make the directory "
                             "writable, or set state_dir [state-dir-unusable]") from None  # fmt: skip


def _taken(descriptor: int, how: int) -> bool:
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _said(descriptor: int) -> Holder:
    try:
        return msgspec.json.decode(os.pread(descriptor, _LETTERS, 0), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return Holder("somebody")
