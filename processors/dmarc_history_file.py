"""The DMARC history file: appended by many processes, rotated by renaming, never torn.

A record is written whole, in one call, under an exclusive flock; opendmarc-import takes a
shared one on what it reads. After the lock is got the file's name is looked at again:
what was renamed meanwhile is never written to, so that a rotated file is complete.

Diagnostics: append() raises TemporaryError where the lock is not to be had and OSError
from the system; in either case nothing of the record stays. rotate() raises OSError,
FileExistsError for a target that is there.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from collections.abc import Iterator
from typing import BinaryIO, Final

from ..errors import ConfigError, TemporaryError

MODE: Final = 0o640
#: How long a writer waits for the lock, in seconds; then it tries again with the next effect.
PATIENCE: Final = 5.0
_RETRY: Final = 0.02
_MOST_RENAMES: Final = 100


def check_history_path(path: str, *, key: str) -> None:
    """Raise ConfigError unless a file can be made at path."""
    if not os.path.isabs(path):
        raise ConfigError("a history file needs a path from the root", key=key)
    directory = os.path.dirname(path)
    if not os.path.isdir(directory):
        raise ConfigError(f"{directory} is no directory", key=key)
    if os.path.lexists(path) and (os.path.islink(path) or not os.path.isfile(path)):
        raise ConfigError(f"{path} is no regular file", key=key)


def append(path: str, record: bytes, *, sync: bool = False, patience: float = PATIENCE) -> None:
    """Add record, one or more whole lines, at the end of the file, which is made if it is missing.

    sync makes it durable before this returns.
    """
    descriptor = _open_locked(path, patience)
    try:
        size = os.fstat(descriptor).st_size
        if size and os.pread(descriptor, 1, size - 1) != b"\n":
            # Somebody else's record was torn: ours begins on a line of its own.
            record = b"\n" + record
        try:
            if os.write(descriptor, record) != len(record):
                raise TemporaryError(f"{path}: the disk is full")
        except (OSError, TemporaryError):
            os.ftruncate(descriptor, size)
            raise
        if sync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def rotate(path: str, target: str, *, patience: float = PATIENCE) -> bool:
    """Rename the file to target once nobody writes to it; False if there is none, or it is empty.

    Later records begin a new file. target must not exist, and be on the same file system.
    """
    if not os.path.exists(path):
        return False
    descriptor = _open_locked(path, patience)
    try:
        if os.fstat(descriptor).st_size == 0:
            return False
        # A link, since rename() would replace a target that somebody has just made.
        os.link(path, target, follow_symlinks=False)
        os.unlink(path)
        return True
    finally:
        os.close(descriptor)


def read_lines(path: str) -> Iterator[bytes]:
    """The lines of a history file, under a shared lock as the importer takes it."""
    with open(path, "rb") as file:
        _lock(file, path)
        yield from file


def _lock(file: BinaryIO, path: str) -> None:
    end = time.monotonic() + PATIENCE
    while not _try_lock(file.fileno(), fcntl.LOCK_SH):
        if time.monotonic() >= end:
            raise TemporaryError(f"{path} is locked by another program")
        time.sleep(_RETRY)


def _open_locked(path: str, patience: float) -> int:
    """The file under path, exclusively locked, and still under that name."""
    end = time.monotonic() + patience
    for _ in range(_MOST_RENAMES):
        descriptor = os.open(
            path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, MODE
        )
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise TemporaryError(f"{path} is no regular file")
            while not _try_lock(descriptor, fcntl.LOCK_EX):
                if time.monotonic() >= end:
                    raise TemporaryError(f"{path} is locked by another program")
                time.sleep(_RETRY)
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
    raise TemporaryError(f"{path} is renamed again and again")


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_still(path: str, descriptor: int) -> bool:
    try:
        named = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) == (opened.st_dev, opened.st_ino)
