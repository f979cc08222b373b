"""The sidecar at one moment, put together from its directories and the workers' reports.

``respool status`` and the web page show it; neither asks the sidecar anything.

Diagnostics: OSError where source or state directory can't be read.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable
from itertools import accumulate
from typing import Final, Literal

from msgspec import Struct

from .config import Config
from .measure import BOUNDS, MINUTES, Durations, Ended
from .obstacles import Obstacle, find
from .queues import Queue, lengths, source_queue
from .status import Trouble, WorkerStatus, read_all

#: A worker reports every few seconds; a message in the way of its loop may take its time.
SILENT_AFTER_SECONDS: Final = 30.0
_MOST_TROUBLES: Final = 10

Condition = Literal["working", "paused", "silent", "not running"]


class ProcessorFigures(Struct, frozen=True, kw_only=True):
    """One processor over all workers.

    usual_seconds is the bound that nineteen of twenty runs kept; None: they took longer than the last.
    """

    name: str
    answers: dict[str, int]
    number: int
    mean_seconds: float
    usual_seconds: float | None

    @property
    def short_name(self) -> str:
        """The name for people."""
        return short_name(self.name)


class Overview(Struct, frozen=True, kw_only=True):
    """What is shown. minutes counts messages ended in each of the last minutes, the present one last.

    paused_since is when a worker stopped taking messages in (Unix time), 0 where none has; of one that
    can't even report it, when it last did. obstacles are what is in the way now, seen from here.
    """

    time: float
    condition: Condition
    paused_since: float
    obstacles: tuple[Obstacle, ...]
    queues: dict[str, Queue]
    workers: tuple[WorkerStatus, ...]
    silent: tuple[int, ...]
    ended: dict[str, int]
    per_second: float
    minutes: tuple[int, ...]
    processors: tuple[ProcessorFigures, ...]
    message_mean_seconds: float
    requeue_mean_seconds: float
    dns_hits: int
    dns_questions: int
    dns_failures: int
    troubles: tuple[Trouble, ...]


def short_name(processor: str) -> str:
    """A processor's name for people, without the directories of one in a file: ``note.py:Note``."""
    return processor.rpartition("/")[2]


def look(config: Config) -> Overview:
    """Look at everything once. Raises OSError."""
    now = time.time()
    reports = read_all(config.state_directory)
    silent = tuple(report.worker for report in reports if now - report.written > SILENT_AFTER_SECONDS)
    ended: Counter[str] = Counter()
    for report in reports:
        ended.update(report.ended)
    dns = [report.measured.dns for report in reports if report.measured.dns is not None]
    obstacles = find(config)
    # Where no report can be written, neither silence nor the last report says anything.
    is_gagged = any(one.key == "$.state_directory" for one in obstacles)
    return Overview(
        time=now,
        condition=_condition(reports, silent, is_gagged=is_gagged),
        paused_since=min(
            [one.paused_since if one.paused else one.written for one in reports if one.paused or is_gagged],
            default=0.0,
        ),
        obstacles=obstacles,
        queues={"source": source_queue(config), **lengths(config.state_directory)},
        workers=tuple(reports),
        silent=silent,
        ended=dict(ended),
        per_second=round(sum(report.per_second for report in reports if report.worker not in silent), 3),
        minutes=_minutes(reports, now),
        processors=_processors(reports),
        message_mean_seconds=mean(total(report.measured.messages for report in reports)),
        requeue_mean_seconds=mean(total(report.measured.requeue for report in reports)),
        dns_hits=sum(one.hits + one.shared for one in dns),
        dns_questions=sum(one.hits + one.shared + one.misses for one in dns),
        dns_failures=sum(one.failures for one in dns),
        troubles=tuple(
            sorted((one for report in reports for one in report.last_errors), key=lambda one: -one.time)[
                :_MOST_TROUBLES
            ]
        ),
    )


def recent(config: Config) -> list[Ended]:
    """The last messages of all workers, the latest first."""
    found = [ended for report in read_all(config.state_directory) for ended in report.measured.recent]
    return sorted(found, key=lambda ended: -ended.time)


def _condition(reports: list[WorkerStatus], silent: tuple[int, ...], *, is_gagged: bool) -> Condition:
    if not reports:
        return "not running"
    if is_gagged:
        return "paused"
    if silent:
        return "silent"
    return "paused" if any(report.paused for report in reports) else "working"


def _minutes(reports: list[WorkerStatus], now: float) -> tuple[int, ...]:
    present = int(now // 60)
    sums = [0] * MINUTES
    for report in reports:
        last = int(report.measured.since // 60)
        for back, count in enumerate(reversed(report.measured.minutes)):
            index = MINUTES - 1 - (present - last) - back
            if 0 <= index < MINUTES:
                sums[index] += count
    return tuple(sums)


def _processors(reports: list[WorkerStatus]) -> tuple[ProcessorFigures, ...]:
    names = dict.fromkeys(name for report in reports for name in report.measured.processors)
    figures: list[ProcessorFigures] = []
    for name in names:
        measured = [report.measured.processors[name] for report in reports if name in report.measured.processors]
        answers: Counter[str] = Counter()
        for one in measured:
            answers.update(one.answers)
        durations = total(one.durations for one in measured)
        figures.append(
            ProcessorFigures(
                name=name, answers=dict(answers), number=durations.number, mean_seconds=mean(durations),
                usual_seconds=bound(durations, 0.95),
            )
        )  # fmt: skip
    return tuple(figures)


def total(durations: Iterable[Durations]) -> Durations:
    """Several counts of durations as one."""
    counts, seconds = [0] * (len(BOUNDS) + 1), 0.0
    for one in durations:
        counts = [mine + its for mine, its in zip(counts, one.counts, strict=False)]
        seconds += one.seconds
    return Durations(tuple(counts), seconds)


def mean(durations: Durations) -> float:
    """Seconds; 0 where there was none."""
    return durations.seconds / durations.number if durations.number else 0.0


def bound(durations: Durations, share: float) -> float | None:
    """The least of BOUNDS that this share of them kept; None where none was kept."""
    wanted = share * durations.number
    for upper, below in zip((*BOUNDS, None), accumulate(durations.counts), strict=False):
        if below >= wanted:
            return upper
    return None
