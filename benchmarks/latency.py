"""From the name in the export to the datagram to Exim: idle, and at 80 % of what the program can do.

A message is there once the second of its two names is made; here by rename(2), so that it has one
link as after Exim's unlinks. The socket that Exim's daemon would listen on is ours; what arrives there names the message. The bare
program waits for inotify, makes the system calls and the cryptography of a hand-back
(sidecar_work/bare.py) in eight threads, and sends the same datagram at the same place. The two take turns, under the same
load: 80 % of the rate at which the program drained a burst just before.

    python -m benchmarks.latency [--messages N] [--rounds N] [--directory D] [--json]
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import multiprocessing
import os
import signal
import socket
import statistics
import struct
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final

from respool.sidecar import log
from respool.sidecar.config import Config, decode
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker

from .machine import facts
from .sidecar_work.bare import Bare
from .sidecar_work.disk import ordered_directory
from .sidecar_work.material import CONFIG, Material, make_material

_IDLE_SECONDS: Final = 0.1
_LOAD: Final = 0.8
_MOST_SECONDS: Final = 30.0
_MOVED_TO: Final = 0x80
_EVENT: Final = struct.Struct("iIII")


def _respool(root: Path, address: str, _material: Material) -> None:
    text = CONFIG.format(root=root, workers=1).replace(
        'notify = "none"', f'notify = "socket"\nnotifier_socket = "{address}"'
    )
    prepared = prepare(decode(text.encode(), Config, file="benchmark.toml"))
    log.configure(level=20, terminal=False)
    worker = make_worker(prepared, log.get(), once=False, trace=False)
    signal.signal(signal.SIGTERM, lambda _signal, _frame: worker.stop())
    worker.run()


def _bare(root: Path, address: str, material: Material) -> None:
    program = Bare(root, material.key, number=0, threads=8, batch=1)
    libc = ctypes.CDLL(None)
    events = libc.inotify_init1(os.O_CLOEXEC)
    libc.inotify_add_watch(events, str(root / "export").encode(), _MOVED_TO)
    teller = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    stems: SimpleQueue[str] = SimpleQueue()

    def tell(stem: str) -> None:
        teller.sendto(b"\x01" + stem.encode() + b"\0", address)

    program.follow(stems, tell)
    while True:
        data, at = os.read(events, 1 << 16), 0
        while at < len(data):
            _, _, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            name = data[at - length : at].rstrip(b"\0").decode()
            if name.endswith("-H"):
                stems.put(name[:-2])


Contender = Callable[[Path, str, Material], None]
CONTENDERS: Final[dict[str, Contender]] = {"respool": _respool, "bare": _bare}


def _begin(contender: Contender, root: Path, address: str, material: Material) -> None:
    with Path("/dev/null").open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    contender(root, address, material)


class Running:
    """A contender at work on an export that fills from a directory beside it."""

    def __init__(self, root: Path, listener: socket.socket) -> None:
        self._root, self._listener = root, listener
        self._stems = sorted(path.name[:-2] for path in (root / "ready").glob("*-H"))

    def measure(self, count: int, pause: float) -> list[float]:
        """Seconds from name to datagram of each of the next count messages, begun pause seconds apart."""
        stems, self._stems = self._stems[:count], self._stems[count:]
        linked: dict[str, float] = {}
        told: dict[str, float] = {}
        start = time.monotonic()
        for number, stem in enumerate(stems):
            while (left := start + number * pause - time.monotonic()) > 0:
                self._hear(told, left)
            for letter in "DH":
                # One link and no more: nobody else has the message any longer, as when Exim has delivered it.
                linked[stem] = time.monotonic()
                os.rename(self._root / f"ready/{stem}-{letter}", self._root / f"export/{stem}-{letter}")
        give_up = time.monotonic() + _MOST_SECONDS
        while len(told) < len(stems):
            if time.monotonic() > give_up:
                raise SystemExit(f"no word of {len(stems) - len(told)} messages")
            self._hear(told, 0.1)
        return [told[stem] - linked[stem] for stem in stems]

    def burst(self, count: int) -> float:
        """Messages a second, of count at once."""
        start = time.monotonic()
        self.measure(count, 0.0)
        return count / (time.monotonic() - start)

    def _hear(self, told: dict[str, float], seconds: float) -> None:
        self._listener.settimeout(max(seconds, 1e-4))
        with contextlib.suppress(TimeoutError):
            datagram = self._listener.recv(256)
            told[datagram[1:].partition(b"\0")[0].decode()] = time.monotonic()


@contextlib.contextmanager
def running(name: str, place: Path, material: Material, count: int) -> Generator[Running]:
    """A contender that has begun, with count messages ready."""
    with tempfile.TemporaryDirectory(dir=place) as directory:
        root = Path(directory)
        material.write(root, count)
        (root / "export").rename(root / "ready")
        (root / "export").mkdir(mode=0o750)
        os.sync()
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
            address = str(root / "notify")
            listener.bind(address)
            process = multiprocessing.get_context("fork").Process(
                target=_begin, args=(CONTENDERS[name], root, address, material)
            )
            process.start()
            time.sleep(1.0)
            try:
                yield Running(root, listener)
            finally:
                process.terminate()
                process.join()


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median, 99th percentile and maximum in milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    return {"p50": cuts[49] * 1e3, "p99": cuts[98] * 1e3, "most": max(seconds) * 1e3}


def main() -> None:
    parser = argparse.ArgumentParser(description="latency from the name in the export to the datagram to Exim")
    parser.add_argument("--messages", type=int, default=100, help="of each kind and round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directory", type=Path, default=Path(tempfile.gettempdir()), help="where to work")
    parser.add_argument("--json", action="store_true", help="one JSON document on stdout")
    arguments = parser.parse_args()
    count, material = arguments.messages, make_material()
    taken: dict[str, dict[str, list[float]]] = {name: {"idle": [], "at 80 %": []} for name in CONTENDERS}
    rate = 0.0
    with ordered_directory(arguments.directory) as (place, kind):
        machine = facts(place, kind)
        for _ in range(arguments.rounds):
            for name, found in taken.items():
                with running(name, place, material, 3 * count + 10) as program:
                    program.burst(10)  # caches filled
                    found["idle"] += program.measure(count, _IDLE_SECONDS)
                    if name == "respool":
                        rate = program.burst(count)
                    found["at 80 %"] += program.measure(count, 1 / (_LOAD * rate))
    table = {name: {state: percentiles(seconds) for state, seconds in found.items()} for name, found in taken.items()}
    ratios = {
        state: {part: table["respool"][state][part] / table["bare"][state][part] for part in ("p50", "p99")}
        for state in ("idle", "at 80 %")
    }
    document: dict[str, Any] = {"machine": machine, "rate": rate, "latency_ms": table, "ratios": ratios}
    if arguments.json:
        print(json.dumps(document))
        return
    print(f"at 80 %: {_LOAD * rate:.0f} messages a second")
    for name, states in table.items():
        for state, row in states.items():
            print(f"{name:10}{state:10}" + "".join(f"{part}{value:8.2f} ms   " for part, value in row.items()))
    for state, row in ratios.items():
        print(f"{state}: respool takes {row['p50']:.1f} times as long as the bare program, p99 {row['p99']:.1f} times")


if __name__ == "__main__":
    main()
