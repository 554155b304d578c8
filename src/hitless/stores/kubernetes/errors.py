"""What an answer of the API server means, in words for the person who reads them and with a code that stays.

The server explains itself in a Status object (apimachinery's meta/v1 types.go): a reason for programs, a message for
people. Both are passed on; they name users, verbs and resources, and no credentials.
"""

from __future__ import annotations

import re

import msgspec

from hitless.ports import CompactedError, StoreError, StoreUnavailableError


class Cause(msgspec.Struct, frozen=True):
    reason: str = ""


class Details(msgspec.Struct, frozen=True):
    name: str = ""
    kind: str = ""
    causes: tuple[Cause, ...] = ()
    retryAfterSeconds: int = 0  # noqa: N815 - the wire's name


class Status(msgspec.Struct, frozen=True):
    """`code` is the HTTP status. An answer without a Status (a proxy's, say) has neither reason nor message."""

    code: int = 0
    reason: str = ""
    message: str = ""
    details: Details | None = None


class RefusedError(Exception):
    """The server's refusal. Never leaves this package."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.code} {status.reason}: {status.message}")
        self.status = status


def status_of(code: int, body: bytes) -> Status:
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        return Status(code)
    return msgspec.structs.replace(status, code=code)


def is_passing(status: Status) -> bool:
    """The server did not look at the request, and asks to be asked again. (503 may also come from in between.)"""
    return status.code == 429


def is_too_new(status: Status) -> bool:
    """A watch asked for a revision that the server has not reached: it is behind, or was set back."""
    return any(cause.reason == "ResourceVersionTooLarge" for cause in (status.details or Details()).causes)


def compacted(status: Status, after: int) -> CompactedError:
    """`too old resource version: 5 (10)`: the number in brackets is the oldest that is left."""
    oldest = re.search(r"\((\d+)\)", status.message)
    return CompactedError(max(after + 1, int(oldest[1]) if oldest else 0))


def meaning(status: Status, place: str) -> StoreError:
    """The error that a refusal is, for any request that has no better explanation of its own."""
    said = status.message or "without an explanation"
    absence = _absence(status, said, place)
    if absence is not None:
        return absence
    code = 413 if "request is too large" in said else status.code
    if code in _KNOWN:
        name, advice = _KNOWN[code]
        return StoreError(name, f"the API server at {place} refused ({said}); {advice}")
    if code == 429:
        return StoreUnavailableError("store-overloaded", f"the API server at {place} is overloaded ({said}); wait")
    if code >= 500:
        return StoreUnavailableError(
            "store-unreachable", f"the API server at {place} answers {code} ({said}); try again later"
        )
    return StoreError(
        "store-refused", f"the API server at {place} found a request wrong ({code}, {said}); please report it"
    )


def _absence(status: Status, said: str, place: str) -> StoreError | None:
    """What there must be, and is not: the resource, or the namespace."""
    details = status.details or Details()
    if status.code == 404 and status.reason != "NotFound":
        return StoreError(
            "store-no-crd",
            f"the API server at {place} does not know hitless' resources, or is none; "
            "apply packaging/kubernetes/crds.yaml, or correct the address",
        )
    if status.code == 404 and details.kind == "namespaces":
        return StoreError("store-no-namespace", f"{said}; create the namespace, or correct the option namespace")
    if any(cause.reason == "NamespaceTerminating" for cause in details.causes):
        return StoreUnavailableError("store-no-namespace", f"{said}; create the namespace again once it is gone")
    return None


_KNOWN = {
    401: ("store-auth", "the credentials are not accepted: renew the token or certificate"),
    403: (
        "store-forbidden",
        "this account lacks a right: apply packaging/kubernetes/rbac.yaml and bind its role to the account",
    ),
    413: ("store-commit-too-large", "an object holds at most 1.5 MB: write less under one key"),
    422: ("store-refused", "the installed resource definitions do not fit: apply packaging/kubernetes/crds.yaml"),
}


def unreachable(place: str, why: str) -> StoreUnavailableError:
    if "certificate" in why.lower() or "ssl" in why.lower():
        return StoreUnavailableError(
            "store-tls", f"no trusted connection to the API server at {place} ({why}); check its address and authority"
        )
    return StoreUnavailableError(
        "store-unreachable",
        f"cannot reach the API server at {place} ({why}); a write that was under way may or may not have happened; "
        "try again later",
    )


def timed_out(place: str, seconds: float) -> StoreUnavailableError:
    return StoreUnavailableError(
        "store-timeout",
        f"the API server at {place} did not answer within {seconds:g} s; a write that was under way may or may not "
        "have happened; look at the server's load",
    )
