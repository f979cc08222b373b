"""LMDB tables, read as Exim's ``lmdb`` lookup reads them.

One file (no directory), key and value as Exim sees them, and three outcomes that are
never confused: a value, None for an absent key, TableError for trouble.

A table is opened once per process, whatever number of LmdbTable objects names it, since
LMDB's locks belong to the process; no environment lives across a fork: all are closed
before one and opened again by whoever looks something up after it. README.md argues
the rest: replaced files, stale lock files, grown maps, full reader tables.

Diagnostics: get, find and items raise TableError (a TemporaryError: the message is
deferred) and nothing else.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator

import lmdb
from msgspec import Struct

from ..errors import TemporaryError
from .table_reference import MAXIMUM_KEY_SIZE, TableReference, candidate_keys

_READERS = 1024
"""Reader slots asked for; whoever creates the lock file decides."""

_STALE_LOCK_TRIES = 4
"""Looks at a lock file that disagrees with its table, 5 ms apart: a writer may be committing."""

_UNLOCKED_TRIES = 20
"""Reads of a table without lock before giving up, each spoilt by a commit."""


class TableError(TemporaryError):
    """A table can't be read: this says nothing about the key, so it is never *absent*."""

    def __init__(self, path: str, reason: str) -> None:
        self.path = path
        super().__init__(f"table {path}: {reason}")


class Match(Struct, frozen=True):
    """What a lookup found; key is the one that matched, wild and fixed are Exim's $1 and $2."""

    value: bytes
    key: bytes
    wild: bytes
    fixed: bytes


class _Environment:
    """One open file. Only touched with _lock held."""

    def __init__(self, path: str, identity: tuple[int, int]) -> None:
        self.identity = identity
        self.handles = 0
        self.locked = True
        try:
            self.env = _open(path, lock=True)
        except lmdb.ReadersFullError:
            # py-lmdb needs a slot to open at all, so the dead can't be swept out first.
            self._open_unlocked(path)
            return
        try:
            agrees = self._agrees()
        except lmdb.Error:
            self.env.close()
            raise
        # Whoever replaces a table but leaves its lock file to processes that still read the
        # old one makes LMDB choose the meta page by the old file's transaction number: an
        # older state, or an empty one. The true number is in the table itself.
        if not agrees:
            self.env.close()
            self._open_unlocked(path)

    def _open_unlocked(self, path: str) -> None:
        self.locked = False
        self.env = _open(path, lock=False)

    def _agrees(self) -> bool:
        for _ in range(_STALE_LOCK_TRIES):
            with self.begin() as transaction:
                if transaction.id() == self.env.info()["last_txnid"]:
                    return True
            time.sleep(0.005)
        return False

    def begin(self) -> lmdb.Transaction[bytes]:
        try:
            return self.env.begin()
        except lmdb.MapResizedError:
            self.env.set_mapsize(0)  # no transaction of ours is open: we hold _lock
        except lmdb.ReadersFullError:
            self.env.reader_check()  # frees the slots of processes that died
        return self.env.begin()

    def check_size(self, path: str) -> None:
        """Raise lmdb.CorruptedError if the file ends before its last page: reading that would be a SIGBUS."""
        needed = (self.env.info()["last_pgno"] + 1) * self.env.stat()["psize"]
        # Asked for after the number of pages, since a writer makes the file longer first.
        stat = os.stat(path)
        if (stat.st_dev, stat.st_ino) == self.identity and stat.st_size < needed:
            raise lmdb.CorruptedError(f"{path}: cut off: {stat.st_size} bytes, where its last page ends at {needed}")

    def read(self, key: bytes) -> bytes | None:
        """Return the stored bytes of one key, in a transaction of its own; lmdb.Error passes."""
        if self.locked:
            with self.begin() as transaction:
                return transaction.get(key)
        for _ in range(_UNLOCKED_TRIES):
            with self.begin() as transaction:
                value = transaction.get(key)
                # Pages of this state are reused by the second commit after it at the
                # earliest: if it is still the last one, what was read is whole.
                if self.env.info()["last_txnid"] == transaction.id():
                    return value
        raise lmdb.Error("a writer commits too fast for a reader without lock")

    def page(self, after: bytes | None) -> list[tuple[bytes, bytes]]:
        """Return up to a thousand entries behind a key; lmdb.Error passes."""
        entries: list[tuple[bytes, bytes]] = []
        with self.begin() as transaction, transaction.cursor() as cursor:
            found = cursor.first() if after is None else cursor.set_range(after)
            if found and after is not None and cursor.key() == after:
                found = cursor.next_nodup()
            while found and len(entries) < 1000:
                entries.append(cursor.item())
                found = cursor.next_nodup()
        return entries

    def close(self) -> None:
        self.env.close()


_lock = threading.Lock()
_handles: dict[str, _Handle] = {}
_environments: dict[tuple[int, int], _Environment] = {}


class _Handle:
    """One path in this process: which file it named when it was last looked at."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.environment: _Environment | None = None
        self.next_check = 0.0

    def current(self, check_seconds: float) -> _Environment:
        """Return the environment of the file that the path names now; lmdb.Error and OSError pass."""
        now = time.monotonic()
        if self.environment is not None and now < self.next_check:
            return self.environment
        stat = os.stat(self.path)
        identity = (stat.st_dev, stat.st_ino)
        environment = self.environment
        # While it is open the inode can't be given to another file.
        if environment is None or environment.identity != identity or not environment.locked:
            # First close, then open: both files may share the lock file.
            self.release()
            environment = _environments.get(identity)
            if environment is None:
                environment = _environments[identity] = _Environment(self.path, identity)
            environment.handles += 1
            self.environment = environment
        environment.check_size(self.path)
        self.next_check = now + check_seconds
        return environment

    def release(self) -> None:
        environment, self.environment = self.environment, None
        if environment is not None:
            environment.handles -= 1
            if environment.handles == 0:
                _environments.pop(environment.identity, None)
                environment.close()


class LmdbTable:
    """A table by its path; opened at the first lookup, and anew when the path names another file.

    path becomes absolute. check_seconds bounds how long a replaced file is still read, and
    how often stat(2) is called. Safe for threads; usable on both sides of a fork.
    """

    def __init__(self, path: str, *, check_seconds: float = 0.1) -> None:
        self.path = os.path.abspath(path)
        self.check_seconds = check_seconds
        with _lock:
            self._handle = _handles.setdefault(self.path, _Handle(self.path))

    def __repr__(self) -> str:
        return f"LmdbTable({self.path!r})"

    def get(self, key: bytes) -> bytes | None:
        """Return the value of a key up to its first NUL, as Exim reads it; None if absent.

        The empty key, keys over 511 bytes and keys with a NUL are absent without a
        look: no table that Exim reads can hold them. Raises TableError.
        Source: Exim src/lookups/lmdb.c, src/search.c.
        """
        if not 0 < len(key) <= MAXIMUM_KEY_SIZE or b"\0" in key:
            return None
        handle = self._handle
        try:
            with _lock:
                value = handle.current(self.check_seconds).read(key)
        except (lmdb.Error, OSError) as error:
            raise self._trouble(error) from error
        if value is None:
            return None
        end = value.find(b"\0")
        return value if end < 0 else value[:end]

    def find(self, reference: TableReference, key: bytes) -> Match | None:
        """Look a key up with the wildcards of a reference, in Exim's order; None if all are absent.

        An error at any step ends the sequence. The path of the reference is not looked at.
        Raises TableError.
        """
        return next(self.find_all(reference, key), None)

    def find_all(self, reference: TableReference, key: bytes) -> Iterator[Match]:
        """Yield what find() finds, then what it would find without that, and so on. Raises TableError."""
        for candidate in candidate_keys(reference, key):
            value = self.get(candidate.key)
            if value is not None:
                yield Match(key if reference.returns_key else value, candidate.key, candidate.wild, candidate.fixed)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield every key and its stored bytes, NUL and all, in key order. Raises TableError.

        Read in steps of a thousand, so that no transaction stays open between them: a
        table that is rewritten in place meanwhile shows a mixture, one that is replaced
        raises.
        """
        after: bytes | None = None
        identity: tuple[int, int] | None = None
        while True:
            try:
                with _lock:
                    environment = self._handle.current(self.check_seconds)
                    page = environment.page(after)
            except (lmdb.Error, OSError) as error:
                raise self._trouble(error) from error
            if identity not in (None, environment.identity):
                raise TableError(self.path, "replaced while it was read")
            identity = environment.identity
            yield from page
            if not page:
                return
            after = page[-1][0]

    def _trouble(self, error: lmdb.Error | OSError) -> TableError:
        with _lock:
            self._handle.release()  # the next lookup starts from the file
        return TableError(self.path, _reason(self.path, error))

    def close(self) -> None:
        """Close the file for everybody in this process; the next lookup opens it again."""
        with _lock:
            self._handle.release()


def look_up(reference: TableReference, key: bytes) -> Match | None:
    """Look a key up in the table that a reference names. Raises TableError."""
    return LmdbTable(reference.path).find(reference, key)


def _open(path: str, *, lock: bool) -> lmdb.Environment:
    env = lmdb.open(path, subdir=False, readonly=True, create=False, lock=lock, readahead=False, max_readers=_READERS)
    if lock:
        env.reader_check()
    return env


def _reason(path: str, error: lmdb.Error | OSError) -> str:
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return str(error).removeprefix(f"{path}: ")


def _before_fork() -> None:
    _lock.acquire()
    for handle in _handles.values():
        handle.release()


# An environment in a forked child has its parent's reader slots and none of its locks
# (LMDB: "do not have open an LMDB database twice in the same process", "use after fork").
os.register_at_fork(before=_before_fork, after_in_parent=_lock.release, after_in_child=_lock.release)
