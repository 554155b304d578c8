"""Scenarios shared out over guests: each guest plays one after another, and several guests play at the same time.

A boot costs three seconds and the first import of everything two more, as much as a short scenario; so a guest is kept
until nothing is left to play. One thread a guest runs it; a second one hands scenarios over, the next when the last has
ended, so that no guest waits while there is work. Longest first: the last to end is then a short one. At the end come
those that allow a silence of no more than a second, which a neighbour on a busy machine may cause: each is played
alone. A guest that dies takes the scenario it was playing with it and no other: the rest goes to a new guest.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, as_completed
from pathlib import Path
from typing import Final, Self

import msgspec

from hitless.lab import lines, outer
from hitless.lab.kernel import Preference, choose
from hitless.lab.kernel.face import TIMED_OUT, Kernel, LabError
from hitless.lab.report import Report
from hitless.lab.scenario import After, Compared, Expect, Hold, Scenario
from hitless.lab.series import ENDED, Ended

_LOOK_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 90.0  # over a scenario's limit: the boot, and what the guest needs to end it and say so
_TIGHT_SECONDS: Final = 1.0  # a guest that shares its CPU has been seen to stand still for longer
_GUEST_SECONDS: Final = 8 * 3600.0  # scenarios have limits of their own; this ends a guest that nobody ends


class Outcome(msgspec.Struct, frozen=True):
    """A scenario's end: status and report as `outer.run_scenario` has them. `trouble`: what went wrong beside it."""

    name: str
    status: int
    report: Report | None
    trouble: str = ""


class _Job(msgspec.Struct, frozen=True):
    scenario: Scenario
    text: str
    outcome: Future[Outcome]

    @property
    def weight(self) -> float:
        """Roughly how long it takes; the order depends on it and nothing else."""
        actions = [step.action for step in self.scenario.steps]
        after = sum(action.seconds for action in actions if isinstance(action, After))
        return len(actions) + after + sum(action.for_seconds for action in actions if isinstance(action, Hold))


    @property
    def alone(self) -> bool:
        """Whether it fails where a machine is busy for a moment."""
        return any(
            isinstance(step.action, Expect | Hold)
            and isinstance(step.action.condition, Compared)
            and step.action.condition.metric in ("healed", "silence", "stalled_seconds")
            and step.action.condition.relation in ("<", "<=")
            and step.action.condition.value <= _TIGHT_SECONDS
            for step in self.scenario.steps
        )


class _Guest:
    """One boot: whether it is over, and why."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.why = "the guest ended before the scenario did"


class Guests:
    """Plays scenarios (names or paths) on `count` guests at once. A context manager; leaving it ends the guests.

    Reports, logs and pictures of scenario NAME go to `results`/NAME, with several guests to `results`/guest-N/NAME.
    Raises ScenarioError for a scenario that cannot be read, LabError for a kernel that cannot be had and
    `scenario-named-twice`.
    """

    def __init__(
        self,
        scenarios: Sequence[str],
        *,
        results: Path,
        kernel: Preference = "auto",
        count: int = 1,
        limit_seconds: float = 900.0,
    ) -> None:
        jobs = [_Job(*outer.read(each), Future()) for each in scenarios]
        self._outcomes = {job.scenario.name: job.outcome for job in jobs}
        if len(self._outcomes) < len(jobs):
            raise LabError("scenario-named-twice", "two scenarios have one name, but results go by name; rename one")
        self._waiting = deque(sorted(jobs, key=lambda job: (job.alone, -job.weight)))
        self._turn = threading.Condition()
        self._playing: list[_Job] = []
        self._limit_seconds = limit_seconds
        self._leaving = threading.Event()
        places = [results.resolve() / f"guest-{n}" for n in range(1, count + 1)] if count > 1 else [results.resolve()]
        self._threads = [
            threading.Thread(target=self._keep, args=(choose(kernel), place), name=place.name, daemon=True)
            for place in places
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._leaving.set()
        for thread in self._threads:
            thread.join()
        for outcome in self._outcomes.values():  # nobody waits for what nobody plays
            outcome.cancel()

    def outcome(self, name: str) -> Outcome:
        """Wait until this scenario has been played. CancelledError where the guests were left before."""
        return self._outcomes[name].result()

    def outcomes(self) -> Iterator[Outcome]:
        """All of them, as they end."""
        for future in as_completed(self._outcomes.values()):
            yield future.result()

    def _keep(self, kernel: Kernel, place: Path) -> None:
        """A guest, and after it another one, while there is something to play."""
        place.mkdir(parents=True, exist_ok=True)
        argv = [sys.executable, "-m", "hitless.lab.series", "--results", str(place)]
        argv += ["--limit", f"{self._limit_seconds:g}"]
        while self._waiting and not self._leaving.is_set():
            guest = _Guest()
            lines.forget(place)
            handing = threading.Thread(target=lines.relay, args=(self._hand_out(place, guest), place), daemon=True)
            handing.start()
            try:
                kernel.run(argv, results=place, env={}, timeout_seconds=_GUEST_SECONDS)
            except LabError as error:
                guest.why = f"{error} [{error.code}]"
            guest.over.set()
            handing.join()

    def _hand_out(self, place: Path, guest: _Guest) -> Iterator[str]:
        while not self._leaving.is_set():
            job = self._take(guest)
            if job is None:
                return
            directory = place / job.scenario.name
            directory.mkdir(exist_ok=True)
            for name in (ENDED, outer.REPORT):  # never mistake an earlier run's for this one's
                (directory / name).unlink(missing_ok=True)
            file = directory / f"{job.scenario.name}.txt"
            file.write_text(job.text, encoding="utf-8")
            yield str(file)
            ended = self._wait(directory / ENDED, guest)
            with self._turn:
                self._playing.remove(job)
                self._turn.notify_all()
            job.outcome.set_result(_outcome(job.scenario.name, directory, ended, guest.why))
            if ended is None or not ended.clean:
                return

    def _take(self, guest: _Guest) -> _Job | None:
        """The next job, once its neighbours allow it; None where there is none for this guest."""
        with self._turn:
            while self._waiting and not guest.over.is_set() and not self._leaving.is_set():
                if not self._playing or not (self._waiting[0].alone or self._playing[0].alone):
                    self._playing.append(self._waiting.popleft())
                    return self._playing[-1]
                self._turn.wait(_LOOK_SECONDS)
        return None

    def _wait(self, file: Path, guest: _Guest) -> Ended | None:
        """What the guest says of the scenario; None where it will not say it any more."""
        deadline = time.monotonic() + self._limit_seconds + _GRACE_SECONDS
        while not file.exists():
            if guest.over.wait(_LOOK_SECONDS) and not file.exists():
                return None
            if self._leaving.is_set() or time.monotonic() > deadline:
                return None
        return msgspec.json.decode(file.read_bytes(), type=Ended)


def _outcome(name: str, directory: Path, ended: Ended | None, why: str) -> Outcome:
    if ended is None:
        return Outcome(name, 1, None, f"{name} was not played to its end: {why}")
    trouble = [f"left behind: {each} [left-behind]" for each in ended.left]
    if ended.status == TIMED_OUT:
        trouble.append(f"stopped at its time limit; the agents' logs are in {directory / 'logs'} [lab-timed-out]")
    if ended.status not in (0, 1) or ended.words:
        trouble.append(f"exit status {ended.status}: {ended.words.strip()}")
    status, report = outer.bring_home(directory, ended.status)
    return Outcome(name, max(status, 1) if trouble else status, report, "\n".join(trouble))
