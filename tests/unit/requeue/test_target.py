"""Directories that the target makes are Exim's: it could not unlink in others (deliver.c)."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from respool.requeue import durable
from respool.requeue.target import Target
from respool.spool.ids import MessageId
from respool.spool.locks import lock_message

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


@pytest.mark.parametrize(
    ("there", "is_split"),
    [((), False), (("W/",), True), (("0/",), True), (("1xV9DW-000000007cS-1lp7-D", "z/"), True),
     (("W",), False), (("_/",), False), (("WW/",), False), (("1xV9DW-000000007cS-1lp7-D",), False)],
)  # fmt: skip
def test_the_layout_is_that_of_the_queue(spool: Path, there: tuple[str, ...], is_split: bool) -> None:
    for name in there:
        path = spool / "input" / name
        path.mkdir() if name.endswith("/") else path.touch()
    target = Target("spool", str(spool), split=None)
    queue = target.open_input("")
    assert target.subdirectory("", queue, ID) == (ID.split_directory if is_split else "")
    (spool / "input" / "A").mkdir(exist_ok=True)
    assert target.subdirectory("", queue, ID) == (ID.split_directory if is_split else ""), "it is looked at once"
    os.close(queue)
    target.close()


def test_a_link_is_no_subdirectory(spool: Path) -> None:
    (spool / "elsewhere").mkdir()
    (spool / "input" / "W").symlink_to(spool / "elsewhere")
    target = Target("spool", str(spool), split=None)
    queue = target.open_input("")
    assert target.subdirectory("", queue, ID) == ""
    os.close(queue)
    target.close()


def test_an_id_that_an_exim_has_in_hand_is_found_in_any_queue_and_layout(spool: Path) -> None:
    target = Target("spool", str(spool), split=False)
    for place in ("input", "input/W", "scanned/input", "scanned/input/W"):
        data = spool / place / ID.data_name
        data.parent.mkdir(parents=True, exist_ok=True)
        data.write_bytes(b"x")
        before = len(os.listdir("/proc/self/fd"))
        assert not target.is_in_use(ID)
        with data.open("r+b") as file:
            assert lock_message(file.fileno(), ID)
            assert target.is_in_use(ID)
        assert not target.is_in_use(ID)
        assert len(os.listdir("/proc/self/fd")) == before
        data.unlink()
    assert not Target("directory", str(spool / "input"), split=False).is_in_use(ID)
    before = len(os.listdir("/proc/self/fd"))
    target.close()
    assert len(os.listdir("/proc/self/fd")) == before - 1


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
