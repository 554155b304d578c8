"""The firewall agent's configuration file (TOML), checked whole before anything starts."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Final, Literal

import msgspec

from hitless.agent.config import ConfigError
from hitless.stores.options import SqliteOptions, StoreOptions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
_DAY_SECONDS: Final = 86_400

STEPS: Final = ("observed", "compiled", "intended", "applied", "barrier", "repaired", "committed")
"""What a round does, in order; `lab.crash_at` names the step after which the agent kills itself."""


class LabConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Faults and historic mistakes, for the lab alone. The mistakes need `--replay-old-behaviour` as well.

    `order_seed` 0 writes ports in the order of their names, any other number shuffles them. `crash_after_batches`
    counts bundles of this process's life (0: never).
    """

    write: Literal["bundle", "piecewise"] = "bundle"
    ids: Literal["hash", "fresh", "reused"] = "hash"
    order_seed: int = 0
    crash_at: str = ""
    crash_after_batches: int = 0

    @property
    def historic(self) -> bool:
        """Whether a historic mistake is switched on."""
        return self.write != "bundle" or self.ids != "hash"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One bridge. `intent` is a file or directory of documents; empty where the store's cluster has it."""

    node: str
    bridge: str
    intent: str = ""
    cluster: str = ""
    state_dir: str = "/var/lib/hitless/firewall"
    database: str = "unix:/var/run/openvswitch/db.sock"
    run_dir: str = "/var/run/openvswitch"
    uplinks: tuple[str, ...] = ()
    resync_seconds: float = 10.0
    restore_seconds: float = 30.0
    log: Literal["json", "text"] = "json"
    store: StoreOptions = SqliteOptions()
    lab: LabConfig = LabConfig()


def load(file: Path) -> Config:
    """Read and check a configuration. Raises ConfigError."""
    try:
        found = tomllib.loads(file.read_text("utf-8"))
        if isinstance(found.get("store"), dict):
            found["store"].setdefault("kind", "sqlite")
        config = msgspec.convert(found, Config)
    except OSError as error:
        raise ConfigError(str(file), "file", f"cannot be read: {error.strerror}", "config-unreadable") from None
    except msgspec.ValidationError as error:
        what, _, where = str(error).partition(" - at `$")
        raise ConfigError(str(file), where.strip("`.") or "top level", what) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(file), "file", f"is not TOML: {error}", "config-not-toml") from None
    for field, holds, wanted in _wanted(config, has_store="store" in found):
        if not holds:
            raise ConfigError(str(file), field, wanted)
    return config


def _wanted(config: Config, *, has_store: bool) -> tuple[tuple[str, bool, str], ...]:
    lab, from_store = config.lab, not config.intent
    name = "1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit"
    return (
        ("node", bool(_NAME.match(config.node)), name),
        ("bridge", bool(config.bridge), "is empty; name the Open vSwitch bridge"),
        ("cluster", not from_store or bool(_NAME.match(config.cluster)), f"whose documents to take: {name}"),
        ("intent", from_store or not has_store, "give intent (files) or [store], not both: one would not be read"),
        ("intent", from_store or not config.cluster, "cluster names the store's documents; leave out one of the two"),
        ("state_dir", bool(config.state_dir), "is empty; give a path"),
        ("uplinks", len(set(config.uplinks)) == len(config.uplinks) and all(config.uplinks), "names, each once"),
        ("resync_seconds", 1 <= config.resync_seconds <= _DAY_SECONDS, "out of range: 1 second to a day"),
        ("restore_seconds", 1 <= config.restore_seconds <= _DAY_SECONDS, "out of range: 1 second to a day"),
        ("lab.ids", lab.write == "piecewise" or lab.ids == "hash", 'is for write = "piecewise"'),
        ("lab.crash_at", lab.crash_at in ("", *STEPS), f"no such step; one of {', '.join(STEPS)}"),
        ("lab.crash_after_batches", lab.crash_after_batches >= 0, "out of range: 0 for never, or a number of bundles"),
    )
