"""How cost grows: with the queue, header fields, recipients, ARC sets, waiting messages, and memory with size.

For each of the first four, CPU of a worker for each message (claim to settled, all processors) at
doubling sizes, the least of the rounds, and the ratio from one size to the next: 2 at most is
linear, 1 is no growth. Start-up is CPU and wall time until the first message is handed back. Memory is
the most anonymous memory that a worker had (RssAnon).

    python -m benchmarks.growth [--rounds N] [--directory D] [--json]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import replace

from respool.sidecar import log
from respool.sidecar.config import Config, decode
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker
from respool.spool.envelope import Envelope, Header, Recipient

from .machine import facts
from .sidecar_work.disk import ordered_directory
from .sidecar_work.material import CONFIG, Material, make_material

_FIRST_ID: Final = "1xV9Vo-000000-2c"
_MIB: Final = 1 << 20


class Spent(Struct, frozen=True):
    """Of a worker: seconds of CPU and of wall time, and the most anonymous memory in MiB."""

    cpu: float
    wall: float
    memory: float


def _work(root: Path, pipe: Connection) -> None:
    with Path("/dev/null").open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    prepared = prepare(decode(CONFIG.format(root=root, workers=1).encode(), Config, file="benchmark.toml"))
    log.configure(level=20, terminal=False)
    worker = make_worker(prepared, log.get(), once=True, trace=False)
    before = resource.getrusage(resource.RUSAGE_SELF)  # what a start costs is measured by itself
    code = worker.run()
    after = resource.getrusage(resource.RUSAGE_SELF)
    pipe.send((code, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime))


def _anonymous(process: int) -> int:
    """RssAnon in bytes, 0 once the process has ended."""
    try:
        text = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    _, found, rest = text.partition("RssAnon:")
    return int(rest.split()[0]) << 10 if found else 0


def _cpu(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def drain(root: Path, *, only_first: bool = False) -> Spent:
    """Let a worker of its own empty the export below root, or hand back its first message and be killed."""
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_work, args=(root, theirs))
    most, start = 0, time.monotonic()
    process.start()
    theirs.close()
    identifier = process.pid or 0
    while not ours.poll(0.002):
        most = max(most, _anonymous(identifier))
        if only_first and (root / f"spool/input/{_FIRST_ID}-H").exists():
            spent = Spent(_cpu(identifier), time.monotonic() - start, most / _MIB)
            process.kill()
            process.join()
            return spent
    code, cpu = ours.recv()
    wall = time.monotonic() - start
    process.join()
    if code != 0:
        raise SystemExit(f"the worker ended with {code}")
    return Spent(cpu, wall, most / _MIB)


def _changed(material: Material, change: Callable[[Envelope], Envelope]) -> Material:
    return replace(material, envelopes=tuple((change(envelope), body) for envelope, body in material.envelopes))


def _with_headers(count: int) -> Material:
    added = tuple(Header.make(b"X-Number-%d" % number, b"a value of a field, as it comes") for number in range(count))
    return _changed(make_material(), lambda envelope: envelope.replace(headers=(*envelope.headers, *added)))


def _with_recipients(count: int) -> Material:
    recipients = tuple(Recipient.make(b"bob%d@example.net" % number) for number in range(count))
    return _changed(make_material(), lambda envelope: envelope.replace(recipients=recipients))


#: What grows, to which sizes, and how many messages of each are handed back.
_GROWING: Final[dict[str, tuple[Callable[[int], Material], tuple[int, ...], int]]] = {
    "header fields": (_with_headers, (64, 128, 256, 512, 1024), 40),
    "recipients": (_with_recipients, (64, 128, 256, 512, 1024), 40),
    "ARC sets": (lambda count: make_material(sets=count, kinds=4), (2, 4, 8, 16, 32), 40),
}
_QUEUE: Final = (250, 500, 1000, 2000, 4000)
_WAITING: Final = (0, 10_000, 100_000)
_SIZES: Final = {"1 KB": 1_000, "100 KB": 100_000, "10 MB": 10_000_000, "200 MB": 200_000_000}


def measure_growth(
    place: Path, make: Callable[[int], Material], sizes: tuple[int, ...], count: int, rounds: int
) -> Any:
    """Per size: milliseconds of CPU a message, the least of the rounds."""
    least: dict[int, float] = {}
    materials = {size: make(size) for size in sizes}
    for _ in range(rounds):
        for size, material in materials.items():
            with tempfile.TemporaryDirectory(dir=place) as name:
                material.write(Path(name), count)
                found = drain(Path(name)).cpu / count * 1e3
                least[size] = min(least.get(size, found), found)
    return with_ratios(least)


def measure_queue(place: Path, material: Material, rounds: int) -> Any:
    """Per length of the queue that a worker finds: milliseconds of CPU a message."""
    least: dict[int, float] = {}
    for _ in range(rounds):
        for length in _QUEUE:
            with tempfile.TemporaryDirectory(dir=place) as name:
                material.write(Path(name), length)
                found = drain(Path(name)).cpu / length * 1e3
                least[length] = min(least.get(length, found), found)
    return with_ratios(least)


def with_ratios(least: dict[int, float]) -> dict[str, Any]:
    """The figures, and each over the one before."""
    return {"ms": least, "ratios": [round(after / before, 2) for before, after in pairwise(least.values())]}


def measure_start(place: Path, material: Material, waiting: int) -> Spent:
    """CPU and wall time until the first message is in the spool, with so many more waiting."""
    with tempfile.TemporaryDirectory(dir=place) as name:
        root = Path(name)
        material.write(root, 8)
        # Names are all that a start looks at; those of one file, for the sake of inodes, which has a limit of links.
        original = root / "original"
        for number in range(waiting):
            if number % 30_000 == 0:
                original = root / f"original-{number}"
                original.write_bytes(b"waits")
            for letter in "HD":
                os.link(original, root / f"export/1xV9Vp-{number:06d}-2c-{letter}")
        os.sync()
        return drain(root, only_first=True)


def measure_memory(place: Path, size: int) -> float:
    """MiB of anonymous memory that a worker has at most while 8 messages of this size go through it (2 of the largest)."""
    material = make_material(size=min(size, 1_000_000), kinds=1)
    ((envelope, body),) = material.envelopes
    larger = replace(material, envelopes=((envelope, body * max(1, size // len(body))),))
    with tempfile.TemporaryDirectory(dir=place) as name:
        larger.write(Path(name), 2 if size > 50_000_000 else 8)
        del larger, body
        return drain(Path(name)).memory


def main() -> None:
    parser = argparse.ArgumentParser(description="growth of cost, start-up, memory")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    usual = make_material()
    with ordered_directory(arguments.directory) as (place, kind):
        machine = facts(place, kind)
        growth = {
            name: measure_growth(place, make, sizes, count, arguments.rounds)
            for name, (make, sizes, count) in _GROWING.items()
        }
        growth["queue"] = measure_queue(place, usual, arguments.rounds)
        start = {
            waiting: min((measure_start(place, usual, waiting) for _ in range(arguments.rounds)), key=_cpu_of)
            for waiting in _WAITING
        }
        memory = {name: measure_memory(place, size) for name, size in _SIZES.items()}
    found: dict[str, Any] = {
        "machine": machine,
        "growth": growth,
        "start": {waiting: {"cpu": spent.cpu, "wall": spent.wall} for waiting, spent in start.items()},
        "memory": memory,
    }
    if arguments.json:
        print(json.dumps(found))
        return
    for name, rows in growth.items():
        print(f"{name}: " + ", ".join(f"{size} {ms:.2f} ms" for size, ms in rows["ms"].items()))
        print(f"{'':4}per doubling: {rows['ratios']}")
    for waiting, spent in start.items():
        print(f"start with {waiting} waiting: {spent.cpu:.2f} s CPU, {spent.wall:.2f} s until the first is back")
    for name, mebibytes in memory.items():
        print(f"messages of {name}: {mebibytes:.0f} MiB anonymous")


def _cpu_of(spent: Spent) -> float:
    return spent.cpu


if __name__ == "__main__":
    main()
