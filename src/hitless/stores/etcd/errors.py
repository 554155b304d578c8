"""What a failed call means: for the person who reads it, and for the code that decides whether to ask again.

gRPC has sixteen status codes and etcd tells its reasons in the text behind them (etcd's api/v3rpc/rpctypes/error.go),
so both are looked at. The question that matters most is not *what failed* but *may it have happened all the same*.
"""

from __future__ import annotations

import msgspec
from grpc import StatusCode
from grpc.aio import AioRpcError

from hitless.ports import CompactedError, StoreError, StoreUnavailableError
from hitless.stores import rules


class Verdict(msgspec.Struct, frozen=True):
    """`elsewhere`: another member may do better. `harmless`: it surely did not take effect. `stale_token`: log in."""

    error: StoreError
    elsewhere: bool = False
    harmless: bool = True
    stale_token: bool = False


class UnansweredError(Exception):
    """One endpoint could not do it and asking another one is safe. Never leaves this package."""

    def __init__(self, error: StoreError) -> None:
        super().__init__(str(error))
        self.error = error


TOKEN_WORDS = ("invalid auth token", "revision of auth store is old")
"""The token was forgotten (restart, 5 minutes unused) or users and roles were changed: log in again."""

LOGIN_WORDS = ("authentication failed", "user name is empty", "user name not found", "root user does not")

TLS_WORDS = ("tls handshake", "ssl_error", "certificate", "handshake", "hostname verification", "tsi_")

UNSENT_WORDS = ("failed to connect", "no leader", "not supported for learner", "not capable", "name resolution", "dns")
"""Behind UNAVAILABLE: said before a request is looked at. `no leader` comes from the check that the `hasleader`
metadata asks for, which is made on arrival."""


def judge(error: AioRpcError, target: str) -> Verdict:
    """What an error status of a call to `target` (`host:port`) means."""
    details = (error.details() or "").removeprefix("etcdserver: ")
    code = error.code()
    refusal = _refusal(code, details)
    if refusal is not None:
        return refusal
    match code:
        case StatusCode.UNAVAILABLE:
            verdict = _unavailable(details, target)
        case StatusCode.RESOURCE_EXHAUSTED:
            verdict = _exhausted(details, target)
        case StatusCode.DEADLINE_EXCEEDED:
            verdict = late(target)
        case StatusCode.UNIMPLEMENTED:
            words = f"what answers at {target} is not etcd 3.4 or newer; check the endpoints"
            verdict = Verdict(StoreError("store-not-etcd", words), elsewhere=True)
        case StatusCode.DATA_LOSS:
            words = f"etcd at {target} says that its data is corrupt; repair the member, see its log"
            verdict = _unknown("store-corrupt", words)
        case _:
            verdict = _unknown(
                "store-unreachable",
                f"etcd at {target} failed ({code.name.lower()}: {details}); "
                "what was asked may or may not have happened; try again later",
            )
    return verdict


def _unknown(code: str, words: str) -> Verdict:
    """It may have happened."""
    return Verdict(StoreUnavailableError(code, words), elsewhere=True, harmless=False)


def late(target: str) -> Verdict:
    """No answer in time."""
    return _unknown(
        "store-timeout",
        f"etcd at {target} did not answer in time; what was asked may or may not have happened; "
        "look again, and look at the member's load and network if this stays",
    )


def auth(details: str) -> StoreError:
    return StoreError(
        "store-auth",
        f"etcd does not let us in: {details}; check user and password_file, and that the user's role may read and "
        "write everything under the prefix, the epoch key included",
    )


def not_one_cluster() -> StoreUnavailableError:
    """The words of `store-replaced` where it shows by the cluster's id."""
    return StoreUnavailableError(
        "store-replaced",
        "the cluster is another one than before: it was re-created, or the endpoints are of more than one cluster; "
        "if so correct them, else ask for the store's epoch, then list and register again",
    )


def _refusal(code: StatusCode, details: str) -> Verdict | None:
    """Answers of a cluster that works: no other member would say anything else."""
    lower = details.lower()
    if code is StatusCode.UNAUTHENTICATED or any(word in lower for word in TOKEN_WORDS):
        return Verdict(auth(details), stale_token=True)
    error: StoreError | None = None
    if code is StatusCode.PERMISSION_DENIED or any(word in lower for word in LOGIN_WORDS):
        error = auth(details)
    elif "has been compacted" in lower:
        error = CompactedError(0)
    elif "lease not found" in lower:
        error = rules.lease_gone(0)
    elif "too large lease ttl" in lower:
        error = StoreError("store-bad-ttl", "etcd grants no lease that long; give fewer seconds")
    elif "request is too large" in lower or "too many operations" in lower:
        error = too_large(details)
    elif code in {StatusCode.INVALID_ARGUMENT, StatusCode.FAILED_PRECONDITION, StatusCode.OUT_OF_RANGE}:
        error = StoreError("store-refused", f"etcd refused what it was asked: {details}")
    return None if error is None else Verdict(error)


def too_large(details: str) -> StoreError:
    return StoreError(
        "store-commit-too-large",
        f"etcd refused a commit ({details}); split it, or raise --max-txn-ops and --max-request-bytes of every member",
    )


def _unavailable(details: str, target: str) -> Verdict:
    lower = details.lower()
    harmless = any(word in lower for word in UNSENT_WORDS)
    if "no leader" in lower or "leader" in lower:
        return Verdict(
            StoreUnavailableError(
                "store-no-leader",
                f"etcd at {target} has no leader ({details}): a majority of the members is down or cut off, "
                "or they are electing one; wait, and start members if this stays",
            ),
            elsewhere=True,
            harmless=harmless,
        )
    if any(word in lower for word in TLS_WORDS):
        return Verdict(
            StoreUnavailableError(
                "store-tls",
                f"no TLS connection to etcd at {target}: {tls_reason(details)}; "
                "check ca_file, the host name in the endpoint, and both sides' certificates",
            ),
            elsewhere=True,
            harmless=harmless,
        )
    outcome = "nothing was sent" if harmless else "what was asked may or may not have happened"
    return Verdict(
        StoreUnavailableError(
            "store-unreachable",
            f"etcd at {target} cannot be reached ({details}); {outcome}; "
            "check that it runs, and that http or https in the endpoint is right",
        ),
        elsewhere=True,
        harmless=harmless,
    )


def tls_reason(details: str) -> str:
    """The telling part of OpenSSL's words, for a person."""
    upper = details.upper()
    for mark, words in (
        ("HAS EXPIRED", "a certificate has expired"),
        ("HOSTNAME VERIFICATION", "the server's certificate is for another host name"),
        ("CERTIFICATE_VERIFY_FAILED", "the server's certificate is not signed by the authority in ca_file"),
        ("WRONG_VERSION_NUMBER", "the server does not speak TLS"),
        ("HANDSHAKE READ FAILED", "the server broke off the handshake, as one does that does not speak TLS"),
        # In TLS 1.3 a client is told after its handshake that it is not welcome, and gRPC reports a broken record.
        ("UNWRAP FAILED", "the server wants a client certificate that it can verify, and got none or another one"),
    ):
        if mark in upper:
            return f"{words} ({details})"
    return details


def _exhausted(details: str, target: str) -> Verdict:
    if "database space exceeded" in details:
        return Verdict(
            StoreUnavailableError(
                "store-full",
                "etcd is out of space (alarm NOSPACE) and takes no writes; compact and defragment it or raise "
                "--quota-backend-bytes, then clear it with `etcdctl alarm disarm`",
            )
        )
    if "larger than max" in details:
        return Verdict(too_large(details))
    return Verdict(
        StoreUnavailableError(
            "store-overloaded", f"etcd at {target} has too much to do ({details}); try again later"
        ),
        elsewhere=True,
    )
