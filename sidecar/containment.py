"""What keeps a processor's accident within its process: memory, forks, threads that end.

Without a limit of memory the kernel's killer chooses a victim on the whole machine, Exim
perhaps. A fork of a worker would keep its locks, and publish what it publishes.

Diagnostics: raises nothing. Beyond the limit whatever asks for memory gets MemoryError; a
thread with messages in hand that ends by an exception ends its process.
"""

from __future__ import annotations

import os
import resource
import threading
from functools import partial
from typing import Final

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
