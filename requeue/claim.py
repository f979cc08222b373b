"""Taking a message out of its source: lock, then rename, ``-D`` first.

The rename of ``-D`` is the claim. ``-H`` without ``-D`` is inert to Exim, while ``-D``
without ``-H`` is deleted by ``exim -M`` once the id is old (deliver.c, keep_malformed).

Diagnostics: take() raises ConflictError (somebody holds the message: look again later)
and NotReadyError (half of it is not there); OSError from the system, with what was
moved so far left for the recovery.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import Final

from ..errors import ConflictError, NotReadyError
from ..spool.directory import Found
from ..spool.ids import MessageId
from ..spool.locks import lock_directory, lock_message, unlock_message
from ..spool.sources import Source
from . import durable
from .job import Job
from .slots import Slots, forget
from .state import StateDirectory

_EXIM: Final = "Exim, or another program that locks -D"


def take(state: StateDirectory, source: Source, found: Found, slots: Slots | None = None) -> Job:
    """Claim a pair: it is in ``work/`` afterwards, and ours, in a directory of slots if there is one.

    The message lock is kept where the link count is 1 (Exim is done with the message)
    and let go at once where it is more: the original is still queued and Exim needs it.
    """
    try:
        place = source.input.open_subdirectory(found.subdirectory)
    except FileNotFoundError as error:
        raise NotReadyError(found.id, found.id.data_name) from error
    try:
        # Before the lock, too: an Exim that receives a message makes -D, then locks it, and dies of a lock that
        # somebody else got in between (receive.c, "Cannot lock"). It makes -H last, with the lock in its hand.
        if not _is_file(found.id.header_name, place):
            raise NotReadyError(found.id, found.id.header_name)
        data = _lock(place, found.id)
        try:
            if not _is_file(found.id.header_name, place):
                raise NotReadyError(found.id, found.id.header_name)
            job = _make_job(state, found.id, slots)
        except BaseException:
            unlock_message(data, found.id)
            os.close(data)
            raise
        job.data, job.has_message_lock, job.may_have_journal = data, True, source.has_journal
        try:
            job.is_fresh = _move(job, source, place)
        except NotReadyError:
            # Nothing was moved: the directory goes as that of a settled message does.
            forget(job, slots)
            job.close()
            raise
        except BaseException:
            job.close()
            raise
    finally:
        os.close(place)
    if os.fstat(data).st_nlink > 1:
        job.unlock()
    return job


def _is_file(name: str, place: int) -> bool:
    """True for a regular file; a symlink or a FIFO of that name is never taken along."""
    status = durable.exists(name, at=place)
    return status is not None and stat.S_ISREG(status.st_mode)


def _lock(place: int, message_id: MessageId) -> int:
    """A descriptor of ``-D`` with Exim's lock, checked to be what the name still means."""
    try:
        data = durable.open_file(message_id.data_name, at=place, write=True)
    except FileNotFoundError as error:
        raise NotReadyError(message_id, message_id.data_name) from error
    if not lock_message(data, message_id):
        os.close(data)
        raise ConflictError(message_id, _EXIM)
    # The lock belongs to the inode: Exim may have finished with the name between open and lock.
    status, named = os.fstat(data), durable.exists(message_id.data_name, at=place)
    if named is None or (named.st_dev, named.st_ino) != (status.st_dev, status.st_ino):
        unlock_message(data, message_id)
        os.close(data)
        raise NotReadyError(message_id, message_id.data_name)
    return data


def _make_job(state: StateDirectory, message_id: MessageId, slots: Slots | None) -> Job:
    claim = state.next_claim(message_id)
    if slots is not None and (job := slots.take(claim)) is not None:
        return job
    work = state.states["work"]
    durable.make_directory(claim.name, at=work)
    try:
        descriptor = durable.open_directory(claim.name, at=work)
    except FileNotFoundError as error:
        # A recovery looked in between and removed the empty directory.
        raise ConflictError(message_id, "a recovery") from error
    if not lock_directory(descriptor):
        os.close(descriptor)
        raise ConflictError(message_id, "a recovery")
    return Job(state, "work", claim, descriptor)


def _move(job: Job, source: Source, place: int) -> bool:
    try:
        durable.rename(job.id.data_name, job.id.data_name, at=place, to=job.descriptor)
    except FileNotFoundError as error:
        raise NotReadyError(job.id, job.id.data_name) from error
    return collect(job, source, place)


def collect(job: Job, source: Source, place: int) -> bool:
    """Fetch what the claim lacks (``-J`` of a queue, ``-H``) from the source; True if ``-H`` is here.

    Never over an existing name: what is in ``work/`` was claimed first.
    """
    if source.message_log is not None:
        # First, so that a crash in between leaves none behind. Under the lock: a msglog that
        # vanishes during a delivery makes Exim die after it (deliver.c).
        for path in (str(job.id), f"{job.id.split_directory}/{job.id}"):
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                durable.unlink(path, at=source.message_log.descriptor)
    names = [job.id.journal_name, job.id.header_name] if source.has_journal else [job.id.header_name]
    for name in names:
        if _is_file(name, place):
            with contextlib.suppress(FileNotFoundError, FileExistsError):
                durable.rename(name, name, at=place, to=job.descriptor)
    return durable.exists(job.id.header_name, at=job.descriptor) is not None
