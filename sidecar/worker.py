"""A worker process: looks at the source, claims, and runs messages through its threads.

Workers share nothing but the directories; the claim arbitrates between them.

Diagnostics: run() returns an exit code; what goes wrong with a message ends in a named
state, what goes wrong with the system pauses the intake and is in the log.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConflictError, NotReadyError
from ..requeue import orphans
from ..requeue.claim import take
from ..requeue.job import Job, Phase
from ..requeue.recovery import recover
from ..requeue.state import Claim, StateDirectory
from ..spool.directory import Found
from ..spool.sources import Source
from ..spool.watch import Watch
from .engine import Engine, is_failure
from .intake import Intake

_PAUSE: Final = 5.0
_GRACE: Final = 2.0
_ONCE_PATIENCE: Final = 1.0

EXIT_DONE, EXIT_FAILED, EXIT_TEMPORARY, EXIT_HUNG = 0, 1, 75, 70


class _Waiting(Struct):
    """A job in hand that can't go on at the moment."""

    job: Job
    due: float
    wait: float


class Worker:
    """One worker, in its own process. stop() may be called from a signal handler."""

    def __init__(
        self,
        state: StateDirectory,
        source: Source,
        engine: Engine,
        log: FilteringBoundLogger,
        *,
        number: int = 0,
        count: int = 1,
        threads: int = 8,
        once: bool = False,
        scan_seconds: float = 30.0,
        orphan_seconds: float = 600.0,
        deadline_seconds: float = 60.0,
        requeue_seconds: float = 0.0,
    ) -> None:
        self._state, self._source, self._engine = state, source, engine
        self._log = log
        self._once = once
        self._scan_seconds, self._orphan_seconds = scan_seconds, orphan_seconds
        self._hung_after = deadline_seconds * _GRACE + requeue_seconds * _GRACE + _PAUSE
        self._thread_count = threads
        self._intake = Intake(number, count)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._scan_wanted = True
        self._next_scan = 0.0
        self._guard = threading.Lock()
        self._in_hand: dict[int, tuple[float, str]] = {}
        self._waiting: list[_Waiting] = []
        self._paused_until = 0.0
        self._halves: dict[Found, float] = {}
        self._retry_at: dict[Claim, float] = {}
        self.ended: Counter[str] = Counter()
        self._left = 0
        self._watch: Watch | None = None

    def stop(self) -> None:
        """Finish the messages in hand, then end."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> int:
        """Work until stopped, or until nothing is left with once. Returns the exit code."""
        self._start_watching()
        self._attempt(self._recover_all)
        threads = [
            threading.Thread(target=self._serve, name=f"message-{number}") for number in range(self._thread_count)
        ]
        for thread in threads:
            thread.start()
        try:
            while not self._stopping.is_set():
                self._tick()
                if self._once and self._is_drained():
                    break
                self._wake.wait(0.02 if self._once else self._pause_length())
                self._wake.clear()
        finally:
            self._intake.close()
            for thread in threads:
                while thread.is_alive():
                    thread.join(0.2)
                    self._check_hung()
            if self._watch is not None:
                self._watch.stop()
            self._engine.close()
        for waiting in self._waiting:
            waiting.job.close()
        if self._waiting or self._left:
            return EXIT_TEMPORARY
        return EXIT_FAILED if any(is_failure(state) for state in self.ended) else EXIT_DONE

    # The main thread: looking.

    def _pause_length(self) -> float:
        with self._guard:
            soonest = min((waiting.due for waiting in self._waiting), default=None)
        if soonest is None:
            return 1.0
        return max(0.001, min(1.0, soonest - time.monotonic()))

    def _start_watching(self) -> None:
        if self._once:
            return
        watch = Watch(self._source.path, self._appeared, self._lost)
        try:
            watch.start()
        except OSError as error:
            self._log.warning("watch.unavailable", error=error, polling_seconds=self._scan_seconds)
            return
        self._watch = watch

    def _appeared(self, found: Found) -> None:
        self._intake.offer(found)

    def _lost(self) -> None:
        self._scan_wanted = True
        self._wake.set()

    def _tick(self) -> None:
        now = time.monotonic()
        if self._watch is not None and not self._watch.is_alive():
            self._log.error("watch.died", action="started again")
            self._watch.stop()
            self._start_watching()
            self._scan_wanted = True
        if self._scan_wanted or now >= self._next_scan:
            self._scan_wanted = False
            self._next_scan = now + self._scan_seconds
            self._attempt(self._scan)
            self._attempt(self._retry_deferred)
            self._attempt(self._recover_all)
        self._go_on_waiting(now)
        self._check_hung()

    def _attempt(self, look: Callable[[], None]) -> None:
        try:
            look()
        except OSError as error:
            self._pause(error)

    def _scan(self) -> None:
        now = time.monotonic()
        listing = self._source.input.list()
        self._intake.offer_all(listing.pairs)
        if self._watch is not None:
            for subdirectory in {found.subdirectory for found in (*listing.pairs, *listing.halves)}:
                self._watch.add(subdirectory)
        self._halves = {found: self._halves.get(found, now) for found in listing.halves}
        for found, since in self._halves.items():
            if orphans.reunite(self._state, self._source, found):
                self._intake.offer(found)
            elif now - since >= self._orphan_seconds or (self._once and self._orphan_seconds == 0):
                self._set_aside(found)

    def _set_aside(self, found: Found) -> None:
        job = orphans.set_aside(self._state, self._source, found)
        if job is not None:
            self._carry(job)

    def _recover_all(self) -> None:
        self._state.sweep_gone()
        for claim in self._state.list("work"):
            if self._stopping.is_set():
                return
            job = Job.take(self._state, "work", claim)
            if job is None:
                continue
            self._carry(job, again=True)

    def _retry_deferred(self) -> None:
        now = time.time()
        claims = self._state.list("deferred")
        known = self._retry_at
        self._retry_at = {claim: known[claim] for claim in claims if claim in known}
        for claim in claims:
            if self._retry_at.get(claim, 0.0) > now:
                continue
            job = Job.take(self._state, "deferred", claim)
            if job is None:
                continue
            status = job.read_status()
            self._retry_at[claim] = status.retry_at
            if status.retry_at > now:
                job.close()
                continue
            job.move("work")
            self._carry(job, again=True)

    # The threads: working.

    def _serve(self) -> None:
        while (taken := self._intake.take()) is not None:
            found, wait = taken
            pause = self._paused_until - time.monotonic()
            if pause > 0:
                self._intake.again(found, pause)
                continue
            self._claim(found, wait)

    def _claim(self, found: Found, wait: float) -> None:
        try:
            job = take(self._state, self._source, found)
        except ConflictError as error:
            if self._once and wait > _ONCE_PATIENCE:
                self._log.warning("message.locked", id=str(found.id), holder=error.holder)
                self._leave(found)
            else:
                self._intake.again(found, wait)
        except NotReadyError:
            self._intake.done(found)
        except OSError as error:
            self._pause(error)
            if self._once:
                self._leave(found)
            else:
                self._intake.again(found, _PAUSE)
        else:
            self._carry(job)
            self._intake.done(found)

    def _leave(self, found: Found) -> None:
        """A message that this run does not get."""
        with self._guard:
            self._left += 1
        self._intake.done(found)

    def _carry(self, job: Job, *, again: bool = False, wait: float = 0.01) -> None:
        """Handle a job; what can't go on now is kept in hand and tried again.

        again: somebody had it in hand before, and it was left as it is now.
        """
        me = threading.get_ident()
        with self._guard:
            self._in_hand[me] = time.monotonic(), str(job.id)
        try:
            phase = recover(self._state, self._source, job)
            if again:
                self._log.info("message.recovered", id=str(job.id), claim=job.claim.number, phase=phase.name.lower())
            state = None if phase is Phase.EMPTY else self._engine.handle(job, phase, again=again)
        except ConflictError as error:
            self._log.info("message.waits", id=str(job.id), holder=error.holder)
            self._keep(job, min(wait * 2, _PAUSE))
        except OSError as error:
            self._pause(error, str(job.id))
            self._keep(job, _PAUSE)
        else:
            job.close()
            if state is not None:
                with self._guard:
                    self.ended[state] += 1
        finally:
            with self._guard:
                self._in_hand.pop(me, None)

    def _keep(self, job: Job, wait: float) -> None:
        with self._guard:
            self._waiting.append(_Waiting(job, time.monotonic() + wait, wait))
        self._wake.set()

    def _go_on_waiting(self, now: float) -> None:
        with self._guard:
            due = [waiting for waiting in self._waiting if waiting.due <= now]
            self._waiting = [waiting for waiting in self._waiting if waiting.due > now]
        for waiting in due:
            self._carry(waiting.job, wait=waiting.wait)

    def _pause(self, error: OSError, message_id: str | None = None) -> None:
        """Trouble with the system itself: take nothing new for a while."""
        self._paused_until = time.monotonic() + _PAUSE
        self._log.error("intake.paused", error=error, id=message_id, seconds=_PAUSE)

    def _is_drained(self) -> bool:
        with self._guard:
            if self._in_hand:
                return False
            if self._waiting:
                return all(waiting.wait >= _ONCE_PATIENCE for waiting in self._waiting)
        return self._intake.waiting() == 0

    def _check_hung(self) -> None:
        """A processor that hangs costs its worker, whose jobs another one finishes."""
        now = time.monotonic()
        with self._guard:
            hung = [message for since, message in self._in_hand.values() if now - since > self._hung_after]
        if hung:
            self._log.error("worker.hung", id=hung[0], seconds=self._hung_after)
            os._exit(EXIT_HUNG)
