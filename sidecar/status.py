"""What a worker says of itself: ``state_directory/status/<worker>.json``, replaced as a whole.

Diagnostics: Reporter.write() raises OSError from the system; read_all() skips what can't be read.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections import Counter, deque
from typing import Final

import msgspec
from msgspec import Struct

from ..requeue import durable
from ..requeue.state import STATES, StateDirectory
from .measure import Measured, Meter

DIRECTORY: Final = "status"
_MOST_ERRORS: Final = 10


class StateLength(Struct, frozen=True):
    """How many messages are in a state, and how old the oldest claim is, in seconds."""

    length: int
    oldest_seconds: float


class Trouble(Struct, frozen=True):
    """One error: Unix time, the message it concerned or "", the text."""

    time: float
    id: str
    error: str


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """One worker at one moment. Times are Unix times; ended counts since started, by outcome.

    per_second is how many messages ended per second since the writing before. paused is
    why nothing new is taken in, "" while it is.
    """

    worker: int
    pid: int
    started: float
    written: float
    waiting: int
    in_hand: int
    stuck: int
    states: dict[str, StateLength]
    ended: dict[str, int]
    per_second: float
    paused: str
    paused_since: float
    last_errors: tuple[Trouble, ...]
    measured: Measured = Measured()


class Reporter:
    """Writes the status of one worker."""

    def __init__(self, state: StateDirectory, worker: int, meter: Meter | None = None) -> None:
        self._state, self._worker = state, worker
        self._meter = meter or Meter()
        self._started = self._written = time.time()
        self._counted = 0
        self._errors: deque[Trouble] = deque(maxlen=_MOST_ERRORS)
        self._guard = threading.Lock()
        self._paused, self._paused_since = "", 0.0

    def failed(self, error: str, message_id: str = "") -> None:
        """Remember an error."""
        self._meter.failed()
        self._errors.append(Trouble(time.time(), message_id, error))

    def paused(self, reason: str) -> float:
        """The intake has stopped for this reason; since when (Unix time), as it may have before."""
        with self._guard:
            if not self._paused:
                self._paused_since = time.time()
                self._meter.paused()
            self._paused = reason
            return self._paused_since

    def resumed(self) -> float:
        """The intake goes on; for how many seconds it had stopped, 0 where it had not."""
        if not self._paused:
            return 0.0
        with self._guard:
            seconds = max(time.time() - self._paused_since, 0.001) if self._paused else 0.0
            self._paused = ""
            return seconds

    def write(self, *, waiting: int, in_hand: int, stuck: int, ended: Counter[str]) -> None:
        """Replace the file."""
        now = time.time()
        total = sum(ended.values())
        status = WorkerStatus(
            worker=self._worker, pid=os.getpid(), started=self._started, written=now, waiting=waiting,
            in_hand=in_hand, stuck=stuck, states={name: self._length(name, now) for name in STATES},
            ended=dict(ended), per_second=round((total - self._counted) / max(now - self._written, 0.001), 3),
            paused=self._paused, paused_since=self._paused_since if self._paused else 0.0,
            last_errors=tuple(self._errors), measured=self._meter.snapshot(),
        )  # fmt: skip
        self._counted, self._written = total, now
        with contextlib.suppress(FileExistsError):
            durable.make_directory(DIRECTORY, at=self._state.descriptor)
        name = f"{DIRECTORY}/{self._worker}.json"
        with contextlib.suppress(FileNotFoundError):
            durable.unlink(name + ".tmp", at=self._state.descriptor)
        descriptor = durable.create_file(name + ".tmp", at=self._state.descriptor)
        try:
            durable.write(descriptor, msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n")
        finally:
            os.close(descriptor)
        durable.replace(name + ".tmp", name, at=self._state.descriptor)

    def remove(self) -> None:
        """The worker ends. What its successor after a reload has written already is left alone."""
        path = os.path.join(self._state.path, DIRECTORY, f"{self._worker}.json")
        with contextlib.suppress(OSError, msgspec.DecodeError), open(path, "rb") as file:
            if msgspec.json.decode(file.read(), type=WorkerStatus).pid == os.getpid():
                durable.unlink(f"{DIRECTORY}/{self._worker}.json", at=self._state.descriptor)

    def _length(self, name: str, now: float) -> StateLength:
        descriptor = self._state.states[name]
        claims = self._state.list(name)
        oldest = 0.0
        if claims:
            # In claim order; the first may be gone by now.
            status = durable.exists(claims[0].name, at=descriptor)
            oldest = max(0.0, now - status.st_mtime) if status is not None else 0.0
        return StateLength(len(claims), round(oldest, 1))


def read_all(state_path: str) -> list[WorkerStatus]:
    """What the workers of a state directory wrote last; a worker that was killed leaves its file."""
    found: list[WorkerStatus] = []
    directory = os.path.join(state_path, DIRECTORY)
    try:
        names = sorted(os.listdir(directory))
    except OSError:
        return []
    for name in names:
        if name.endswith(".json"):
            with contextlib.suppress(OSError, msgspec.DecodeError), open(os.path.join(directory, name), "rb") as file:
                found.append(msgspec.json.decode(file.read(), type=WorkerStatus))
    return found
