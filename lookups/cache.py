"""DNS answers kept for as long as they may be, and asked for once however many want them.

Bounded (the least recently used goes first), shared by threads. Whoever asks first for
something that is not there asks for all who come meanwhile.

Diagnostics: get_or_ask raises what the asking function raises (DnsTemporaryError), and
DnsTemporaryError itself when the deadline passes while another thread asks.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from msgspec import Struct

from .dns import DnsTemporaryError

Value = TypeVar("Value")


class Fresh(Struct, Generic[Value], frozen=True):
    """Something just asked for, and how many seconds it may be kept (0: not at all)."""

    value: Value
    ttl: float


class CacheStatistics(Struct, frozen=True):
    """Counts since the start; shared are questions that waited for another thread's.

    failures are questions that nobody answered; seconds is the time spent asking.
    """

    hits: int
    misses: int
    shared: int
    size: int
    failures: int = 0
    seconds: float = 0.0


class _Pending(Generic[Value]):
    """A question under way: once asking is free, value or error is set."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.asking = threading.Lock()  # held by the asker; an Event costs ten times as much
        self.asking.acquire()
        self.value: Value | None = None
        self.error: DnsTemporaryError | None = None


class AnswerCache(Generic[Value]):
    """At most size answers. clock gives monotonic seconds."""

    def __init__(self, size: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._size = size
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, tuple[float, Value | DnsTemporaryError]] = OrderedDict()
        self._pending: dict[Hashable, _Pending[Value]] = {}
        self._hits = self._misses = self._shared = self._failures = 0
        self._seconds = 0.0

    def get_or_ask(
        self,
        key: Hashable,
        question: str,
        deadline: float,
        ask: Callable[[], Fresh[Value]],
        *,
        failure_ttl: float = 0.0,
    ) -> Value:
        """Return what is kept under key, or what ask() returns, keeping it.

        A failure is kept for failure_ttl seconds (RFC 9520). deadline is on the clock;
        question is for the error. Raises DnsTemporaryError.
        """
        while True:
            with self._lock:
                kept = self._kept.get(key)
                if kept is not None and kept[0] > self._clock():
                    self._kept.move_to_end(key)
                    self._hits += 1
                    found = kept[1]
                    if isinstance(found, DnsTemporaryError):
                        raise DnsTemporaryError(found.question, found.detail)
                    return found
                pending = self._pending.get(key)
                if pending is None:
                    self._misses += 1
                    mine = self._pending[key] = _Pending[Value](deadline)
                    break
                self._shared += 1
            if not pending.asking.acquire(timeout=max(0.0, deadline - self._clock())):
                raise DnsTemporaryError(question, "the deadline passed")
            pending.asking.release()
            if pending.value is not None:
                return pending.value
            # Its asker may only have run out of time that we still have: then it is our turn.
            in_time = self._clock() < pending.deadline
            if pending.error is not None and (in_time or pending.deadline >= deadline):
                raise DnsTemporaryError(pending.error.question, pending.error.detail)
        return self._ask(key, mine, ask, failure_ttl)

    def _ask(self, key: Hashable, mine: _Pending[Value], ask: Callable[[], Fresh[Value]], failure_ttl: float) -> Value:
        started = self._clock()
        try:
            fresh = ask()
        except DnsTemporaryError as error:
            mine.error = error
            self._failures += 1
            self._keep(key, error, failure_ttl)
            raise
        else:
            mine.value = fresh.value
            self._keep(key, fresh.value, fresh.ttl)
            return fresh.value
        finally:
            with self._lock:
                self._seconds += self._clock() - started
                del self._pending[key]
            mine.asking.release()

    def _keep(self, key: Hashable, value: Value | DnsTemporaryError, ttl: float) -> None:
        with self._lock:
            if ttl > 0:
                self._kept[key] = (self._clock() + ttl, value)
                self._kept.move_to_end(key)
                while len(self._kept) > self._size:
                    self._kept.popitem(last=False)
            else:
                self._kept.pop(key, None)

    def clear(self) -> None:
        """Forget everything that is kept."""
        with self._lock:
            self._kept.clear()

    def statistics(self) -> CacheStatistics:
        """Return a snapshot of the counts."""
        with self._lock:
            return CacheStatistics(
                self._hits, self._misses, self._shared, len(self._kept), self._failures, round(self._seconds, 6)
            )
