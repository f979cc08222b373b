"""The end of a process group: not asked for, but seen.

The parent's end, which is what one can wait() for, says nothing of its workers: a killed one may hold the lock
of the state directory for a moment more, and the next sidecar would be told that another uses it.

Diagnostics: AssertionError where the group lives on.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

_PATIENCE_SECONDS: Final = 60


def kill_group(group: int) -> None:
    """SIGKILL to all of it; returns when none of them runs. Its dead are left to whoever started them."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    end = time.monotonic() + _PATIENCE_SECONDS
    while _is_alive(group):
        assert time.monotonic() < end, f"process group {group} outlives SIGKILL"
        time.sleep(0.01)


def _is_alive(group: int) -> bool:
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            # proc(5): what follows the name, which may hold anything, is state, parent, group, and 14 fields on
            # the number of threads. A zombie's files are closed, once its other threads are gone too.
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
            is_dead = fields[0] in "ZX" and int(fields[17]) <= 1
            if int(fields[2]) == group and not is_dead:
                return True
    return False
