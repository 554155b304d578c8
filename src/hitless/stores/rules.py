"""What every store agrees on before it does anything: limits, the shape of a commit, the words of an error.

The rules are etcd's, checked here on the client's side, so that a program that works on the embedded store does not
meet a refusal for the first time when it is pointed at a cluster.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from hitless.ports import Compare, Delete, LeaseExpiredError, Put, StoreError, StoreUnavailableError

MAX_COMMIT_ITEMS = 128
"""Guards, and writes, in one commit: etcd's default `--max-txn-ops`."""

MAX_COMMIT_BYTES = 1024 * 1024
"""Keys and values of one commit together, in bytes. etcd refuses requests above 1.5 MiB; the rest is its framing."""

HISTORY_EVENTS = 10_000
"""Events kept for watchers that fell behind. 1,000 nodes reporting ten times each: one whole rotation of a large mesh,
so that a watcher that was away during it can still resume; at about 200 bytes an event the history stays near 2 MB."""

WATCH_REVISIONS = 500
"""Revisions in one batch: bounds the memory of a watcher that catches up. A revision itself is never split."""


def history_slack(history_events: int) -> int:
    """How many events beyond the limit are tolerated, so that compaction is paid once in many commits."""
    return max(1, history_events // 10)


def check_commit(compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> None:
    """Refuse what etcd would refuse: oversized commits, a key written twice, keys that are empty or not UTF-8.

    Raises StoreError with the codes `store-commit-too-large`, `store-duplicate-key`, `store-bad-key`.
    """
    if max(len(compares), len(writes)) > MAX_COMMIT_ITEMS:
        raise StoreError(
            "store-commit-too-large",
            f"a commit of {len(compares)} guards and {len(writes)} writes was refused: "
            f"the limit is {MAX_COMMIT_ITEMS} of each; split it",
        )
    n_bytes = sum(check_key(compare.key) for compare in compares)
    written: set[str] = set()
    for write in writes:
        n_bytes += check_key(write.key)
        if isinstance(write, Put):
            n_bytes += len(write.value)
        if write.key in written:
            raise StoreError(
                "store-duplicate-key",
                f"the key {write.key!r} is written twice in one commit, which has no order; write it once",
            )
        written.add(write.key)
    if n_bytes > MAX_COMMIT_BYTES:
        raise StoreError(
            "store-commit-too-large",
            f"a commit of {n_bytes} bytes was refused: the limit is {MAX_COMMIT_BYTES} bytes; split it",
        )


def check_key(key: str) -> int:
    """The size of a key in bytes. Raises StoreError (`store-bad-key`) for one that no store can hold."""
    try:
        n_bytes = len(key.encode())
    except UnicodeEncodeError:
        n_bytes = 0
    if n_bytes == 0:
        raise StoreError("store-bad-key", f"{key!r} cannot be a key: keys are UTF-8 text and not empty")
    return n_bytes


def check_prefix(prefix: str) -> None:
    """Raises StoreError (`store-bad-key`) for a prefix that no key can have; the empty one is every key's."""
    if prefix:
        check_key(prefix)


def check_ttl(ttl_seconds: float) -> None:
    """Raises StoreError (`store-bad-ttl`) unless the time is a positive number of seconds."""
    if not (math.isfinite(ttl_seconds) and ttl_seconds > 0):
        raise StoreError("store-bad-ttl", f"a lease cannot last {ttl_seconds} seconds; give a positive number")


def prefix_end(prefix: str) -> str | None:
    """The first text that sorts after every key with this prefix, by code point; None where there is no such text.

    Code-point order is the byte order of UTF-8, which is how SQLite's BINARY collation and etcd sort.
    """
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    if following == 0xD800:  # surrogates are not characters and cannot be encoded
        following = 0xE000
    return stem[:-1] + chr(following)


def closed() -> StoreError:
    return StoreError("store-closed", "this store was closed by its owner; open another one to go on")


def replaced() -> StoreUnavailableError:
    """The history under this client is another one than it knew.

    Every call fails with this until the client asks for `epoch()`: a listing, or a guard that holds by accident,
    would otherwise mix revisions of two histories without anyone noticing.
    """
    return StoreUnavailableError(
        "store-replaced",
        "the store was deleted, re-created or rolled back: revisions known so far mean nothing in it; "
        "ask for its epoch, then list and register again",
    )


def lease_gone(lease: int) -> LeaseExpiredError:
    return LeaseExpiredError(
        "store-lease-expired",
        f"lease {lease:x} has expired or was never granted, and the keys bound to it are gone; "
        "ask for a new lease and write them again",
    )


def future_revision(revision: int, current: int) -> StoreError:
    return StoreError(
        "store-future-revision",
        f"cannot compact up to revision {revision}: the newest is {current}; compact to a revision that was listed",
    )
