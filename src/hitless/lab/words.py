"""The words of one line, taken one at a time, each with its own complaint when it is not what it should be."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

_DURATION: Final = re.compile(r"(?P<number>\d+(?:\.\d+)?)(?P<unit>ms|s|m)")
_SECONDS_PER: Final = {"ms": 0.001, "s": 1.0, "m": 60.0}
NODE_NAME: Final = re.compile(r"n[1-9]\d?")  # at most 99: names of network devices are built from it


class LineError(Exception):
    """A line that cannot be read; the grammar adds where it stands."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Words:
    """A cursor over the words of a line. `usage` is how the line should have looked."""

    def __init__(self, words: Sequence[str], usage: str = "") -> None:
        self._words = tuple(words)
        self._at = 0
        self.usage = usage

    def __bool__(self) -> bool:
        return self._at < len(self._words)

    @property
    def next(self) -> str:
        """The next word without taking it, "" at the end."""
        return self._words[self._at] if self else ""

    def wrong(self, code: str, what: str) -> LineError:
        return LineError(code, f"{what}; write `{self.usage}`" if self.usage else what)

    def take(self, what: str) -> str:
        """The next word; `what` is how to call it when it is missing."""
        if not self:
            raise self.wrong("scenario-word-missing", f"the line ends where {what} should stand")
        self._at += 1
        return self._words[self._at - 1]

    def literal(self, *expected: str) -> None:
        """Exactly these words follow."""
        for word in expected:
            found = self.take(f"`{word}`")
            if found != word:
                raise self.wrong("scenario-unknown-word", f"`{found}` stands where `{word}` should")

    def one_of(self, choices: Collection[str], what: str) -> str:
        found = self.take(what)
        if found not in choices:
            raise self.wrong("scenario-unknown-word", f"`{found}` is no {what}; one of: {', '.join(choices)}")
        return found

    def whole(self, what: str, low: int, high: int) -> int:
        """A whole number within limits, both included."""
        found = self.take(what)
        if not found.isdecimal() or not low <= int(found) <= high:
            raise self.wrong("scenario-bad-number", f"`{found}` is no {what}: a whole number from {low} to {high}")
        return int(found)

    def number(self, what: str) -> float:
        """A number, or a duration in seconds."""
        found = self.take(what)
        if _DURATION.fullmatch(found):
            return duration_seconds(found)
        try:
            return float(found)
        except ValueError:
            raise self.wrong("scenario-bad-number", f"`{found}` is no {what}: a number is needed") from None

    def duration(self) -> float:
        """A duration with its unit, in seconds."""
        found = self.take("a duration")
        if not _DURATION.fullmatch(found):
            raise self.wrong("scenario-bad-duration", f"`{found}` is no duration such as 300ms, 0.5s or 2m")
        return duration_seconds(found)

    def node(self) -> str:
        found = self.take("a node")
        if not NODE_NAME.fullmatch(found):
            raise self.wrong("scenario-unknown-node", f"`{found}` is no node's name such as n1")
        return found

    def nodes(self) -> tuple[str, ...]:
        """One node or more, up to the end of the line or the next word that is no node."""
        found = [self.node()]
        while NODE_NAME.fullmatch(self.next):
            found.append(self.node())
        return tuple(found)

    def done(self) -> None:
        if self:
            raise self.wrong("scenario-unknown-word", f"`{self.next}` is one word too many")


def duration_seconds(text: str) -> float:
    """`300ms`, `0.5s`, `2m` in seconds; the caller has checked the form."""
    found = _DURATION.fullmatch(text)
    assert found is not None  # noqa: S101  the pattern is the caller's precondition
    return float(found["number"]) * _SECONDS_PER[found["unit"]]
