"""What a node must remember itself, so that it survives a wiped store: its id and its incarnation.

The file also holds what an incarnation depends on (the kernel's boot id, the underlay addresses): when one of them
has changed, the kernel state that the incarnation stood for is gone, and a new one begins.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from hitless.core.ipsec.state import Used
from hitless.core.model.node import Incarnation, KeyRecord
from hitless.ports import Entropy

T = TypeVar("T")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Remembered(msgspec.Struct, frozen=True):
    """The contents of `node.json`."""

    name: str
    node_id: int
    incarnation: Incarnation
    boot_id: str
    addresses: tuple[str, ...]


class Journal(msgspec.Struct, frozen=True):
    """The contents of `used.json`: identities that this incarnation has installed, or was about to."""

    incarnation: Incarnation
    used: frozenset[Used]


class StateFileError(Exception):
    """The state directory cannot be used."""

    code = "state-dir-unusable"


def boot_id() -> str:
    """The kernel's boot id (random(4)): another value means an empty XFRM."""
    return _BOOT_ID.read_text().strip()


def next_incarnation(after: int, entropy: Entropy) -> Incarnation:
    """A new incarnation with a counter above `after` and 128 fresh random bits."""
    return Incarnation(after + 1, entropy.token(16).hex())


class StateFile:
    """`node.json`, `used.json`, `keys.json` in the state directory: replaced atomically, flushed before they count."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def read(self) -> Remembered | None:
        """What was written last; None on the first start. A damaged file counts as none: a new incarnation is safe."""
        return self._read("node.json", Remembered)

    def write(self, remembered: Remembered) -> None:
        """Raises StateFileError."""
        self._write("node.json", remembered)

    def read_used(self, incarnation: Incarnation) -> frozenset[Used]:
        """What this incarnation has installed so far, as far as is known."""
        journal = self._read("used.json", Journal)
        return journal.used if journal is not None and journal.incarnation == incarnation else frozenset()

    def write_used(self, journal: Journal) -> None:
        """To be called before the first of them reaches the kernel. Raises StateFileError."""
        self._write("used.json", journal)

    def read_keys(self) -> dict[str, KeyRecord]:
        """Key records by fingerprint, as this node registered or found them: they survive a wiped store."""
        return self._read("keys.json", dict[str, KeyRecord]) or {}

    def write_keys(self, records: dict[str, KeyRecord]) -> None:
        """Raises StateFileError."""
        self._write("keys.json", records)

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self._directory / name).read_bytes(), type=kind)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        except OSError as error:
            raise StateFileError(self._complaint(error)) from None

    def _write(self, name: str, value: object) -> None:
        draft = self._directory / f"{name}.new"
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            with draft.open("wb") as stream:
                stream.write(msgspec.json.encode(value))
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self._directory / name)
        except OSError as error:
            raise StateFileError(self._complaint(error)) from None

    def _complaint(self, error: OSError) -> str:
        return (
            f"{self._directory}: {error.strerror}; the agent keeps its identity there: "
            "make the directory writable for it, or set state_dir [state-dir-unusable]"
        )
