"""How long the queues are, and how old: source and states, seen from outside, opening no message.

Diagnostics: OSError where a directory can't be read.
"""

from __future__ import annotations

import contextlib
import os
import time

from msgspec import Struct

from ..requeue.state import STATES, parse_claim
from ..spool.directory import MessageDirectory
from .config import Config
from .config_check import source_directory


class Queue(Struct, frozen=True, kw_only=True):
    """A queue: how many messages, and for how many seconds the oldest has been there.

    received_seconds is the time since Exim received the oldest: mail that is deferred
    again and again is new in its state each time, and gets older all the same.
    """

    length: int = 0
    oldest_seconds: float = 0.0
    received_seconds: float = 0.0


def source_queue(config: Config) -> Queue:
    """What waits in the source. When a message came there only its id tells."""
    now = time.time()
    directory = MessageDirectory(source_directory(config))
    try:
        received = [found.id.received_time for found in directory.list().pairs]
    finally:
        directory.close()
    seconds = max(0.0, now - min(received, default=now))
    return Queue(length=len(received), oldest_seconds=round(seconds, 1), received_seconds=round(seconds, 1))


def lengths(state_directory: str) -> dict[str, Queue]:
    """Each state.

    A message comes into a state by a rename, just before which its status.json was
    replaced: the directory's time of change is when that was.
    """
    now = time.time()
    found: dict[str, Queue] = {}
    for name in STATES:
        oldest, received, count = now, now, 0
        with os.scandir(os.path.join(state_directory, name)) as entries:
            for entry in entries:
                claim = parse_claim(entry.name)
                if claim is not None:
                    with contextlib.suppress(FileNotFoundError):
                        oldest = min(oldest, entry.stat(follow_symlinks=False).st_mtime)
                        received = min(received, claim.id.received_time)
                        count += 1
        found[name] = Queue(
            length=count, oldest_seconds=round(max(0.0, now - oldest), 1),
            received_seconds=round(max(0.0, now - received), 1),
        )  # fmt: skip
    return found
