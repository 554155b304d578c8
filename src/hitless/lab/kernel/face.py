"""The one face of every kernel the lab can use, and the error a person meets when there is none.

A kernel runs one command as root, in a network and a mount environment of its own, and nothing of it is left
afterwards. The caller's window into it is one directory, the results, at the same path on both sides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol

TIMED_OUT: Final = 124
"""Exit status of a command that was stopped at its time limit, as timeout(1) has it."""


class LabError(Exception):
    """The lab cannot do what was asked. `code` is stable, the message says what happened and what to do next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Kernel(Protocol):
    """A Linux kernel that can run a command. Implementations: `host`, `uml`, `qemu`."""

    @property
    def name(self) -> str:
        """`host`, `uml` or `qemu`."""
        ...

    def run(
        self, argv: Sequence[str], *, results: Path, env: Mapping[str, str], timeout_seconds: float
    ) -> int:
        """Run a command as root in this kernel and return its exit status, or 124 at the time limit.

        The command's standard output and error are copied live to file descriptors 1 and 2; its standard input is
        empty. `results` is created if needed, writable and visible at the same path inside; the kernel's own noise
        goes to `console.log` in it. The working directory is kept. The environment is a small fixed one plus `env`.
        The time limit covers the boot. A signal that ends the command is reported as 128 + its number.
        Every process is gone when this returns, and soon after this program dies of whatever cause.

        Raises LabError: `guest-died` (no exit status came back), `results-in-use`, `results-path-unusable`.
        """
        ...

    def describe(self) -> str:
        """For people and reports: release, kind and CPUs, as the last run saw them or as known without one."""
        ...
