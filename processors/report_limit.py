"""How many failure reports are sent in an hour, counted by all workers together.

Reports are sent on a stranger's word about a stranger's message: without a limit a
forger of a million messages would have us send as many (RFC 9991). The counts live in
one LMDB file, whose writers are serialised across processes.

Diagnostics: take() raises TemporaryError where the file can't be used; the caller sends
nothing then.
"""

from __future__ import annotations

import os
import threading
from typing import Final

import lmdb
import msgspec
from msgspec import Struct

from ..errors import TemporaryError

_HOUR: Final = 3600
#: Counts of what was held back are forgotten after a day.
_KEPT_HOURS: Final = 24
_ALL: Final = b"\0all"
_MAP_SIZE: Final = 64 << 20
_LONGEST_KEY: Final = 255

_environments: dict[tuple[int, str], lmdb.Environment] = {}
_guard: Final = threading.Lock()


class _Count(Struct, array_like=True):
    """Of one destination: the hour it speaks of, reports sent in it, incidents held back since the last."""

    hour: int
    sent: int = 0
    held_back: int = 0


class ReportLimit:
    """The limits of one file. Safe for threads and across forks."""

    def __init__(self, path: str, *, per_hour: int, per_domain_hour: int) -> None:
        self.path, self._per_hour, self._per_domain_hour = path, per_hour, per_domain_hour

    def take(self, domain: str, now: float) -> int:
        """Count one report to domain: the incidents it stands for, 0 where it must not be sent.

        That is 1, and 1 more for each that was held back since the last one.
        """
        hour = int(now) // _HOUR
        key = domain.encode("ascii", "replace")[:_LONGEST_KEY]
        try:
            with _environment(self.path).begin(write=True) as transaction:
                everything = _read(transaction, _ALL, hour)
                if everything.sent == 0:
                    _forget(transaction, hour - _KEPT_HOURS)
                count = _read(transaction, key, hour)
                if everything.sent >= self._per_hour or count.sent >= self._per_domain_hour:
                    # Only who was served is remembered, so that names alone can't fill the file.
                    if transaction.get(key) is not None:
                        count.held_back += 1
                        transaction.put(key, msgspec.msgpack.encode(count))
                    return 0
                incidents = 1 + count.held_back
                count.sent, count.held_back = count.sent + 1, 0
                everything.sent += 1
                transaction.put(key, msgspec.msgpack.encode(count))
                transaction.put(_ALL, msgspec.msgpack.encode(everything))
                return incidents
        except (lmdb.Error, msgspec.DecodeError) as error:
            raise TemporaryError(f"{self.path}: {error}") from error


def _read(transaction: lmdb.Transaction[bytes], key: bytes, hour: int) -> _Count:
    """The count as of hour: what was sent in an earlier one no longer counts."""
    stored = transaction.get(key)
    if stored is None:
        return _Count(hour)
    count = msgspec.msgpack.decode(stored, type=_Count)
    return count if count.hour == hour else _Count(hour, 0, count.held_back)


def _forget(transaction: lmdb.Transaction[bytes], before: int) -> None:
    """Drop the counts of destinations that were not served since."""
    old = [
        key for key, stored in transaction.cursor() if msgspec.msgpack.decode(stored, type=_Count).hour < before
    ]  # fmt: skip
    for key in old:
        transaction.delete(key)


def _environment(path: str) -> lmdb.Environment:
    """The open file: one per process, since LMDB's locks belong to the process."""
    with _guard:
        key = (os.getpid(), path)
        if key not in _environments:
            _environments[key] = lmdb.open(
                path, subdir=False, map_size=_MAP_SIZE, mode=0o640, sync=False, max_readers=512
            )
        return _environments[key]
