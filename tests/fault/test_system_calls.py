"""Each system call that changes something: killed there, and failed, by strace. For ``make campaign``."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from .strace import CallFault, count, run
from .test_every_step import CASES, Case, _make

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.system("strace"),
]

ERRORS = ("", "EIO", "ENOSPC", "EACCES", "EMFILE")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_exactly_once_at_every_system_call(case: Case, tmp_path: Path) -> None:
    root = tmp_path / "count"
    root.mkdir()
    setup, _, _ = _make(case, root)
    numbers = count(setup, tmp_path / "trace")
    faults = [CallFault(call, number, error) for call, found in numbers.items() for number in found for error in ERRORS]
    points = sum(map(len, numbers.values()))
    fired = 0
    for index, fault in enumerate(faults):
        root = tmp_path / str(index)
        root.mkdir()
        setup, expected, ids = _make(case, root)
        code = run(setup, "-o", "/dev/null", "-e", f"trace={fault.call}", "-e", fault.expression())
        fired += code != 0
        delivered = setup.deliver()
        for _ in range(3):
            code = run(setup)
            assert code in {0, 75}, f"{fault}: {code}"
            delivered += setup.deliver()
        kept = {state: names for state, names in setup.states().items() if names}
        assert delivered == expected, f"{fault}: {kept}"
        assert {state: len(names) for state, names in kept.items()} == ({case.state: len(ids)} if case.state else {}), (
            f"{fault}: {kept}"
        )
        assert not list(setup.place.iterdir()), f"{fault}: still in the source"
        shutil.rmtree(root)
    sys.stderr.write(f"{case.name}: {points} system calls, {len(faults)} faults, {fired} ended the run\n")
