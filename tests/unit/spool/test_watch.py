"""What a watch tells, and that its end is seen."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respool.spool import file_system, watch
from respool.spool.directory import Found, MessageDirectory
from respool.spool.ids import MessageId
from respool.spool.watch import Watch

OLD = MessageId("1xV9D2-0007Yr-05")
PATIENCE = 60


class Told:
    """A watch on a new directory, and what it has told."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.directory = MessageDirectory(str(root))
        self.appeared: queue.Queue[Found] = queue.Queue()
        self.lost: queue.Queue[bool] = queue.Queue()
        self.watch = Watch(self.directory, self.appeared.put, lambda: self.lost.put(True))

    def link(self, *names: str) -> None:
        body = self.root.parent / "body"
        body.touch()
        for name in names:
            os.link(body, self.root / name)


@pytest.fixture
def told(tmp_path: Path) -> Iterator[Told]:
    (tmp_path / "input").mkdir()
    told = Told(tmp_path / "input")
    told.watch.start()
    yield told
    told.watch.stop()
    told.directory.close()


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_links_and_renames_are_told(told: Told) -> None:
    told.link(f"{OLD}-H", f"{OLD}-D")
    assert told.appeared.get(timeout=PATIENCE) == Found(OLD)
    assert told.appeared.get(timeout=PATIENCE) == Found(OLD)
    told.link("hdr.x")
    (told.root / "hdr.x").rename(told.root / "1xV9D3-0007Yr-05-H")
    assert told.appeared.get(timeout=PATIENCE) == Found(MessageId("1xV9D3-0007Yr-05"))


def test_other_names_wake_nobody(told: Told) -> None:
    told.link("x-H", f"{OLD}-J", f"hdr.{OLD}", "1xV9D2-0007Yr-0\n-H")
    os.close(os.open(b"1xV9D2-0007Yr-\xff\xff-D", os.O_CREAT, dir_fd=told.directory.descriptor))
    told.link(f"{OLD}-D")
    assert told.appeared.get(timeout=PATIENCE) == Found(OLD)
    assert told.appeared.empty()
    assert told.lost.empty()


def test_a_split_subdirectory_is_watched_as_soon_as_it_is_made(told: Told) -> None:
    (told.root / "2").mkdir()
    assert told.lost.get(timeout=PATIENCE)
    told.link(f"2/{OLD}-D")
    assert told.appeared.get(timeout=PATIENCE) == Found(OLD, "2")
    told.link("2/1xV9D3-0007Yr-05-D", "2/1xV9E2-0007Yr-05-D")  # the first is where Exim never looks
    assert told.appeared.get(timeout=PATIENCE) == Found(MessageId("1xV9E2-0007Yr-05"), "2")


def test_a_split_subdirectory_that_vanishes_and_comes_again_is_watched_again(told: Told) -> None:
    for _ in range(5):
        (told.root / "2").mkdir()
        until(lambda: "2" in told.watch._callbacks)
        (told.root / "2").rmdir()
        until(lambda: "2" not in told.watch._callbacks)
    (told.root / "2").mkdir()
    until(lambda: "2" in told.watch._callbacks)
    told.link(f"2/{OLD}-D")
    assert told.appeared.get(timeout=PATIENCE) == Found(OLD, "2")
    assert told.watch.is_alive()


def test_a_symlink_is_not_watched(told: Told, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (told.root / "2").symlink_to(tmp_path / "elsewhere")
    assert told.lost.get(timeout=PATIENCE)
    told.watch.add(["2", "3"])
    assert set(told.watch._callbacks) == {""}


def test_the_open_directory_is_watched_not_its_path(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    told = Told(tmp_path / "input")
    (tmp_path / "input").rename(tmp_path / "moved")
    (tmp_path / "input").mkdir()
    told.watch.start()
    told.root = tmp_path / "moved"
    told.link(f"{OLD}-D")
    assert told.appeared.get(timeout=PATIENCE) == Found(OLD)
    told.watch.stop()
    told.directory.close()


def test_a_dead_thread_does_not_look_alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    told = Told(tmp_path)

    def dies(_: Found) -> None:
        raise RuntimeError("killed")

    told.watch = Watch(told.directory, dies, lambda: None)
    told.watch.start()
    assert told.watch.is_alive()
    (tmp_path / f"{OLD}-D").touch()
    until(lambda: not told.watch.is_alive())
    told.watch.stop()
    told.watch = Watch(told.directory, told.appeared.put, lambda: None)
    told.watch.start()
    (tmp_path / f"{OLD}-H").touch()
    assert told.appeared.get(timeout=PATIENCE) == Found(OLD)
    told.watch.stop()
    told.directory.close()


def test_a_closed_descriptor_does_not_look_alive_and_its_number_is_left_to_others(tmp_path: Path) -> None:
    told = Told(tmp_path)
    told.watch.start()
    thread = told.watch._inotify
    assert thread is not None
    descriptor: int = vars(thread)["_inotify_fd"]
    os.close(descriptor)
    assert not told.watch.is_alive()
    other = os.open(tmp_path, os.O_PATH)
    assert other == descriptor
    assert not told.watch.is_alive()
    told.watch.stop()
    assert os.fstat(other).st_ino == tmp_path.stat().st_ino
    (tmp_path / "wakes-it").touch()
    until(lambda: not thread.is_alive())
    os.close(other)
    told.directory.close()


def test_a_directory_that_has_gone_is_found_out_by_the_scan(told: Told) -> None:
    told.root.rmdir()
    with pytest.raises(FileNotFoundError):
        told.directory.list()


def test_an_overflow_asks_for_a_scan(told: Told) -> None:
    from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, Mask, WatchDescriptor

    assert told.watch._inotify is not None
    told.watch._inotify.handle_event(InotifyEvent(WatchDescriptor(-1), Mask(InotifyConstants.IN_Q_OVERFLOW), 0, b""))
    assert told.lost.get(timeout=PATIENCE)
    assert told.watch.is_alive()


def test_where_inotify_is_not_to_be_had_start_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused() -> Any:
        raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(watch, "InotifyFD", refused)
    told = Told(tmp_path)
    with pytest.raises(OSError, match="limit"):
        told.watch.start()
    assert not told.watch.is_alive()
    told.watch.stop()
    told.directory.close()


def test_the_limit_of_watches_is_an_error_and_leaves_the_others(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    (told.root / "2").mkdir()
    until(lambda: "2" in told.watch._callbacks)
    assert told.watch._inotify is not None

    def refused(*_: Any) -> Any:
        raise OSError(28, "inotify watch limit reached")

    monkeypatch.setattr(told.watch._inotify, "add_callback", refused)
    with pytest.raises(OSError, match="limit"):
        told.watch.add(["3"])
    (told.root / "3").mkdir()  # the watcher's own attempt fails quietly: the scan reports it
    while told.lost.get(timeout=PATIENCE) and told.lost.qsize():
        pass
    assert told.watch.is_alive()
    assert set(told.watch._callbacks) == {"", "2"}


@pytest.mark.parametrize(
    ("kind", "remote"),
    [("ext4", False), ("xfs", False), ("tmpfs", False), ("overlay", False), ("", False), ("nfs4", True), ("9p", True),
     ("fuse.sshfs", True), ("fuse", True), ("fuseblk", False), ("virtiofs", True), ("cifs", True)],
)  # fmt: skip
def test_which_file_systems_are_remote(kind: str, remote: bool) -> None:
    assert file_system.is_remote(kind) is remote


def test_the_type_is_that_of_the_mount() -> None:
    for path in ("/proc", "/sys"):
        if os.path.ismount(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            assert file_system.file_system_type(descriptor) == {"/proc": "proc", "/sys": "sysfs"}[path]
            os.close(descriptor)
    assert file_system.file_system_type(10**6) == ""
