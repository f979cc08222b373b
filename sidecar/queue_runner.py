"""Queue runs: looking at everything that is there, since events are hints and a scan is the truth.

One run offers what the source holds and what is due in ``deferred/`` to the intake, and
carries what a worker that died has left in ``work/``. The watch brings single names
between two runs.

Diagnostics: look() and sweep() raise nothing: OSError from the system pauses the intake, and
the look that failed is taken again soon.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

from structlog.typing import FilteringBoundLogger

from ..requeue import durable, orphans
from ..requeue.hold import drop_expired
from ..requeue.job import Job
from ..requeue.ledger import Ledger
from ..requeue.state import Claim, StateDirectory
from ..spool.directory import Found
from ..spool.file_system import file_system_type, is_remote
from ..spool.ids import MessageId
from ..spool.sources import Source
from ..spool.watch import Watch
from . import pause
from .carrier import Carrier
from .intake import Intake
from .pause import Pause

_SWEEP_SECONDS: Final = 60.0


class QueueRunner:
    """The looks of one worker; for its main thread, but for what the watch calls.

    sweeps: this worker removes what has expired, for all. is_stopping ends a long recovery.
    """

    def __init__(
        self,
        state: StateDirectory,
        source: Source,
        intake: Intake,
        carrier: Carrier,
        log: FilteringBoundLogger,
        *,
        pause: Pause,
        wake: Callable[[], None],
        is_stopping: Callable[[], bool],
        once: bool,
        sweeps: bool,
        scan_seconds: float,
        orphan_seconds: float,
        drop_after_seconds: float | None,
        ledger: Ledger | None,
        in_use: Callable[[MessageId], bool] | None,
        watch_mode: Literal["auto", "poll"],
    ) -> None:
        self._state, self._source, self._intake, self._carrier = state, source, intake, carrier
        self._log, self._pause, self._wake, self._is_stopping = log, pause, wake, is_stopping
        self._once, self._sweeps = once, sweeps
        self._scan_seconds, self._orphan_seconds = scan_seconds, orphan_seconds
        self._drop_after_seconds, self._ledger, self._in_use = drop_after_seconds, ledger, in_use
        self._watch_mode = watch_mode
        #: The names of the looks whose last time failed.
        self.failing: set[str] = set()
        self.is_wanted = True
        self._next_run = self._next_sweep = 0.0
        self._halves: dict[Found, float] = {}
        self._retry_at: dict[Claim, tuple[int, float]] = {}
        self._strangers: set[str] = set()
        self.watch: Watch | None = None

    def start(self) -> None:
        """Begin watching, then finish what others left: in that order, so that nothing falls between."""
        self._start_watching()
        self._attempt(self._recover_all)

    def stop(self) -> None:
        """End the watch."""
        if self.watch is not None:
            self.watch.stop()

    def look(self, now: float) -> None:
        """A queue run if one is due or wanted; now is of the monotonic clock."""
        if self.watch is not None and not self.watch.is_alive():
            self._log.error("watch.died", action="started again")
            self.watch.stop()
            self.watch = None
            self._start_watching()
            self.is_wanted = True
        if not self.is_wanted and now < self._next_run:
            return
        self.is_wanted = False
        self._next_run = now + self._scan_seconds
        if self.watch is None:
            self._start_watching()
        self._attempt(self._scan)
        self._attempt(self._retry_deferred)
        self._attempt(self._recover_all)
        if self.failing:
            self._next_run = now + min(pause.SECONDS, self._scan_seconds)

    def sweep(self, now: float) -> None:
        """Remove what has expired, if it is time, and if this is the worker that does."""
        if self._sweeps and now >= self._next_sweep:
            self._attempt(self._sweep)
            self._next_sweep = now + (pause.SECONDS if self.failing else _SWEEP_SECONDS)

    def _attempt(self, look: Callable[[], None]) -> None:
        try:
            look()
        except OSError as error:
            self.failing.add(look.__name__)
            self._pause.begin(error)
        else:
            self.failing.discard(look.__name__)

    # The watch.

    def _start_watching(self) -> None:
        if self._once or self._watch_mode == "poll":
            return
        file_system = file_system_type(self._source.input.descriptor)
        if is_remote(file_system):
            self._log.warning(
                "watch.remote", file_system=file_system, polling_seconds=self._scan_seconds,
                advice="what other hosts put here brings no event: it waits for the next scan",
            )  # fmt: skip
        watch = Watch(self._source.input, self._intake.offer, self._lost)
        try:
            watch.start()
        except OSError as error:
            self._log.warning("watch.unavailable", error=error, polling_seconds=self._scan_seconds)
            return
        self.watch = watch

    def _lost(self) -> None:
        self.is_wanted = True
        self._wake()

    # The looks.

    def _scan(self) -> None:
        now = time.monotonic()
        listing = self._source.input.list()
        self._intake.offer_all(listing.pairs)
        if self.watch is not None:
            try:
                self.watch.add(listing.subdirectories)
            except OSError as error:
                self._log.warning("watch.incomplete", error=error, polling_seconds=self._scan_seconds)
        for name in set(listing.strangers) - self._strangers:
            self._log.error("source.stranger", name=name, reason="named as a message's file, but no regular file")
        self._strangers = set(listing.strangers)
        self._halves = {found: self._halves.get(found, now) for found in listing.halves}
        # Once for all halves: a crash may leave many, and many may have been set aside before.
        set_aside = {claim.id for claim in self._state.list("corrupt")} if self._halves else frozenset[MessageId]()
        for found, since in self._halves.items():
            if found.id in set_aside and orphans.reunite(self._state, self._source, found):
                self._intake.offer(found)
            elif now - since >= self._orphan_seconds or (self._once and self._orphan_seconds == 0):
                self._set_aside(found)

    def _set_aside(self, found: Found) -> None:
        job = orphans.set_aside(self._state, self._source, found, self._in_use)
        if job is not None:
            self._carrier.carry(job)

    def _recover_all(self) -> None:
        # One after the other, in claim order: so a message that kills its worker is the one that is blamed.
        self._state.sweep_gone()
        for claim in self._state.list("work"):
            if self._is_stopping():
                return
            job = Job.take(self._state, "work", claim)
            if job is not None:
                self._carrier.carry(job, "crashed")

    def _retry_deferred(self) -> None:
        now = time.time()
        known, self._retry_at = self._retry_at, {}
        due: list[Claim] = []
        for claim in self._state.list("deferred"):
            status = durable.exists(claim.name, at=self._state.states["deferred"])
            if status is None:
                continue
            changed, retry_at = known.get(claim, (0, 0.0))
            # An operator's command replaces status.json, which changes the directory.
            if changed != status.st_mtime_ns:
                job = Job.take(self._state, "deferred", claim)
                if job is None:
                    continue
                retry_at = job.read_status().retry_at
                job.close()
            self._retry_at[claim] = status.st_mtime_ns, retry_at
            if retry_at <= now:
                due.append(claim)
        self._intake.offer_due(due)

    def _sweep(self) -> None:
        if self._ledger is not None:
            removed = self._ledger.sweep()
            if removed:
                self._log.info("ledger.expired", entries=removed)
        if self._drop_after_seconds is not None:
            for kept in drop_expired(self._state, self._ledger, time.time() - self._drop_after_seconds):
                self._log.warning("message.dropped", id=str(kept.claim.id), claim=kept.claim.number,
                                  reason=f"held for too long: {kept.status.reason}")  # fmt: skip
