"""What a node must remember itself, so that it survives a wiped store: its id and its incarnation.

The file also holds what an incarnation depends on (the kernel's boot id, the underlay addresses): when one of them
has changed, the kernel state that the incarnation stood for is gone, and a new one begins.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from hitless.core.model.node import Incarnation
from hitless.ports import Entropy

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Remembered(msgspec.Struct, frozen=True):
    """The contents of `node.json`."""

    name: str
    node_id: int
    incarnation: Incarnation
    boot_id: str
    addresses: tuple[str, ...]


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
    """`node.json` in the state directory, replaced atomically and flushed before it counts."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "node.json"

    def read(self) -> Remembered | None:
        """What was written last; None on the first start. A damaged file counts as none: a new incarnation is safe."""
        try:
            return msgspec.json.decode(self._file.read_bytes(), type=Remembered)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError:
            return None
        except OSError as error:
            raise StateFileError(self._complaint(error)) from None

    def write(self, remembered: Remembered) -> None:
        """Raises StateFileError."""
        draft = self._file.with_suffix(".new")
        try:
            self._file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with draft.open("wb") as stream:
                stream.write(msgspec.json.encode(remembered))
                stream.flush()
                os.fsync(stream.fileno())
            draft.replace(self._file)
        except OSError as error:
            raise StateFileError(self._complaint(error)) from None

    def _complaint(self, error: OSError) -> str:
        return (
            f"{self._file}: {error.strerror}; the agent keeps its identity there: "
            "make the directory writable for it, or set state_dir [state-dir-unusable]"
        )
