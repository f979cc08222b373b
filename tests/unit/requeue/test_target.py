"""Directories that the target makes are Exim's: it could not unlink in others (deliver.c)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from respool.requeue import durable
from respool.requeue.target import Target
from respool.spool.ids import MessageId

ID = MessageId("1xV9DW-000000007cS-1lp7")
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives directories away")


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    (tmp_path / "input").mkdir()
    os.chown(tmp_path / "input", 4711, 4712)
    return tmp_path


def make(target: Target) -> None:
    """Everything down to the split directory of an id in a named queue."""
    queue = target.open_input("scanned")
    os.close(target.open_subdirectory(queue, target.subdirectory("scanned", queue, ID)))
    os.close(queue)


def owners(spool: Path) -> set[tuple[int, int, int]]:
    made = [spool / "scanned" / below for below in ("", "input", "input/W")]
    return {(path.stat().st_uid, path.stat().st_gid, stat.S_IMODE(path.stat().st_mode)) for path in made}


def test_what_it_makes_belongs_to_exim(spool: Path) -> None:
    make(Target("spool", str(spool), split=True))
    assert owners(spool) == {(4711, 4712, 0o750)}


@pytest.mark.parametrize("made_before_it_dies", [1, 2, 3])
def test_what_one_made_that_died_before_it_could_give_it_away_is_given_away(
    spool: Path, monkeypatch: pytest.MonkeyPatch, made_before_it_dies: int
) -> None:
    left = made_before_it_dies

    def killed(descriptor: int, uid: int, gid: int, mode: int) -> None:
        nonlocal left
        left -= 1
        if not left:
            raise KeyboardInterrupt
        os.fchown(descriptor, uid, gid)

    with monkeypatch.context() as patched:
        patched.setattr(durable, "give", killed)
        with pytest.raises(KeyboardInterrupt):
            make(Target("spool", str(spool), split=True))
    make(Target("spool", str(spool), split=True))
    assert owners(spool) == {(4711, 4712, 0o750)}


def test_a_directory_of_somebody_else_stays_theirs(spool: Path) -> None:
    (spool / "scanned/input/W").mkdir(parents=True)
    os.chown(spool / "scanned/input/W", 815, 815)
    make(Target("spool", str(spool), split=True))
    assert (spool / "scanned/input/W").stat().st_uid == 815
