"""The agent's configuration file (TOML), checked whole before anything starts."""

from __future__ import annotations

import re
import tomllib
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal

import msgspec

from hitless.core.ipsec.identity import NODE_ID_MASK, REQID_BASE
from hitless.core.ipsec.settings import IpsecSettings
from hitless.core.ipsec.state import Rules
from hitless.core.model.sa import Mode
from hitless.stores.options import SqliteOptions, StoreOptions

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
# Three quarters of what the sequence number can count (RFC 4303 §3.3.3: it must not cycle).
_SHORT_LIMIT, _ESN_LIMIT = 3 << 30, 3 << 62
_WINDOW_LIMIT = 4096  # XFRMA_REPLAY_ESN_MAX, include/uapi/linux/xfrm.h


class ConfigError(Exception):
    """A configuration that is refused. `code` is stable; the message names file and field and what to do."""

    def __init__(self, file: str, field: str, message: str, code: str = "config-invalid") -> None:
        super().__init__(f"{file}: {field}: {message} [{code}]")
        self.code = code


class IpsecConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`drain_seconds`: how long an old SA must have been silent; at least the longest path delay.

    `soft_bytes` and `soft_seconds` limit the life of an SA's keys (0: no limit): then a new incarnation begins.
    """

    replay_window: int = 1024
    esn: bool = True
    reqid_base: int = REQID_BASE
    drain_seconds: float = 10.0
    resync_seconds: float = 5.0
    soft_bytes: int = 0
    soft_seconds: float = 0.0


class LabConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Faults and historic mistakes, for the lab alone. The mistakes need `--replay-old-behaviour` as well.

    `absent` "delete" takes a missing node record for a removal, and binds each node's record to its heartbeat's
    lease. `boot_id` stands for the kernel's: the lab's nodes share one kernel, and each reboots by itself.
    """

    order: Literal["acked", "advertise-first"] = "acked"
    cleanup: Literal["acked", "timer"] = "acked"
    cleanup_seconds: float = 300.0
    install_delay_seconds: float = 0.0
    fail_in_peer: str = ""
    fail_times: int = 0
    crash_before_operation: int = 0
    crash_at: str = ""
    absent: Literal["keep", "delete"] = "keep"
    boot_id: str = ""

    @property
    def historic(self) -> bool:
        """Whether a historic mistake is switched on."""
        return self.order != "acked" or self.cleanup != "acked" or self.absent != "keep"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One node. `addresses` are underlay endpoints, `prefixes` what lives behind the node (tunnel mode)."""

    cluster: str
    node: str
    addresses: tuple[str, ...]
    keys: str
    state_dir: str = "/var/lib/hitless"
    mode: Mode = "tunnel"
    prefixes: tuple[str, ...] = ()
    protected: tuple[str, ...] = ()
    udp_port: int = 0
    log: Literal["json", "text"] = "json"
    store: StoreOptions = SqliteOptions()
    ipsec: IpsecConfig = IpsecConfig()
    lab: LabConfig = LabConfig()

    @property
    def settings(self) -> IpsecSettings:
        return IpsecSettings(
            cluster=self.cluster,
            mode=self.mode,
            protected=self.protected,
            udp_port=self.udp_port,
            esn=self.ipsec.esn,
            replay_window=self.ipsec.replay_window,
            reqid_base=self.ipsec.reqid_base,
        )

    @property
    def rules(self) -> Rules:
        return Rules(
            drain_seconds=self.ipsec.drain_seconds,
            sequence_limit=_ESN_LIMIT if self.ipsec.esn else _SHORT_LIMIT,
            soft_bytes=self.ipsec.soft_bytes,
            soft_seconds=self.ipsec.soft_seconds,
            order=self.lab.order,
            cleanup=self.lab.cleanup,
            cleanup_seconds=self.lab.cleanup_seconds,
            absent=self.lab.absent,
        )


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
    return _check(str(file), config)


def _check(file: str, config: Config) -> Config:
    for field in ("cluster", "node"):
        if not _NAME.match(getattr(config, field)):
            raise ConfigError(file, field, "1 to 63 letters, digits, '.', '_' or '-', the first a letter or digit")
    for field in ("keys", "state_dir"):
        if not getattr(config, field):
            raise ConfigError(file, field, "is empty; give a path")
    addresses = tuple(_address(file, each) for each in config.addresses)
    if not addresses:
        raise ConfigError(file, "addresses", "give at least one underlay address that peers reach this node by")
    prefixes = tuple(_prefix(file, "prefixes", each) for each in config.prefixes)
    protected = tuple(_prefix(file, "protected", each) for each in config.protected)
    _check_mode(file, config, prefixes, protected, addresses)
    _check_numbers(file, config)
    return msgspec.structs.replace(config, addresses=addresses, prefixes=prefixes, protected=protected)


def _check_mode(
    file: str, config: Config, prefixes: tuple[str, ...], protected: tuple[str, ...], addresses: tuple[str, ...]
) -> None:
    if config.mode == "transport" and prefixes:
        raise ConfigError(file, "prefixes", "transport mode protects node to node; leave prefixes out, or use tunnel")
    if config.mode == "tunnel" and config.udp_port:
        raise ConfigError(file, "udp_port", "only transport mode can be limited to one port")
    if config.mode == "tunnel":
        for field, ranges in (("prefixes", prefixes), ("protected", protected)):
            for each in ranges:
                inside = [address for address in addresses if ip_address(address) in ip_network(each)]
                if inside:
                    raise ConfigError(
                        file, field, f"{each} holds the underlay address {inside[0]}: ESP itself would be blocked"
                    )


def _check_numbers(file: str, config: Config) -> None:
    ipsec = config.ipsec
    limits = (
        ("udp_port", 0 <= config.udp_port <= 65535, "a UDP port, or 0 for all traffic"),
        ("ipsec.replay_window", 1 <= ipsec.replay_window <= _WINDOW_LIMIT, f"1 to {_WINDOW_LIMIT} packets"),
        ("ipsec.drain_seconds", 0 < ipsec.drain_seconds <= 86400, "more than 0 and at most a day"),
        ("ipsec.resync_seconds", 1 <= ipsec.resync_seconds <= 86400, "1 second to a day"),
        ("ipsec.reqid_base", ipsec.reqid_base & NODE_ID_MASK == 0, "the low 20 bits must be zero: they name the peer"),
        ("ipsec.soft_bytes", ipsec.soft_bytes == 0 or ipsec.soft_bytes >= 1 << 20, "0 for none, or at least 1 MiB"),
        ("ipsec.soft_seconds", ipsec.soft_seconds == 0 or ipsec.soft_seconds >= 60, "0 for none, or at least a minute"),
        ("ipsec.reqid_base", 0 < ipsec.reqid_base < 2**32, "a 32-bit number other than 0"),
    )
    for field, holds, wanted in limits:
        if not holds:
            raise ConfigError(file, field, f"out of range: {wanted}")


def _address(file: str, text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise ConfigError(file, "addresses", f"'{text}' is not an IPv4 or IPv6 address") from None


def _prefix(file: str, field: str, text: str) -> str:
    try:
        return str(ip_network(text))
    except ValueError as error:
        raise ConfigError(file, field, f"'{text}' is not a prefix: {error}") from None
