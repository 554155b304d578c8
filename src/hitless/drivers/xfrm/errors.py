"""What can go wrong with the driver itself, as opposed to an operation the kernel refuses.

A refusal is an `Outcome`; these exceptions are for a kernel that cannot be talked to at all.
"""

from __future__ import annotations


class XfrmError(Exception):
    """The kernel could not be asked. `code` is stable; the message says what happened, why and what to do next."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class CodecError(XfrmError):
    """A value that has no form on the wire (code `invalid`), or bytes that are none of the kernel's (`malformed`)."""
