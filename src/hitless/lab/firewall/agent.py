"""The firewall's agent as a process: its configuration, its life, its log and its status file.

It is started as `python -m hitless firewall agent --config FILE`, exactly as a service would start it. Faults that it
carries itself stand in its configuration: they are armed here and take effect at the next start, a crash once.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from hitless.lab.agents import COMMAND, AgentError, Log, LogEvent
from hitless.lab.firewall.ground import FirewallGround
from hitless.lab.firewall.scenario import Scenario

_STOP_SECONDS: Final = 10.0
_COMMAND_SECONDS: Final = 60.0
_CLUSTER: Final = "lab"
_NOBODY: Final = "http://127.0.0.1:9"  # discard(9): nobody listens there, so a connection is refused at once


class Standing(msgspec.Struct, frozen=True):
    """A condition of the status file."""

    code: str
    about: str = ""


class Status(msgspec.Struct, frozen=True):
    """What the lab reads of the agent's `status.json`."""

    pid: int
    generation: str = ""
    settled: bool = False
    flow_mods: int = 0
    ports: tuple[str, ...] = ()
    conditions: tuple[Standing, ...] = ()


class FirewallAgent:
    """The one agent of a scenario. `directory` holds its configuration and state, `log_path` its log."""

    def __init__(self, scenario: Scenario, ground: FirewallGround, directory: Path, log_path: Path) -> None:
        self.documents = directory / "intent"
        self.log = Log("agent", log_path)
        self.crash_at, self.order, self.reaches_store = "", scenario.order, True
        self._scenario, self._ground, self._directory = scenario, ground, directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that was started last, 0 before the first."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start with what is armed. AgentError `agent-runs-already`."""
        if self.running:
            raise AgentError("agent-runs-already", "the agent runs already; `stop` it first")
        self.log.begin_life()
        argv = [*COMMAND, "firewall", "agent", "--config", str(self.configure())]
        if self._scenario.replay:
            argv.append("--replay-old-behaviour")
        with self.log.path.open("ab") as log:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        self.crash_at = ""

    def stop(self, *, abruptly: bool = False) -> None:
        """SIGTERM or SIGKILL, and wait. AgentError `agent-will-not-end` for one that had to be killed."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.kill() if abruptly else process.terminate()
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise AgentError("agent-will-not-end", f"the agent did not end within {_STOP_SECONDS:g} s of SIGTERM "
                             "and was killed") from None  # fmt: skip

    def died_of_itself(self) -> str:
        """Why the agent is gone although nobody ended it, with its last words; "" where it runs or was ended."""
        process = self._process
        if process is None or process.poll() is None or process.returncode in (0, -9, -15):
            return ""
        return f"the agent ended with exit status {process.returncode}; its last words:\n{self.log.last_words()}"

    def push(self) -> None:
        """What an operator types to bring the documents into the store. AgentError `push-failed`."""
        config = self.configure()
        argv = [*COMMAND, "firewall", "push", str(self.documents), "--config", str(config)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
        if done.returncode:
            raise AgentError("push-failed", f"`hitless firewall push` ended with {done.returncode}: {done.stderr}")

    # --- what it says -----------------------------------------------------------------------------------

    def status(self) -> Status | None:
        """What this process, not one before it, has written; None where it has written nothing yet."""
        try:
            found = msgspec.json.decode((self._directory / "state" / "status.json").read_bytes(), type=Status)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return found if found.pid == self.pid else None

    def said(self, event: str, *, ever: bool = False) -> tuple[LogEvent, ...]:
        """Events of this name, of this life or of all."""
        self.log.poll()
        return tuple(each for each in (self.log.events if ever else self.log.this_life()) if each.event == event)

    # --- its configuration ------------------------------------------------------------------------------

    def configure(self) -> Path:
        """Write the configuration with what is armed; its path."""
        self._directory.mkdir(parents=True, exist_ok=True)
        place = self._directory / "firewall.toml"
        top: dict[str, Any] = {
            "node": "lab", "bridge": self._ground.bridge, "state_dir": str(self._directory / "state"),
            "database": self._ground.switch.database, "run_dir": self._ground.switch.run_dir,
            "resync_seconds": self._scenario.resync_seconds,
        }  # fmt: skip
        sections: dict[str, Mapping[str, Any]] = {}
        if self._scenario.source == "files":
            top["intent"] = str(self.documents)
        else:
            top["cluster"] = _CLUSTER
            sections["store"] = self._store()
        lab = {"write": self._scenario.write, "ids": self._scenario.ids, "order_seed": self.order}
        sections["lab"] = {**lab, "crash_at": self.crash_at}
        # JSON's strings and numbers are TOML's too.
        lines = [f"{name} = {json.dumps(value)}" for name, value in top.items()]
        for title, values in sections.items():
            lines += ["", f"[{title}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
        place.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return place

    def _store(self) -> Mapping[str, Any]:
        if self.reaches_store:
            return {"kind": "sqlite", "path": str(self._directory / "store.db")}
        return {"kind": "etcd", "endpoints": [_NOBODY]}
