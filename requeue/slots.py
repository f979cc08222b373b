"""Job directories that a worker empties and keeps, so that its next claims need no new ones.

Two directories made and removed for each message are work for the kernel that nobody needs. A kept
one is called ``gone.<id>.<claim>`` as it was when its message was
settled, is empty but for an empty ``out.tmp/``, and stays locked: to everybody else it is a
directory whose removal is under way. It becomes a job's again by the rename that names it for
the next claim. Whoever finds it unlocked removes it, as it removes any ``gone.…``.

Only where the journal keeps metadata in order: elsewhere a power cut might leave the new name
and the files of the message before.

Diagnostics: OSError from the system: take() with nothing claimed, forget() with the message
not settled. What can't be removed is left to whoever sweeps ``gone.…``.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Final

from msgspec import Struct

from ..spool.locks import unlock_directory
from . import durable
from .job import OUT, STAGING, Job
from .state import GONE, Claim, StateDirectory

#: Each costs two descriptors; a worker needs one for each message that its threads have in hand.
_MOST: Final = 64


class _Slot(Struct, frozen=True):
    """name is that in ``work/``; the lock is held by descriptor, staging is its ``out.tmp/``."""

    name: str
    descriptor: int
    staging: int


class Slots:
    """The kept directories of one worker, shared by its threads. To be used after a fork, never before."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._guard = threading.Lock()
        self._free: list[_Slot] = []

    def take(self, claim: Claim) -> Job | None:
        """A job in a kept directory, which is named for claim now; None where there is none."""
        with self._guard:
            if not self._free:
                return None
            slot = self._free.pop()
        work = self._state.states["work"]
        try:
            durable.rename(slot.name, claim.name, at=work, to=work)
        except OSError:
            self._close(slot)
            raise
        job = Job(self._state, "work", claim, slot.descriptor)
        job.staging = slot.staging
        return job

    def keep(self, job: Job) -> None:
        """Empty the directory of a job that is called ``gone.…`` now, and keep it; it is no longer the job's."""
        name = GONE + job.claim.name
        if len(self._free) >= _MOST or job.staging is None:
            durable.remove_tree(name, at=self._state.states["work"])
            return
        durable.remove_files(job.staging)
        for entry in os.listdir(job.descriptor):
            if entry == OUT:
                durable.rename(OUT, STAGING, at=job.descriptor, to=job.descriptor)
            elif entry != STAGING:
                durable.unlink(entry, at=job.descriptor)
        slot = _Slot(name, job.descriptor, job.staging)
        job.leave()
        with self._guard:
            self._free.append(slot)

    def close(self) -> None:
        """Remove them all."""
        with self._guard:
            slots, self._free = self._free, []
        for slot in slots:
            with contextlib.suppress(OSError):
                durable.remove_tree(slot.name, at=self._state.states["work"])
            self._close(slot)

    def _close(self, slot: _Slot) -> None:
        os.close(slot.staging)
        # A forked child may have a copy of the descriptor, and with it the lock.
        unlock_directory(slot.descriptor)
        os.close(slot.descriptor)


def forget(job: Job, slots: Slots | None = None) -> None:
    """Out of sight by one rename: from there on the message is settled. Then its files go."""
    work = job.state.states["work"]
    durable.rename(job.claim.name, GONE + job.claim.name, at=job.state.states[job.place], to=work)
    # What can't be removed now is removed by a later sweep: that is no failure of the message.
    with contextlib.suppress(OSError):
        if slots is not None:
            slots.keep(job)
        else:
            durable.remove_tree(GONE + job.claim.name, at=work)
