"""The key file or directory on disk: read whole, and watched, also through Kubernetes' symlink swaps."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from hitless.core.ipsec.keyfile import KeyFault, KeyFileError, join
from hitless.core.model.key import MasterKey

_SIZE_LIMIT_BYTES = 1 << 20  # a key file has a few hundred bytes; anything this large is something else
_POLL_SECONDS = 5.0  # file systems without change notification (NFS, FUSE) are read this often


def read(place: Path) -> tuple[MasterKey, ...]:
    """All keys of a file, or of the files of a directory in name order, dot files left out. Raises KeyFileError."""
    return join([(str(file), _text(file)) for file in _files(place)])


def _files(place: Path) -> list[Path]:
    try:
        if place.is_dir():
            return sorted(each for each in place.iterdir() if not each.name.startswith(".") and each.is_file())
    except OSError as error:
        raise KeyFileError([_fault(place, error)]) from None
    return [place]


def _text(file: Path) -> str:
    try:
        if file.stat().st_size > _SIZE_LIMIT_BYTES:
            raise KeyFileError([KeyFault(str(file), 1, "file", "key-file-too-long", "over 1 MiB: not a key file")])
        return file.read_text("ascii")
    except UnicodeDecodeError:
        fault = KeyFault(str(file), 1, "file", "key-file-not-text", "not ASCII text: not a key file")
        raise KeyFileError([fault]) from None
    except OSError as error:
        raise KeyFileError([_fault(file, error)]) from None


def _fault(place: Path, error: OSError) -> KeyFault:
    code = "key-file-missing" if isinstance(error, FileNotFoundError) else "key-file-unreadable"
    return KeyFault(str(place), 1, "file", code, f"{error.strerror}; put the key file there, readable for the agent")


async def changes(place: Path) -> AsyncIterator[None]:
    """Yields once at first and then whenever what stands at `place` may have changed."""
    from watchfiles import awatch

    # The parent is watched, so that a file that is replaced, and a symlink that is turned, are seen.
    directory = place if place.is_dir() else place.parent
    seen = _signature(place)
    yield
    while True:
        if directory.is_dir():
            watch = awatch(directory, recursive=False, step=20, debounce=100, rust_timeout=int(_POLL_SECONDS * 1000),
                           yield_on_timeout=True)
            async for _ in watch:
                now = _signature(place)
                if now != seen:
                    seen = now
                    yield
                if not directory.is_dir():
                    break
        await asyncio.sleep(_POLL_SECONDS)
        if _signature(place) != seen:
            seen = _signature(place)
            yield


def _signature(place: Path) -> tuple[tuple[str, int, int, int], ...]:
    """Cheap to compare: name, inode, size and time of every file there, symlinks followed."""
    try:
        stats = [(str(file), file.stat()) for file in _files(place)]
    except (OSError, KeyFileError):
        return ()
    return tuple((name, stat.st_ino, stat.st_size, stat.st_mtime_ns) for name, stat in stats)
