"""Carrying out a plan: stage, commit, publish, settle; or one rename to another state.

Diagnostics: ConflictError where Exim's lock is taken (the job stays as it is, try again
later); OSError from the system, with everything done so far on disk for the recovery.
"""

from __future__ import annotations

import os
import time

from ..spool.sources import Source
from . import durable
from .group_sync import GroupSync
from .job import OUT, Job
from .notify import Tell
from .plan import Defer, Hold, Plan, Requeue, SetAside
from .publish import Published, publish
from .stage import stage
from .state import GONE, StateDirectory
from .target import Target


class HandBack:
    """Carries out plans for one worker; its threads share it, and the fsyncs.

    ordered says that the file system's journal keeps metadata in order (ext4, XFS), so
    that one fsync commits every earlier link and rename. Elsewhere each step is synced by
    itself, the destination of a rename always before its source.
    """

    def __init__(
        self,
        state: StateDirectory,
        target: Target,
        *,
        tell: Tell,
        source: Source | None,
        keep_id: bool = True,
        ordered: bool = True,
    ) -> None:
        self._state = state
        self._target = target
        self._tell = tell
        self._source = source
        self._keep_id = keep_id
        self._ordered = ordered
        self._syncs = GroupSync()

    def carry_out(self, job: Job, plan: Plan) -> tuple[Published, ...]:
        """Do what plan says; the job is closed by the caller, and no longer in ``work/`` after success."""
        match plan:
            case Requeue():
                if not plan.outputs:
                    self.settle(job)
                    return ()
                if not self._ordered:
                    self._sync_claim(job)
                stage(job, plan.outputs, self._target, keep_id=self._keep_id)
                if not self._ordered:
                    self._sync_out(job)
                return self.finish(job)
            case Defer():
                self._put(job, "deferred", plan.reason, plan.processor, retry_at=plan.retry_at)
            case Hold():
                self._put(job, "held", plan.reason, plan.processor)
            case SetAside():
                self._put(job, "corrupt", plan.reason)
        return ()

    def finish(self, job: Job) -> tuple[Published, ...]:
        """Publish what is left of a committed job, tell Exim, settle."""
        published = publish(job, self._target, self._syncs)
        self._tell(published)
        if not published:
            # A recovery after the last rename: whether that was durable nobody can say, nor
            # which directory it was. It is durable after this.
            self._target.sync_file_system()
        if not self._ordered:
            self._sync_out(job)
        self.settle(job)
        return published

    def settle(self, job: Job) -> None:
        """Forget a finished message: out of sight by one rename, then removed."""
        work = self._state.states["work"]
        gone = GONE + job.claim.name
        durable.rename(job.claim.name, gone, at=work, to=work)
        durable.remove_tree(gone, at=work)

    def _put(self, job: Job, place: str, reason: str, processor: str = "", retry_at: float = 0.0) -> None:
        status = job.read_status()
        job.write_status(
            type(status)(
                attempt=status.attempt,
                reason=reason,
                processor=processor,
                since=time.time(),
                retry_at=retry_at,
                released=status.released,
            )
        )
        if not self._ordered:
            self._sync_claim(job)
        job.release_data()
        job.move(place)
        if not self._ordered:
            durable.sync(self._state.states[place])
            durable.sync(self._state.states["work"])

    def _sync_claim(self, job: Job) -> None:
        durable.sync(job.descriptor)
        durable.sync(self._state.states["work"])
        if self._source is not None:
            durable.sync(self._source.input.descriptor)

    def _sync_out(self, job: Job) -> None:
        out = durable.open_directory(OUT, at=job.descriptor)
        try:
            durable.sync(out)
        finally:
            os.close(out)
        durable.sync(job.descriptor)
