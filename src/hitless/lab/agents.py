"""The agents of the lab's nodes as processes: their configuration, their life, and what their logs say.

An agent is started as `python -m hitless agent --config FILE` in its node's network namespace, exactly as a service
would start it. Faults that the agent carries itself (a slow install, a crash at a step) stand in its configuration,
which it reads at its start: they are armed here and take effect at the next start, a crash once.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

import msgspec

from hitless.core.model.sa import Mode
from hitless.lab.scenario import Absent, Cleanup, Order
from hitless.stores.options import StoreOptions

STOP_SECONDS: Final = 10.0  # SIGTERM to exit; an agent has nothing to do at its end but to close its files
# With faulthandler SIGABRT leaves every thread's stack in the log: where an agent stood when it was waited for in vain.
COMMAND: Final = (sys.executable, "-m", "hitless")
AGENT: Final = (sys.executable, "-X", "faulthandler", "-m", "hitless", "agent")
_TAIL_LINES: Final = 8  # of an agent's own words in an error message

Spawn = Callable[[str, Sequence[str], IO[bytes]], subprocess.Popen[bytes]]
"""(node, argv, log) -> a process in that node's namespace, whose standard output and error go to the log."""


class AgentError(Exception):
    """An agent that did not do what its life requires. `code` is stable."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Place(msgspec.Struct, frozen=True):
    """Where a node stands: underlay addresses, prefixes behind it."""

    addresses: tuple[str, ...]
    prefixes: tuple[str, ...]


class Settings(msgspec.Struct, frozen=True):
    """What all agents of a lab have in common. `udp_port` 0 means none; times in seconds."""

    mode: Mode
    protected: tuple[str, ...]
    store: StoreOptions
    udp_port: int = 0
    drain_seconds: float = 1.0
    order: Order = "acked"
    cleanup: Cleanup = "acked"
    cleanup_seconds: float = 0.0
    absent: Absent = "keep"
    esn: bool = True
    resync_seconds: float = 5.0
    replay: bool = False


class Faults(msgspec.Struct, frozen=True):
    """What is armed for an agent's next start."""

    install_delay_seconds: float = 0.0
    fail_in_peer: str = ""
    fail_times: int = 0
    crash_at: str = ""


class LogEvent(msgspec.Struct, frozen=True):
    """One line of an agent's log. `fields` has everything the agent said, `event` and `monotonic` included."""

    node: str
    event: str
    monotonic: float
    fields: Mapping[str, Any]


class Log:
    """An agent's log file, read as it grows, over restarts. Lines that are no JSON are kept in `stray`."""

    def __init__(self, node: str, path: Path) -> None:
        self.path = path
        self.events: list[LogEvent] = []
        self.stray: list[str] = []
        self._node = node
        self._offset = 0
        self._life_began = 0  # index of the first event since the last start

    def begin_life(self) -> None:
        """What comes from here on belongs to a new process."""
        self.poll()
        self._life_began = len(self.events)
        self.stray.clear()

    def poll(self) -> None:
        """Read what was added; a line without its end is left for the next time."""
        if not self.path.exists():
            return
        with self.path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            fields = msgspec.json.decode(line, type=dict[str, Any])
            event = LogEvent(self._node, str(fields["event"]), float(fields.get("monotonic", 0.0)), fields)
        except (msgspec.MsgspecError, KeyError, TypeError, ValueError):
            self.stray.append(line.decode("utf-8", "replace"))
        else:
            self.events.append(event)

    def this_life(self) -> Sequence[LogEvent]:
        """Events since the agent was last started."""
        self.poll()
        return self.events[self._life_began :]

    def last_words(self) -> str:
        self.poll()
        said = (json.dumps(dict(event.fields)) for event in self.this_life()[-_TAIL_LINES:])
        words = [*said, *self.stray[-_TAIL_LINES:]]
        return "\n".join(f"    {word}" for word in words)


class Agent:
    """One node's agent. `directory` holds its configuration and state, `log_path` its log."""

    def __init__(self, name: str, place: Place, directory: Path, log_path: Path) -> None:
        self.name = name
        self.called = name  # by its configuration; two nodes may be given one name
        self.boot_id = ""  # what stands for the kernel's own, once this node has been rebooted
        self.place = place
        self.directory = directory
        self.log = Log(name, log_path)
        self.faults = Faults()
        self.process: subprocess.Popen[bytes] | None = None
        self.changes_before = 0  # of the node's kernel state, before this process was started

    @property
    def config(self) -> Path:
        """Its configuration file, there once it was started."""
        return self.directory / "agent.toml"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, settings: Settings, keys: Path, spawn: Spawn, argv: Sequence[str] = AGENT) -> None:
        """Start with what is armed; an armed crash is then used up. Raises AgentError `agent-runs-already`."""
        if self.running:
            raise AgentError("agent-runs-already", f"{self.name} runs already; `stop {self.name}` first")
        self.directory.mkdir(parents=True, exist_ok=True)
        config = self.config
        text = render(self.called, self.place, settings, keys, self.directory, self.faults, self.boot_id)
        config.write_text(text, encoding="utf-8")
        self.log.begin_life()
        command = [*argv, "--config", str(config)]
        if settings.replay:
            command.append("--replay-old-behaviour")
        with self.log.path.open("ab") as log:
            self.process = spawn(self.name, command, log)
        self.faults = msgspec.structs.replace(self.faults, crash_at="")

    def arm(self, **faults: Any) -> None:
        """Change what takes effect at the next start. Raises AgentError `fault-needs-start` while the agent runs."""
        if self.running:
            raise AgentError(
                "fault-needs-start",
                f"{self.name} runs, and an agent reads its faults at its start; put this line before the start, "
                f"or `stop {self.name}` above it and `start {self.name}` below",
            )
        self.faults = msgspec.structs.replace(self.faults, **faults)

    def end(self, *, abruptly: bool) -> None:
        """SIGTERM and wait, or SIGKILL. One that does not end in time is killed: AgentError `agent-will-not-end`."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGKILL if abruptly else signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AgentError(
                "agent-will-not-end", f"{self.name} did not end within {STOP_SECONDS:g} s of SIGTERM and was killed"
            ) from None

    def tell_where_it_stands(self) -> None:
        """End an agent that hangs, its stacks in the log."""
        if self.process is not None and self.running:
            self.process.send_signal(signal.SIGABRT)
            self.process.wait(STOP_SECONDS)

    def has_caught_up(self) -> bool:
        """Whether this process, not one before it, has come to rest at least once."""
        return any(event.event == "settled" for event in self.log.this_life())

    def died_of_itself(self) -> str:
        """Why the agent is gone although nobody ended it, with its last words; "" where it runs or was ended."""
        if self.process is None or self.process.poll() is None or self.process.returncode in (0, -9, -15):
            return ""
        return f"{self.name} ended with exit status {self.process.returncode}; its last words:\n{self.log.last_words()}"


def render(
    name: str, place: Place, settings: Settings, keys: Path, directory: Path, faults: Faults, boot_id: str = ""
) -> str:
    """The agent's configuration as TOML. `boot_id` "" means the kernel's."""
    top: dict[str, Any] = {
        "cluster": "lab", "node": name, "state_dir": str(directory / "state"), "keys": str(keys),
        "mode": settings.mode, "addresses": place.addresses, "prefixes": place.prefixes,
        "protected": settings.protected,
    }  # fmt: skip
    if settings.udp_port:
        top["udp_port"] = settings.udp_port
    lab: dict[str, Any] = {"order": settings.order, "cleanup": settings.cleanup}
    if settings.cleanup == "timer":
        lab["cleanup_seconds"] = settings.cleanup_seconds
    lab |= {"absent": settings.absent} if settings.absent != "keep" else {}
    lab |= {"boot_id": boot_id} if boot_id else {}
    lab |= {field: value for field, value in msgspec.structs.asdict(faults).items() if value}
    sections: dict[str, dict[str, Any]] = {
        "store": msgspec.to_builtins(settings.store),
        "ipsec": {
            "replay_window": 1024, "esn": settings.esn, "drain_seconds": settings.drain_seconds,
            "resync_seconds": settings.resync_seconds,
        },
        "lab": lab,
    }  # fmt: skip
    lines = list(_assignments(top))
    for title, values in sections.items():
        lines += ["", f"[{title}]", *_assignments(values)]
    return "\n".join(lines) + "\n"


def _assignments(values: Mapping[str, Any]) -> Iterator[str]:
    # JSON's strings, numbers, booleans and arrays of strings are TOML's too.
    for name, value in values.items():
        yield f"{name} = {json.dumps(value)}"
