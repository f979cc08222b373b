"""The power cut before each durable step, on a loop-mounted ext4 image. For ``make campaign``, as root.

The image file, copied while it is mounted, is the disk as a power cut leaves it: what was
not synced is only in memory. The journal is committed by nothing but fsync (commit=600).
The images lie in memory where they may: a copy of one is as good, and its fsyncs cost nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal, get_args

import pytest

from respool.requeue import durable

from .harness import Fault, Setup, run
from .test_every_step import CASES, Case, _make

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.system("mkfs.ext4", "e2fsck", "mount"),
    pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount"),
]

_MIB: Final = 32

#: What others do between the sidecar's death and the cut. Nothing; or Exim delivers what is visible,
#: with the fsync that it makes of its journal before it unlinks anything; or somebody's fsync of a
#: file of his own commits the journal, and with it every name, but no contents.
Between = Literal["nothing", "exim-delivers", "journal-committed"]


@contextmanager
def mounted(image: Path, place: Path, options: str = "loop,commit=600") -> Generator[None, None, None]:
    place.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-o", options, image, place], check=False, capture_output=True).returncode:
        pytest.skip("loop devices can't be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", place], check=True)


def make_image(path: Path, *features: str) -> None:
    with path.open("wb") as file:
        file.truncate(_MIB << 20)
    command: list[str | Path] = ["mkfs.ext4", "-q", "-E", "lazy_itable_init=0,lazy_journal_init=0", *features, path]
    subprocess.run(command, check=True)


def copy(image: Path, to: Path) -> None:
    """A file of its own each time: the loop device of the one before may still be there, with what it has cached."""
    to.unlink(missing_ok=True)
    subprocess.run(["cp", "--sparse=always", image, to], check=True)


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory if there is one."""
    if not os.access("/dev/shm", os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        yield Path(name)


@pytest.mark.parametrize("between", get_args(Between))
@pytest.mark.parametrize("case", [case for case in CASES if case.ordered], ids=lambda case: case.name)
def test_power_cut_before_every_step(case: Case, memory: Path, between: Between) -> None:
    make_image(memory / "fresh.img")
    points = cut_before_every_step(case, memory, between)
    sys.stderr.write(f"{case.name}, {between}: power cut before each of {points} steps\n")


@pytest.mark.parametrize("name", ["id-kept", "split"])
def test_power_cut_where_nothing_keeps_metadata_in_order(name: str, memory: Path) -> None:
    (case,) = (case for case in CASES if case.name == name)
    make_image(memory / "fresh.img", "-O", "^has_journal")
    points = cut_before_every_step(case, memory, "nothing", has_journal=False)
    sys.stderr.write(f"{case.name}, ext4 without a journal: power cut before each of {points} steps\n")


def test_the_second_of_two_goes_through_the_directory_of_the_first(memory: Path) -> None:
    """Or the cases named so would show nothing."""
    (case,) = (case for case in CASES if case.name == "one-directory-for-two")
    make_image(memory / "fresh.img")
    with mounted(memory / "fresh.img", memory / "disk"):
        root = memory / "disk" / "house"
        root.mkdir()
        setup, expected, message_ids = _make(case, root)
        made = memory / "made"
        make_directory = durable.make_directory

        def noted(name: str, *, at: int) -> None:
            with made.open("a") as file:
                file.write(f"{name}\n")
            make_directory(name, at=at)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(durable, "make_directory", noted)
            code, _ = run(setup, synced=True)
        assert code == 0
        assert setup.deliver() == expected
    names = made.read_text().split()
    assert [name for name in names if "." in name] == [f"{message_ids[0]}.1", "out.tmp"]


def cut_before_every_step(case: Case, memory: Path, between: Between, *, has_journal: bool = True) -> int:
    """How many steps that were. Without a journal e2fsck goes over the disk before it is mounted, as at a boot."""
    options = "loop,commit=600" if has_journal else "loop"
    fresh, disk, cut, place = (memory / name for name in ("fresh.img", "disk.img", "cut.img", "disk"))
    number = 0
    while True:
        copy(fresh, disk)
        delivered: Counter[bytes] = Counter()
        with mounted(disk, place, options):
            root = place / "house"
            root.mkdir()
            setup, expected, ids = _make(case, root)
            os.sync()
            code, _ = run(setup, Fault(number, "kill-before"), synced=True)
            delivered += _happen(between, setup)
            copy(disk, cut)
        if not has_journal:
            repaired = subprocess.run(["e2fsck", "-fy", cut], check=False, capture_output=True).returncode
            assert repaired in {0, 1}, f"before step {number}: e2fsck {repaired}"
        with mounted(cut, place, options):
            for _ in range(3):
                again, _ = run(setup, synced=True)
                assert again in {0, 1}, f"before step {number}: {again}"
                delivered += setup.deliver()
            kept = {state: len(names) for state, names in setup.states().items() if names}
            assert delivered == expected, f"cut before step {number}: {kept}"
            assert kept == ({case.state: len(ids)} if case.state else {}), f"cut before step {number}: {kept}"
            assert not list(setup.place.iterdir()), f"cut before step {number}: still in the source"
        if code >= 0:
            return number
        number += 1


def _happen(between: Between, setup: Setup) -> Counter[bytes]:
    """What was delivered by it."""
    if between == "journal-committed":
        with (setup.root / "another").open("wb") as file:
            file.write(b"x")
            os.fsync(file.fileno())
    if between != "exim-delivers" or not any(setup.input.rglob("*-H")):
        return Counter()
    descriptor = os.open(setup.input, os.O_RDONLY)
    try:
        os.fsync(descriptor)
        delivered = setup.deliver()
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return delivered
