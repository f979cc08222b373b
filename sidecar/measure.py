"""What a worker measures of its own work: counts, durations, the last minutes, the last messages.

A Meter is told of every message as it ends; its snapshot goes into the worker's status
file, from which the metrics, ``respool status`` and the web page are made. Nothing in
the measurements that become metrics comes from a message: names of processors, states
and answers only.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import bisect
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from msgspec import Struct

from ..lookups.cache import CacheStatistics
from ..processors import api
from .step import Traced

#: Upper bounds in seconds; what is longer is counted in one more.
BOUNDS: Final = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0)
MINUTES: Final = 60
_MOST_RECENT: Final = 50
_LONGEST_TEXT: Final = 500
_GONE: Final = frozenset({"requeued", "discarded"})

Answer = Literal["proceed", "freeze", "discard", "defer", "hold", "bounce", "split", "failed", "passed over"]


class Durations(Struct, frozen=True):
    """How many took how long: counts for each of BOUNDS and beyond, not added up; their sum in seconds."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS) + 1)
    seconds: float = 0.0

    @property
    def number(self) -> int:
        """How many there were."""
        return sum(self.counts)


class Ran(Struct, frozen=True):
    """One processor on one message or part: what it answered, why, and how long it took in seconds."""

    processor: str
    answer: Answer
    seconds: float
    reason: str = ""


class Ended(Struct, frozen=True, kw_only=True):
    """A message that ended a while ago: when (Unix time), in which state, by which way, and under which new ids."""

    id: str
    claim: int
    time: float
    state: str
    seconds: float
    ran: tuple[Ran, ...] = ()
    outputs: tuple[str, ...] = ()
    reason: str = ""


class ProcessorMeasured(Struct, frozen=True):
    """One processor: how often it gave each answer, and how long it took."""

    answers: dict[str, int]
    durations: Durations


class Measured(Struct, frozen=True, kw_only=True):
    """Everything since the worker started.

    minutes are the messages ended in each of the last minutes, the present one last;
    since is the Unix time at which the present one began.
    """

    messages: Durations = Durations()
    requeue: Durations = Durations()
    outputs: int = 0
    processors: dict[str, ProcessorMeasured] = {}
    dns: CacheStatistics | None = None
    pauses: int = 0
    errors: int = 0
    minutes: tuple[int, ...] = ()
    since: float = 0.0
    recent: tuple[Ended, ...] = ()


class _Histogram:
    def __init__(self) -> None:
        self._counts = [0] * (len(BOUNDS) + 1)
        self._seconds = 0.0

    def add(self, seconds: float) -> None:
        self._counts[bisect.bisect_left(BOUNDS, seconds)] += 1
        self._seconds += seconds

    def snapshot(self) -> Durations:
        return Durations(tuple(self._counts), round(self._seconds, 6))


class Meter:
    """Counts; safe for the threads of a worker. clock gives Unix time."""

    def __init__(
        self, *, dns: Callable[[], CacheStatistics | None] | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._dns, self._clock = dns, clock
        self._guard = threading.Lock()
        self._messages, self._requeue = _Histogram(), _Histogram()
        self._processors: dict[str, tuple[Counter[str], _Histogram]] = {}
        self._outputs = self._pauses = self._errors = 0
        self._minutes: deque[int] = deque([0], maxlen=MINUTES)
        self._minute = int(clock() // 60)
        # What did not go on is looked for longest: other messages must not push it out.
        self._recent: deque[Ended] = deque(maxlen=_MOST_RECENT)
        self._kept_back: deque[Ended] = deque(maxlen=_MOST_RECENT)

    def ended(self, ended: Ended, *, requeue_seconds: float | None = None) -> None:
        """A message has ended; requeue_seconds is what handing it back took, None where it was not."""
        with self._guard:
            self._turn()
            self._minutes[-1] += 1
            self._messages.add(ended.seconds)
            if requeue_seconds is not None:
                self._requeue.add(requeue_seconds)
            self._outputs += len(ended.outputs)
            for ran in ended.ran:
                answers, durations = self._processors.setdefault(ran.processor, (Counter(), _Histogram()))
                answers[ran.answer] += 1
                durations.add(ran.seconds)
            remembered = self._recent if ended.state in _GONE else self._kept_back
            remembered.append(_shortened(ended))

    def paused(self) -> None:
        """The system made the intake stop."""
        with self._guard:
            self._pauses += 1

    def failed(self) -> None:
        """Something failed that is no processor's answer."""
        with self._guard:
            self._errors += 1

    def snapshot(self) -> Measured:
        """Everything, at this moment."""
        dns = None if self._dns is None else self._dns()
        with self._guard:
            self._turn()
            return Measured(
                messages=self._messages.snapshot(),
                requeue=self._requeue.snapshot(),
                outputs=self._outputs,
                processors={
                    name: ProcessorMeasured(dict(answers), durations.snapshot())
                    for name, (answers, durations) in self._processors.items()
                },
                dns=dns,
                pauses=self._pauses,
                errors=self._errors,
                minutes=tuple(self._minutes),
                since=self._minute * 60.0,
                recent=(*self._recent, *self._kept_back),
            )

    def _turn(self) -> None:
        """Begin the present minute. A clock that was set back goes on in the minute it was in."""
        minute = int(self._clock() // 60)
        for _ in range(min(minute - self._minute, MINUTES)):
            self._minutes.append(0)
        self._minute = max(self._minute, minute)


def ran(traced: Traced) -> Ran:
    """What is kept of a processor's run."""
    reason = ""
    answer: Answer
    if traced.error is not None:
        answer, reason = "failed", str(traced.error)
    else:
        match traced.verdict:
            case None:
                answer = "passed over"
            case api.Split():
                answer = "split"
            case api.Proceed() | api.Freeze() | api.Discard() | api.Defer() | api.Hold() | api.Bounce() as verdict:
                answer, reason = _answer(verdict), verdict.reason
    return Ran(traced.processor, answer, round(traced.seconds, 6), reason)


def _answer(verdict: api.Proceed | api.Freeze | api.Discard | api.Defer | api.Hold | api.Bounce) -> Answer:
    match verdict:
        case api.Proceed():
            return "proceed"
        case api.Freeze():
            return "freeze"
        case api.Discard():
            return "discard"
        case api.Defer():
            return "defer"
        case api.Hold():
            return "hold"
        case api.Bounce():
            return "bounce"


def _shortened(ended: Ended) -> Ended:
    """The message with texts of bounded length: a message may have written them."""
    return msgspec.structs.replace(
        ended,
        reason=ended.reason[:_LONGEST_TEXT],
        ran=tuple(msgspec.structs.replace(one, reason=one.reason[:_LONGEST_TEXT]) for one in ended.ran[:100]),
        outputs=ended.outputs[:20],
    )
