"""User Mode Linux: the real kernel as an ordinary process, with the host's files as its root.

Debian's `user-mode-linux` package brings kernel and modules; nothing is downloaded and no image is built. It has one
CPU, boots in about a second and needs no rights beyond a namespace of its own. Its memory is a sparse file that it
wants on a tmpfs; it gets a tmpfs of its own for that, which vanishes with it and is as large as it must be (/dev/shm
in a container often holds 64 MB only).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from hitless.lab.kernel import leash
from hitless.lab.kernel.exchange import Exchange
from hitless.lab.kernel.face import TIMED_OUT, LabError

_EXECUTABLE: Final = "linux.uml"
_MODULES: Final = Path("/usr/lib/uml/modules")

# $0: where the memory goes, $1: its size in MiB. uml_dir keeps the control socket out of the home directory.
_START: Final = """
mount -t tmpfs -o "size=$1M,mode=700" memory "$0" || exit 1
export TMPDIR="$0"
program=$2
shift 2
exec "$program" "uml_dir=$0/" "$@"
"""
_SPARE_MEMORY_MIB: Final = 64  # beside the guest's memory the tmpfs holds its control socket and page tables


def installed() -> bool:
    """Whether the kernel and its modules are on this machine."""
    return shutil.which(_EXECUTABLE) is not None and _MODULES.is_dir()


class UmlKernel:
    """A new User Mode Linux for every run."""

    name: Final = "uml"

    def __init__(self, *, memory_mib: int = 2048, modules: Path = _MODULES) -> None:
        self._memory_mib = memory_mib
        self._modules = modules
        self._release: str | None = None

    def run(
        self, argv: Sequence[str], *, results: Path, env: Mapping[str, str], timeout_seconds: float
    ) -> int:
        until_seconds = time.monotonic() + timeout_seconds
        with Exchange(results) as exchange:
            exchange.write(argv, env, modules=self._modules, kind="hostfs", name=self.name)
            tmpfs_mib = self._memory_mib + _SPARE_MEMORY_MIB
            start = ["sh", "-c", _START, str(_memory_place(exchange.results)), str(tmpfs_mib)]
            with exchange.console.open("wb") as console:
                process = leash.start(
                    [*start, *self._command_line(exchange.directory)],
                    namespaces=["--mount"],
                    output=console,
                    errors=console,
                )
                ended = leash.follow(process, until_seconds=until_seconds, pump=exchange.pump)
            self._release = exchange.release() or self._release
            return TIMED_OUT if ended == TIMED_OUT else exchange.status()

    def describe(self) -> str:
        if self._release is not None:
            release, cpus = self._release.split()
            return f"Linux {release} (User Mode Linux, {cpus} CPU)"
        installed_releases = sorted(path.name for path in self._modules.iterdir())
        return f"Linux {installed_releases[-1] if installed_releases else '?'} (User Mode Linux, 1 CPU)"

    def _command_line(self, exchange: Path) -> list[str]:
        return [
            _EXECUTABLE, f"mem={self._memory_mib}M",
            "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro",
            "con=null", "con0=null,fd:1", "quiet",
            f'hitless_exchange="{exchange}"',  # unknown to the kernel: it becomes the first process's environment
            *_first_process(), f'"{exchange}/init.sh"',
        ]  # fmt: skip


def _first_process() -> tuple[str, ...]:
    """Options that start a shell as the guest's first process.

    To a caller who is not root the host's files seem to belong to nobody, and mount(8), which is set-user-ID, would
    turn the guest's root into nobody: then set-user-ID bits are switched off.
    """
    if os.geteuid() == 0:
        return ("init=/bin/sh", "--")
    return ("init=/usr/bin/setpriv", "--", "--no-new-privs", "/bin/sh")


def _memory_place(results: Path) -> Path:
    """Where to lay the memory's tmpfs: over a directory the run does not need, as the guest sees it from above."""
    needed = (results, Path.cwd(), Path(__file__))
    for place in (Path("/dev/shm"), Path("/media"), Path("/srv"), Path("/mnt")):  # noqa: S108 - a private mount
        if place.is_dir() and not any(path.is_relative_to(place) for path in needed):
            return place
    raise LabError(
        "no-place-for-memory",
        "User Mode Linux needs one of /dev/shm, /media, /srv and /mnt to hold its memory, and all are missing or in "
        "use by this run. Choose a results directory elsewhere.",
    )
