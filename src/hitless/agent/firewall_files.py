"""The intent on disk: a file, or a directory of them, read whole. A mounted Kubernetes ConfigMap fits."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

from hitless.agent.keys import changes
from hitless.core.firewall.documents import TEXT_LIMIT, Document, unreadable
from hitless.core.firewall.documents import read as read_text

__all__ = ["changes", "read"]

_ENDINGS = frozenset({".yaml", ".yml", ".json"})
_FILES_LIMIT = 4096  # far more than people keep in one directory


def read(place: Path) -> tuple[Document, ...]:
    """All documents of a file, or of a directory's `*.yaml`, `*.yml` and `*.json` in name order, dot files left out.

    Never raises: what cannot be read is a document with a fault, for `core.firewall.intent.intent` to refuse.
    """
    try:
        files = _files(place)
    except OSError as error:
        return (_refused(place, error),)
    if not files:
        message = "there is no *.yaml, *.yml or *.json in it; put the intent there"
        return (unreadable(str(place), "intent-missing", message),)
    if len(files) > _FILES_LIMIT:
        return (unreadable(str(place), "intent-too-long", f"over {_FILES_LIMIT} files; put more documents into each"),)
    return tuple(chain.from_iterable(map(_documents, files)))


def _files(place: Path) -> list[Path]:
    if not place.is_dir():
        return [place]
    wanted = (each for each in place.iterdir() if each.suffix in _ENDINGS and not each.name.startswith("."))
    return sorted(each for each in wanted if not each.is_dir())


def _documents(file: Path) -> tuple[Document, ...]:
    try:
        if file.stat().st_size > TEXT_LIMIT:
            return (unreadable(str(file), "intent-too-long", f"over {TEXT_LIMIT >> 20} MiB; split it into files"),)
        return read_text(file.read_text("utf-8"), str(file))
    except UnicodeDecodeError:
        return (unreadable(str(file), "intent-not-text", "not UTF-8 text; save it as UTF-8"),)
    except OSError as error:
        return (_refused(file, error),)


def _refused(place: Path, error: OSError) -> Document:
    code = "intent-missing" if isinstance(error, FileNotFoundError) else "intent-unreadable"
    return unreadable(str(place), code, f"{error.strerror}; put the intent there, readable for the agent")
