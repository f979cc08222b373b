"""Builds an LMDB table from a text file, and puts it in place of the old one at once.

Entries are sorted outside memory and appended in key order, into a new file beside the
target; it is synced, then renamed over the target, then its lock file likewise. Readers
see the old table or the new one, never a part. README.md says why the lock file is
replaced too, and why the last transaction is written twice.

Diagnostics: build raises TableSourceError (file and line; the old table is untouched),
TableError for LMDB's own trouble and OSError for the disk's. dump raises TableError.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import BinaryIO

import lmdb
import msgspec
from msgspec import Struct

from .table_source import Entry, SourceFormat, TableSourceError, format_of, read_entries
from .tables import LmdbTable, TableError

Progress = Callable[[str, int, int], None]
"""Called with the phase ("read": bytes of the source, "write": entries), done and total."""

Check = Callable[[bytes, bytes], str]
"""Called with key and value of every entry; a complaint, or the empty string."""

_RUN_BYTES = 64 << 20
"""Keys and values of one sorted run; with Python's overhead some four times this in memory."""

_STEP = 4096
"""Entries written, or read back from a run, at a time."""

_COMMIT_ENTRIES = 50 * _STEP
_REPORTED_DUPLICATES = 20


class BuildReport(Struct, frozen=True, kw_only=True):
    """What became of a build.

    The first of several entries with one key is the one that counts, as in lsearch:
    duplicates is the number of those dropped, duplicate_lines where some of them stand.
    """

    target: str
    entries: int
    duplicates: int
    duplicate_lines: tuple[int, ...]
    file_size: int
    seconds: float


def build(
    source: str,
    target: str,
    *,
    source_format: SourceFormat | None = None,
    lower_keys: bool | None = None,
    check: Check | None = None,
    mode: int = 0o640,
    group: int | None = None,
    progress: Progress | None = None,
) -> BuildReport:
    """Build the table target from the text file source (formats: table_source.py).

    A target that exists hands its owner, group and mode on; else mode and group (a gid;
    None: as the system gives it) apply. The lock file may be written by whoever of owner
    and group may read the table: Exim needs that. Values get one NUL at the end, which
    Exim and respool drop: Exim 4.99 can die of a value without.
    Raises TableSourceError, TableError, OSError.
    """
    started = time.monotonic()
    target = os.path.abspath(target)
    directory, name = os.path.split(target)
    workplace = tempfile.mkdtemp(prefix=f".{name}.", suffix=".building", dir=directory)
    try:
        with open(source, "rb") as file:
            entries = read_entries(file, source, source_format or format_of(source), lower_keys=lower_keys)
            if check is not None:
                entries = _checked(entries, check, source)
            if progress is not None:
                entries = _reading(entries, file, progress)
            with contextlib.closing(_SortedRuns(workplace)) as runs:
                runs.sort(entries)
                temporary = os.path.join(workplace, "table")
                written, duplicates, lines = _write(temporary, runs, progress)
        size = os.stat(temporary).st_size
        _publish(temporary, target, mode, group)
    except lmdb.Error as error:
        raise TableError(target, str(error)) from error
    finally:
        shutil.rmtree(workplace, ignore_errors=True)
    return BuildReport(
        target=target,
        entries=written,
        duplicates=duplicates,
        duplicate_lines=lines,
        file_size=size,
        seconds=time.monotonic() - started,
    )


def dump(path: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield key and value of a table in key order, values as Exim reads them. Raises TableError."""
    for key, value in LmdbTable(path).items():
        end = value.find(b"\0")
        yield key, (value if end < 0 else value[:end])


def _checked(entries: Iterable[Entry], check: Check, source: str) -> Iterator[Entry]:
    for entry in entries:
        if complaint := check(entry[0], entry[1]):
            raise TableSourceError(source, entry[2], complaint)
        yield entry


def _reading(entries: Iterable[Entry], file: BinaryIO, progress: Progress) -> Iterator[Entry]:
    total = os.fstat(file.fileno()).st_size
    for number, entry in enumerate(entries):
        if number % _STEP == 0:
            progress("read", min(file.tell(), total), total)
        yield entry
    progress("read", total, total)


class _SortedRuns:
    """All entries in key order, those of one key in the order of the source."""

    def __init__(self, workplace: str) -> None:
        self.count = 0
        self.map_size = 1 << 24
        self._workplace = workplace
        self._files: list[BinaryIO] = []
        self._last: list[Entry] = []

    def sort(self, entries: Iterable[Entry]) -> None:
        size = 0
        for entry in entries:
            self._last.append(entry)
            length = len(entry[0]) + len(entry[1])
            size += length + 32
            # Twice the bytes covers half-empty pages; a large value has pages of its own.
            self.map_size += 2 * (length + 64) + (8192 if length > 1000 else 0)
            if size >= _RUN_BYTES:
                self._store()
                size = 0
        self._last.sort(key=itemgetter(0))
        self.count += len(self._last)

    def _store(self) -> None:
        self._last.sort(key=itemgetter(0))
        self.count += len(self._last)
        file = tempfile.TemporaryFile(dir=self._workplace)  # noqa: SIM115 (close() closes it)
        self._files.append(file)
        for start in range(0, len(self._last), _STEP):
            packed = msgspec.msgpack.encode(self._last[start : start + _STEP])
            file.write(len(packed).to_bytes(8, "big"))
            file.write(packed)
        file.seek(0)
        self._last = []

    def __iter__(self) -> Iterator[Entry]:
        # merge() takes equal keys in the order of its arguments: the order of the source.
        yield from heapq.merge(*map(_stored, self._files), self._last, key=itemgetter(0))

    def close(self) -> None:
        for file in self._files:
            file.close()


def _stored(file: BinaryIO) -> Iterator[Entry]:
    decoder = msgspec.msgpack.Decoder(list[tuple[bytes, bytes, int]])
    while size := file.read(8):
        yield from decoder.decode(file.read(int.from_bytes(size, "big")))


def _write(path: str, runs: _SortedRuns, progress: Progress | None) -> tuple[int, int, tuple[int, ...]]:
    written = duplicates = seen = 0
    duplicate_lines: list[int] = []
    previous: bytes | None = None
    with lmdb.open(path, subdir=False, map_size=runs.map_size, sync=False, mode=0o600) as env:
        batch: list[tuple[bytes, bytes]] = []
        first: tuple[bytes, bytes] | None = None
        transaction = env.begin(write=True)
        cursor = transaction.cursor()
        for key, value, line in runs:
            seen += 1
            if key == previous:
                duplicates += 1
                if len(duplicate_lines) < _REPORTED_DUPLICATES:
                    duplicate_lines.append(line)
                continue
            previous = key
            batch.append((key, value + b"\0"))
            if len(batch) == _STEP:
                cursor.putmulti(batch, append=True)
                first = first or batch[0]
                written += len(batch)
                batch = []
                if progress is not None:
                    progress("write", seen, runs.count)
                if written % _COMMIT_ENTRIES == 0:
                    cursor.close()
                    transaction.commit()
                    transaction = env.begin(write=True)
                    cursor = transaction.cursor()
        cursor.putmulti(batch, append=True)
        first = first or (batch[0] if batch else None)
        written += len(batch)
        cursor.close()
        transaction.commit()
        _repeat_last_state(env, first)
        if progress is not None:
            progress("write", runs.count, runs.count)
        env.sync(True)
    return written, duplicates, tuple(sorted(duplicate_lines))


def _repeat_last_state(env: lmdb.Environment, first: tuple[bytes, bytes] | None) -> None:
    # LMDB keeps two states and lets the lock file say which is the last. A process that
    # reads the table replaced by this one can keep the old lock file alive with a number of
    # the wrong parity: so both states of ours have the same contents.
    for _ in range(2):
        with env.begin(write=True) as transaction:
            if first is not None:
                transaction.put(*first)
            else:
                transaction.put(b"x", b"")
                transaction.delete(b"x")


def _publish(temporary: str, target: str, mode: int, group: int | None) -> None:
    owner = -1
    try:
        old = os.stat(target)
        owner, group, mode = old.st_uid, old.st_gid, old.st_mode & 0o777
    except FileNotFoundError:
        pass
    lock_mode = 0o600 | (0o060 if mode & 0o040 else 0)
    for path, its_mode in ((temporary, mode), (f"{temporary}-lock", lock_mode)):
        stat = os.stat(path)
        wanted = (stat.st_uid if owner == -1 else owner, stat.st_gid if group is None else group)
        if wanted != (stat.st_uid, stat.st_gid):
            os.chown(path, *wanted)
        os.chmod(path, its_mode)
    _sync(temporary)
    # The table first: between the two renames it is read with the old lock file, which its
    # doubled state bears; an old table with the new lock file would not.
    os.rename(temporary, target)
    os.rename(f"{temporary}-lock", f"{target}-lock")
    _sync(os.path.dirname(target))


def _sync(path: str) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
