"""The store's semantics as SQLite transactions, without threads: one connection, one caller at a time.

Every write takes the database's only write lock first (`BEGIN IMMEDIATE`), so guards and writes are one step over all
processes and revisions have no gaps. Every read sees one snapshot, whose epoch is checked with it.

Lease time is CLOCK_MONOTONIC with the boot it belongs to. All holders of leases in this file are processes of one
machine: the clock is common to them, no one can set it, and while the machine is suspended it stands still for all of
them, which wall time and CLOCK_BOOTTIME do not. After a reboot the remaining time of a lease means nothing; like etcd
after a change of leader, the first to open the file gives each its full time again. (Processes in time namespaces with
different offsets must not share a store.)
"""

from __future__ import annotations

import contextlib
import secrets
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from hitless.ports import CompactedError, Compare, Delete, Entry, Listing, Put, StoreError, WatchBatch, WatchEvent
from hitless.stores import rules, sqlite_file

# In place of a `PRAGMA data_version`, which is never negative.
_UNOPENED = -1
_STALE = -2


class _Head(msgspec.Struct, frozen=True):
    revision: int
    compacted: int


class SqliteLog:
    """One connection to a store's file, opened when first needed and again after it was lost.

    `now` is the clock of leases in seconds and must be common to all processes that share the file.
    """

    def __init__(self, path: Path, now: Callable[[], float], history_events: int) -> None:
        self._path = path
        self._now = now
        self._history_events = history_events
        self._file: sqlite_file.SqliteFile | None = None
        self._version = _UNOPENED
        self.known_epoch: str | None = None
        self.seen = 0
        """The newest revision of `known_epoch` that this connection has met."""
        self._reached = 0
        """What `seen` becomes when the transaction under way is committed."""
        self._deadline: float | None = None

    # --- reading

    def epoch(self) -> str:
        """The identity of the history in the file now; from here on calls are about this one."""
        with self._connected() as connection:
            epoch, revision = connection.execute("SELECT epoch, revision FROM meta").fetchone()
            self.known_epoch, self.seen = str(epoch), int(revision)
        return self.known_epoch

    def get(self, key: str) -> Entry | None:
        rules.check_key(key)
        with self._reading() as (connection, _):
            row = connection.execute(
                "SELECT key, value, create_revision, mod_revision, lease FROM entries WHERE key = ?", (key,)
            ).fetchone()
        return None if row is None else Entry(*row)

    def list(self, prefix: str) -> Listing:
        rules.check_prefix(prefix)
        end = rules.prefix_end(prefix)
        with self._reading() as (connection, head):
            rows = connection.execute(
                "SELECT key, value, create_revision, mod_revision, lease FROM entries "
                "WHERE key >= ? AND (? IS NULL OR key < ?) ORDER BY key",
                (prefix, end, end),
            ).fetchall()
        return Listing(head.revision, tuple(Entry(*row) for row in rows))

    def events(self, prefix: str, after: int, epoch: str | None) -> tuple[str, WatchBatch | None]:
        """What happened after a revision, and in which epoch; None if nothing has. Raises CompactedError."""
        rules.check_prefix(prefix)
        with self._reading() as (connection, head):
            if epoch is not None and epoch != self.known_epoch:
                raise rules.replaced()
            if after < head.compacted:
                raise CompactedError(head.compacted)
            upto = min(head.revision, after + rules.WATCH_REVISIONS)
            end = rules.prefix_end(prefix)
            rows = connection.execute(
                "SELECT key, revision, value, create_revision, lease FROM events "
                "WHERE revision > ? AND revision <= ? AND key >= ? AND (? IS NULL OR key < ?) ORDER BY number",
                (after, upto, prefix, end, end),
            ).fetchall()
        batch = WatchBatch(upto, tuple(_event(*row) for row in rows)) if upto > after else None
        return str(self.known_epoch), batch

    # --- writing

    def commit(self, compares: Sequence[Compare], writes: Sequence[Put | Delete]) -> int | None:
        rules.check_commit(compares, writes)
        with self._writing() as (connection, head):
            for compare in compares:
                row = connection.execute("SELECT mod_revision FROM entries WHERE key = ?", (compare.key,)).fetchone()
                if compare.mod_revision != (row[0] if row else 0):
                    return None
            for write in writes:
                if isinstance(write, Put) and write.lease:
                    self._require(connection, write.lease)
            return self._write(connection, head, writes)

    def grant(self, ttl_seconds: float) -> int:
        rules.check_ttl(ttl_seconds)
        # Random, as in etcd: a number from another history must not be somebody else's lease in this one.
        lease = secrets.randbits(62) + 1
        with self._writing() as (connection, _):
            connection.execute(
                "INSERT INTO leases (lease, ttl_seconds, deadline, boot) VALUES (?, ?, ?, ?)",
                (lease, ttl_seconds, self._now() + ttl_seconds, sqlite_file.boot_id()),
            )
        return lease

    def keep_alive(self, lease: int) -> None:
        with self._writing() as (connection, _):
            self._require(connection, lease)
            connection.execute(
                "UPDATE leases SET deadline = ? + ttl_seconds WHERE lease = ?", (self._now(), lease)
            )

    def revoke(self, lease: int) -> None:
        with self._writing() as (connection, head):
            self._end(connection, head, lease)

    def compact(self, revision: int) -> None:
        with self._writing() as (connection, head):
            if revision > head.revision:
                raise rules.future_revision(revision, head.revision)
            if revision > head.compacted:
                self._compact(connection, revision)

    # --- keeping up

    def poll(self) -> None:
        """Cheap while nothing happens: notice other processes' commits (in `seen`) and end leases that are due."""
        with self._connected() as connection:
            version = connection.execute("PRAGMA data_version").fetchone()[0]
            if version != self._version:
                self._version = version
                self._read_deadline(connection)
                self._head(connection)
            if self._deadline is not None and self._deadline <= self._now():
                self._sweep(connection)
                self._read_deadline(connection)

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    # --- inside a connection

    @contextlib.contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """The connection, opened where needed; dropped after any error that could be its own fault."""
        if self._file is not None and not self._file.is_at_its_path():
            self.close()
        if self._file is None:
            self._file = sqlite_file.open_file(self._path)
            self._version = _UNOPENED
        file = self._file
        try:
            with sqlite_file.translated(self._path):
                if self._version == _UNOPENED:
                    self._rearm(file.connection)
                    self._version = _STALE
                yield file.connection
        except BaseException as error:
            with contextlib.suppress(sqlite3.Error):
                if file.connection.in_transaction:
                    file.connection.execute("ROLLBACK")
            # CompactedError and the like are answers; a full disk or a lock is not the connection's fault, and a
            # new one would cost an opening each time. Everything else gets a fresh start.
            if isinstance(error.__cause__, sqlite3.Error | OSError) and not (
                isinstance(error, StoreError) and error.code in {"store-busy", "store-full"}
            ):
                self.close()
            raise

    def _head(self, connection: sqlite3.Connection) -> _Head:
        """Where the history stands, after making sure that it is the one this client knows."""
        epoch, revision, compacted = connection.execute("SELECT epoch, revision, compacted FROM meta").fetchone()
        if self.known_epoch is None:
            self.known_epoch = epoch
        if epoch != self.known_epoch:
            raise rules.replaced()
        if revision < self.seen:
            # The file was put back to an earlier state: the revisions to come would be the second of their number.
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            self._begin_immediate(connection)
            connection.execute("UPDATE meta SET epoch = ? WHERE epoch = ?", (sqlite_file.new_epoch(), epoch))
            connection.execute("COMMIT")
            raise rules.replaced()
        self.seen = revision
        return _Head(revision, compacted)

    @contextlib.contextmanager
    def _reading(self) -> Iterator[tuple[sqlite3.Connection, _Head]]:
        with self._connected() as connection:
            self._sweep(connection)
            connection.execute("BEGIN")
            yield connection, self._head(connection)
            connection.execute("COMMIT")

    @contextlib.contextmanager
    def _writing(self) -> Iterator[tuple[sqlite3.Connection, _Head]]:
        with self._connected() as connection:
            self._sweep(connection)
            self._version = _STALE  # what this connection writes does not show in its own data_version
            with self._transaction(connection) as head:
                yield connection, head
            if self._file is None or not self._file.is_at_its_path():
                self.close()
                raise sqlite_file.vanished(self._path)

    @contextlib.contextmanager
    def _transaction(self, connection: sqlite3.Connection) -> Iterator[_Head]:
        self._begin_immediate(connection)
        head = self._head(connection)
        self._reached = head.revision
        yield head
        connection.execute("COMMIT")
        self.seen = self._reached

    def _begin_immediate(self, connection: sqlite3.Connection) -> None:
        for _ in range(sqlite_file.BUSY_ATTEMPTS):
            try:
                connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                    raise
            else:
                return
        raise sqlite_file.busy(self._path)

    def _write(self, connection: sqlite3.Connection, head: _Head, writes: Sequence[Put | Delete]) -> int:
        """Apply writes as the next revision; deletions of absent keys alone make none. The revision there is now."""
        revision = head.revision + 1
        n_changes = 0
        event: tuple[int, str, bytes | None, int, int]
        for write in writes:
            if isinstance(write, Put):
                value = bytes(write.value)
                row = connection.execute("SELECT create_revision FROM entries WHERE key = ?", (write.key,)).fetchone()
                created = row[0] if row else revision
                connection.execute(
                    "REPLACE INTO entries VALUES (?, ?, ?, ?, ?)", (write.key, value, created, revision, write.lease)
                )
                event = (revision, write.key, value, created, write.lease)
            elif connection.execute("DELETE FROM entries WHERE key = ?", (write.key,)).rowcount:
                event = (revision, write.key, None, 0, 0)
            else:
                continue
            n_changes += 1
            connection.execute(
                "INSERT INTO events (revision, key, value, create_revision, lease) VALUES (?, ?, ?, ?, ?)", event
            )
        if not n_changes:
            return head.revision
        connection.execute("UPDATE meta SET revision = ?", (revision,))
        self._reached = revision
        self._forget(connection)
        return revision

    def _forget(self, connection: sqlite3.Connection) -> None:
        """Compact by itself beyond the limit. Event numbers have no gaps: they are only ever removed from the front."""
        oldest, newest = connection.execute("SELECT min(number), max(number) FROM events").fetchone()
        n_events = newest - oldest + 1
        if n_events > self._history_events + rules.history_slack(self._history_events):
            number = newest - self._history_events
            upto = connection.execute("SELECT revision FROM events WHERE number = ?", (number,)).fetchone()[0]
            self._compact(connection, upto)

    def _compact(self, connection: sqlite3.Connection, revision: int) -> None:
        connection.execute("DELETE FROM events WHERE revision <= ?", (revision,))
        connection.execute("UPDATE meta SET compacted = ?", (revision,))

    # --- leases

    def _require(self, connection: sqlite3.Connection, lease: int) -> None:
        row = connection.execute("SELECT deadline FROM leases WHERE lease = ?", (lease,)).fetchone()
        if row is None or row[0] <= self._now():
            raise rules.lease_gone(lease)

    def _end(self, connection: sqlite3.Connection, head: _Head, lease: int) -> None:
        """Remove a lease and, in one revision, its keys. One that is gone already is no error."""
        if connection.execute("DELETE FROM leases WHERE lease = ?", (lease,)).rowcount:
            rows = connection.execute("SELECT key FROM entries WHERE lease = ? AND lease <> 0 ORDER BY key", (lease,))
            keys = [Delete(row[0]) for row in rows.fetchall()]
            if keys:
                self._write(connection, head, keys)

    def _sweep(self, connection: sqlite3.Connection) -> None:
        """End the leases whose time is up, whoever held them: one revision for each that held keys."""
        due = "SELECT lease FROM leases WHERE deadline <= ? ORDER BY deadline, number"
        while (row := connection.execute(due + " LIMIT 1", (self._now(),)).fetchone()) is not None:
            with self._transaction(connection) as head:
                # Another process may have been here between the question and the lock, or the holder come back.
                if connection.execute(due + " LIMIT 1", (self._now(),)).fetchone() == row:
                    self._end(connection, head, row[0])

    def _rearm(self, connection: sqlite3.Connection) -> None:
        """Give the leases of an earlier boot their full time again: their clock has started anew."""
        boot = sqlite_file.boot_id()
        if connection.execute("SELECT 1 FROM leases WHERE boot <> ? LIMIT 1", (boot,)).fetchone():
            self._begin_immediate(connection)
            connection.execute(
                "UPDATE leases SET deadline = ? + ttl_seconds, boot = ? WHERE boot <> ?", (self._now(), boot, boot)
            )
            connection.execute("COMMIT")

    def _read_deadline(self, connection: sqlite3.Connection) -> None:
        self._deadline = connection.execute("SELECT min(deadline) FROM leases").fetchone()[0]


def _event(key: str, revision: int, value: bytes | None, create_revision: int, lease: int) -> WatchEvent:
    entry = None if value is None else Entry(key, value, create_revision, revision, lease)
    return WatchEvent(key, revision, entry)

