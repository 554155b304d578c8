"""A process tree that cannot outlive us.

The tree gets a pid namespace of its own: when its first process ends, for whatever reason, the kernel kills all
others in it before anyone is told (zap_pid_ns_processes in kernel/pid_namespace.c). Two parent-death signals
(PR_SET_PDEATHSIG, prctl(2)) tie that first process to `unshare` and `unshare` to us, so that even SIGKILL on this
program takes everything along. The second one is tied to the *thread* that started the tree, which is why
`start` and `follow` belong into one thread.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Final

from hitless.lab.kernel.face import TIMED_OUT

_POLL_SECONDS: Final = 0.02  # how late output may be seen; a guest's own write takes about as long
_REAP_SECONDS: Final = 10.0  # the kernel reaps a killed namespace in milliseconds; more means a stuck device


def become_root() -> tuple[str, ...]:
    """Options for `unshare` that give root's rights over the new namespaces to a caller without them."""
    return () if os.geteuid() == 0 else ("--user", "--map-root-user")


def start(
    argv: Sequence[str], *, namespaces: Sequence[str], output: IO[bytes] | None, errors: IO[bytes] | None
) -> subprocess.Popen[bytes]:
    """Start a command as the first process of a new pid namespace; `namespaces` are further options of unshare(1)."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "--", "unshare", *become_root(), "--pid", "--fork", "--kill-child",
         *namespaces, "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        start_new_session=True,  # a Ctrl-C at the terminal is ours to answer
    )


def follow(process: subprocess.Popen[bytes], *, until_seconds: float, pump: Callable[[], None]) -> int:
    """Wait for the tree while calling `pump` some 50 times a second; end it at the monotonic time `until_seconds`.

    Returns the exit status of the first process or 124. However this is left, the tree is gone.
    """
    watch = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(watch, select.POLLIN)
        while not poll.poll(_POLL_SECONDS * 1000):
            pump()
            if time.monotonic() >= until_seconds:
                return TIMED_OUT
        return process.wait()
    finally:
        os.close(watch)
        _end(process)
        pump()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the namespace's first process; `unshare` reaps it, and that happens only once the namespace is empty."""
    if process.poll() is not None:
        return
    children = _children(process.pid)
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    if not children:  # not forked yet: its death signal reaches a child that appears now
        process.kill()
    try:
        process.wait(_REAP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _children(pid: int) -> tuple[int, ...]:
    """Direct children of a single-threaded process, from /proc (proc(5), task/TID/children)."""
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii")
    except OSError:
        return ()
    return tuple(int(word) for word in text.split())
