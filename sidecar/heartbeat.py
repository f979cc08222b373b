"""Signs of life of the workers, in memory that they share with their parent.

A worker beats each second from a thread of its own, unless it finds its main loop hung: so
a process that is stopped, or dies at once again and again, or whose interpreter a processor
keeps to itself, falls silent at once, and where no file can be written, too.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import Final

_SLOT: Final = struct.Struct("d")

#: Seconds without a sign of life that are too many: a busy machine may keep a thread waiting, but not for so long.
LONGEST_SILENCE: Final = 10.0


class Heartbeats:
    """One slot for each worker; to be made before they are forked."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._memory = mmap.mmap(-1, _SLOT.size * count)
        for number in range(count):
            self.beat(number)
        self._started = time.monotonic()

    def beat(self, number: int) -> None:
        """The worker of this number is at work."""
        # CLOCK_MONOTONIC is the same in every process.
        _SLOT.pack_into(self._memory, number * _SLOT.size, time.monotonic())

    def silent_seconds(self, number: int) -> float:
        """For how long nothing has been heard of a worker, or since the start."""
        (beaten,) = _SLOT.unpack_from(self._memory, number * _SLOT.size)
        return max(0.0, time.monotonic() - float(beaten))

    def silent(self) -> list[int]:
        """The workers of which nothing has been heard for longer than LONGEST_SILENCE."""
        return [number for number in range(self._count) if self.silent_seconds(number) > LONGEST_SILENCE]

    def have_all_begun(self) -> bool:
        """Whether each worker has beaten since the start."""
        return all(
            _SLOT.unpack_from(self._memory, number * _SLOT.size)[0] > self._started for number in range(self._count)
        )
