"""Stands in for an agent: takes its configuration, says its events, publishes a status file. It has no kernel.

A generation is a key file with four fields that differs from the one before; anything else is refused.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import tomllib
from pathlib import Path


def main() -> None:
    config = tomllib.loads(Path(sys.argv[sys.argv.index("--config") + 1]).read_text())
    state = Path(config["state_dir"])
    state.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    remembered = state / "keys.json"
    known: list[str] = json.loads(remembered.read_text()) if remembered.exists() else []
    refused = ""
    say("started", config, replay="--replay-old-behaviour" in sys.argv)
    settled = False
    while True:
        text = Path(config["keys"]).read_text().strip()
        if text not in (*known, refused):
            if len(text.split()) == 4:
                known.append(text)
                remembered.write_text(json.dumps(known))
                say("key-loaded", config, generation=len(known))
                if known[1:] and config["lab"].get("crash_at") == "key-loaded":
                    say("crash-point", config)
                    os.kill(os.getpid(), signal.SIGKILL)
            else:
                refused = text
                say("key-refused", config, code="key-fields")
        publish(state, config["node"], len(known))
        if not settled:
            settled = True
            say("settled", config, boot_id=config["lab"].get("boot_id", ""))
        time.sleep(0.01)


def publish(state: Path, node: str, generation: int) -> None:
    fresh = state / ".status"
    fresh.write_text(json.dumps({"name": node, "generation": generation, "phase": "steady"}))
    fresh.replace(state / "status.json")


def say(event: str, config: dict[str, object], **fields: object) -> None:
    line = {"event": event, "node": config["node"], "monotonic": time.monotonic(), **fields}
    sys.stderr.write(json.dumps(line) + "\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
