"""The file behind the embedded store: how it is created, recognised and refused, and how SQLite's errors read.

A database that is deleted while open lives on, nameless, and swallows commits; worse, its `-wal` and `-shm` beside it
would be taken up by a new database of that name. So a connection remembers its inode and is asked before and after
use whether the path still leads there, and whoever creates a file first removes orphans, under a lock on the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from hitless.ports import StoreError, StoreUnavailableError

APPLICATION_ID = 0x48544C53  # "HTLS": which SQLite files are ours (https://www.sqlite.org/pragma.html#pragma_application_id)
SCHEMA_VERSION = 1

BUSY_SECONDS = 0.5
"""One wait for another writer's lock. A commit holds it for milliseconds; half a second means contention or a stall."""

BUSY_ATTEMPTS = 10
"""Waits until a call gives up: 5 s in all, the longest an agent's loop should be without an answer."""

_SCHEMA = """
CREATE TABLE meta (
    id INTEGER PRIMARY KEY CHECK (id = 1), epoch TEXT NOT NULL, revision INTEGER NOT NULL, compacted INTEGER NOT NULL);
CREATE TABLE entries (
    key TEXT PRIMARY KEY, value BLOB NOT NULL,
    create_revision INTEGER NOT NULL, mod_revision INTEGER NOT NULL, lease INTEGER NOT NULL);
CREATE INDEX entries_by_lease ON entries (lease) WHERE lease <> 0;
CREATE TABLE events (
    number INTEGER PRIMARY KEY AUTOINCREMENT, revision INTEGER NOT NULL, key TEXT NOT NULL,
    value BLOB, create_revision INTEGER NOT NULL, lease INTEGER NOT NULL);
CREATE INDEX events_by_revision ON events (revision);
CREATE TABLE leases (
    number INTEGER PRIMARY KEY AUTOINCREMENT, lease INTEGER NOT NULL UNIQUE,
    ttl_seconds REAL NOT NULL, deadline REAL NOT NULL, boot TEXT NOT NULL);
CREATE INDEX leases_by_deadline ON leases (deadline);
"""


class SqliteFile:
    """An open connection and the inode it leads to."""

    def __init__(self, path: Path, connection: sqlite3.Connection, identity: tuple[int, int] | None) -> None:
        self._path = path
        self._identity = identity
        self.connection = connection

    def is_at_its_path(self) -> bool:
        """Whether the path still leads to the file that this connection writes to."""
        return _identity(self._path) == self._identity

    def close(self) -> None:
        # SQLite looks for itself whether the file was moved, and then leaves a `-wal` of that name alone.
        with contextlib.suppress(sqlite3.Error):
            self.connection.close()


def open_file(path: Path) -> SqliteFile:
    """Open the store at a path, creating it (0600) and its directory (0700) where there is none.

    Raises StoreError for a file that needs a person (`store-not-a-database`, `store-corrupt`, `store-foreign-file`,
    `store-newer-schema`, `store-no-wal`), StoreUnavailableError for what may pass.
    """
    with translated(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _directory_lock(path.parent):
            if not path.exists():
                _create_empty(path)
            identity = _identity(path)
            connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, cached_statements=64)
            try:
                _prepare(connection, path)
                _require_still(path, identity)
            except BaseException:
                connection.close()
                raise
            return SqliteFile(path, connection, identity)


def _require_still(path: Path, identity: tuple[int, int] | None) -> None:
    """Somebody who knows nothing of the lock may have moved the file between our look and SQLite's opening."""
    if identity is None or _identity(path) != identity:
        raise vanished(path)


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    _refuse_strangers(connection, path)
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise StoreError(
            "store-no-wal",
            f"{path} cannot be shared between processes: its file system has no shared memory mapping; "
            "put the store on a local file system",
        )
    # FULL: a revision that somebody has seen must not come back with other contents after a power cut (WAL's NORMAL
    # may lose the last commits then, under the same epoch).
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA cache_size = -256")  # KiB: the whole store is small, and agents live in 60 MB
    if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
        statements = _SCHEMA.split(";\n")
        connection.execute("BEGIN IMMEDIATE")
        for statement in statements:
            connection.execute(statement)
        connection.execute("INSERT INTO meta VALUES (1, ?, 0, 0)", (new_epoch(),))
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        connection.execute("COMMIT")


def _refuse_strangers(connection: sqlite3.Connection, path: Path) -> None:
    """Judge a file before anything in it is changed."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    n_tables = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
    if application != APPLICATION_ID and (application or version or n_tables):
        raise StoreError(
            "store-foreign-file",
            f"{path} is another program's SQLite database and was left as it is; name another path for the store",
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            "store-newer-schema",
            f"{path} was written by a newer hitless (schema {version}, this one knows {SCHEMA_VERSION}) "
            "and was left as it is; upgrade this node, or name another path",
        )


def new_epoch() -> str:
    return secrets.token_hex(16)


def boot_id() -> str:
    """Which boot of this kernel it is: `/proc/sys/kernel/random/boot_id`, proc(5), random(4). Not namespaced."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return "unknown"  # without procfs a reboot cannot be told; leases then count on over it


def _create_empty(path: Path) -> None:
    """Make the file with its permissions; SQLite gives them to `-wal` and `-shm` too."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    # Only ever a file that is new: closing any descriptor of a database drops this process's POSIX locks on it
    # (https://www.sqlite.org/howtocorrupt.html §2.2).
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


@contextlib.contextmanager
def _directory_lock(directory: Path) -> Iterator[None]:
    """One opener at a time, over all processes: creation removes orphans, which must never be another's fresh files."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        give_up = time.monotonic() + BUSY_SECONDS * BUSY_ATTEMPTS
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    raise busy(directory) from None
                time.sleep(0.01)
        yield
    finally:
        os.close(descriptor)


# --- errors


def busy(path: Path) -> StoreUnavailableError:
    return StoreUnavailableError(
        "store-busy",
        f"{path} stayed locked for {BUSY_SECONDS * BUSY_ATTEMPTS:g} s by another process; "
        "nothing was changed; try again, and look for a stopped process that has it open (fuser -v)",
    )


def vanished(path: Path) -> StoreUnavailableError:
    return StoreUnavailableError(
        "store-vanished",
        f"{path} was deleted or replaced while it was in use: the last call may be lost with it; "
        "ask for the store's epoch, then list and register again",
    )


_UNAVAILABLE = {
    sqlite3.SQLITE_BUSY: ("store-busy", "is locked by another process", "try again"),
    sqlite3.SQLITE_LOCKED: ("store-busy", "is locked by another process", "try again"),
    sqlite3.SQLITE_READONLY: ("store-read-only", "cannot be written", "check its owner, mode and mount"),
    sqlite3.SQLITE_PERM: ("store-no-access", "may not be accessed", "check its owner and mode"),
    sqlite3.SQLITE_AUTH: ("store-no-access", "may not be accessed", "check its owner and mode"),
    sqlite3.SQLITE_FULL: ("store-full", "has no room left", "free space on its file system; nothing was changed"),
    sqlite3.SQLITE_IOERR: ("store-io-error", "could not be read or written", "check the disk (dmesg)"),
    sqlite3.SQLITE_CANTOPEN: ("store-cannot-open", "cannot be opened", "check that the path is a file you may write"),
}
_BROKEN = {
    sqlite3.SQLITE_NOTADB: ("store-not-a-database", "is not a store", "name another path, or move the file away"),
    sqlite3.SQLITE_CORRUPT: (
        "store-corrupt",
        "is damaged",
        "stop the nodes that use it and move the file away: a new one is created, and every node registers again",
    ),
}

_UNKNOWN = ("store-failed", "failed", "report this with the text in parentheses")


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Errors of SQLite and of the file system as StoreError: what happened, why, what next. Never a value."""
    try:
        yield
    except sqlite3.Error as error:
        # Extended result codes keep the primary one in their low byte (https://www.sqlite.org/rescode.html).
        primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        name = getattr(error, "sqlite_errorname", type(error).__name__)
        if primary in _UNAVAILABLE:
            code, what, advice = _UNAVAILABLE[primary]
            raise StoreUnavailableError(code, f"the store {path} {what} ({name}: {error}); {advice}") from error
        code, what, advice = _BROKEN.get(primary, _UNKNOWN)
        raise StoreError(code, f"the store {path} {what} ({name}: {error}); {advice}") from error
    except OSError as error:
        raise StoreUnavailableError(
            "store-cannot-open",
            f"the store {path} cannot be opened ({error.strerror or error}); check the path and its permissions",
        ) from error
