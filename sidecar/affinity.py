"""On which processor a worker runs: one for each worker, always the same.

The threads of a worker share one interpreter lock. On one processor it changes hands where a
thread has to wait; on several, at nearly every system call, and each time the data of the
other thread's processor has to come over. docs/performance.md has what that costs.

Diagnostics: usable_processors() raises nothing; stay_on() raises OSError.
"""

from __future__ import annotations

import os
from pathlib import Path


def usable_processors() -> list[int]:
    """The numbers of the processors that this process may use, beginning with the one it is on.

    Where the kernel has put us there is room: so the first workers of several sidecars on one
    machine do not all go to its first processor.
    """
    usable = sorted(os.sched_getaffinity(0))
    present = _present_processor()
    start = usable.index(present) if present in usable else 0
    return usable[start:] + usable[:start]


def stay_on(processors: list[int], number: int) -> None:
    """Keep this process, the worker of that number, on its processor. OSError where that is not allowed."""
    os.sched_setaffinity(0, {processors[number % len(processors)]})


def _present_processor() -> int | None:
    """The processor that this process ran on last (proc(5), field 39 of stat), where that can be read."""
    try:
        # The second field is the name in parentheses, which may hold anything.
        fields = Path("/proc/self/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(fields[36])
