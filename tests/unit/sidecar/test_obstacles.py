"""What is in the way, seen from outside; real disks are in tests/fault/test_conditions.py."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from respool.sidecar.config import Config, decode
from respool.sidecar.endpoint import Health
from respool.sidecar.heartbeat import Heartbeats
from respool.sidecar.obstacles import find
from respool.sidecar.overview import look
from respool.sidecar.pipeline import Pipeline
from respool.spool.directory import list_names

STRANGER = 4711


def _config(root: Path, kind: str = "spool") -> Config:
    for name in (
        "export",
        "spool/input",
        "state",
        *(f"state/{one}" for one in ("work", "deferred", "held", "corrupt")),
    ):
        (root / name).mkdir(parents=True, exist_ok=True, mode=0o750)
    requeue = {
        "spool": f'kind = "spool"\nspool_directory = "{root}/spool"\nqueue = "scanned"',
        "directory": f'kind = "directory"\ndirectory = "{root}/spool/input"',
        "smtp": 'kind = "smtp"\nhost = "127.0.0.1"',
    }[kind]
    text = f'state_directory = "{root}/state"\n[source]\nkind = "export"\ndirectory = "{root}/export"\n[requeue]\n{requeue}\n'
    return decode(text.encode(), Config, file="test.toml")


@pytest.mark.parametrize("kind", ["spool", "directory", "smtp"])
def test_nothing_is_in_the_way_of_the_owner(tmp_path: Path, kind: str) -> None:
    assert find(_config(tmp_path, kind)) == ()


def test_each_place_that_is_closed_to_a_user_is_named(tmp_path: Path) -> None:
    config = _config(tmp_path)
    found = find(config, STRANGER, STRANGER)
    assert [one.path.removeprefix(f"{tmp_path}/") for one in found] == [
        "state", "state/work", "state/deferred", "state/held", "state/corrupt", "export", "spool",
    ]  # fmt: skip
    assert {one.key for one in found} == {"$.state_directory", "$.source", "$.requeue"}
    assert all(f"uid {STRANGER} may not change it" in one.what and "chown or chmod" in one.advice for one in found)
    assert not any(one.is_passing for one in found)
    for path in (tmp_path / "export", tmp_path / "spool"):
        path.chmod(0o777)
    assert {one.key for one in find(config, STRANGER, STRANGER)} == {"$.state_directory"}


def test_what_is_gone_is_named(tmp_path: Path) -> None:
    config = _config(tmp_path)
    (tmp_path / "export").rmdir()
    (obstacle,) = find(config)
    assert (obstacle.key, obstacle.path) == ("$.source", f"{tmp_path}/export")
    assert "No such file" in obstacle.what


def test_the_page_for_readiness_says_it_though_no_worker_can(tmp_path: Path) -> None:
    """A worker that has no room for a report goes on to say that it works."""
    config = _config(tmp_path)
    health = Health(config, Heartbeats(1))
    before = health.hindrances()
    assert not any("held" in one for one in before)
    (tmp_path / "state/held").rmdir()
    (tmp_path / "state/held").write_text("")
    (tmp_path / "export").rmdir()
    assert any(str(tmp_path / "export") in one for one in health.hindrances())


def test_a_sidecar_that_does_not_run_is_not_paused(tmp_path: Path) -> None:
    overview = look(_config(tmp_path))
    assert (overview.condition, overview.paused_since, overview.obstacles) == ("not running", 0.0, ())


def test_waits_double_up_to_the_longest_with_a_jitter() -> None:
    pipeline = Pipeline(
        (), hostname="h", authserv_id="h", resolver=None, first_wait_seconds=60, longest_wait_seconds=3600  # type: ignore[arg-type]
    )  # fmt: skip
    for attempt, middle in ((1, 60), (2, 120), (3, 240), (6, 1920), (7, 3600), (10**6, 3600)):
        waits = {pipeline.backoff(attempt) for _ in range(50)}
        assert len(waits) > 40, "a crowd that failed together must spread"
        assert all(0.8 * middle <= wait <= 1.2 * middle for wait in waits)


def test_looking_leaves_no_descriptor_open(tmp_path: Path) -> None:
    config = _config(tmp_path)
    descriptor = os.open("/proc/self/fd", os.O_RDONLY)
    try:
        find(config)
        before = len(list_names(descriptor))
        for _ in range(10):
            find(config)
        assert len(list_names(descriptor)) == before
    finally:
        os.close(descriptor)
