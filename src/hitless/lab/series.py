"""`python -m hitless.lab.series --results DIR`: scenarios one after another on the kernel this runs on.

They are handed over line by line (see `lines`), each as the path of its file; what a scenario leaves goes beside that
file. It is carried out by a process of its own, forked from this one, which has everything imported already: nothing
but files passes from one scenario to the next. When it has ended the kernel is searched for what it left behind -
processes, namespaces, temporary files. That is said aloud, makes the scenario fail, and is removed before the next one
begins. Where it cannot be removed the series ends, and the host starts another guest.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Final

import msgspec

from hitless.lab import lines, run
from hitless.lab.ground import PREFIX
from hitless.lab.kernel.face import TIMED_OUT
from hitless.lab.probe import namespace

ENDED: Final = "ended.json"
_WORDS: Final = "words.txt"  # what a scenario's process says itself: errors, and what Python has to say
_GOING_SECONDS: Final = 30.0  # from SIGTERM to the end, with agents and namespaces to remove
_REMOVING_SECONDS: Final = 10.0  # a killed process is gone in milliseconds; more means one that no signal reaches
_PR_SET_CHILD_SUBREAPER: Final = 36  # linux/prctl.h


class Ended(msgspec.Struct, frozen=True):
    """How a scenario ended: an exit status of `hitless.lab.run` or 124, its own words, and what it left behind.

    `clean` is False where something that was left could not be removed.
    """

    status: int
    words: str = ""
    left: tuple[str, ...] = ()
    clean: bool = True


def main(arguments: Sequence[str] | None = None) -> int:
    """Carry out what is handed over until `quit`: 0. 1 where a scenario left something that stays."""
    parser = argparse.ArgumentParser(prog="python -m hitless.lab.series", description="Run scenarios on this kernel.")
    parser.add_argument("--results", required=True, type=Path, metavar="DIR", help="where lines are handed over")
    parser.add_argument("--limit", type=float, default=900.0, metavar="SECONDS", help="for a scenario")
    options = parser.parse_args(arguments)
    # Whoever loses its parent becomes our child: so no process of a scenario gets out of sight (prctl(2)).
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in itertools.count():
        while (line := lines.taken(options.results, number)) is None:
            time.sleep(lines.POLL_SECONDS)
        if line == lines.QUIT:
            break
        # The next line is handed over when this one has ended: if it is there before, nobody waits any more.
        following = partial(lines.taken, options.results, number + 1)
        ended = play(Path(line), options.limit, given_up=following)
        if not ended.clean:
            return 1
    return 0


def play(scenario: Path, limit_seconds: float, given_up: Callable[[], object] = lambda: None) -> Ended:
    """Carry out one scenario and leave `ended.json` beside its file. `given_up` tells when to end it early."""
    temporary = Path(tempfile.mkdtemp(prefix="hitless-scenario-"))
    process = multiprocessing.get_context("fork").Process(target=_carry_out, args=(scenario, temporary))
    process.start()
    deadline = time.monotonic() + limit_seconds
    while process.is_alive() and time.monotonic() < deadline and not given_up():
        process.join(lines.POLL_SECONDS)
    status = _end(process)
    left, clean = sweep(temporary)
    for each in left:
        sys.stderr.write(f"hitless: {scenario.stem} left behind: {each} [left-behind]\n")
    words = scenario.with_name(_WORDS).read_text("utf-8", "replace") if scenario.with_name(_WORDS).exists() else ""
    ended = Ended(status, words, left, clean)
    fresh = scenario.with_name(f".{ENDED}")
    fresh.write_bytes(msgspec.json.encode(ended))
    fresh.rename(scenario.with_name(ENDED))
    return ended


def _carry_out(scenario: Path, temporary: Path) -> None:
    """In the scenario's own process."""
    words = os.open(scenario.with_name(_WORDS), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    os.dup2(words, 1)
    os.dup2(words, 2)
    os.environ["TMPDIR"] = tempfile.tempdir = str(temporary)
    sys.exit(run.main(["--quiet", "--inner", str(scenario), "--results", str(scenario.parent)]))


def _end(process: multiprocessing.context.ForkProcess) -> int:
    """The exit status of a scenario's process, which is ended if it still runs."""
    if process.is_alive():
        process.terminate()
        process.join(_GOING_SECONDS)
        process.kill()
        process.join()
        return TIMED_OUT
    status = process.exitcode or 0
    return status if status >= 0 else 128 - status


def sweep(temporary: Path) -> tuple[tuple[str, ...], bool]:
    """Remove what a scenario left; what that was, and whether all of it is gone."""
    left: list[str] = []
    deadline = time.monotonic() + _REMOVING_SECONDS
    while children := dict(_children()):
        left += [f"process {pid} ({name})" for pid, name in children.items() if f"process {pid} ({name})" not in left]
        for pid in children:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            return tuple(left), False
        time.sleep(lines.POLL_SECONDS)
    for name in namespace.names(PREFIX):
        left.append(f"network namespace {name}")
        namespace.remove(name)
    left += [f"file {path.name}" for path in sorted(temporary.iterdir())]
    shutil.rmtree(temporary, ignore_errors=True)
    return tuple(left), not temporary.exists() and not namespace.names(PREFIX)


def _children() -> Iterator[tuple[int, str]]:
    """Our children that run, with their names; those that have ended are reaped meanwhile."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            name, _, rest = file.read_text("utf-8", "replace").partition("(")[2].rpartition(")")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(rest.split()[1]) == os.getpid():
            yield int(file.parent.name), name


if __name__ == "__main__":
    sys.exit(main())
