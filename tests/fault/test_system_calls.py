"""Each system call that changes something: killed there, and failed, by strace. For ``make campaign``.

Some hundred runs for each case, so the disk is one in memory where root may mount: ext4 on an
image in /dev/shm makes the very calls that one on a real disk makes, and its fsyncs cost nothing.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .conditions import Disk
from .harness import Setup
from .strace import CallFault, count, run, warm
from .test_every_step import CASES, Case, _make

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.system("strace"),
]

ERRORS = ("", "EIO", "ENOSPC", "EACCES", "EMFILE")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A place that orders its metadata, in memory if we may."""
    memory = Path("/dev/shm")
    if os.geteuid() != 0 or not os.access(memory, os.W_OK) or shutil.which("mkfs.ext4") is None:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as name:
        mounted = Disk(Path(name), "ext4")
        if not mounted.mount():
            yield tmp_path
            return
        try:
            yield mounted.place
        finally:
            mounted.unmount()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exactly_once_at_every_system_call(case: Case, disk: Path, tmp_path: Path) -> None:
    root = disk / "count"
    root.mkdir()
    setup, _, _ = _make(case, root)
    warm(setup)
    numbers = count(setup, tmp_path / "trace")
    faults = [CallFault(call, number, error) for call, found in numbers.items() for number in found for error in ERRORS]
    points = sum(map(len, numbers.values()))
    fired = 0
    for index, fault in enumerate(faults):
        root = disk / str(index)
        root.mkdir()
        setup, expected, ids = _make(case, root)
        code = run(setup, "-o", "/dev/null", "-e", f"trace={fault.call}", "-e", fault.expression())
        assert code != 99, f"{fault} ended the sidecar with an exception"
        fired += code != 0
        delivered = setup.deliver()
        for _ in range(4):
            had_nothing_to_do = _is_at_rest(setup)
            code = run(setup)
            assert code in {0, 75}, f"{fault}: {code}"
            delivered += setup.deliver()
            # Once more than it takes: nothing may be published again.
            if had_nothing_to_do:
                break
        kept = {state: names for state, names in setup.states().items() if names}
        assert delivered == expected, f"{fault}: {kept}"
        assert {state: len(names) for state, names in kept.items()} == ({case.state: len(ids)} if case.state else {}), (
            f"{fault}: {kept}"
        )
        assert not list(setup.place.iterdir()), f"{fault}: still in the source"
        shutil.rmtree(root)
    sys.stderr.write(f"{case.name}: {points} system calls, {len(faults)} faults, {fired} ended the run\n")


def _is_at_rest(setup: Setup) -> bool:
    return not setup.states()["work"] and not any(setup.place.iterdir())
