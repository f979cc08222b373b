"""The power cut before each durable step, on a loop-mounted ext4 image. For ``make campaign``, as root.

The image file, copied while it is mounted, is the disk as a power cut leaves it: what was
not synced is only in memory. The journal is committed by nothing but fsync (commit=600).
What is visible in the target when the sidecar dies is delivered first, as Exim would, with
the fsync that Exim makes of its journal before it unlinks anything; then the power goes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from .harness import Fault, run
from .test_every_step import CASES, Case, _make

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.system("mkfs.ext4", "mount"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

_MIB = 32


@contextmanager
def mounted(image: Path, place: Path) -> Generator[None, None, None]:
    place.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-o", "loop,commit=600", image, place], check=False, capture_output=True).returncode:
        pytest.skip("loop devices can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def make_image(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(_MIB << 20)
    subprocess.run(["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", path], check=True)


@pytest.mark.parametrize("delivered_first", [False, True], ids=["cut-at-once", "exim-first"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_power_cut_before_every_step(case: Case, tmp_path: Path, delivered_first: bool) -> None:
    fresh, disk, cut, place = (tmp_path / name for name in ("fresh.img", "disk.img", "cut.img", "disk"))
    make_image(fresh)
    number, points = 0, 0
    while True:
        shutil.copyfile(fresh, disk)
        delivered: Counter[bytes] = Counter()
        with mounted(disk, place):
            root = place / "house"
            root.mkdir()
            setup, expected, ids = _make(case, root)
            os.sync()
            code, _ = run(setup, Fault(number, "kill-before"), synced=True)
            if delivered_first and any(setup.input.rglob("*-H")):
                descriptor = os.open(setup.input, os.O_RDONLY)
                os.fsync(descriptor)
                delivered += setup.deliver()
                os.fsync(descriptor)
                os.close(descriptor)
            subprocess.run(["cp", "--sparse=always", disk, cut], check=True)
        with mounted(cut, place):
            for _ in range(3):
                again, _ = run(setup, synced=True)
                assert again in {0, 1}, f"before step {number}: {again}"
                delivered += setup.deliver()
            kept = {state: len(names) for state, names in setup.states().items() if names}
            assert delivered == expected, f"cut before step {number}: {kept}"
            assert kept == ({case.state: len(ids)} if case.state else {}), f"cut before step {number}: {kept}"
            assert not list(setup.place.iterdir()), f"cut before step {number}: still in the source"
        if code >= 0:
            break
        points += 1
        number += 1
    sys.stderr.write(f"{case.name}: power cut before each of {points} steps\n")
