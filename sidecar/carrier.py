"""Carrying claimed messages to their end, and keeping in hand those that can't go on at the moment.

A message that Exim has locked waits and is tried again soon. One that the system fails
pauses the intake; while nothing succeeds it is the system, and everything waits. What fails
while others succeed, or for very long, goes to ``deferred/``: it may not stop the rest.

Diagnostics: carry() raises nothing of the system: the job is kept and tried again by go_on().
"""

from __future__ import annotations

import errno
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConflictError, SpoolFormatError, TemporaryError
from ..requeue.job import Job, Phase
from ..requeue.recovery import recover
from ..requeue.state import StateDirectory
from ..spool.sources import Source
from . import pause
from .engine import Engine, Why
from .pause import Pause
from .status import Reporter
from .watchdog import Watchdog

_FIRST_WAIT: Final = 0.01
#: Seconds between attempts at a message after which a run that drains the source gives it up.
ONCE_PATIENCE: Final = 1.0
#: After so many failures of a message, if others succeeded meanwhile or in any case, it is deferred.
_ENOUGH_FAILURES: Final = 3
_MOST_FAILURES: Final = 10


class _Waiting(Struct):
    """A job in hand that can't go on at the moment; failures counts errors of the system, first is when they began."""

    job: Job
    due: float
    wait: float
    failures: int = 0
    first: float = 0.0


class Carrier:
    """Shared by the threads of a worker; wake is called when a job is kept. ended counts messages by outcome."""

    def __init__(
        self,
        state: StateDirectory,
        source: Source,
        engine: Engine,
        log: FilteringBoundLogger,
        *,
        pause: Pause,
        reporter: Reporter,
        watchdog: Watchdog,
        wake: Callable[[], None],
    ) -> None:
        self._state, self._source, self._engine, self._log = state, source, engine, log
        self._pause, self._reporter, self._watchdog, self._wake = pause, reporter, watchdog, wake
        self._guard = threading.Lock()
        self._waiting: list[_Waiting] = []
        self.ended: Counter[str] = Counter()

    def carry(self, job: Job, why: Why = "claimed") -> None:
        """Handle a job; what can't go on now is kept in hand and tried again."""
        self._carry(job, why, None)

    def go_on(self, now: float) -> None:
        """Try again what has waited long enough."""
        with self._guard:
            due = [waiting for waiting in self._waiting if waiting.due <= now]
            self._waiting = [waiting for waiting in self._waiting if waiting.due > now]
        for waiting in due:
            self._carry(waiting.job, "claimed", waiting)

    def let_go(self) -> None:
        """Leave what is kept to whoever takes it up next, since this worker ends in good order."""
        for waiting in self._waiting:
            self._engine.let_go(waiting.job)

    def kept(self) -> int:
        """How many messages are kept in hand."""
        with self._guard:
            return len(self._waiting)

    def troubled(self) -> int:
        """How many messages are kept in hand because the system failed."""
        with self._guard:
            return sum(1 for waiting in self._waiting if waiting.failures)

    def soonest(self) -> float | None:
        """When the next of them is due, by the monotonic clock; None where none is kept."""
        with self._guard:
            return min((waiting.due for waiting in self._waiting), default=None)

    def has_only_hopeless(self) -> bool:
        """Whether all that is kept has been waited for long enough, for a run that drains the source."""
        with self._guard:
            return all(waiting.wait >= ONCE_PATIENCE for waiting in self._waiting)

    def _carry(self, job: Job, why: Why, before: _Waiting | None) -> None:
        with self._watchdog.over(str(job.id)):
            try:
                phase = recover(self._state, self._source, job)
                if why != "claimed":
                    self._log.info(
                        "message.recovered", id=str(job.id), claim=job.claim.number, phase=phase.name.lower()
                    )
                state = None if phase is Phase.EMPTY else self._engine.handle(job, phase, why=why)
            except ConflictError as error:
                self._log.info("message.waits", id=str(job.id), holder=error.holder)
                wait = min((before.wait if before is not None else _FIRST_WAIT) * 2, pause.SECONDS)
                self._keep(_Waiting(job, time.monotonic() + wait, wait))
            except (OSError, SpoolFormatError, TemporaryError) as error:
                self._fail(job, error, before)
            else:
                job.close()
                self._pause.end()
                if state is not None:
                    self._count(state)

    def _count(self, state: str) -> None:
        with self._guard:
            self.ended[state] += 1

    def _fail(self, job: Job, error: Exception, before: _Waiting | None) -> None:
        """The system, or a part of it that concerns this message, can't go on."""
        now = time.monotonic()
        failures = before.failures + 1 if before is not None else 1
        first = before.first if before is not None and before.failures else now
        if isinstance(error, OSError) and (failures == 1 or error.errno == errno.EBADF):
            self._pause.begin(error, str(job.id))
        else:
            self._reporter.failed(str(error), str(job.id))
            self._log.error("message.stuck", id=str(job.id), error=error, failures=failures)
        if failures >= _MOST_FAILURES or (failures >= _ENOUGH_FAILURES and self._pause.has_succeeded_since(first)):
            try:
                self._engine.put_off(job, f"{type(error).__name__}: {error}")
            except OSError as another:
                self._log.error("message.stuck", id=str(job.id), error=another, failures=failures)
            else:
                job.close()
                self._count("deferred")
                return
        wait = min(pause.SECONDS * 2.0 ** (failures - 1), pause.LONGEST_SECONDS)
        self._keep(_Waiting(job, now + wait, wait, failures, first))

    def _keep(self, waiting: _Waiting) -> None:
        waiting.job.is_fresh = False
        with self._guard:
            self._waiting.append(waiting)
        self._wake()
