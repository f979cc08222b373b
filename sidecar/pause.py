"""The pause of the intake: nothing new is taken in while the system itself can't go on.

After a pause one thread alone tries whether the trouble is over; the first success ends it.

Diagnostics: raises nothing; ``intake.paused`` says what is in the way and what to do.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from structlog.typing import FilteringBoundLogger

from .containment import OwnDescriptors
from .obstacles import Obstacle
from .status import Reporter

#: Seconds; the fault tests shorten it.
SECONDS = 5.0
LONGEST_SECONDS: Final = 60.0


class Pause:
    """Shared by the threads of a worker. obstacles looks for what an administrator can remove."""

    def __init__(
        self,
        log: FilteringBoundLogger,
        reporter: Reporter,
        obstacles: Callable[[], tuple[Obstacle, ...]],
        descriptors: OwnDescriptors,
    ) -> None:
        self._log, self._reporter, self._obstacles, self._descriptors = log, reporter, obstacles, descriptors
        self._last_success = time.monotonic()
        self._last_trouble = self._until = 0.0

    def begin(self, error: OSError, message_id: str = "") -> None:
        """Trouble with the system itself: take nothing new for a while. Does not return where waiting can't help."""
        if error.errno == errno.EBADF:
            # Somebody closed what is not its own, a message's directory perhaps.
            self._descriptors.end([str(error)], message_id)
        self._last_trouble = time.monotonic()
        self._until = self._last_trouble + SECONDS
        obstacles = self._obstacles()
        self._reporter.failed(str(error), message_id)
        since = self._reporter.paused("; ".join(map(str, obstacles)) or str(error))
        self._log.error(
            "intake.paused", error=error, id=message_id or None, seconds=SECONDS, since=round(since, 3),
            obstacles=[str(one) for one in obstacles], advice=[one.advice for one in obstacles],
        )  # fmt: skip

    def end(self) -> None:
        """Something has succeeded: whatever the trouble was, it is over."""
        self._last_success = time.monotonic()
        seconds = self._reporter.resumed()
        if seconds:
            self._log.info("intake.resumed", seconds=round(seconds, 1))

    def seconds_left(self) -> float:
        """How long nothing is to be tried; not above 0 where something may."""
        return self._until - time.monotonic()

    def is_trouble_over(self) -> bool:
        """False from the first trouble to the next success."""
        return self._last_trouble <= self._last_success

    def has_succeeded_since(self, moment: float) -> bool:
        """Whether anything has succeeded after a moment of the monotonic clock."""
        return self._last_success > moment
