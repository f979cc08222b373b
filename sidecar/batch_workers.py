"""The worker processes of a batch: a message that kills or hangs its worker is reported, and the rest goes on.

The parent gives each worker a few messages at a time and knows which one it has in hand:
reports come one by one, in order. What a dead worker had in hand is tried once more, by
another; then it is reported as failed, with the processor that it was in.

Diagnostics: run() raises TemporaryError where workers can't be started; what is in DEST
by then is done, and ``--resume`` goes on.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Generator, Iterable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Final, Literal

from ..errors import TemporaryError
from ..spool.directory import Found
from . import log
from .batch import Batch, Report, chunks
from .batch_destination import PARENT_SECONDS
from .config import BatchConfig
from .containment import limit_memory

_EXIT_HUNG: Final = 70
_LONGEST_NAME: Final = 255
#: A processor is given up after so many times the deadline, and so many seconds more.
_GRACE: Final = 2.0
_PATIENCE: Final = 5.0


def run(
    source: str, destination: str, config: BatchConfig, work: Iterable[Found], workers: int
) -> Generator[Report, None, None]:
    """Process work in that many processes; reports come as they are done."""
    pieces = chunks(work)
    again: deque[list[Found]] = deque()
    tried: set[Found] = set()
    running: dict[Connection, _Worker] = {}

    def give(worker: _Worker) -> None:
        piece = again.popleft() if again else next(pieces, None)
        if piece is not None:
            worker.give(piece)

    def start() -> None:
        worker = _Worker(source, destination, config)
        running[worker.connection] = worker
        give(worker)

    try:
        for _ in range(workers):
            start()
        while any(worker.in_hand for worker in running.values()):
            for connection in wait(list(running)):
                worker = running[connection]  # type: ignore[index]  # what wait() returns is what it was given
                match worker.receive():
                    case "ready":
                        pass
                    case "dead":
                        del running[worker.connection]
                        failed = _bury(worker, tried, again)
                        if failed is not None:
                            yield failed
                        start()
                    case Report() as report:
                        yield report
                        if not worker.in_hand:
                            give(worker)
    finally:
        for worker in running.values():
            worker.end()


def _bury(worker: _Worker, tried: set[Found], again: deque[list[Found]]) -> Report | None:
    """See to what a dead worker had in hand: the report of the message that killed it, if that is the second time."""
    code = worker.bury()
    if not worker.is_ready:
        raise TemporaryError(f"a worker process ended at its start ({_ending(code)}): run again with --resume")
    left = list(worker.in_hand)
    culprit: Found | None = None
    if code != _EXIT_HUNG and left:
        culprit = left.pop(0)
    if left:
        again.append(left)
    if culprit is None:
        return None
    if culprit not in tried:
        # It may be innocent: somebody else killed the process, or memory was short.
        tried.add(culprit)
        again.append([culprit])
        return None
    where = f" in processor {worker.processor}" if worker.processor else ""
    return Report(id=str(culprit.id), state="failed", reason=f"twice its worker process died{where}: {_ending(code)}")


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            return signal.Signals(-code).name
    return f"exit code {code}"


class _Worker:
    """One worker process, as its parent sees it; in_hand are the messages it has not reported yet, in order."""

    def __init__(self, source: str, destination: str, config: BatchConfig) -> None:
        context = multiprocessing.get_context("fork")
        self.connection, other = context.Pipe()
        self._place = mmap.mmap(-1, _LONGEST_NAME + 1)
        self.in_hand: deque[Found] = deque()
        self.is_ready = False
        self._process: BaseProcess = context.Process(
            target=_work, args=(other, self._place, source, destination, config), daemon=True
        )
        # Ctrl-C while a fork is under way would get lost in Python's own hooks.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        other.close()

    def give(self, piece: list[Found]) -> None:
        """Have these processed, one after the other."""
        self.in_hand.extend(piece)
        # A worker that has died meanwhile is found out by receive().
        with contextlib.suppress(OSError):
            self.connection.send(piece)

    def receive(self) -> Report | Literal["dead", "ready"]:
        """What the worker has sent: the next report, or that it has begun; or that it is dead."""
        try:
            report: Report | None = self.connection.recv()
        except (EOFError, OSError):
            return "dead"
        if report is None:
            self.is_ready = True
            return "ready"
        self.in_hand.popleft()
        return report

    @property
    def processor(self) -> str:
        """The processor that it was in last."""
        return self._place[1 : 1 + self._place[0]].decode("utf-8", "replace")

    def bury(self) -> int | None:
        """The exit code of a worker that is dead."""
        self.connection.close()
        self._process.join()
        return self._process.exitcode

    def end(self) -> None:
        """End the worker, whatever it is at."""
        self.connection.close()
        # What it has in hand is not done, or done: both are told by DEST.
        self._process.kill()
        self._process.join()


# What follows runs in the workers.


def _work(connection: Connection, place: mmap.mmap, source: str, destination: str, config: BatchConfig) -> None:
    # The terminal sends it to all; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    limit_memory(config.memory_mib)
    log.configure()

    def entering(processor: str) -> None:
        name = processor.encode()[-_LONGEST_NAME:]
        place[0 : 1 + len(name)] = bytes((len(name),)) + name

    batch = Batch(source, destination, config, entering=entering)
    guard = threading.Lock()
    watch = _Watch(connection, guard, config.deadline_seconds * _GRACE + _PATIENCE, place)
    threading.Thread(target=watch.run, daemon=True).start()
    connection.send(None)
    while True:
        try:
            piece = connection.recv()
        except EOFError:
            os._exit(0)
        for found in piece:
            watch.begin(found)
            report = batch.process(found).report
            with guard:
                watch.end()
                connection.send(report)


class _Watch:
    """Reports a message that takes too long, and ends the process.

    The guard is held by whoever reports: each message is reported by one of them, the worker or its watch, since
    the parent takes a report to be of the message that is next.
    """

    def __init__(self, connection: Connection, guard: threading.Lock, seconds: float, place: mmap.mmap) -> None:
        self._connection, self._guard, self._seconds, self._place = connection, guard, seconds, place
        self._main = threading.get_ident()
        self._current: tuple[Found, float] | None = None

    def begin(self, found: Found) -> None:
        self._current = found, time.monotonic()

    def end(self) -> None:
        self._current = None

    def run(self) -> None:
        """Look again and again."""
        while True:
            time.sleep(PARENT_SECONDS)
            self.look()

    def look(self) -> None:
        """End the process if the message that it has in hand has taken too long."""
        current = self._current
        if current is None or time.monotonic() - current[1] < self._seconds:
            return
        processor = self._place[1 : 1 + self._place[0]].decode("utf-8", "replace")
        frame = sys._current_frames().get(self._main)
        lines = traceback.extract_stack(frame)[-1:] if frame is not None else []
        where = "".join(f", at {line.filename}:{line.lineno}" for line in lines)
        reason = f"processor {processor} did not come back within {self._seconds:g} seconds{where}"
        with self._guard:
            if self._current is not current:
                return  # It came back meanwhile, and was reported.
            self._connection.send(Report(id=str(current[0].id), state="failed", reason=reason))
            os._exit(_EXIT_HUNG)


def _end_with(parent: int) -> None:
    """End this worker when its parent is gone: nobody would take its results, and it holds the lock of DEST."""
    while os.getppid() == parent:
        time.sleep(PARENT_SECONDS)
    os._exit(1)
