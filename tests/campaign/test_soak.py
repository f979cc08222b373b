"""A day's mail in minutes, with every processor: nothing grows.

86,400 messages, one for each second of the day (RESPOOL_SOAK_MESSAGES changes that). Looked
at after each batch: memory of the workers, their descriptors and threads, reader slots of
the table, entries left in the state directory.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import lmdb
import pytest
from msgspec import Struct

from respool.requeue.state import STATES

from .house import House

pytestmark = pytest.mark.campaign

MESSAGES = int(os.environ.get("RESPOOL_SOAK_MESSAGES", "86400"))
BATCH = 400
#: What a worker may gain between the second quarter of the day and the last, in KiB: the allocator's noise.
_NOISE_KIB = 8 << 10


class Look(Struct, frozen=True, kw_only=True):
    """The largest of all workers at one moment."""

    anonymous_kib: int
    descriptors: int
    threads: int
    readers: int
    state_entries: int


def test_nothing_grows_in_a_day(tmp_path: Path) -> None:
    with House(tmp_path / "house") as house:
        house.start()
        looks: list[Look] = []
        workers: set[int] = set()
        while len(house.expected) < MESSAGES:
            house.put(BATCH)
            house.wait_until(lambda: house.outstanding() < BATCH // 2, 300)
            workers.update(house.workers())
            looks.append(_look(house))
        house.wait_until_settled(300)
        looks.append(_look(house))
        assert house.stop() == 0
        house.assert_each_once()
        quarter = len(looks) // 4
        early, late = looks[quarter : 2 * quarter], looks[-quarter:]
        for look in (looks[0], early[-1], late[-1]):
            sys.stderr.write(f"\n{look}")
        sys.stderr.write(f"\n{house.summary()}\n")
        assert len(workers) == 2, "a worker was replaced"
        assert max(x.anonymous_kib for x in late) <= max(x.anonymous_kib for x in early) + _NOISE_KIB
        for name in ("descriptors", "threads", "readers", "state_entries"):
            assert max(getattr(x, name) for x in late) <= max(getattr(x, name) for x in early) * 1.1 + 4, name


def _look(house: House) -> Look:
    workers = house.workers()
    with lmdb.open(str(house.table), subdir=False, readonly=True, lock=True) as environment:
        readers = environment.readers().count("\n")
    return Look(
        anonymous_kib=max(_status(worker, "RssAnon") for worker in workers),
        descriptors=max(len(list(_entries(Path(f"/proc/{worker}/fd")))) for worker in workers),
        threads=max(_status(worker, "Threads") for worker in workers),
        readers=readers,
        state_entries=sum(len(house.in_state(state)) for state in STATES),
    )


def _entries(directory: Path) -> Iterator[str]:
    with suppress(FileNotFoundError):
        yield from os.listdir(directory)


def _status(process: int, name: str) -> int:
    with suppress(FileNotFoundError):
        for line in Path(f"/proc/{process}/status").read_text().splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1])
    return 0
