"""Watching over a worker: a message that hangs ends its process, and a main loop that hangs gives no sign of life.

Nothing in a process can end a thread that hangs; the process can end, and another one
finishes what it had in hand.

Diagnostics: raises nothing; ``worker.hung`` names the processor and the lines that it is at.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Final

from structlog.typing import FilteringBoundLogger

from .containment import EXIT_UNFIT

#: Seconds that a look at a very large directory may take; then the main loop counts as hung.
_LONGEST_LOOK: Final = 30.0
_LINES_SHOWN: Final = 4


class Watchdog:
    """A thread that looks every second. hung_after is in seconds.

    running names the processor that a thread is in. beat is called while the main loop
    comes round, or waits for the threads at the end, each of which is watched. check is
    called each time.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        *,
        hung_after: float,
        running: Callable[[int], str],
        beat: Callable[[], None] | None,
        is_stopping: Callable[[], bool],
        check: Callable[[], None],
    ) -> None:
        self._log, self._hung_after, self._running = log, hung_after, running
        self._beat, self._is_stopping, self._check = beat, is_stopping, check
        self._ended = threading.Event()
        self._guard = threading.Lock()
        self._main_thread = 0
        self._came_round = 0.0
        self._in_hand: dict[int, tuple[float, str]] = {}

    def start(self) -> None:
        """Begin, in the thread that is the main loop."""
        self._main_thread = threading.get_ident()
        self.come_round()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def end(self) -> None:
        """Watch no longer: the worker has nothing in hand."""
        self._ended.set()

    def come_round(self) -> None:
        """The main loop is alive."""
        self._came_round = time.monotonic()

    @contextmanager
    def over(self, message_id: str) -> Generator[None]:
        """Watch over the calling thread while it has a message in hand."""
        me = threading.get_ident()
        with self._guard:
            self._in_hand[me] = time.monotonic(), message_id
        try:
            yield
        finally:
            if me == self._main_thread:
                self.come_round()
            with self._guard:
                self._in_hand.pop(me, None)

    def in_hand(self) -> int:
        """How many threads have a message in hand."""
        with self._guard:
            return len(self._in_hand)

    def _watch(self) -> None:
        while not self._ended.wait(1.0):
            self._check()
            self._check_hung()
            if self._beat is not None and self._is_coming_round():
                self._beat()

    def _is_coming_round(self) -> bool:
        """Whether the main loop is not hung; while a message is in its hand that has a deadline of its own."""
        with self._guard:
            is_in_hand = self._main_thread in self._in_hand
        is_looking = time.monotonic() - self._came_round <= _LONGEST_LOOK
        return is_looking or is_in_hand or self._is_stopping()

    def _check_hung(self) -> None:
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
                "worker.hung", id=message, seconds=self._hung_after, processor=self._running(thread) or None,
                where=_where(thread),
            )  # fmt: skip
            os._exit(EXIT_UNFIT)


def _where(thread: int) -> str:
    """The innermost lines that a thread is at, for whoever has to find out what it waits for."""
    frame = sys._current_frames().get(thread)
    lines = traceback.extract_stack(frame)[-_LINES_SHOWN:] if frame is not None else []
    return " < ".join(f"{line.filename}:{line.lineno} {line.name}" for line in reversed(lines))
