"""Lines handed from the host to a program in a guest, whose standard input is empty.

Each line becomes a numbered file in the results directory, which is the one window both sides share. A file appears
whole or not at all, and in order; the end of the lines is a line of its own, `quit`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Final

POLL_SECONDS: Final = 0.1  # between looks for the next line: a look costs a guest some 0.2 ms
QUIT: Final = "quit"


def relay(lines: Iterable[str], results: Path) -> None:
    """Hand every line to the other side, in order; the end of input is `quit`."""
    for number, line in enumerate(itertools.chain(lines, [QUIT])):
        fresh = results / ".line"
        fresh.write_text(line.strip() + "\n", encoding="utf-8")
        fresh.rename(_line_file(results, number))


def taken(results: Path, number: int) -> str | None:
    """The line with this number; None while it has not been handed over."""
    try:
        return _line_file(results, number).read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None


def forget(results: Path) -> None:
    """Remove the lines of an earlier conversation, before the next one begins."""
    for old in results.glob("line-*"):
        old.unlink()


def _line_file(results: Path, number: int) -> Path:
    return results / f"line-{number:06}"
