"""The key files of the lab's nodes, and what operators and mishaps do to them.

Every key is drawn here and exists only in these files, in a directory that the lab removes. A good file arrives as
operators' tools write it: beside the old one, then renamed over it. A half-written one is cut short in place, as an
editor or a full disk leaves it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final

from hitless.core.ipsec.keyfile import KEY_ID_MAX, render
from hitless.core.model.key import AeadSpec, MasterKey
from hitless.core.model.secret import Secret

_KEY_BYTES: Final = 20  # AES-128 and the salt (RFC 4106 §8.1)
_SPEC: Final = AeadSpec("rfc4106(gcm(aes))", _KEY_BYTES, 128)


class KeyFiles:
    """One key file a node below `directory`. `draw(n)` gives n random bytes; the first key has the id `first_id`."""

    def __init__(self, directory: Path, *, first_id: int = 1, draw: Callable[[int], bytes] = os.urandom) -> None:
        self._directory = directory
        self._draw = draw
        self._current = self._fresh(first_id)
        self.drawn = 1

    @property
    def key_id(self) -> int:
        """The id of the newest good key."""
        return self._current.key_id

    @property
    def _next_id(self) -> int:
        return self.key_id % KEY_ID_MAX + 1

    def path(self, node: str) -> Path:
        return self._directory / node / "keys"

    def new(self, nodes: Iterable[str], key_id: int = 0) -> int:
        """Draw a fresh key with this id (0: the next) and give it to these nodes; its id. `drawn` counts these keys."""
        self._current = self._fresh(key_id or self._next_id)
        self.drawn += 1
        self.copy(nodes)
        return self.key_id

    def copy(self, nodes: Iterable[str]) -> None:
        """Give the newest good key to these nodes."""
        for node in nodes:
            self._replace(node, render(self._current))

    def same_id(self, nodes: Iterable[str]) -> None:
        """Another key under the id of the newest good one: the same wrong key for all these nodes."""
        self._give(nodes, render(self._fresh(self.key_id)))

    def wrong_length(self, nodes: Iterable[str]) -> None:
        """The next id with a key that is five bytes short."""
        self._give(nodes, render(self._fresh(self._next_id, short_bytes=5)))

    def half_written(self, nodes: Iterable[str]) -> None:
        """The next id and the first half of a key, written in place."""
        line = render(self._fresh(self._next_id))
        for node in nodes:
            self.path(node).write_text(line[: len(line) // 2], encoding="ascii")

    def _fresh(self, key_id: int, *, short_bytes: int = 0) -> MasterKey:
        return MasterKey(key_id, _SPEC, Secret(self._draw(_KEY_BYTES - short_bytes)))

    def _give(self, nodes: Iterable[str], line: str) -> None:
        for node in nodes:
            self._replace(node, line)

    def _replace(self, node: str, line: str) -> None:
        path = self.path(node)
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(".keys.new")
        fresh.touch(mode=0o600)
        fresh.write_text(line + "\n", encoding="ascii")
        fresh.replace(path)
