"""Files in the state directory, replaced atomically: the last good intent, and the status.

The last good intent is what a node goes on with when files cannot be read or the store cannot be reached. A damaged
one counts as none: then nothing is written to the bridge until an intent comes.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeVar

import msgspec

from hitless.agent.statefile import StateFileError
from hitless.core.model.security import Intent

T = TypeVar("T")
_INTENT = "intent.json"


def read_intent(directory: Path) -> Intent | None:
    """The intent that was in force last; None where there is none."""
    return read_json(directory / _INTENT, Intent)


def write_intent(directory: Path, intent: Intent) -> None:
    """To be called before the first flow of it is written. Raises StateFileError."""
    file = directory / _INTENT
    if not file.exists() or file.read_bytes() != msgspec.json.encode(intent):
        write_json(file, intent)


def read_json(file: Path, kind: type[T]) -> T | None:
    """The value, or None where the file is missing or damaged. Raises StateFileError."""
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    except OSError as error:
        raise _unusable(file, error) from None


def write_json(file: Path, value: object) -> None:
    """Replace the file in one step, flushed first. Raises StateFileError."""
    draft = file.with_name(f"{file.name}.new")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with draft.open("wb") as stream:
            stream.write(msgspec.json.encode(value))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(file)
    except OSError as error:
        raise _unusable(file, error) from None


def _unusable(file: Path, error: OSError) -> StateFileError:
    return StateFileError(
        f"{file}: {error.strerror}; the agent keeps its last good intent and its status there: make the directory "
        "writable for it, or set state_dir [state-dir-unusable]"
    )
