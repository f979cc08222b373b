"""Finding out what a crash, or a worker that died, left behind, and making it whole.

Whoever gets the directory lock of a claim that is not its own is the recovery, at start
and at run time: a live owner holds that lock.

Diagnostics: ConflictError where Exim's lock is taken (later); OSError from the system.
The message stays where it is.
"""

from __future__ import annotations

import os

from ..errors import ConflictError
from ..spool.directory import Found
from ..spool.sources import Source
from . import durable
from .claim import collect
from .job import Job, Phase
from .state import StateDirectory


def recover(state: StateDirectory, source: Source | None, job: Job) -> Phase:
    """Bring an owned claim into a phase from which the engine goes on.

    EMPTY: it was removed, an ``out.tmp/`` in it too. HALF: a part is lost for good; the caller
    sets it aside. The other phases
    are as on disk. source is None where there is none to collect from.
    """
    phase = Phase.CLAIMED if job.is_fresh else job.phase()
    if phase is Phase.EMPTY:
        durable.remove_tree(job.claim.name, at=state.states[job.place])
    elif phase is Phase.HALF and source is not None:
        if durable.exists(job.id.data_name, at=job.descriptor) is not None and not job.lock():
            # Exim opened -D before it was moved, and got the lock when our predecessor died:
            # it may be delivering by the -H that is still in the source.
            raise ConflictError(job.id, "Exim, or another program that locks -D")
        if _collect(job, source):
            phase = Phase.CLAIMED
    return phase


def _collect(job: Job, source: Source) -> bool:
    for name in ("", job.id.split_directory):
        try:
            place = source.input.open_subdirectory(Found(job.id, name).subdirectory)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            if collect(job, source, place):
                return job.phase() is Phase.CLAIMED
        finally:
            os.close(place)
    return False
