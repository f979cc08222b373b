"""Whether this process has taken more than a healthy worker needs: descriptors, threads, memory.

A processor that forgets to close or to let go would take the mail of all down with it;
a worker that is about to run out ends in good order instead, and another is started.
Memory is what ``memory_mib`` limits, private memory: what is not given back, by whomever.

Diagnostics: raises nothing; ``worker.leaking`` has the figures.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
import time
from collections import Counter
from typing import Final

from structlog.typing import FilteringBoundLogger

#: The part of what a process may have that no healthy worker has, of descriptors and of private memory.
_FULL: Final = 0.75
#: Threads beside our own.
_MOST_THREADS: Final = 256
_SECONDS_BETWEEN: Final = 0.05
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")


class Leaks:
    """Looks whether this worker should end; may be asked as often as wanted. own_threads are those that it may have."""

    def __init__(self, log: FilteringBoundLogger, own_threads: int) -> None:
        self._log, self._own_threads = log, own_threads
        self._guard = threading.Lock()
        self._next = 0.0
        self._memory_at_first: int | None = None
        self.were_found = False

    def check(self) -> bool:
        """Whether there are any; the log says once what they are."""
        if time.monotonic() < self._next or not self._guard.acquire(blocking=False):
            return self.were_found
        try:
            self._next = time.monotonic() + _SECONDS_BETWEEN
            if not self.were_found:
                self._look()
            return self.were_found
        finally:
            self._guard.release()

    def _look(self) -> None:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        memory_limit, _ = resource.getrlimit(resource.RLIMIT_DATA)
        threads = threading.active_count() - self._own_threads
        try:
            descriptors = os.listdir("/proc/self/fd")
        except OSError as error:
            if error.errno != errno.EMFILE:
                return
            # Not even one for looking is left: then they are 0 to limit, or there about.
            descriptors = [str(number) for number in range(limit)]
        memory = _private_memory()
        if (
            len(descriptors) < limit * _FULL
            and threads < _MOST_THREADS
            and (memory_limit == resource.RLIM_INFINITY or memory < self._much(memory, memory_limit))
        ):
            return
        targets: Counter[str] = Counter()
        for descriptor in descriptors:
            with contextlib.suppress(OSError):
                targets[os.readlink(f"/proc/self/fd/{descriptor}").partition(":")[0]] += 1
        self.were_found = True
        self._log.error(
            "worker.leaking", descriptors=len(descriptors), limit=limit, threads=threads, memory_mib=memory >> 20,
            memory_limit_mib=None if memory_limit == resource.RLIM_INFINITY else memory_limit >> 20,
            most=", ".join(f"{target} {count} times" for target, count in targets.most_common(3)),
            action="ends and is started again",
        )  # fmt: skip

    def _much(self, memory: int, limit: int) -> float:
        """The memory that is too much. A limit so tight that a new worker is near it leaves at least half the rest."""
        if self._memory_at_first is None:
            self._memory_at_first = memory
        return max(limit * _FULL, (self._memory_at_first + limit) / 2)


def _private_memory() -> int:
    """Bytes as RLIMIT_DATA counts them; 0 where no descriptor is left to look."""
    try:
        with open("/proc/self/statm", "rb", buffering=0) as file:
            # proc(5): the sixth field is data and stacks, in pages.
            return int(file.read(256).split()[5]) * _PAGE
    except OSError:
        return 0
