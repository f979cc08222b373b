"""Signs of life of the workers, in memory that they share with their parent.

A worker beats whenever its loop comes round and whenever a message ends: what hangs, or
dies again and again, falls silent, also where no file can be written.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import mmap
import struct
import time
from typing import Final

_SLOT: Final = struct.Struct("d")


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

    def silent(self, longest_seconds: float) -> list[int]:
        """The workers of which nothing has been heard for longer than that."""
        return [number for number in range(self._count) if self.silent_seconds(number) > longest_seconds]

    def have_all_begun(self) -> bool:
        """Whether each worker has beaten since the start."""
        return all(
            _SLOT.unpack_from(self._memory, number * _SLOT.size)[0] > self._started for number in range(self._count)
        )
