"""Halves of messages: set aside when their other half does not come, reunited when it does.

A leftover ``-D`` blocks its id for good: each retry of Exim links ``-H``, fails on ``-D``
and unlinks ``-H`` again (queuefile.c).

Diagnostics: OSError from the system; the half stays where it is.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable

from ..spool.directory import Found
from ..spool.ids import MessageId
from ..spool.locks import lock_message, unlock_message
from ..spool.sources import Source
from . import durable
from .job import Job, Phase
from .state import StateDirectory


def set_aside(
    state: StateDirectory, source: Source, found: Found, in_use: Callable[[MessageId], bool] | None = None
) -> Job | None:
    """Put a half into a claim of its own, from where the caller sets it aside; None if it is gone or in use.

    in_use says of an id whether an Exim is delivering it: then its ``-D`` may still come.
    """
    try:
        place = source.input.open_subdirectory(found.subdirectory)
    except FileNotFoundError:
        return None
    try:
        name = next((n for n in (found.id.data_name, found.id.header_name) if _is_file(n, place)), None)
        if name is None or (name == found.id.data_name and not _is_free(place, found)):
            return None
        if name == found.id.header_name and in_use is not None and in_use(found.id):
            return None
        claim = state.next_claim(found.id)
        durable.make_directory(claim.name, at=state.states["work"])
        job = Job.take(state, "work", claim)
        if job is None:
            return None
        try:
            durable.rename(name, name, at=place, to=job.descriptor)
        except FileNotFoundError:
            durable.remove_directory(claim.name, at=state.states["work"])
            job.close()
            return None
        return job
    finally:
        os.close(place)


def _is_file(name: str, place: int) -> bool:
    status = durable.exists(name, at=place)
    return status is not None and stat.S_ISREG(status.st_mode)


def _is_free(place: int, found: Found) -> bool:
    try:
        descriptor = durable.open_file(found.id.data_name, at=place, write=True)
    except FileNotFoundError:
        return False
    try:
        free = lock_message(descriptor, found.id)
        if free:
            unlock_message(descriptor, found.id)
        return free
    finally:
        os.close(descriptor)


def reunite(state: StateDirectory, source: Source, found: Found) -> bool:
    """Give a half in the source the other half that was set aside before; True if they are a pair now."""
    for claim in state.list("corrupt"):
        if claim.id != found.id:
            continue
        job = Job.take(state, "corrupt", claim)
        if job is None:
            continue
        try:
            if job.phase() is Phase.HALF and _give_back(job, source, found):
                durable.remove_tree(claim.name, at=state.states["corrupt"])
                return True
        finally:
            job.close()
    return False


def _give_back(job: Job, source: Source, found: Found) -> bool:
    try:
        place = source.input.open_subdirectory(found.subdirectory)
    except FileNotFoundError:
        return False
    try:
        for name in (found.id.data_name, found.id.header_name):
            if durable.exists(name, at=job.descriptor) is not None and durable.exists(name, at=place) is None:
                with contextlib.suppress(FileExistsError):
                    durable.rename(name, name, at=job.descriptor, to=place)
                    return True
        return False
    finally:
        os.close(place)
