"""Which message next: names waiting to be claimed, held in memory as names only.

The scan's backlog is oldest first; fresh names from events take turns with it, so that a
long backlog doesn't starve new mail. A name whose lock is taken waits a little and then
a little longer.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import heapq
import threading
import time
import zlib
from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from ..requeue.state import Claim
from ..spool.directory import Found

_FIRST_WAIT: Final = 0.001
_LONGEST_WAIT: Final = 2.0
_FOREIGN_WAIT: Final = 0.05


class Due(Struct, frozen=True, order=True):
    """A deferred message whose next attempt is due."""

    claim: Claim


Item = Found | Due


class Intake:
    """The names one worker may claim next; safe for its threads.

    number and count say which of the workers this is: it prefers the ids that fall to it
    and leaves the others a moment, so that workers seldom race. The claim arbitrates.
    """

    def __init__(self, number: int = 0, count: int = 1) -> None:
        self._number, self._count = number, count
        self._condition = threading.Condition()
        self._fresh: deque[Found] = deque()
        self._backlog: deque[Item] = deque()
        self._later: list[tuple[float, int, Item, float]] = []
        self._known: set[Item] = set()
        self._turn = False
        self._pushed = 0
        self._open = True

    def offer(self, found: Found) -> None:
        """A name that an event brought."""
        with self._condition:
            if found in self._known:
                return
            self._known.add(found)
            if self._is_mine(found):
                self._fresh.append(found)
            else:
                self._put_later(found, time.monotonic() + _FOREIGN_WAIT, _FIRST_WAIT)
            self._condition.notify()

    def offer_all(self, listing: Iterable[Found]) -> None:
        """What a scan found, oldest first."""
        with self._condition:
            due = time.monotonic() + _FOREIGN_WAIT
            for found in listing:
                if found in self._known:
                    continue
                self._known.add(found)
                if self._is_mine(found):
                    self._backlog.append(found)
                else:
                    self._put_later(found, due, _FIRST_WAIT)
            self._condition.notify_all()

    def offer_due(self, claims: Iterable[Claim]) -> None:
        """Deferred messages whose next attempt is due."""
        with self._condition:
            for due in map(Due, claims):
                if due not in self._known:
                    self._known.add(due)
                    self._backlog.append(due)
            self._condition.notify_all()

    def _put_later(self, item: Item, due: float, wait: float) -> None:
        # The number keeps items themselves from being compared.
        self._pushed += 1
        heapq.heappush(self._later, (due, self._pushed, item, wait))

    def take(self) -> tuple[Item, float] | None:
        """The next name, and how long it has been waited for; None once the intake is closed."""
        with self._condition:
            while self._open:
                now = time.monotonic()
                if self._later and self._later[0][0] <= now:
                    _, _, found, wait = heapq.heappop(self._later)
                    return found, wait
                self._turn = not self._turn
                for lane in (self._fresh, self._backlog) if self._turn else (self._backlog, self._fresh):
                    if lane:
                        return lane.popleft(), _FIRST_WAIT
                self._condition.wait(self._later[0][0] - now if self._later else None)
            return None

    def again(self, found: Item, wait: float) -> None:
        """Somebody has the message: look again after wait seconds, then after twice as long."""
        with self._condition:
            self._put_later(found, time.monotonic() + wait, min(wait * 2, _LONGEST_WAIT))
            self._condition.notify()

    def done(self, found: Item) -> None:
        """The name needs no more of us: claimed, or gone."""
        with self._condition:
            self._known.discard(found)

    def close(self) -> None:
        """Let every take() return None."""
        with self._condition:
            self._open = False
            self._condition.notify_all()

    def waiting(self) -> int:
        """How many names are known and not done."""
        with self._condition:
            return len(self._known)

    def _is_mine(self, found: Found) -> bool:
        return self._count == 1 or zlib.crc32(found.id.encode()) % self._count == self._number
