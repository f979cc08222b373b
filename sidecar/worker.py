"""A worker process: claims what the intake offers, and runs messages through its threads.

Workers share nothing but the directories; the claim arbitrates between them. The main
thread looks (queue_runner.py) and tries again what waits (carrier.py); the others claim.

Diagnostics: run() returns an exit code; what goes wrong with a message ends in a named
state, what goes wrong with the system pauses the intake and is in the log.
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal

from structlog.typing import FilteringBoundLogger

from ..errors import ConflictError, NotReadyError
from ..requeue.claim import take
from ..requeue.job import Job
from ..requeue.ledger import Ledger
from ..requeue.slots import Slots
from ..requeue.state import StateDirectory
from ..spool.directory import Found
from ..spool.ids import MessageId
from ..spool.sources import Source
from . import pause
from .carrier import ONCE_PATIENCE, Carrier
from .containment import EXIT_UNFIT, MESSAGE_THREAD, OwnDescriptors
from .engine import Engine, is_failure
from .intake import Intake, Item
from .leaks import Leaks
from .measure import Meter
from .obstacles import Obstacle
from .pause import Pause
from .queue_runner import QueueRunner
from .status import Reporter
from .watchdog import Watchdog

#: Messages that may be kept in hand because the system fails: each costs descriptors.
_MOST_TROUBLED: Final = 32
_REPORT_SECONDS: Final = 5.0
#: What opening a name says that is no regular file: nothing is wrong with the system.
_NO_FILE_OF_EXIM: Final = frozenset({errno.ELOOP, errno.ENXIO, errno.EISDIR, errno.ENOTDIR})
_CLOSED: Final = frozenset({errno.EACCES, errno.EPERM})
#: A message is hung after so many times what it may take.
_GRACE: Final = 2.0

EXIT_DONE, EXIT_FAILED, EXIT_TEMPORARY = 0, 1, 75


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
        descriptors: OwnDescriptors,
    ) -> None:
        self._state, self._source, self._log = state, source, log
        self._slots, self._ledger, self._at_end, self._obstacles = slots, ledger, at_end, obstacles
        self._once = once
        self._thread_count = threads
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._probing = threading.Lock()
        self._guard = threading.Lock()
        self._left = 0
        self._next_report = 0.0
        self._reporter = Reporter(state, number, meter)
        self._intake = Intake(number, count)
        self._pause = Pause(log, self._reporter, obstacles, descriptors)
        self._leaks = Leaks(log, threads)
        self._watchdog = Watchdog(
            log,
            hung_after=(deadline_seconds + requeue_seconds) * _GRACE + pause.SECONDS,
            running=engine.running,
            beat=beat,
            is_stopping=self._stopping.is_set,
            check=descriptors.check,
        )
        self._carrier = Carrier(
            state, source, engine, log,
            pause=self._pause, reporter=self._reporter, watchdog=self._watchdog, wake=self._wake.set,
        )  # fmt: skip
        self._runner = QueueRunner(
            state,
            source,
            self._intake,
            self._carrier,
            log,
            pause=self._pause,
            wake=self._wake.set,
            is_stopping=self._stopping.is_set,
            once=once,
            sweeps=number == 0,
            scan_seconds=scan_seconds,
            orphan_seconds=orphan_seconds,
            drop_after_seconds=drop_after_seconds,
            ledger=ledger,
            in_use=in_use,
            watch_mode=watch_mode,
        )

    @property
    def ended(self) -> Counter[str]:
        """How many messages have ended, by outcome."""
        return self._carrier.ended

    def stop(self) -> None:
        """Finish the messages in hand, then end."""
        self._stopping.set()
        self._wake.set()

    def run(self) -> int:
        """Work until stopped, or until nothing is left with once. Returns the exit code."""
        # Before recovery: a message that hung a worker hangs the next one there.
        self._watchdog.start()
        self._runner.start()
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
            self._watchdog.end()
            if self._at_end is not None:
                self._at_end()
            self._reporter.remove()
            self._runner.stop()
        self._carrier.let_go()
        if self._ledger is not None:
            self._ledger.close()
        if self._leaks.were_found:
            return EXIT_UNFIT
        if self._carrier.kept() or self._left:
            return EXIT_TEMPORARY
        return EXIT_FAILED if any(is_failure(state) for state in self.ended) else EXIT_DONE

    # The main thread.

    def _pause_length(self) -> float:
        soonest = self._carrier.soonest()
        if soonest is None:
            return 1.0
        return max(0.001, min(1.0, soonest - time.monotonic()))

    def _tick(self) -> None:
        now = time.monotonic()
        self._watchdog.come_round()
        self._runner.look(now)
        self._carrier.go_on(now)
        if not self._pause.is_trouble_over() and self._pause.seconds_left() <= 0 and self._is_idle():
            # No message is there to try with, and every look has gone well since.
            self._pause.end()
        self._check_leaks()
        if now >= self._next_report:
            self._next_report = now + _REPORT_SECONDS
            self._report()
        self._runner.sweep(now)

    def _check_leaks(self) -> None:
        if self._leaks.check():
            self.stop()

    def _is_idle(self) -> bool:
        is_busy = self._watchdog.in_hand() or self._carrier.kept() or self._intake.waiting()
        return not is_busy and not self._runner.failing

    def _is_drained(self) -> bool:
        # In this order: what is in hand is kept before it is in hand no more.
        if self._watchdog.in_hand():
            return False
        if self._carrier.kept():
            return self._carrier.has_only_hopeless()
        return self._intake.waiting() == 0

    def _report(self) -> None:
        try:
            self._reporter.write(
                waiting=self._intake.waiting(), in_hand=self._watchdog.in_hand(), stuck=self._carrier.kept(),
                ended=self.ended,
            )  # fmt: skip
        except OSError as error:
            # Only the report: the disk may be full.
            self._log.debug("status.unwritten", error=error)

    # The threads.

    def _serve(self) -> None:
        while (taken := self._intake.take()) is not None:
            item, wait = taken
            seconds = self._pause.seconds_left()
            if seconds > 0:
                self._intake.again(item, seconds)
            elif self._pause.is_trouble_over():
                self._take_up(item, wait)
            elif self._carrier.troubled() >= _MOST_TROUBLED or not self._probing.acquire(blocking=False):
                self._intake.again(item, 1.0)
            else:
                # One alone tries whether the trouble is over.
                try:
                    self._take_up(item, wait)
                finally:
                    self._probing.release()
            # Here, too: it takes many messages a second to run out between two rounds of the main thread.
            self._check_leaks()

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
                self._carrier.carry(job, "due")
        except OSError as error:
            self._pause.begin(error, str(item.claim.id))
        self._intake.done(item)

    def _claim(self, found: Found, wait: float) -> None:
        try:
            job = take(self._state, self._source, found, self._slots)
        except ConflictError as error:
            if self._once and wait > ONCE_PATIENCE:
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
                self._intake.again(found, pause.LONGEST_SECONDS)
                return
            self._pause.begin(error, str(found.id))
            if self._once:
                self._leave(found)
            else:
                self._intake.again(found, pause.SECONDS)
        else:
            self._carrier.carry(job)
            self._intake.done(found)

    def _leave(self, found: Found) -> None:
        """A message that this run does not get."""
        with self._guard:
            self._left += 1
        self._intake.done(found)
