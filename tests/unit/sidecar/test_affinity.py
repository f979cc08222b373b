"""Each worker on a processor of its own, as far as they reach; and where that is not allowed, none is the worse for it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.sidecar import affinity
from respool.sidecar.affinity import stay_on, usable_processors
from tests.sidecar_process import SidecarProcess

USABLE = os.sched_getaffinity(0)


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    os.sched_setaffinity(0, USABLE)


def test_all_that_may_be_used_beginning_with_the_present_one() -> None:
    found = usable_processors()
    assert sorted(found) == sorted(USABLE)
    last = max(USABLE)
    os.sched_setaffinity(0, {last})
    assert usable_processors() == [last]


@pytest.mark.parametrize(
    ("usable", "present", "expected"),
    [
        ({0, 1, 2, 5}, 2, [2, 5, 0, 1]),
        ({0, 1, 2, 5}, 0, [0, 1, 2, 5]),
        ({0, 1, 2, 5}, 5, [5, 0, 1, 2]),
        ({1, 3}, 2, [1, 3]),  # taken from us a moment ago
        ({1, 3}, None, [1, 3]),
    ],
)
def test_the_order(usable: set[int], present: int | None, expected: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: usable)
    monkeypatch.setattr(affinity, "_present_processor", lambda: present)
    assert usable_processors() == expected


def test_more_workers_than_processors_share_them() -> None:
    usable = sorted(USABLE)
    for number in range(2 * len(usable) + 1):
        stay_on(usable, number)
        assert os.sched_getaffinity(0) == {usable[number % len(usable)]}


def test_a_processor_that_is_none_is_an_error_of_the_system() -> None:
    with pytest.raises(OSError, match=os.strerror(errno.EINVAL)):
        stay_on([max(USABLE) + 1000], 0)


def configure(root: Path, settings: str) -> Path:
    for name in ("source", "target", "state"):
        (root / name).mkdir(mode=0o750)
    configuration = root / "respool.toml"
    configuration.write_text(f"""
hostname = "mx.example.org"
state_directory = "{root}/state"
workers = 3
{settings}
[source]
kind = "directory"
directory = "{root}/source"
[requeue]
kind = "directory"
directory = "{root}/target"
[dns]
zone_file = "/dev/null"
""")
    return configuration


@pytest.mark.parametrize("own", [True, False])
def test_the_workers_of_a_sidecar(tmp_path: Path, own: bool) -> None:
    settings = "" if own else "affinity = false"
    sidecar = SidecarProcess(configure(tmp_path, settings), tmp_path / "log")
    sidecar.start()
    try:
        sidecar.until(lambda: len([*(tmp_path / "state/status").glob("*.json")]) == 3)
        found = [os.sched_getaffinity(worker) for worker in sidecar.workers()]
        assert sidecar.stop() == 0
    finally:
        sidecar.kill()
    if own:
        assert all(len(processors) == 1 for processors in found)
        assert len(set.union(*found)) == min(3, len(USABLE))
    else:
        assert found == [USABLE] * 3
    assert "worker.affinity_refused" not in sidecar.log()


REFUSING = """
import os, sys
def refused(*_):
    raise PermissionError(1, "Operation not permitted")
os.sched_setaffinity = refused
from respool.sidecar.cli import main
sys.argv = ["respool", "run", "-c", sys.argv[1]]
main()
"""


def test_a_system_that_refuses_it_is_told_of_and_works(tmp_path: Path) -> None:
    sidecar = SidecarProcess(configure(tmp_path, ""), tmp_path / "log", program=("-c", REFUSING))
    sidecar.start()
    try:
        sidecar.until(lambda: sidecar.log().count("worker.affinity_refused") == 3)
        sidecar.until(lambda: len([*(tmp_path / "state/status").glob("*.json")]) == 3)
        assert sidecar.stop() == 0
    finally:
        sidecar.kill()
    assert "worker.died" not in sidecar.log()
