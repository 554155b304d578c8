"""The process that takes a change back when its time is over, whoever has died meanwhile.

`hitless apply --confirm-within` starts it before the first write, in a session of its own and without a terminal, and
goes on only when it has the way back in memory and says so. From then on it needs nobody: not the command, not the
documents, not the files that were given to it, which a person may have removed. What keeps it from going back (a switch
that is down, somebody's flow in the way) is tried again until somebody decides otherwise. SIGTERM takes the change back
at once, since whoever ends all processes of a lost session ends this one, too.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec
import structlog

from hitless.agent.firewall import confirm, locks
from hitless.agent.firewall.config import Config
from hitless.agent.statefile import StateFileError
from hitless.stores.options import SqliteOptions

_READY = b"ready\n"
_READY_SECONDS = 30.0  # an interpreter on a busy node
_POLL_SECONDS = 0.25
_AGAIN_SECONDS = 5.0  # after a try that failed
_PATIENCE_SECONDS = 10.0  # for the one before it, whose change is decided, and which may be in its last pause
_LOG = "reverter.log"


class Order(msgspec.Struct, frozen=True):
    """What a reverter is told on its stdin."""

    config: Config
    plan: str


class ReverterError(Exception):
    """It did not come to life."""

    code = "reverter-failed"


def start(config: Config, plan: str) -> None:
    """Start one and wait until it is ready. Raises ReverterError, StateFileError."""
    directory = Path(config.state_dir).absolute()
    # No keys of a store: it needs the bridge alone.
    bare = msgspec.structs.replace(config, state_dir=str(directory), store=SqliteOptions())
    try:
        log = (directory / _LOG).open("wb")
    except OSError as error:
        raise StateFileError(f"{directory / _LOG}: {error.strerror}; make the directory writable, or set state_dir "
                             "[state-dir-unusable]") from None  # fmt: skip
    with log, _pipe() as (orders, giving), _pipe() as (hearing, says):
        giving.write(msgspec.json.encode(Order(bare, plan)))
        giving.close()
        process = subprocess.Popen(
            [sys.executable, "-m", __name__], stdin=orders, stdout=says, stderr=log, start_new_session=True
        )
        says.close()
        if select.select([hearing], [], [], _READY_SECONDS)[0] and hearing.readline() == _READY:
            process.returncode = 0  # it is nobody's child from here on: not waited for, and no reason for a warning
            return
    process.kill()
    process.wait()
    raise ReverterError(f"the process that would take the change back did not start, so nothing was written; see "
                        f"{directory / _LOG}")  # fmt: skip


@contextlib.contextmanager
def _pipe() -> Iterator[tuple[BinaryIO, BinaryIO]]:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as source, os.fdopen(writing, "wb") as target:
        yield source, target


def main() -> None:
    """Live until somebody has decided."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    order = msgspec.json.decode(sys.stdin.buffer.read(), type=Order)
    directory = Path(order.config.state_dir)
    from hitless.telemetry.log import configure

    configure(order.config.node, order.config.log)
    me = locks.Holder("reverter", os.getpid(), str(directory))
    with locks.held(directory / locks.REVERTER, me, "taking a change back", _PATIENCE_SECONDS):
        life = _Life(order, directory)
        signal.signal(signal.SIGTERM, life.end)
        with contextlib.suppress(OSError):  # the command may be dead already: then there is all the more to do
            os.write(1, _READY)
        with Path(os.devnull).open("r+b") as nothing:
            os.dup2(nothing.fileno(), 0)
            os.dup2(nothing.fileno(), 1)
        life.run()


class _Life:
    def __init__(self, order: Order, directory: Path) -> None:
        # All that is needed at the end is loaded now: by then the installation may be another.
        import hitless.core.verify.transition.check  # noqa: F401
        from hitless.agent.firewall.rounds import Firewall
        from hitless.agent.firewall.run import open_switch

        self._directory = directory
        self._firewall = Firewall(open_switch(order.config), order.config, lambda _step: None)
        self._reversal, found = confirm.kept(directory, order.plan), confirm.awaited(directory)
        if found is None or self._reversal is None:
            raise SystemExit(f"{directory} does not say what to take back")
        self._known, self._ended = found, False
        self._log = structlog.get_logger()

    def run(self) -> None:
        """Until it is decided. The last state that was read counts: who removes the files has not confirmed."""
        while self._undecided():
            due = self._is_due
            if due and self._over():
                return
            time.sleep(_AGAIN_SECONDS if due and self._is_due else _POLL_SECONDS)

    def end(self, *_: Any) -> None:
        """Take the change back at once: a signal's handler."""
        self._ended = True

    @property
    def _is_due(self) -> bool:
        return self._ended or self._known.left_seconds <= 0

    def _undecided(self) -> bool:
        try:
            found = confirm.last(self._directory)
        except StateFileError:
            return True
        if found is not None and (found.plan != self._known.plan or found.outcome):
            return False
        self._known = found or self._known
        return True

    def _over(self) -> bool:
        """Take it back; whether it is decided, by this process or another."""
        try:
            with confirm.deciding(self._directory, "reverter"):
                if not self._undecided():
                    return True
                if not self._is_due:  # the command was writing still: the time begins only now
                    return False
                confirm.take_back(self._firewall, self._directory, self._known, self._reversal)
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody comes after this process
            self._log.error("reversal-failed", code=getattr(error, "code", "defect"), why=repr(error))
            return False
        self._log.warning("change-taken-back", generation=self._known.generation)
        return True


if __name__ == "__main__":
    main()
