"""``respool batch`` by worker processes of its own and on a Dask cluster of as many, taking turns.

The cluster is on this machine: what is compared is what Dask costs, not what machines bring. Each
message is two files, fsynced; no processors. Run ``python -m benchmarks.dask_batch [MESSAGES [WORKERS]]``.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import distributed

from respool.spool.ids import IdMinter

ROUNDS = 2


def make_archive(directory: Path, count: int) -> None:
    directory.mkdir()
    minter = IdMinter(long=True)
    body = "A line of text, as there are many in mail.\n" * 70
    for number in range(count):
        message_id = minter.mint()
        subject = f"Subject: message {number}"
        header = [f"{message_id}-H", "mail 8 8", "<a@example.org>", "1795000000 0", "-received_time_usec .5",
                  "-body_linecount 70", "-max_received_linelength 80", "XX", "1", "bob@example.org", "",
                  f"{len(subject) + 1:03d}  {subject}", ""]  # fmt: skip
        (directory / message_id.header_name).write_text("\n".join(header))
        (directory / message_id.data_name).write_text(f"{message_id}-D\n{body}")


def batch(source: Path, destination: Path, *arguments: str) -> float:
    """Seconds that a run took, the program's start included."""
    command = [sys.executable, "-m", "respool", "batch", str(source), str(destination), *arguments]
    started = time.monotonic()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.monotonic() - started
    if len(list(destination.glob("*-H"))) != len(list(source.glob("*-H"))):
        sys.exit(f"{destination} lacks messages")
    return seconds


def main() -> None:
    count, workers = (int(text) for text in (*sys.argv[1:3], *("3000", "2")[len(sys.argv) - 1 :]))
    cluster = distributed.LocalCluster(  # type: ignore[no-untyped-call]
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        host="127.0.0.1",
        dashboard_address=None,  # pyright: ignore[reportArgumentType] (none)
    )
    with tempfile.TemporaryDirectory(dir=".") as place, cluster:
        source = Path(place, "source")
        make_archive(source, count)
        ways = {"processes": ("--workers", str(workers)), "Dask": ("--dask", str(cluster.scheduler_address))}
        best = dict.fromkeys(ways, float("inf"))
        for number in range(ROUNDS):
            for name, arguments in ways.items():
                best[name] = min(best[name], batch(source, Path(place, f"{name}{number}"), *arguments))
    for name, seconds in best.items():
        print(f"{name:10} {workers} workers  {count / seconds:7.1f} messages/s")
    print(f"Dask's share: {best['Dask'] / best['processes']:.2f} times the time, {count // 32} tasks")


if __name__ == "__main__":
    main()
