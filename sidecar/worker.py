"""A worker process: looks at the source, claims, and runs messages through its threads.

Workers share nothing but the directories; the claim arbitrates between them.

Diagnostics: run() returns an exit code; what goes wrong with a message ends in a named
state, what goes wrong with the system pauses the intake and is in the log.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConflictError, NotReadyError, SpoolFormatError, TemporaryError
from ..requeue import durable, orphans
from ..requeue.claim import take
from ..requeue.hold import drop_expired
from ..requeue.job import Job, Phase
from ..requeue.ledger import Ledger
from ..requeue.recovery import recover
from ..requeue.slots import Slots
from ..requeue.state import Claim, StateDirectory
from ..spool.directory import Found
from ..spool.file_system import file_system_type, is_remote
from ..spool.ids import MessageId
from ..spool.sources import Source
from ..spool.watch import Watch
from .engine import Engine, Why, is_failure
from .intake import Intake, Item
from .measure import Meter
from .obstacles import Obstacle
from .status import Reporter

#: Seconds; the fault tests shorten it.
_PAUSE = 5.0
_LONGEST_PAUSE: Final = 60.0
_FIRST_WAIT: Final = 0.01
#: After so many failures of a message, if others succeeded meanwhile or in any case, it is deferred.
_ENOUGH_FAILURES: Final = 3
_MOST_FAILURES: Final = 10
#: Messages that may be kept in hand because the system fails: each costs descriptors.
_MOST_TROUBLED: Final = 32
_REPORT_SECONDS: Final = 5.0
_SWEEP_SECONDS: Final = 60.0
#: What opening a name says that is no regular file: nothing is wrong with the system.
_NO_FILE_OF_EXIM: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOTDIR})
_CLOSED: Final = frozenset({errno.EACCES, errno.EPERM})
_GRACE: Final = 2.0
#: Seconds that a look at a very large directory may take; then the main loop counts as hung.
_LONGEST_LOOK: Final = 30.0
_LINES_SHOWN: Final = 4
#: The part of the descriptors a process may have, and the threads beside our own, that no healthy worker has.
_FULL: Final = 0.75
_MOST_THREADS: Final = 256
_ONCE_PATIENCE: Final = 1.0

#: How the names of threads begin that have messages in hand.
MESSAGE_THREAD: Final = "respool-message-"

EXIT_DONE, EXIT_FAILED, EXIT_TEMPORARY, EXIT_HUNG = 0, 1, 75, 70


class _Waiting(Struct):
    """A job in hand that can't go on at the moment; failures counts errors of the system, first is when they began."""

    job: Job
    due: float
    wait: float
    failures: int = 0
    first: float = 0.0


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
        ledger: Ledger | None = None,
        drop_after_seconds: float | None = None,
        at_end: Callable[[], None] | None = None,
        in_use: Callable[[MessageId], bool] | None = None,
        watch_mode: Literal["auto", "poll"] = "auto",
        meter: Meter | None = None,
        beat: Callable[[], None] | None = None,
        obstacles: Callable[[], tuple[Obstacle, ...]] = tuple,
        slots: Slots | None = None,
    ) -> None:
        self._slots = slots
        self._beat = beat or _nobody_listens
        self._obstacles = obstacles
        self._in_use = in_use
        self._at_end = at_end
        self._ledger = ledger
        self._drop_after_seconds = drop_after_seconds
        self._is_first = number == 0
        self._reporter = Reporter(state, number, meter)
        self._next_report = self._next_sweep = 0.0
        self._last_success = time.monotonic()
        self._last_trouble = 0.0
        self._probing = threading.Lock()
        self._failing_looks: set[str] = set()
        self._watch_mode = watch_mode
        self._state, self._source, self._engine = state, source, engine
        self._log = log
        self._once = once
        self._scan_seconds, self._orphan_seconds = scan_seconds, orphan_seconds
        self._hung_after = deadline_seconds * _GRACE + requeue_seconds * _GRACE + _PAUSE
        self._thread_count = threads
        self._intake = Intake(number, count)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._scan_wanted = True
        self._next_scan = 0.0
        self._guard = threading.Lock()
        self._main_thread = 0
        self._came_round = time.monotonic()
        self._in_hand: dict[int, tuple[float, str]] = {}
        self._waiting: list[_Waiting] = []
        self._paused_until = 0.0
        self._halves: dict[Found, float] = {}
        self._retry_at: dict[Claim, tuple[int, float]] = {}
        self._strangers: set[str] = set()
        self.ended: Counter[str] = Counter()
        self._left = 0
        self._watch: Watch | None = None

    def stop(self) -> None:
        """Finish the messages in hand, then end."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> int:
        """Work until stopped, or until nothing is left with once. Returns the exit code."""
        self._main_thread, self._came_round = threading.get_ident(), time.monotonic()
        # Before recovery: a message that hung a worker hangs the next one there.
        threading.Thread(target=self._watch_over, name="watchdog", daemon=True).start()
        self._start_watching()
        self._attempt(self._recover_all)
        threads = [
            threading.Thread(target=self._serve, name=f"{MESSAGE_THREAD}{number}")
            for number in range(self._thread_count)
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
                thread.join()
            self._ended.set()
            if self._at_end is not None:
                self._at_end()
            self._reporter.remove()
            if self._watch is not None:
                self._watch.stop()
        for waiting in self._waiting:
            self._engine.let_go(waiting.job)
        if self._ledger is not None:
            self._ledger.close()
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
        if self._once or self._watch_mode == "poll":
            return
        file_system = file_system_type(self._source.input.descriptor)
        if is_remote(file_system):
            self._log.warning(
                "watch.remote", file_system=file_system, polling_seconds=self._scan_seconds,
                advice="what other hosts put here brings no event: it waits for the next scan",
            )  # fmt: skip
        watch = Watch(self._source.input, self._appeared, self._lost)
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
        now = self._came_round = time.monotonic()
        if self._watch is not None and not self._watch.is_alive():
            self._log.error("watch.died", action="started again")
            self._watch.stop()
            self._watch = None
            self._start_watching()
            self._scan_wanted = True
        if self._scan_wanted or now >= self._next_scan:
            self._scan_wanted = False
            self._next_scan = now + self._scan_seconds
            if self._watch is None:
                self._start_watching()
            self._attempt(self._scan)
            self._attempt(self._retry_deferred)
            self._attempt(self._recover_all)
            if self._failing_looks:
                self._next_scan = now + min(_PAUSE, self._scan_seconds)
        self._go_on_waiting(now)
        if self._is_in_trouble() and now >= self._paused_until and self._is_idle():
            # No message is there to try with, and every look has gone well since.
            self._succeed()
        self._check_leaks()
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            self._report()
        if self._is_first and now >= self._next_sweep:
            self._attempt(self._sweep)
            self._next_sweep = now + (_PAUSE if self._failing_looks else _SWEEP_SECONDS)

    def _attempt(self, look: Callable[[], None]) -> None:
        try:
            look()
        except OSError as error:
            self._failing_looks.add(look.__name__)
            self._pause(error)
        else:
            self._failing_looks.discard(look.__name__)

    def _scan(self) -> None:
        now = time.monotonic()
        listing = self._source.input.list()
        self._intake.offer_all(listing.pairs)
        if self._watch is not None:
            try:
                self._watch.add(listing.subdirectories)
            except OSError as error:
                self._log.warning("watch.incomplete", error=error, polling_seconds=self._scan_seconds)
        for name in set(listing.strangers) - self._strangers:
            self._log.error("source.stranger", name=name, reason="named as a message's file, but no regular file")
        self._strangers = set(listing.strangers)
        self._halves = {found: self._halves.get(found, now) for found in listing.halves}
        for found, since in self._halves.items():
            if orphans.reunite(self._state, self._source, found):
                self._intake.offer(found)
            elif now - since >= self._orphan_seconds or (self._once and self._orphan_seconds == 0):
                self._set_aside(found)

    def _set_aside(self, found: Found) -> None:
        job = orphans.set_aside(self._state, self._source, found, self._in_use)
        if job is not None:
            self._carry(job)

    def _recover_all(self) -> None:
        # One after the other, in claim order: so a message that kills its worker is the one that is blamed.
        self._state.sweep_gone()
        for claim in self._state.list("work"):
            if self._stopping.is_set():
                return
            job = Job.take(self._state, "work", claim)
            if job is not None:
                self._carry(job, "crashed")

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

    def _report(self) -> None:
        with self._guard:
            stuck, in_hand = len(self._waiting), len(self._in_hand)
        try:
            self._reporter.write(waiting=self._intake.waiting(), in_hand=in_hand, stuck=stuck, ended=self.ended)
        except OSError as error:
            # Only the report: the disk may be full.
            self._log.debug("status.unwritten", error=error)

    # The threads: working.

    def _serve(self) -> None:
        while (taken := self._intake.take()) is not None:
            item, wait = taken
            pause = self._paused_until - time.monotonic()
            if pause > 0:
                self._intake.again(item, pause)
            elif not self._is_in_trouble():
                self._take_up(item, wait)
            elif self._troubled() >= _MOST_TROUBLED or not self._probing.acquire(blocking=False):
                self._intake.again(item, 1.0)
            else:
                # One alone tries whether the trouble is over.
                try:
                    self._take_up(item, wait)
                finally:
                    self._probing.release()

    def _is_in_trouble(self) -> bool:
        return self._last_trouble > self._last_success

    def _is_idle(self) -> bool:
        with self._guard:
            is_busy = bool(self._in_hand or self._waiting)
        return not is_busy and not self._failing_looks and not self._intake.waiting()

    def _troubled(self) -> int:
        with self._guard:
            return sum(1 for waiting in self._waiting if waiting.failures)

    def _take_up(self, item: Item, wait: float) -> None:
        if isinstance(item, Found):
            self._claim(item, wait)
            return
        try:
            job = Job.take(self._state, "deferred", item.claim)
            if job is not None and job.read_status().retry_at > time.time():
                job.close()
            elif job is not None:
                job.move("work")
                self._carry(job, "due")
        except OSError as error:
            self._pause(error, str(item.claim.id))
        self._intake.done(item)

    def _claim(self, found: Found, wait: float) -> None:
        try:
            job = take(self._state, self._source, found, self._slots)
        except ConflictError as error:
            if self._once and wait > _ONCE_PATIENCE:
                self._log.warning("message.locked", id=str(found.id), holder=error.holder)
                self._leave(found)
            else:
                self._intake.again(found, wait)
        except NotReadyError:
            self._intake.done(found)
        except OSError as error:
            if error.errno in _NO_FILE_OF_EXIM:
                self._log.error("message.unreadable", id=str(found.id), error=error)
                self._leave(found)
                return
            if error.errno in _CLOSED and not self._once and not self._obstacles():
                # The directories are open to us, so it is this file: it may not stop the rest.
                self._log.error("message.unreadable", id=str(found.id), error=error)
                self._intake.again(found, _LONGEST_PAUSE)
                return
            self._pause(error, str(found.id))
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

    def _carry(self, job: Job, why: Why = "claimed", before: _Waiting | None = None) -> None:
        """Handle a job; what can't go on now is kept in hand and tried again."""
        me = threading.get_ident()
        with self._guard:
            self._in_hand[me] = time.monotonic(), str(job.id)
        try:
            phase = recover(self._state, self._source, job)
            if why != "claimed":
                self._log.info("message.recovered", id=str(job.id), claim=job.claim.number, phase=phase.name.lower())
            state = None if phase is Phase.EMPTY else self._engine.handle(job, phase, why=why)
        except ConflictError as error:
            self._log.info("message.waits", id=str(job.id), holder=error.holder)
            wait = min((before.wait if before is not None else _FIRST_WAIT) * 2, _PAUSE)
            self._keep(_Waiting(job, time.monotonic() + wait, wait))
        except (OSError, SpoolFormatError, TemporaryError) as error:
            self._fail(job, error, before)
        else:
            job.close()
            self._succeed()
            if state is not None:
                with self._guard:
                    self.ended[state] += 1
        finally:
            if me == self._main_thread:
                self._came_round = time.monotonic()
            with self._guard:
                self._in_hand.pop(me, None)

    def _succeed(self) -> None:
        self._last_success = time.monotonic()
        seconds = self._reporter.resumed()
        if seconds:
            self._log.info("intake.resumed", seconds=round(seconds, 1))

    def _fail(self, job: Job, error: Exception, before: _Waiting | None) -> None:
        """The system, or a part of it that concerns this message, can't go on.

        While nothing succeeds it is the system, and everything waits. What fails while others succeed, or
        for very long, goes to deferred/: it may not stop the rest.
        """
        now = time.monotonic()
        failures = before.failures + 1 if before is not None else 1
        first = before.first if before is not None and before.failures else now
        if isinstance(error, OSError) and failures == 1:
            self._pause(error, str(job.id))
        else:
            self._reporter.failed(str(error), str(job.id))
            self._log.error("message.stuck", id=str(job.id), error=error, failures=failures)
        if failures >= _MOST_FAILURES or (failures >= _ENOUGH_FAILURES and self._last_success > first):
            try:
                self._engine.put_off(job, f"{type(error).__name__}: {error}")
            except OSError as another:
                self._log.error("message.stuck", id=str(job.id), error=another, failures=failures)
            else:
                job.close()
                with self._guard:
                    self.ended["deferred"] += 1
                return
        wait = min(_PAUSE * 2.0 ** (failures - 1), _LONGEST_PAUSE)
        self._keep(_Waiting(job, now + wait, wait, failures, first))

    def _keep(self, waiting: _Waiting) -> None:
        waiting.job.is_fresh = False
        with self._guard:
            self._waiting.append(waiting)
        self._wake.set()

    def _go_on_waiting(self, now: float) -> None:
        with self._guard:
            due = [waiting for waiting in self._waiting if waiting.due <= now]
            self._waiting = [waiting for waiting in self._waiting if waiting.due > now]
        for waiting in due:
            self._carry(waiting.job, before=waiting)

    def _pause(self, error: OSError, message_id: str = "") -> None:
        """Trouble with the system itself: take nothing new for a while."""
        self._last_trouble = time.monotonic()
        self._paused_until = self._last_trouble + _PAUSE
        obstacles = self._obstacles()
        self._reporter.failed(str(error), message_id)
        since = self._reporter.paused("; ".join(map(str, obstacles)) or str(error))
        self._log.error(
            "intake.paused", error=error, id=message_id or None, seconds=_PAUSE, since=round(since, 3),
            obstacles=[str(one) for one in obstacles], advice=[one.advice for one in obstacles],
        )  # fmt: skip

    def _is_drained(self) -> bool:
        with self._guard:
            if self._in_hand:
                return False
            if self._waiting:
                return all(waiting.wait >= _ONCE_PATIENCE for waiting in self._waiting)
        return self._intake.waiting() == 0

    def _check_leaks(self) -> None:
        """End this worker, for another to be started, where a processor keeps open or running what it should not."""
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        threads = threading.active_count() - self._thread_count
        targets: Counter[str] = Counter()
        try:
            descriptors = os.listdir("/proc/self/fd")
        except OSError as error:
            if error.errno != errno.EMFILE:
                return
            # Not even one for looking is left: then they are 0 to limit, or there about.
            descriptors = [str(number) for number in range(limit)]
        if len(descriptors) < limit * _FULL and threads < _MOST_THREADS:
            return
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                targets[os.readlink(f"/proc/self/fd/{descriptor}").partition(":")[0]] += 1
        self._log.error(
            "worker.leaking", descriptors=len(descriptors), limit=limit, threads=threads,
            most=", ".join(f"{target} {count} times" for target, count in targets.most_common(3)),
            action="ends and is started again",
        )  # fmt: skip
        self.stop()

    def _watch_over(self) -> None:
        while not self._ended.wait(1.0):
            self._check_hung()
            if self._is_coming_round():
                self._beat()

    def _is_coming_round(self) -> bool:
        """Whether the main loop is not hung; while a message is in its hand that has a deadline of its own."""
        with self._guard:
            is_in_hand = self._main_thread in self._in_hand
        is_looking = time.monotonic() - self._came_round <= _LONGEST_LOOK
        return is_looking or is_in_hand or self._stopping.is_set()

    def _check_hung(self) -> None:
        """A processor that hangs costs its worker, whose jobs another one finishes."""
        now = time.monotonic()
        with self._guard:
            hung = [
                (thread, message)
                for thread, (since, message) in self._in_hand.items()
                if now - since > self._hung_after
            ]
        if hung:
            thread, message = hung[0]
            self._log.error(
                "worker.hung", id=message, seconds=self._hung_after, processor=self._engine.running(thread) or None,
                where=_where(thread),
            )  # fmt: skip
            os._exit(EXIT_HUNG)


def _where(thread: int) -> str:
    """The innermost lines that a thread is at, for whoever has to find out what it waits for."""
    frame = sys._current_frames().get(thread)
    lines = traceback.extract_stack(frame)[-_LINES_SHOWN:] if frame is not None else []
    return " < ".join(f"{line.filename}:{line.lineno} {line.name}" for line in reversed(lines))


def _nobody_listens() -> None:
    """Without a parent no sign of life is needed."""
