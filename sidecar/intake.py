"""Which message next: names waiting to be claimed, held in memory as names only.

Four lanes, taken in turn, so that none starves another: fresh names from events, the
backlog that a scan found (oldest first), names whose lock was taken and whose wait is
over, and names that fall to other workers but were left lying. A name is in one lane at a
time, however often it is offered.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import heapq
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct

from ..requeue.state import Claim
from ..spool.directory import Found

_FIRST_WAIT: Final = 0.001
_LONGEST_WAIT: Final = 2.0
#: Seconds that a name of another worker is left alone by one with nothing else to do, and by a busy one.
_FOREIGN_WAIT: Final = 0.05
_LEFT_LYING: Final = 5.0


class Due(Struct, frozen=True, order=True):
    """A deferred message whose next attempt is due."""

    claim: Claim


Item = Found | Due


class Intake:
    """The names one worker may claim next; safe for its threads.

    number and count say which of the workers this is: it prefers the ids that fall to it
    and leaves the others a moment, so that workers seldom race. The claim arbitrates.
    clock gives seconds that do not go back.
    """

    def __init__(self, number: int = 0, count: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._number, self._count = number, count
        self._clock = clock
        self._condition = threading.Condition()
        self._fresh: deque[Item] = deque()
        self._backlog: deque[Item] = deque()
        self._foreign: deque[tuple[float, Found]] = deque()
        self._later: list[tuple[float, int, Item, float]] = []
        self._known: set[Item] = set()
        #: Names handed out by take(), and those of them that were offered again meanwhile.
        self._in_hand: set[Item] = set()
        self._stirred: set[Item] = set()
        self._turn = 0
        self._pushed = 0
        self._open = True

    def offer(self, found: Found) -> None:
        """A name that an event brought."""
        with self._condition:
            if found in self._known:
                # Its other half may have come just after somebody looked: look again.
                if found in self._in_hand:
                    self._stirred.add(found)
                return
            self._known.add(found)
            self._put(found, self._fresh)
            self._condition.notify()

    def offer_all(self, listing: Iterable[Found]) -> None:
        """What a scan found, oldest first."""
        with self._condition:
            for found in listing:
                if found not in self._known:
                    self._known.add(found)
                    self._put(found, self._backlog)
            self._condition.notify_all()

    def offer_due(self, claims: Iterable[Claim]) -> None:
        """Deferred messages whose next attempt is due."""
        with self._condition:
            for due in map(Due, claims):
                if due not in self._known:
                    self._known.add(due)
                    self._backlog.append(due)
            self._condition.notify_all()

    def _put(self, found: Found, lane: deque[Item]) -> None:
        if self._is_mine(found):
            lane.append(found)
        else:
            # Each waits the same time, so that the first in is the first due.
            self._foreign.append((self._clock(), found))

    def take(self) -> tuple[Item, float] | None:
        """The next name, and how long to wait with it if it can't be claimed; None once the intake is closed."""
        with self._condition:
            while self._open:
                taken = self._next(self._clock())
                if taken is not None:
                    self._in_hand.add(taken[0])
                    return taken
                self._condition.wait(self._pause())
            return None

    def _next(self, now: float) -> tuple[Item, float] | None:
        for _ in range(4):
            self._turn = (self._turn + 1) % 4
            if self._turn == 0 and self._fresh:
                return self._fresh.popleft(), _FIRST_WAIT
            if self._turn == 1 and self._backlog:
                return self._backlog.popleft(), _FIRST_WAIT
            if self._turn == 2 and self._later and self._later[0][0] <= now:
                _, _, found, wait = heapq.heappop(self._later)
                return found, wait
            if self._turn == 3 and self._foreign and self._foreign[0][0] + _LEFT_LYING <= now:
                return self._foreign.popleft()[1], _FIRST_WAIT
        if self._foreign and self._foreign[0][0] + _FOREIGN_WAIT <= now:
            return self._foreign.popleft()[1], _FIRST_WAIT
        return None

    def _pause(self) -> float | None:
        """Seconds until a name is due that is not yet."""
        due: list[float] = []
        if self._later:
            due.append(self._later[0][0])
        if self._foreign:
            due.append(self._foreign[0][0] + _FOREIGN_WAIT)
        return max(0.0, min(due) - self._clock()) if due else None

    def again(self, found: Item, wait: float) -> None:
        """Somebody has the message: look again after wait seconds, then after twice as long."""
        with self._condition:
            self._in_hand.discard(found)
            self._stirred.discard(found)
            # The number keeps names themselves from being compared.
            self._pushed += 1
            heapq.heappush(
                self._later, (self._clock() + wait, self._pushed, found, min(wait * 2, _LONGEST_WAIT))
            )  # fmt: skip
            self._condition.notify()

    def done(self, found: Item) -> None:
        """The name needs no more of us: claimed, or gone. If it was offered meanwhile, it is taken once more."""
        with self._condition:
            self._in_hand.discard(found)
            if found in self._stirred:
                self._stirred.discard(found)
                self._fresh.append(found)
                self._condition.notify()
            else:
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
