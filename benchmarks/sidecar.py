"""The whole way of a message, from claim to settled, against a bare program that does no more than it must.

The job: messages of 10 KB, each with a DKIM signature and an ARC set, are claimed from an
export, verified, evaluated, sealed (RSA-2048) and handed back to a spool; the ledger is kept,
a line is logged for each. DNS is a zone in memory. The worker is the program's own, with its
threads and syncs, in a process of its own.

The bare program (sidecar_work/bare.py) makes the system calls that the same guarantees need
and the same cryptography, without any logic; *bare, files* is it without cryptography, *bare,
cryptography* without files. *respool, files* has no processor: what it does is requeue, and it is held
against *bare, files*. Contenders take turns, each process on a processor of its own, as respool's workers
are; *respool, anywhere* is what they would cost without that (``affinity = false``). The ratios are medians
over the rounds. CPU is that of the processes themselves.

    python -m benchmarks.sidecar [--messages N] [--rounds N] [--workers 1 2 4] [--directory D] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from msgspec import Struct

from respool.sidecar import log
from respool.sidecar.config import Config, decode
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker

from .machine import facts
from .sidecar_work.bare import Bare, Cryptography
from .sidecar_work.disk import ordered_directory
from .sidecar_work.material import CONFIG, PLAIN, SIZE, Material, make_material

#: Chosen by a short trial on a busy machine; with 2 processes fewer threads and larger batches may do as well.
BARE_THREADS, BARE_BATCH = 8, 8

#: What one process of a contender does once the start is given.
Work = Callable[[], None]


class Measured(Struct, frozen=True):
    """For each message: seconds of wall time, and of CPU in the program and in the kernel."""

    wall: float
    user: float
    system: float

    @property
    def cpu(self) -> float:
        return self.user + self.system


@contextlib.contextmanager
def respool(root: Path, workers: int, _material: Material, *, config: str = CONFIG) -> Generator[Callable[[int], Work]]:
    prepared = prepare(decode(config.format(root=root, workers=workers).encode(), Config, file="benchmark.toml"))

    def begin(number: int) -> Work:
        log.configure(level=20, terminal=False)
        worker = make_worker(prepared, log.get(), number=number, count=workers, once=True, trace=False)

        def work() -> None:
            if worker.run() != 0:
                raise SystemExit(f"worker {number} did not end well")

        return work

    yield begin
    prepared.close()


@contextlib.contextmanager
def bare(root: Path, workers: int, material: Material, *, sealing: bool) -> Generator[Callable[[int], Work]]:
    stems = sorted(path.name[:-2] for path in (root / "export").glob("*-H"))
    for name in ("state", "state/work", "state/ledger"):
        (root / name).mkdir()

    def begin(number: int) -> Work:
        key = material.key if sealing else None
        program = Bare(root, key, number=number, threads=BARE_THREADS, batch=BARE_BATCH)
        return partial(program.run, stems[number::workers])

    yield begin


@contextlib.contextmanager
def cryptography(root: Path, workers: int, material: Material) -> Generator[Callable[[int], Work]]:
    bodies = [path.read_bytes() for path in (root / "export").glob("*-D")]

    def begin(number: int) -> Work:
        its = Cryptography(material.key)

        def work() -> None:
            for body in bodies[number::workers]:
                its.work(body)

        return work

    yield begin


#: From a filled directory and a number of processes to what makes each ready for its part.
Contender = Callable[[Path, int, Material], contextlib.AbstractContextManager[Callable[[int], Work]]]
CONTENDERS: dict[str, Contender] = {
    "respool": respool,
    "bare": partial(bare, sealing=True),
    "respool, files": partial(respool, config=PLAIN),
    "bare, files": partial(bare, sealing=False),
    "bare, cryptography": cryptography,
    "respool, anywhere": respool,
}
#: Contenders whose processes go wherever the kernel puts them.
_ANYWHERE: Final = {"respool, anywhere"}
#: What a contender is held against, where it is not the whole bare program.
_FLOORS: Final = {"respool, files": "bare, files"}


def _run_one(begin: Callable[[int], Work], number: int, pipe: Connection) -> None:
    with Path("/dev/null").open("wb") as nowhere:
        os.dup2(nowhere.fileno(), sys.stderr.fileno())
    work = begin(number)
    pipe.send("ready")
    pipe.recv()
    before = resource.getrusage(resource.RUSAGE_SELF)
    work()
    end, after = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((end, after.ru_utime - before.ru_utime, after.ru_stime - before.ru_stime))


def _run(begin: Callable[[int], Work], workers: int, *, anywhere: bool) -> list[tuple[float, float, float]]:
    """Of each process: wall time from the start, CPU in the program, CPU in the kernel."""
    context = multiprocessing.get_context("fork")
    usable = sorted(os.sched_getaffinity(0))
    pipes: list[Connection] = []
    processes: list[Any] = []
    for number in range(workers):
        ours, theirs = context.Pipe()
        process = context.Process(target=_run_one, args=(begin, number, theirs))
        process.start()
        if not anywhere:
            os.sched_setaffinity(process.pid or 0, {usable[number % len(usable)]})
        pipes.append(ours)
        processes.append(process)
        theirs.close()
    for pipe in pipes:
        pipe.recv()
    start = time.monotonic()
    for pipe in pipes:
        pipe.send("go")
    answers: list[tuple[float, float, float]] = [pipe.recv() for pipe in pipes]
    for process in processes:
        process.join()
    return [(end - start, user, system) for end, user, system in answers]


def measure(name: str, place: Path, workers: int, material: Material, count: int) -> Measured:
    """Let a contender hand count messages back with that many processes."""
    with tempfile.TemporaryDirectory(dir=place) as directory:
        root = Path(directory)
        material.write(root, count)
        os.sync()
        with CONTENDERS[name](root, workers, material) as begin:
            answers = _run(begin, workers, anywhere=name in _ANYWHERE)
        done = len(list((root / "spool/input").glob("*-H")))
        if name != "bare, cryptography" and done != count:
            raise SystemExit(f"{name}: {done} of {count} messages are in the spool")
    walls, users, systems = zip(*answers, strict=True)
    return Measured(max(walls) / count, sum(users) / count, sum(systems) / count)


def summary(rounds: list[dict[str, Measured]]) -> dict[str, dict[str, float]]:
    """Per contender: medians, and the medians of what the bare program took against it within a round."""
    found: dict[str, dict[str, float]] = {}
    for name in rounds[0]:
        mine = [measured[name] for measured in rounds]
        floors = [measured[_FLOORS.get(name, "bare")] for measured in rounds]
        found[name] = {
            "messages_per_second": 1 / statistics.median(one.wall for one in mine),
            "cpu_ms": statistics.median(one.cpu for one in mine) * 1e3,
            "user_ms": statistics.median(one.user for one in mine) * 1e3,
            "system_ms": statistics.median(one.system for one in mine) * 1e3,
            "rate_to_bare": statistics.median(floor.wall / one.wall for floor, one in zip(floors, mine, strict=True)),
            "cpu_rate_to_bare": statistics.median(floor.cpu / one.cpu for floor, one in zip(floors, mine, strict=True)),
            "least_cpu_rate_to_bare": min(floor.cpu for floor in floors) / min(one.cpu for one in mine),
        }
    return found


def print_table(workers: int, found: dict[str, dict[str, float]]) -> None:
    print(f"\n{workers} {'process' if workers == 1 else 'processes'}")
    print(
        f"{'':20}{'msg/s':>8}{'CPU ms':>9}{'user':>8}{'kernel':>8}{'rate : bare':>13}{'CPU rate : bare':>17}{'least':>8}"
    )
    for name, row in found.items():
        print(
            f"{name:20}{row['messages_per_second']:8.0f}{row['cpu_ms']:9.2f}{row['user_ms']:8.2f}"
            f"{row['system_ms']:8.2f}{row['rate_to_bare']:12.0%} {row['cpu_rate_to_bare']:16.0%} {row['least_cpu_rate_to_bare']:7.0%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description="claim to settled: ours against the bare program")
    parser.add_argument("--messages", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    material = make_material()
    load = os.getloadavg()[0]
    tables: dict[int, dict[str, dict[str, float]]] = {}
    with ordered_directory(arguments.directory) as (place, kind):
        machine = facts(place, kind)
        for workers in arguments.workers:
            rounds = [
                {name: measure(name, place, workers, material, arguments.messages) for name in CONTENDERS}
                for _ in range(arguments.rounds)
            ]
            tables[workers] = summary(rounds)
    machine["load"] = f"{load:.1f} before, {os.getloadavg()[0]:.1f} after"
    if arguments.json:
        print(json.dumps({"machine": machine, "messages": arguments.messages, "processes": tables}))
        return
    print(f"{arguments.messages} messages of {SIZE // 1000} KB, claim to settled; medians of {arguments.rounds} rounds")
    for name, value in machine.items():
        print(f"{name:12} {value}")
    for workers, found in tables.items():
        print_table(workers, found)


if __name__ == "__main__":
    main()
