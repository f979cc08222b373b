"""What keeps a processor's accident within its process: memory, forks, threads that end, descriptors closed.

Without a limit of memory the kernel's killer chooses a victim on the whole machine, Exim
perhaps. A fork of a worker would keep its locks, and publish what it publishes. Who closes
what is not its own leaves numbers that soon stand for other files.

Diagnostics: raises nothing. Beyond the limit whatever asks for memory gets MemoryError; a
thread with messages in hand that ends by an exception, and a directory of the worker that
was closed, end its process.
"""

from __future__ import annotations

import contextlib
import os
import resource
import threading
from collections.abc import Mapping
from functools import partial
from typing import Final, NoReturn

from structlog.typing import FilteringBoundLogger

#: How the names of threads begin that have messages in hand.
MESSAGE_THREAD: Final = "respool-message-"
#: The exit code of a worker whose place another has to take.
EXIT_UNFIT: Final = 70


def contain(log: FilteringBoundLogger, memory_mib: int) -> None:
    """Prepare this process, a worker, for processors that fork, or end its threads, or take memory_mib."""
    limit_memory(memory_mib)
    os.register_at_fork(after_in_child=_end_fork, after_in_parent=partial(_tell_of_fork, log))
    threading.excepthook = partial(_thread_failed, log)


def limit_memory(mib: int) -> None:
    """Limit this process and its threads to so much private memory (RLIMIT_DATA); a lower limit stays."""
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = mib << 20
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


class OwnDescriptors:
    """The directories that a worker works on, by path: as long as they are open, and are what they were."""

    def __init__(self, log: FilteringBoundLogger, descriptors: Mapping[str, int]) -> None:
        self._log = log
        self._identities = {(path, number): _identity(number) for path, number in descriptors.items()}

    def check(self, message_id: str = "") -> None:
        """End this process at once if one is lost: nothing else heals that, and the next name may go anywhere."""
        lost = [path for (path, number), known in self._identities.items() if _identity(number) != known]
        if lost:
            self.end(lost, message_id)

    def end(self, lost: list[str], message_id: str = "") -> NoReturn:
        """Say what was lost, and end; what is in hand is finished by another worker."""
        try:
            self._log.error(
                "worker.descriptors_lost", id=message_id or None, lost=lost, action="ends at once and is started again"
            )
        finally:
            os._exit(EXIT_UNFIT)


def _identity(descriptor: int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = os.fstat(descriptor)
        return status.st_dev, status.st_ino
    return None


def _end_fork() -> None:
    os._exit(EXIT_UNFIT)


def _tell_of_fork(log: FilteringBoundLogger) -> None:
    log.error(
        "processor.meddled", changed="a fork of the worker", action="the child was ended; run programs by subprocess"
    )


def _thread_failed(log: FilteringBoundLogger, raised: threading.ExceptHookArgs) -> None:
    """A thread ended by an exception; without one of its own the worker can't go on: its messages are recovered."""
    name = "" if raised.thread is None else raised.thread.name
    is_ours = name.startswith(MESSAGE_THREAD)
    log.error(
        "thread.failed", thread=name, ours=is_ours,
        exc_info=(raised.exc_type, raised.exc_value, raised.exc_traceback),
    )  # fmt: skip
    if is_ours:
        os._exit(EXIT_UNFIT)
