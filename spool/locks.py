"""Exim's message lock: a record lock on the first line of ``-D``.

Open-file-description locks conflict with Exim's POSIX locks and, unlike those, survive
the closing of another descriptor of the same file. Two of them on one file conflict even
within a process, and a forked child keeps one alive past close: unlock explicitly.

Diagnostics: OSError from the system, except for a lock held by another, which is False.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from typing import Final

from .ids import MessageId

_POLL_SECONDS: Final = 0.05


def _flock(kind: int, length: int, start: int = 0) -> bytes:
    return struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0)


def lock_message(descriptor: int, message_id: MessageId) -> bool:
    """Take the message lock; False if Exim or another respool has it. Never waits (spool_in.c)."""
    return _try_lock(descriptor, _flock(fcntl.F_WRLCK, message_id.body_offset))


def unlock_message(descriptor: int, message_id: MessageId) -> None:
    """Give the message lock back."""
    fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, message_id.body_offset))


def lock_file(descriptor: int) -> bool:
    """Take a lock on a whole file of respool's own, inherited by forked children; False if taken."""
    return _try_lock(descriptor, _flock(fcntl.F_WRLCK, 0))


def lock_number(descriptor: int, number: int, patience_seconds: float) -> bool:
    """Wait so long for the lock of this number in a lock file of respool's own; it ends with the descriptor.

    Over NFS, too: the lock of a machine that died ends with its lease. False where somebody keeps it.
    """
    give_up = time.monotonic() + patience_seconds
    while not _try_lock(descriptor, _flock(fcntl.F_WRLCK, 1, number)):
        if time.monotonic() > give_up:
            return False
        time.sleep(_POLL_SECONDS)
    return True


def lock_directory(descriptor: int) -> bool:
    """Take an flock on a directory; False if taken. Record locks do not work on directories."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def unlock_directory(descriptor: int) -> None:
    """Give an flock on a directory back."""
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def _try_lock(descriptor: int, request: bytes) -> bool:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    except OSError as error:
        if error.errno in {errno.EAGAIN, errno.EACCES}:
            return False
        raise
    return True
