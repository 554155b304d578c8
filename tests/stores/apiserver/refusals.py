"""Refusals as the API server words them: a Status object."""

from __future__ import annotations

from typing import Any


class Refusal(Exception):  # noqa: N818 - the server's part, not an error of the program
    """Ends a request. A reason of "" gives an answer without a Status, as proxies and unknown paths do."""

    def __init__(
        self, code: int, reason: str, message: str, *, name: str = "", kind: str = "", causes: tuple[str, ...] = (),
        retry_after_seconds: int = 0,
    ) -> None:
        super().__init__(message)
        details: dict[str, Any] = {"name": name, "kind": kind, "causes": [{"reason": each} for each in causes]}
        if retry_after_seconds:
            details["retryAfterSeconds"] = retry_after_seconds
        self.code = code
        self.is_plain = code == 404 and not reason
        self.status = {
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "code": code, "reason": reason, "message": message, "details": details,
        }
