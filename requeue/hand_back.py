"""Carrying out a plan: stage, commit, publish, settle; or one rename to another state.

Diagnostics: ConflictError where Exim's lock is taken (the job stays as it is, try again
later); from a destination that sends, LeftOverError for what it could not get rid of (the job
stays as it is: defer or hold it); TemporaryError from an effect; OSError from the system, with
everything done so far on disk for the recovery.
"""

from __future__ import annotations

import contextlib
import os
import time

import msgspec

from ..errors import clean
from ..spool.ids import MessageId
from ..spool.sources import Source
from . import durable
from .destination import Destination
from .effects import RunEffects, read_effects
from .group_sync import GroupSync
from .job import STAGING, Job
from .ledger import Ledger
from .notify import Tell
from .plan import Defer, Hold, Plan, Requeue, SetAside
from .publish import Published, read_staged
from .reading import read_asked_for
from .slots import Slots, forget
from .stage import stage
from .state import StateDirectory


class HandBack:
    """Carries out plans for one worker; its threads share it, and the fsyncs.

    ordered says that the file system's journal keeps metadata in order (ext4, XFS), so
    that one fsync commits every earlier link and rename. Elsewhere each step is synced by
    itself, the destination of a rename always before its source. ledger is given for an
    export source. slots keeps the directories of settled messages; to be given where ordered holds, and nowhere else.
    """

    def __init__(
        self,
        state: StateDirectory,
        target: Destination,
        *,
        tell: Tell,
        source: Source | None,
        keep_id: bool = True,
        ordered: bool = True,
        ledger: Ledger | None = None,
        run_effects: RunEffects | None = None,
        slots: Slots | None = None,
    ) -> None:
        self._slots = slots
        self._ledger = ledger
        self._run_effects = run_effects
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
                if not plan.outputs and not plan.effects:
                    self.settle(job)
                    return ()
                if not self._ordered:
                    self._sync_claim(job)
                stage(job, plan.outputs, self._target, keep_id=self._keep_id, effects=plan.effects)
                if not self._ordered:
                    self._sync_out(job)
                return self.finish(job)
            case Defer():
                self.put_off(job, plan)
            case Hold():
                self._put(job, "held", plan.reason, plan.processor)
            case SetAside():
                self._put(job, "corrupt", plan.reason)
        return ()

    def finish(self, job: Job, *, recovered: bool = False) -> tuple[Published, ...]:
        """Publish what is left of a committed job, tell Exim, settle.

        recovered: somebody began to publish it before. Whether what they renamed was
        durable nobody can say, nor in which directory it is; after this it is.
        """
        before = self._published_before(job) if recovered else ()
        published = self._target.publish(job, self._syncs)
        if recovered:
            self._target.sync_file_system()
        self._tell((*before, *published))
        if not self._ordered:
            self._sync_out(job)
        self.settle(job)
        return published

    def _published_before(self, job: Job) -> tuple[Published, ...]:
        """Outputs whose ``-H`` has left ``out/`` and that Exim still has: it is told once more.

        The queue went with the name of the ``-H``; so the queues are asked.
        """
        out = job.open_out()
        waiting = {output.id for output in read_staged(out)}
        ids: list[MessageId] = []
        for name in os.listdir(out):
            if name.endswith("-D"):
                with contextlib.suppress(ValueError):
                    ids.append(MessageId(name[:-2]))
        found = {message_id: self._target.queue_of(message_id) for message_id in ids if message_id not in waiting}
        return tuple(Published(message_id, queue) for message_id, queue in found.items() if queue is not None)

    def settle(self, job: Job) -> None:
        """Forget a finished message: effects, the ledger's mark, out of sight by one rename, removed."""
        effects = read_effects(job) if job.effects is None else job.effects
        if effects and self._run_effects is not None:
            self._run_effects(job, effects)
        if self._ledger is not None:
            settle_in(self._ledger, job)
        forget(job, self._slots)

    def put_off(self, job: Job, plan: Defer) -> None:
        """Move a job, in whatever phase it is, to ``deferred/``."""
        self._put(job, "deferred", plan.reason, plan.processor, retry_at=plan.retry_at)

    def _put(self, job: Job, place: str, reason: str, processor: str = "", retry_at: float = 0.0) -> None:
        status, now = job.read_status(), time.time()
        job.write_status(
            msgspec.structs.replace(
                status, reason=clean(reason), processor=processor, since=now, retry_at=retry_at, crashes=0,
                deferred_since=(status.deferred_since or now) if place == "deferred" else 0.0,
            )
        )  # fmt: skip
        if durable.exists(STAGING, at=job.descriptor) is not None:
            durable.remove_tree(STAGING, at=job.descriptor)
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
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                place = self._source.input.open_subdirectory(job.id.split_directory)
                try:
                    durable.sync(place)
                finally:
                    os.close(place)
            durable.sync(self._source.input.descriptor)

    def _sync_out(self, job: Job) -> None:
        durable.sync(job.open_out())
        durable.sync(job.descriptor)


def settle_in(ledger: Ledger, job: Job) -> None:
    """Mark what the claim of job owns as settled; durable on return."""
    if job.owned is None:
        asked_for = read_asked_for(job)
        if asked_for is None:
            return
        received_time, recipients = asked_for
        job.owned = received_time, ledger.owned_by(job.claim, received_time, recipients)
    ledger.settle(job.claim, *job.owned)
