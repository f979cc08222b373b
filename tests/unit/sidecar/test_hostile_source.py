"""A source directory with everything in it that should not be there: the good messages get through."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from respool import ConfigError
from respool.sidecar import log
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker
from respool.spool.header_file import LARGEST_HEADER_FILE
from tests.fault.harness import Setup

GOOD = Path(__file__).parents[2] / "data/spool-496/main/input/1xV9Vd-0000wB-2S-H"


def run(setup: Setup) -> int:
    log.configure(level=50, terminal=False)
    prepared = prepare(setup.config)
    try:
        return make_worker(prepared, log.get(), once=True, trace=False).run()
    finally:
        prepared.close()


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path, source="export")


def pair(setup: Setup, message_id: str) -> tuple[Path, Path]:
    """A good pair under another id."""
    paths = setup.export / f"{message_id}-H", setup.export / f"{message_id}-D"
    old = GOOD.name.removesuffix("-H").encode()
    for path, suffix in zip(paths, "HD", strict=True):
        content = GOOD.with_name(f"{old.decode()}-{suffix}").read_bytes()
        path.write_bytes(content.replace(old, message_id.encode(), 1))
        path.chmod(0o640)
    return paths


def test_one_bad_file_does_not_stop_the_rest(setup: Setup, tmp_path: Path) -> None:
    setup.put(GOOD)
    secret = tmp_path / "secret"
    secret.write_text("not for others\n")
    secret.chmod(0o600)
    before = secret.stat()
    ids = [f"1xV9Va-00000{letter}-00" for letter in "abcdefgh"]
    files = [pair(setup, message_id) for message_id in ids]
    # -D that is none.
    for path in (files[0][1], files[1][1], files[2][1], files[3][1], files[4][0], files[5][0]):
        path.unlink()
    files[0][1].symlink_to(secret)
    os.mkfifo(files[1][1])
    files[2][1].mkdir()
    (files[2][1] / "inside").write_text("x")
    here = os.open(".", os.O_RDONLY)
    os.chdir(setup.export)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(files[3][1].name)
    os.fchdir(here)
    os.close(here)
    # -H that is none.
    files[4][0].symlink_to(secret)
    os.mkfifo(files[5][0])
    # A hard link to somebody's file, and a -H larger than any.
    files[6][1].unlink()
    os.link(secret, files[6][1])
    os.truncate(files[7][0], LARGEST_HEADER_FILE * 4)
    # Names that are nobody's, and a subdirectory that leads out.
    (setup.export / "2").symlink_to(tmp_path)
    (setup.export / ("x" * 255)).touch()

    assert run(setup) == 1

    assert [path.name for path in setup.input.glob("*-H")] == [GOOD.name]
    after = secret.stat()
    assert secret.read_text() == "not for others\n"
    assert (after.st_uid, after.st_gid, after.st_mode) == (before.st_uid, before.st_gid, before.st_mode)
    states = setup.states()
    assert states["work"] == states["held"] == states["deferred"] == []
    # The halves that are files, and the two pairs that are no messages.
    assert sorted(name[:16] for name in states["corrupt"]) == ids
    # What is no file is left where it is, for a person to look at.
    left = {path.name for path in setup.export.iterdir()}
    assert left == {
        files[0][1].name, files[1][1].name, files[2][1].name, files[3][1].name, files[4][0].name, files[5][0].name, "2",
        "x" * 255,
    }  # fmt: skip


@pytest.mark.parametrize("late", ["-H", "-D"])
def test_a_half_that_was_set_aside_becomes_a_message_when_its_other_half_comes(setup: Setup, late: str) -> None:
    setup.put(GOOD)
    path = setup.export / GOOD.name.replace("-H", late)
    content = path.read_bytes()
    path.unlink()
    pair(setup, "1xV9Va-00000a-00")[0].unlink()
    assert run(setup) == 1
    assert len(setup.states()["corrupt"]) == 2

    path.write_bytes(content)
    path.chmod(0o640)
    assert run(setup) == 0
    assert [found.name for found in setup.input.glob("*-H")] == [GOOD.name]
    assert [name[:16] for name in setup.states()["corrupt"]] == ["1xV9Va-00000a-00"]
    assert list(setup.export.iterdir()) == []


@pytest.mark.parametrize("place", ["export", "state", "state/work", "spool"])
def test_a_start_is_refused_where_others_can_write(setup: Setup, place: str) -> None:
    prepare(setup.config).close()
    (setup.root / place).chmod(0o777)
    with pytest.raises(ConfigError, match="can be written by others"):
        prepare(setup.config)


@pytest.mark.parametrize("place", ["export", "spool"])
def test_a_start_is_refused_on_a_symlink(setup: Setup, place: str) -> None:
    (setup.root / place).rename(setup.root / "real")
    (setup.root / place).symlink_to(setup.root / "real")
    with pytest.raises(ConfigError):
        prepare(setup.config)
