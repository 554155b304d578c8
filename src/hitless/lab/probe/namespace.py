"""Network namespaces without subprocesses: make one, step into one, start a program in one, remove one.

A namespace belongs to a *thread*. Stepping into one (`enter`) therefore changes the calling thread only, and
everything created meanwhile - a socket, a netlink connection, a child process - belongs to the namespace for good.
That is why nothing here needs `ip netns exec`: a `fork` is dear in the guest kernel (about 20 ms), a `setns` is not.
Names live under /run/netns as those of iproute2 do, so `ip netns` and `ip -n` work on them (ip-netns(8)).
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from pyroute2 import IPRoute

from hitless.lab.kernel import LabError

NAMESPACES = Path("/run/netns")
_CLONE_NEWNET = 0x40000000  # linux/sched.h
_MS_BIND = 4096  # linux/mount.h
_MNT_DETACH = 2

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


@contextmanager
def enter(name: str) -> Iterator[None]:
    """Move the calling thread into the namespace `name` for the length of the block. LabError `no-namespace`."""
    try:
        target = os.open(NAMESPACES / name, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise LabError(
            "no-namespace", f"network namespace {name} does not exist: never made, or already removed; run up() first"
        ) from error
    try:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(target, _CLONE_NEWNET), f"setns to {name}")
            try:
                yield
            finally:
                _check(_libc.setns(before, _CLONE_NEWNET), "setns back")
        finally:
            os.close(before)
    finally:
        os.close(target)


@contextmanager
def netlink(name: str) -> Iterator[Any]:
    """A route netlink connection inside the namespace.

    pyroute2 opens one socket per *thread*, in whatever namespace that thread is in at its first call. A connection
    kept for later would silently act on the caller's own namespace when used from a second thread; opening one costs
    half a millisecond, so every use opens its own.
    """
    with enter(name), IPRoute() as connection:
        yield connection


def create(name: str) -> None:
    """Make a named namespace. LabError `not-root` without the privilege, `namespace-exists` where the name is taken."""
    NAMESPACES.mkdir(mode=0o755, parents=True, exist_ok=True)
    path = NAMESPACES / name
    if path.exists():
        raise LabError("namespace-exists", f"network namespace {name} exists already; remove it with down() first")
    failure: list[OSError] = []

    def make() -> None:
        # In a thread that ends afterwards: the way back out of a new namespace cannot then be forgotten.
        try:
            _check(_libc.unshare(_CLONE_NEWNET), "unshare")
            path.touch()
            source = f"/proc/self/task/{threading.get_native_id()}/ns/net".encode()
            _check(_libc.mount(source, os.fsencode(path), b"none", _MS_BIND, None), f"mount {path}")
        except OSError as error:
            path.unlink(missing_ok=True)
            failure.append(error)

    thread = threading.Thread(target=make, name=f"make-{name}")
    thread.start()
    thread.join()
    if failure:
        raise LabError(
            "not-root", f"cannot make the network namespace {name} ({failure[0].strerror}); run the lab as root"
        ) from failure[0]


def remove(name: str) -> None:
    """Forget a named namespace; the kernel deletes it with its links once nothing uses it. No error where absent."""
    path = NAMESPACES / name
    if not path.exists():
        return
    # Several mounts can lie on one name after a crash in the middle of an earlier run: take them all off.
    while _libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        pass
    with suppress(FileNotFoundError):
        path.unlink()


def names(prefix: str) -> tuple[str, ...]:
    """Every namespace whose name begins with `prefix` and a hyphen, sorted."""
    if not NAMESPACES.is_dir():
        return ()
    return tuple(sorted(p.name for p in NAMESPACES.iterdir() if p.name.startswith(f"{prefix}-")))


def inhabitants(name: str) -> tuple[int, ...]:
    """Processes whose main thread lives in the namespace, never the caller itself."""
    try:
        wanted = (NAMESPACES / name).stat()
    except FileNotFoundError:
        return ()
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            seen = (entry / "ns" / "net").stat()
        except OSError:
            continue  # it ended meanwhile, or it is a kernel thread
        if (seen.st_dev, seen.st_ino) == (wanted.st_dev, wanted.st_ino):
            found.append(int(entry.name))
    return tuple(found)


def evict(name: str) -> tuple[int, ...]:
    """SIGKILL every process that lives in the namespace (a crashed run leaves them); the process ids."""
    processes = inhabitants(name)
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return processes


def spawn(
    name: str,
    argv: Sequence[str],
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a program inside the namespace. The caller waits for it.

    The child inherits the namespace of the thread that starts it. No `preexec_fn`: it would forbid `vfork` (a full
    copy of the page tables instead, dear in the guest) and is unsafe beside running threads.
    """
    with enter(name):
        return subprocess.Popen(
            list(argv), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=None if env is None else dict(env)
        )


def write_sysctl(key: str, value: str) -> None:
    """Set one sysctl (slash form, below /proc/sys) of the namespace that the calling thread is in."""
    (Path("/proc/sys") / key).write_text(value)
