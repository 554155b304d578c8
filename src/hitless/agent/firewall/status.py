"""What the firewall agent says about itself: `status.json` in its state directory, written when something changed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from hitless.agent.firewall.memory import read_json, write_json
from hitless.core.model.condition import REGISTRY

_FILE = "status.json"


class Standing(msgspec.Struct, frozen=True):
    """A condition that holds: its code, since when (seconds since 1970), and what it is about."""

    code: str
    since: float
    about: str = ""


class Status(msgspec.Struct, frozen=True):
    """`settled`: the intent of `generation` is in force and its connections are repaired.

    `flows` are ours on the bridge, `flow_mods` what this process wrote, `cut` connections it made the switch forget.
    `ports_elsewhere` counts ports of the intent that this bridge does not have; `unlisted` are interfaces of the
    bridge that the intent does not name: nothing filters them. Times are seconds since 1970.
    """

    node: str
    bridge: str
    pid: int
    generation: str = ""
    settled: bool = False
    flows: int = 0
    flow_mods: int = 0
    ports: tuple[str, ...] = ()
    ports_elsewhere: int = 0
    unlisted: tuple[str, ...] = ()
    cut: int = 0
    last_applied: float = 0.0
    conditions: tuple[Standing, ...] = ()

    @property
    def degraded(self) -> bool:
        """Whether a person should look: not settled, or a condition that is more than news."""
        return not self.settled or any(REGISTRY[each.code].severity != "info" for each in self.conditions)


class Board:
    """Keeps the status of one process; `show` writes it where it changed."""

    def __init__(self, directory: Path, status: Status) -> None:
        self.status = status
        self._directory = directory
        self._written: Status | None = None

    def show(self, conditions: Mapping[str, str], **fields: object) -> None:
        """Conditions that hold now, by code; a condition keeps its time for as long as it holds. Raises OSError."""
        since = {each.code: each.since for each in self.status.conditions}
        standing = tuple(
            Standing(code, since.get(code, time.time()), about) for code, about in sorted(conditions.items())
        )
        self.status = msgspec.structs.replace(self.status, conditions=standing, **fields)
        if self.status != self._written:
            write_json(self._directory / _FILE, self.status)
            self._written = self.status


def read_status(directory: Path) -> Status | None:
    """What the last agent there wrote; None where there is none."""
    return read_json(directory / _FILE, Status)
