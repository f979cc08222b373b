"""From link(2) to our callback: how long new mail goes unnoticed, ours against watchdog's Observer.

Two rhythms: *idle*, one message every 20 ms; *burst*, 2,000 at once. For each message both
files are linked as Exim's queuefile transport does, ``-H`` then ``-D``; the time is taken
before the second link and at the callback for it. CPU is that of the watching process per
event. And what a scan of a directory with many waiting messages costs, in time and memory.

    python -m benchmarks.watch
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

from watchdog.events import DirCreatedEvent, FileCreatedEvent, FileSystemEventHandler
from watchdog.observers import Observer

from respool.sidecar.intake import Intake
from respool.spool.directory import Found, MessageDirectory
from respool.spool.ids import MessageId, encode_base62
from respool.spool.watch import Watch

RHYTHMS = {"idle": (150, 0.02), "burst": (2000, 0.0)}
CLOCK = time.CLOCK_MONOTONIC


def message_id(number: int) -> MessageId:
    return MessageId(f"{encode_base62(1_800_000_000 + number // 50, 6)}-{encode_base62(number, 11)}-0000")


def write(root: str, count: int, pause: float, pipe: Connection) -> None:
    """Link the messages, from a process of its own; tell when each was complete."""
    body = Path(root).with_name("body")
    body.touch()
    pipe.recv()
    linked: dict[str, int] = {}
    for number in range(count):
        name = message_id(number)
        os.link(body, f"{root}/{name}-H")
        linked[name] = time.clock_gettime_ns(CLOCK)
        os.link(body, f"{root}/{name}-D")
        if pause:
            time.sleep(pause)
    pipe.send(linked)


class Handler(FileSystemEventHandler):
    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told

    def on_created(self, event: DirCreatedEvent | FileCreatedEvent) -> None:
        self._told(os.path.basename(os.fsdecode(event.src_path)))


def measure(kind: str, count: int, pause: float) -> tuple[list[float], float]:
    """Microseconds from link to callback, sorted; CPU microseconds per event."""
    with tempfile.TemporaryDirectory() as base:
        root = f"{base}/export"
        os.mkdir(root)
        ours, theirs = multiprocessing.Pipe()
        writer = multiprocessing.get_context("spawn").Process(target=write, args=(root, count, pause, theirs))
        writer.start()
        told: dict[str, int] = {}

        def appeared(found: Found) -> None:
            # The last event of a message is that of its -D.
            told[found.id] = time.clock_gettime_ns(CLOCK)

        def created(name: str) -> None:
            told[name[:-2]] = time.clock_gettime_ns(CLOCK)

        directory = MessageDirectory(root)
        watch = Watch(directory, appeared, lambda: None)
        observer = Observer()
        if kind == "ours":
            watch.start()
        else:
            observer.schedule(Handler(created), root)
            observer.start()
        cpu = time.process_time()
        ours.send("go")
        linked = ours.recv()
        end = time.monotonic() + 30
        while (len(told) < count or min(told[name] - at for name, at in linked.items()) < 0) and time.monotonic() < end:
            time.sleep(0.02)
        cpu = time.process_time() - cpu
        writer.join()
        if kind == "ours":
            watch.stop()
        else:
            observer.stop()
            observer.join()
        directory.close()
    if len(told) < count:
        sys.exit(f"{kind}: {count - len(told)} messages were never told")
    return sorted((told[name] - at) / 1000 for name, at in linked.items()), cpu / count / 2 * 1e6


def watches() -> None:
    for rhythm, (count, pause) in RHYTHMS.items():
        for kind in ("ours", "watchdog's Observer"):
            taken, cpu = measure(kind, count, pause)
            p50, p99 = taken[len(taken) // 2], taken[len(taken) * 99 // 100]
            print(f"{rhythm:6} {kind:20} p50 {p50:10.0f} us   p99 {p99:10.0f} us   CPU {cpu:6.0f} us per event")


def scans() -> None:
    for count in (1_000, 10_000, 100_000):
        with tempfile.TemporaryDirectory() as root:
            for number in range(count):
                for suffix in "HD":
                    os.close(os.open(f"{root}/{message_id(number)}-{suffix}", os.O_CREAT | os.O_WRONLY))
            directory = MessageDirectory(root)
            if len(directory.list().pairs) != count:
                sys.exit("the scan found something else")
            best = float("inf")
            for _ in range(3):
                started = time.process_time()
                directory.list()
                best = min(best, time.process_time() - started)
            tracemalloc.start()
            intake = Intake()
            intake.offer_all(directory.list().pairs)
            held, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            started = time.process_time()
            intake.offer_all(directory.list().pairs)
            again = time.process_time() - started
            directory.close()
        print(
            f"{count:7} waiting: scan {best * 1e3:7.1f} ms ({best / count * 1e6:.1f} us each), with the intake "
            f"{again * 1e3:7.1f} ms; held {held / 1e6:5.1f} MB ({held / count:.0f} bytes each), peak {peak / 1e6:.1f} MB"
        )


if __name__ == "__main__":
    watches()
    scans()
