"""A node in memory for the commands `plan` and `apply`: a bridge, documents, and the command line in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tests.agent.firewall.bridge import Bridge, documents, firewall, text
from typer.testing import CliRunner

from hitless.agent.firewall import memory
from hitless.cli import main
from hitless.cli.firewall_files import intent_of_files
from hitless.core.model.flow import Flow, FlowKey

CONFIG = 'node = "n1"\nbridge = "br"\nintent = "intent"\nstate_dir = "state"\nrun_dir = "."\n'


class Node:
    """A bridge that an agent has brought up with the documents of `documents()`, and has left."""

    def __init__(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.place, self.bridge = place, Bridge()
        (place / "fw.toml").write_text(CONFIG)
        (place / "intent").mkdir()
        self.say()
        monkeypatch.chdir(place)
        monkeypatch.setattr("hitless.telemetry.log.configure", lambda *_: None)  # it is the whole process's
        monkeypatch.setattr("hitless.agent.firewall.run.open_switch", lambda _config: self.bridge)
        monkeypatch.setattr("hitless.cli.apply_confirm._POLL_SECONDS", 0.01)
        monkeypatch.setattr("hitless.agent.firewall.reverter.start", lambda *_: None)  # another process: no such bridge
        intent = intent_of_files(place / "intent")
        memory.write_intent(place / "state", intent)
        firewall(self.bridge).round(intent, look=True)
        self.bridge.calls.clear()

    def say(self, *args: Any, **more: Any) -> None:
        """Put documents in place."""
        (self.place / "intent/all.yaml").write_text(text(documents(*args, **more)))

    @property
    def flows(self) -> dict[FlowKey, Flow]:
        return dict(self.bridge.flows)

    def run(self, *words: str, wanted: int = 0) -> str:
        """What a command says on both streams; errors with a code as `main` says them."""
        done = CliRunner().invoke(main.app, words, catch_exceptions=True)
        found, status = done.output, done.exit_code
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            code = getattr(done.exception, "code", None)
            assert code, repr(done.exception)
            found, status = f"{found}{done.exception} [{code}]\n", 1
        assert status == wanted, found
        return found
