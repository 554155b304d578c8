"""Key material that cannot be shown by accident.

A `Secret` has no useful text form, cannot be pickled or serialised, and compares in constant time.
The only way to its bytes is `reveal()`, which is easy to search for.
"""

from __future__ import annotations

import hmac
from typing import Never


class Secret:
    """Bytes of key material; `reveal()` is the one way out."""

    __slots__ = ("_material",)

    def __init__(self, material: bytes) -> None:
        self._material = bytes(material)

    def reveal(self) -> bytes:
        """The key material itself: only for derivation and for the kernel."""
        return self._material

    def __len__(self) -> int:
        return len(self._material)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        return hmac.compare_digest(self._material, other._material)

    # Hashing would leak equality through dictionary timing, and nothing needs it.
    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Secret(<{len(self._material) * 8} bits>)"

    __str__ = __repr__

    def __reduce__(self) -> Never:
        raise TypeError("key material is never serialised")
