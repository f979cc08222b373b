"""An LMDB file whose concurrent changes share a transaction, and its sync.

A commit costs an fsync; so whoever wants a change while another thread commits waits, and
one of those who wait then commits for all. It is not made one with group_sync.py: there a
directory is synced, many at once, and nothing is handed over; here work is, with an answer
for each, and a commit that fails fails for all who shared it.

Diagnostics: LedgerError (an OSError) for whatever LMDB reports.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import threading
from collections.abc import Callable, Generator, Iterator
from typing import Any, Final

import lmdb

from . import durable

_FIRST_SIZE: Final = 16 << 20
_MOST_READERS: Final = 512
#: As LMDB lays it out (mdb.c): a line of the cache for each reader, and a head.
_LOCK_FILE_BYTES: Final = (_MOST_READERS + 4) * 64
_PAGE_LENGTH: Final = 1000


class LedgerError(OSError):
    """LMDB could not do it: no space, a damaged file, the largest size reached."""

    def __str__(self) -> str:
        return f"ledger: {self.args[-1]}"


class _Request:
    def __init__(self, work: Callable[[Any], Any]) -> None:
        self.work = work
        self.answer: Any = None
        self.error: BaseException | None = None
        self.done = False


class LmdbFile:
    """The open file, for the threads of one process; it grows up to largest bytes. Open it after a fork, never before.

    synced=False: a power cut may leave nonsense; only for a file that is made anew then.
    """

    def __init__(self, path: str, largest: int, *, synced: bool, read_only: bool = False) -> None:
        self._path, self._largest, self._synced = path, largest, synced
        self._condition, self._gate = threading.Condition(), threading.Condition()
        self._waiting: list[_Request] = []
        self._busy = self._resizing = False
        self._running = 0
        self._read_only = read_only
        self._environment: Any = self._open()
        if not read_only and os.geteuid() == 0:
            owner = os.stat(os.path.dirname(path))
            for name in (path, path + "-lock"):
                os.chown(name, owner.st_uid, owner.st_gid, follow_symlinks=False)

    def _open(self) -> Any:
        for name in (self._path, self._path + "-lock"):
            # LMDB follows links; whoever opens this may be root, and the directory Exim's.
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISREG(os.stat(name, follow_symlinks=False).st_mode):
                    raise LedgerError(f"{name} is no regular file")
        if not self._read_only:
            _reserve_lock_file(self._path + "-lock")
        try:
            return lmdb.open(
                self._path, subdir=False, map_size=_FIRST_SIZE, sync=self._synced, readonly=self._read_only,
                max_readers=_MOST_READERS, mode=durable.FILE_MODE, max_spare_txns=0,
            )  # fmt: skip
        except lmdb.Error as error:
            raise LedgerError(f"{self._path}: {error}") from error

    def close(self) -> None:
        """Close the file; nobody may use it any more."""
        self._environment.close()

    def read(self, work: Callable[[Any], Any]) -> Any:
        """Work's answer, given a transaction that sees every change made before the call."""
        return self._run(work, write=False)

    def change(self, work: Callable[[Any], Any]) -> Any:
        """Work's answer, given a transaction that is committed on return; work may run more than once."""
        mine, group = _Request(work), list[_Request]()
        with self._condition:
            self._waiting.append(mine)
            while self._busy and not mine.done:
                self._condition.wait()
            if not mine.done:
                # Nobody commits: this thread does, for all who wait.
                self._busy = True
                group, self._waiting = self._waiting, []
        if not mine.done:
            try:
                self._commit(group)
            except BaseException as error:
                for request in group:
                    request.error = error
                raise
            finally:
                with self._condition:
                    for request in group:
                        request.done = True
                    self._busy = False
                    self._condition.notify_all()
        if mine.error is not None:
            raise mine.error
        return mine.answer

    def _commit(self, group: list[_Request]) -> None:
        def work(transaction: Any) -> None:
            for request in group:
                request.answer = request.work(transaction)

        self._run(work, write=True)

    def _run(self, work: Callable[[Any], Any], *, write: bool) -> Any:
        while True:
            try:
                with self._entered():
                    return self._try(work, write=write)
            except lmdb.MapFullError as error:
                size = self._environment.info()["map_size"]
                if size >= self._largest:
                    raise LedgerError(f"{self._path} has reached its largest size, {self._largest} bytes") from error
                self._resize(min(size * 2, self._largest))
            except lmdb.MapResizedError:
                # Another process made it larger.
                self._resize(0)
            except lmdb.PanicError as error:
                # After a failed write of the meta page LMDB refuses everything until it is opened anew.
                self._alone(self._reopen)
                raise LedgerError(f"{self._path}: {error}") from error
            except (lmdb.Error, struct.error) as error:
                raise LedgerError(f"{self._path}: {error}") from error

    def _try(self, work: Callable[[Any], Any], *, write: bool) -> Any:
        transaction = self._environment.begin(write=write)
        try:
            answer = work(transaction)
            if write:
                commit(transaction)
        finally:
            # After a commit this does nothing; after anything else it gives LMDB's lock back.
            with contextlib.suppress(lmdb.Error):
                transaction.abort()
        return answer

    @contextlib.contextmanager
    def _entered(self) -> Generator[None]:
        """LMDB's map may be resized only while this process has no transaction."""
        with self._gate:
            while self._resizing:
                self._gate.wait()
            self._running += 1
        try:
            yield
        finally:
            with self._gate:
                self._running -= 1
                self._gate.notify_all()

    def _resize(self, size: int) -> None:
        self._alone(lambda: self._environment.set_mapsize(size))

    def _reopen(self) -> None:
        self._environment.close()
        self._environment = self._open()

    def _alone(self, change: Callable[[], None]) -> None:
        """Do what needs that this process has no transaction."""
        with self._gate:
            if self._resizing:
                return  # somebody does it already; the caller begins again
            self._resizing = True
            try:
                while self._running:
                    self._gate.wait()
                change()
            except lmdb.Error as error:
                raise LedgerError(f"{self._path}: {error}") from error
            finally:
                self._resizing = False
                self._gate.notify_all()

    def items(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Every key that begins so, and its value, in order of the keys."""
        after: bytes | None = prefix
        while after is not None:
            page, after = self.read(_page(after, prefix))
            yield from page


def _reserve_lock_file(path: str) -> None:
    """Room for LMDB's table of readers before it maps it: on a full disk, touching a page that has none kills."""
    with contextlib.suppress(FileNotFoundError):
        # Only a new one: closing a descriptor of a file that LMDB has locked would lose it the lock.
        if os.stat(path).st_size >= _LOCK_FILE_BYTES:
            return
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, durable.FILE_MODE)
    try:
        os.posix_fallocate(descriptor, 0, _LOCK_FILE_BYTES)
    finally:
        os.close(descriptor)


_Page = tuple[list[tuple[bytes, bytes]], bytes | None]


def _page(start: bytes, prefix: bytes) -> Callable[[Any], _Page]:
    """The next thousand entries: no reader stays long in a transaction, which would make the file grow."""

    def read(transaction: Any) -> _Page:
        page: list[tuple[bytes, bytes]] = []
        with transaction.cursor() as cursor:
            is_there = cursor.set_range(start)
            while is_there and cursor.key().startswith(prefix):
                if len(page) == _PAGE_LENGTH:
                    return page, bytes(cursor.key())
                page.append((bytes(cursor.key()), bytes(cursor.value())))
                is_there = cursor.next()
        return page, None

    return read


def commit(transaction: Any) -> None:
    """The one call that changes a file of the ledger: the fault tests kill and fail the program here."""
    transaction.commit()
