"""A table that is built anew and replaced, again and again, under a steady rate of lookups.

Several processes look keys up, each at its share of the rate; one builds. A value tells the
generation of its table, so a reader can judge each answer: it must be there, no older than
the one before, and no older than what was in place LmdbTable's check_seconds ago. With each
generation the table has more keys, so its map grows. Whoever falls behind catches up, so
that the rate holds on a busy machine, too.

Run ``python -m benchmarks.rebuilt_table [SECONDS [PER_SECOND [READERS]]]``.
"""

from __future__ import annotations

import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from pathlib import Path

from msgspec import Struct

from respool.errors import TemporaryError
from respool.lookups.table_build import build
from respool.lookups.tables import LmdbTable

#: Keys that every generation has; those beyond come and stay.
_KEYS = 1_000
_MORE = 500
_CHECK_SECONDS = 0.1
_TURN_SECONDS = 0.01
_MOST_GENERATIONS = 100_000


class Counts(Struct, frozen=True, kw_only=True):
    """What readers saw; rebuilds and the last table's keys and bytes are the builder's."""

    seconds: float
    lookups: int = 0
    errors: int = 0
    absent: int = 0
    backwards: int = 0
    stale: int = 0
    generations_seen: int = 0
    rebuilds: int = 0
    keys: int = 0
    file_size: int = 0

    @property
    def per_second(self) -> float:
        """Lookups a second."""
        return self.lookups / self.seconds

    @property
    def wrong(self) -> int:
        """Answers that must not be."""
        return self.errors + self.absent + self.backwards + self.stale


def run(
    directory: str, *, seconds: float, per_second: int = 12_000, readers: int = 4, generations: int = 3
) -> list[Counts]:
    """Read and rebuild a table in directory; one Counts of each reader, the last of the builder.

    For so long, and on until each reader has made its share of lookups and seen so many generations.
    """
    context = multiprocessing.get_context("spawn")
    in_place = context.Array("d", _MOST_GENERATIONS, lock=False)
    stopping = context.Event()
    counted: Queue[Counts] = context.Queue()
    _build(directory, 1, in_place)
    processes = [
        context.Process(
            target=_read, args=(directory, seconds, per_second / readers, number, generations, in_place, counted)
        )
        for number in range(readers)
    ]
    builder = context.Process(target=_rebuild, args=(directory, in_place, stopping, counted))
    builder.start()
    for process in processes:
        process.start()
    found = [counted.get(timeout=seconds + 60) for _ in processes]
    stopping.set()
    found.append(counted.get(timeout=60))
    for process in (*processes, builder):
        process.join()
    return found


def total(counts: Sequence[Counts]) -> Counts:
    """All readers and the builder as one; the seconds are those of the slowest reader."""
    *readers, builder = counts
    sums = {
        name: sum(getattr(one, name) for one in readers)
        for name in ("lookups", "errors", "absent", "backwards", "stale")
    }
    return Counts(
        seconds=max(one.seconds for one in readers), generations_seen=min(one.generations_seen for one in readers),
        rebuilds=builder.rebuilds, keys=builder.keys, file_size=builder.file_size, **sums,
    )  # fmt: skip


def _build(directory: str, generation: int, in_place: Sequence[float]) -> tuple[int, int]:
    source = Path(directory, "source")
    with source.open("w", encoding="ascii") as file:
        file.writelines(f"key{number}: {generation}\n" for number in range(_KEYS + generation * _MORE))
    report = build(str(source), f"{directory}/table.mdb")
    in_place[generation] = time.monotonic()  # type: ignore[index]  # the same clock in every process
    return report.entries, report.file_size


def _rebuild(directory: str, in_place: Sequence[float], stopping: object, counted: Queue[Counts]) -> None:
    started = time.monotonic()
    generation, keys, size = 1, 0, 0
    while not stopping.is_set():  # type: ignore[attr-defined]
        generation += 1
        keys, size = _build(directory, generation, in_place)
    seconds = time.monotonic() - started
    counted.put(Counts(seconds=seconds, rebuilds=generation - 1, keys=keys, file_size=size))


def _read(
    directory: str,
    seconds: float,
    per_second: float,
    number: int,
    generations: int,
    in_place: Sequence[float],
    counted: Queue[Counts],
) -> None:
    table = LmdbTable(f"{directory}/table.mdb", check_seconds=_CHECK_SECONDS)
    keys = [b"key%d" % (position * 7919 % _KEYS) for position in range(_KEYS)]
    lookups = errors = absent = backwards = stale = 0
    last = due = 1
    seen = {1}
    started = now = time.monotonic()
    while lookups < seconds * per_second or len(seen) < generations:
        # What was in place for longer than check_seconds before these lookups began has to be seen.
        while in_place[due + 1] and in_place[due + 1] + _CHECK_SECONDS < now:
            due += 1
        for _ in range(int((now - started + _TURN_SECONDS) * per_second) - lookups):
            lookups += 1
            try:
                value = table.get(keys[(lookups + number) % _KEYS])
            except TemporaryError:
                errors += 1
                continue
            if value is None:
                absent += 1
                continue
            generation = int(value)
            backwards += generation < last
            stale += generation < due
            last = generation
            seen.add(generation)
        time.sleep(max(0.0, now + _TURN_SECONDS - time.monotonic()))
        now = time.monotonic()
    counted.put(
        Counts(
            seconds=now - started, lookups=lookups, errors=errors, absent=absent, backwards=backwards, stale=stale,
            generations_seen=len(seen),
        )
    )  # fmt: skip


def main() -> None:
    """Run it, and say what happened."""
    seconds, per_second, readers = (int(text) for text in (*sys.argv[1:4], *("20", "12000", "4")[len(sys.argv) - 1 :]))
    with tempfile.TemporaryDirectory() as directory:
        found = total(run(directory, seconds=seconds, per_second=per_second, readers=readers))
    print(
        f"{found.lookups:,} lookups by {readers} processes in {found.seconds:.1f} s, {found.per_second:,.0f}/s, while "
        f"the table was replaced {found.rebuilds} times, in the end by {found.keys:,} keys in {found.file_size:,} bytes"
    )
    print(
        f"errors {found.errors}, absent {found.absent}, older than the one before {found.backwards}, "
        f"older than {_CHECK_SECONDS} s after the replacement {found.stale}; "
        f"each process saw {found.generations_seen} tables or more"
    )
    if found.wrong:
        sys.exit("wrong answers")


if __name__ == "__main__":
    main()
