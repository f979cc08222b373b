"""Whether this process has taken more than a healthy worker needs: descriptors, threads, memory.

A processor that forgets to close or to let go would take the mail of all down with it;
a worker that is about to run out ends in good order instead, and another is started.

Diagnostics: raises nothing; ``worker.leaking`` has the figures.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import threading
from collections import Counter
from typing import Final

from structlog.typing import FilteringBoundLogger

#: The part of the descriptors a process may have, and the threads beside our own, that no healthy worker has.
_FULL: Final = 0.75
_MOST_THREADS: Final = 256


def is_leaking(log: FilteringBoundLogger, own_threads: int) -> bool:
    """Whether this worker should end, beside whose own threads others may run; the log says why."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    threads = threading.active_count() - own_threads
    targets: Counter[str] = Counter()
    try:
        descriptors = os.listdir("/proc/self/fd")
    except OSError as error:
        if error.errno != errno.EMFILE:
            return False
        # Not even one for looking is left: then they are 0 to limit, or there about.
        descriptors = [str(number) for number in range(limit)]
    if len(descriptors) < limit * _FULL and threads < _MOST_THREADS:
        return False
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            targets[os.readlink(f"/proc/self/fd/{descriptor}").partition(":")[0]] += 1
    log.error(
        "worker.leaking", descriptors=len(descriptors), limit=limit, threads=threads,
        most=", ".join(f"{target} {count} times" for target, count in targets.most_common(3)),
        action="ends and is started again",
    )  # fmt: skip
    return True
