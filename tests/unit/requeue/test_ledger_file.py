"""The LMDB file below the ledger: shared commits, growth, and what it refuses to open."""

from __future__ import annotations

import contextlib
import os
import stat
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from respool.requeue import ledger_file
from respool.requeue.ledger_file import LedgerError, LmdbFile

PATIENCE = 60.0


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "file")


@pytest.fixture
def file(path: str) -> Iterator[LmdbFile]:
    opened = LmdbFile(path, 1 << 24, synced=True)
    yield opened
    opened.close()


def put(key: bytes, value: bytes = b"v") -> Callable[[Any], bool]:
    return lambda transaction: transaction.put(key, value)


def get(file: LmdbFile, key: bytes) -> bytes | None:
    value: bytes | None = file.read(lambda transaction: transaction.get(key))
    return value


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.001)


# Opening


def test_what_is_made_is_the_owners_and_as_large_as_it_is_at_first(file: LmdbFile, path: str) -> None:
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o640
    assert stat.S_IMODE(os.stat(path + "-lock").st_mode) == 0o640
    environment = file._environment
    assert environment.info()["map_size"] == 16 << 20
    assert environment.max_readers() >= 512
    assert environment.flags()["sync"]


def test_a_file_that_is_made_anew_after_a_power_cut_is_not_synced(path: str) -> None:
    file = LmdbFile(path, 1 << 24, synced=False)
    assert not file._environment.flags()["sync"]
    file.close()


def test_the_table_of_readers_has_its_room_before_it_is_mapped(path: str, file: LmdbFile) -> None:
    status = os.stat(path + "-lock")
    # LMDB would have made it longer, with a hole at its end, had that not been enough.
    assert status.st_size == ledger_file._LOCK_FILE_BYTES
    assert status.st_blocks * 512 >= status.st_size


def test_a_table_of_readers_in_use_is_not_opened_a_second_time(
    path: str, file: LmdbFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Closing a descriptor of it would lose LMDB its lock on it (POSIX)."""
    opened: list[str] = []
    real = os.open

    def recorded(name: str, *arguments: Any, **keywords: Any) -> int:
        opened.append(name)
        return real(name, *arguments, **keywords)

    monkeypatch.setattr(os, "open", recorded)
    ledger_file._reserve_lock_file(path + "-lock")
    assert opened == []
    os.truncate(path + "-lock", ledger_file._LOCK_FILE_BYTES - 1)
    before = len(os.listdir("/proc/self/fd"))
    ledger_file._reserve_lock_file(path + "-lock")
    assert opened == [path + "-lock"]
    assert os.stat(path + "-lock").st_size == ledger_file._LOCK_FILE_BYTES
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("suffix", ["", "-lock"])
@pytest.mark.parametrize("read_only", [False, True])
def test_no_symlink_is_followed(tmp_path: Path, path: str, suffix: str, *, read_only: bool) -> None:
    (tmp_path / "elsewhere").write_bytes(b"")
    os.symlink(tmp_path / "elsewhere", path + suffix)
    with pytest.raises(LedgerError, match="no regular file"):
        LmdbFile(path, 1 << 24, synced=True, read_only=read_only)
    assert (tmp_path / "elsewhere").read_bytes() == b""
    assert len(os.listdir(tmp_path)) == 2


def test_a_reader_makes_nothing_and_changes_nothing(tmp_path: Path, path: str) -> None:
    with pytest.raises(LedgerError, match="file: "):
        LmdbFile(path, 0, synced=True, read_only=True)
    assert os.listdir(tmp_path) == []
    writer = LmdbFile(path, 1 << 24, synced=True)
    writer.change(put(b"k"))
    writer.close()
    reader = LmdbFile(path, 0, synced=True, read_only=True)
    assert get(reader, b"k") == b"v"
    with pytest.raises(LedgerError):
        reader.change(put(b"x"))
    reader.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_reader_that_is_root_gives_nothing_away(tmp_path: Path, path: str) -> None:
    LmdbFile(path, 1 << 24, synced=True).close()
    os.chown(tmp_path, 65534, 65533)
    LmdbFile(path, 0, synced=True, read_only=True).close()
    assert (os.stat(path).st_uid, os.stat(path).st_gid) == (0, 0)
    LmdbFile(path, 1 << 24, synced=True).close()
    assert (os.stat(path).st_uid, os.stat(path).st_gid) == (65534, 65533)


def test_somebody_elses_files_are_not_given_away(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only root can: Exim's user may not even try, where the group is another."""
    given: list[tuple[str, bool]] = []

    def chown(name: str, _uid: int, _gid: int, *, follow_symlinks: bool = True) -> None:
        given.append((name, follow_symlinks))

    monkeypatch.setattr(os, "chown", chown)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    LmdbFile(path, 1 << 24, synced=True).close()
    assert given == []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    LmdbFile(path, 1 << 24, synced=True).close()
    assert given == [(path, False), (path + "-lock", False)]


def test_what_is_no_lmdb_file_is_an_error_that_names_it(path: str) -> None:
    Path(path).write_bytes(b"x" * 8192)
    with pytest.raises(LedgerError) as caught:
        LmdbFile(path, 1 << 24, synced=True)
    assert str(caught.value).startswith(f"ledger: {path}: ")


# Changes


def test_an_answer_comes_back_and_the_change_is_seen(file: LmdbFile) -> None:
    assert file.change(lambda transaction: transaction.put(b"k", b"v") and "answer") == "answer"
    assert get(file, b"k") == b"v"


@pytest.mark.parametrize("error", [lmdb.BadValsizeError("x"), struct.error("x")])
def test_what_lmdb_or_a_damaged_value_says_is_a_ledger_error(file: LmdbFile, error: Exception) -> None:
    def fail(transaction: Any) -> None:
        with contextlib.suppress(lmdb.ReadonlyError):
            transaction.put(b"k", b"v")
        raise error

    for call in file.change, file.read:
        with pytest.raises(LedgerError) as caught:
            call(fail)
        assert caught.value.__cause__ is error
    # Nothing of it stays, the lock least of all.
    assert get(file, b"k") is None
    file.change(put(b"other"))


def test_an_error_of_the_callers_own_goes_to_everybody_who_shared_the_commit(
    file: LmdbFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, waiting = threading.Event(), 3
    errors: list[BaseException] = []

    def hold_up(transaction: Any) -> None:
        entered.set()
        wait_until(lambda: len(file._waiting) == waiting)

    def fail(_transaction: Any) -> None:
        raise ZeroDivisionError

    def change(work: Callable[[Any], Any]) -> None:
        try:
            file.change(work)
        except ZeroDivisionError as error:
            errors.append(error)

    first = threading.Thread(target=change, args=(hold_up,), daemon=True)
    first.start()
    assert entered.wait(PATIENCE)
    others = [threading.Thread(target=change, args=(work,), daemon=True) for work in (put(b"a"), fail, put(b"b"))]
    for thread in others:
        thread.start()
    for thread in [first, *others]:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(errors) == waiting
    assert (get(file, b"a"), get(file, b"b")) == (None, None)
    file.change(put(b"a"))
    assert get(file, b"a") == b"v"


def test_a_commit_that_fails_fails_for_all_who_shared_it(file: LmdbFile, monkeypatch: pytest.MonkeyPatch) -> None:
    entered, waiting = threading.Event(), 3
    errors: list[LedgerError] = []
    commits: list[int] = []
    real = ledger_file.commit

    def commit(transaction: Any) -> None:
        commits.append(len(file._waiting))
        if len(commits) == 1:
            entered.set()
            wait_until(lambda: len(file._waiting) == waiting)
            real(transaction)
        elif len(commits) == 2:
            raise lmdb.DiskError("no space")
        else:
            real(transaction)

    monkeypatch.setattr(ledger_file, "commit", commit)

    def change(key: bytes) -> None:
        try:
            file.change(put(key))
        except LedgerError as error:
            errors.append(error)

    threads = [threading.Thread(target=change, args=(b"%d" % number,), daemon=True) for number in range(waiting + 1)]
    threads[0].start()
    assert entered.wait(PATIENCE)
    for thread in threads[1:]:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert len(commits) == 2
    assert len(errors) == waiting
    assert [get(file, b"%d" % number) for number in range(waiting + 1)] == [b"v", None, None, None]
    file.change(put(b"1"))
    assert get(file, b"1") == b"v"


def test_after_a_failed_write_of_the_meta_page_the_file_is_opened_anew(
    file: LmdbFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = file._environment

    def panic(_transaction: Any) -> None:
        raise lmdb.PanicError("meta page")

    with monkeypatch.context() as broken:
        broken.setattr(ledger_file, "commit", panic)
        with pytest.raises(LedgerError, match="meta page"):
            file.change(put(b"k"))
    assert file._environment is not before
    file.change(put(b"k"))
    assert get(file, b"k") == b"v"


# Growth


def test_the_map_doubles_up_to_its_bound(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_FIRST_SIZE", 1 << 16)
    largest = 3 << 16
    file = LmdbFile(path, largest, synced=True)
    sizes = [file._environment.info()["map_size"]]

    def fill() -> None:
        for number in range(1000):
            file.change(put(b"%06d" % number, b"x" * 400))
            size = file._environment.info()["map_size"]
            if size != sizes[-1]:
                sizes.append(size)

    with pytest.raises(LedgerError, match=f"largest size, {largest} bytes"):
        fill()
    assert sizes == [1 << 16, 2 << 16, largest]
    kept = sum(1 for _ in file.items(b""))
    assert kept * 400 > largest // 2
    file.close()


def test_what_another_process_has_made_larger_is_read_and_written(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_file, "_FIRST_SIZE", 1 << 16)
    reader, writer = os.pipe()
    child = os.fork()  # before the file is opened: it may not be open across a fork
    if child == 0:
        code = 1
        try:
            os.read(reader, 1)
            other = LmdbFile(path, 1 << 24, synced=True)
            for number in range(100):
                other.change(put(b"%d" % number, b"x" * 4000))
            other.close()
            code = 0
        finally:
            os._exit(code)
    file = LmdbFile(path, 1 << 24, synced=True)
    file.change(put(b"mine"))
    os.write(writer, b"x")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reader)
    os.close(writer)
    assert get(file, b"99") == b"x" * 4000
    assert file._environment.info()["map_size"] in {1 << power for power in range(17, 24)}  # as the other made it
    file.change(put(b"mine, too"))
    assert sum(1 for _ in file.items(b"")) == 102
    file.close()


def test_the_map_changes_only_while_no_transaction_of_this_process_is_open(file: LmdbFile) -> None:
    order: list[str] = []
    reading, may_end = threading.Event(), threading.Event()

    def read(_transaction: Any) -> None:
        reading.set()
        assert may_end.wait(PATIENCE)
        order.append("read")

    reader = threading.Thread(target=file.read, args=(read,), daemon=True)
    reader.start()
    assert reading.wait(PATIENCE)
    changer = threading.Thread(target=file._alone, args=(lambda: order.append("changed"),), daemon=True)
    changer.start()
    wait_until(lambda: file._resizing)
    # Who comes now waits until it is done.
    late = threading.Thread(target=file.read, args=(lambda _transaction: order.append("late"),), daemon=True)
    late.start()
    # Who wants the same need not: the caller tries again, and waits there.
    file._alone(lambda: order.append("twice"))
    time.sleep(0.05)
    assert order == []
    may_end.set()
    for thread in (reader, changer, late):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert order == ["read", "changed", "late"]


def test_a_map_that_can_not_be_changed_stops_nobody_for_good(file: LmdbFile) -> None:
    def fail() -> None:
        raise lmdb.InvalidParameterError("size")

    with pytest.raises(LedgerError, match="size"):
        file._alone(fail)
    file.change(put(b"k"))
    assert get(file, b"k") == b"v"


# Listing


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2000, 2500])
def test_all_entries_of_a_prefix_in_order_page_by_page(
    file: LmdbFile, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    def fill(transaction: Any) -> None:
        for number in range(count):
            transaction.put(b"m%05d" % number, b"%d" % number)
        for key in (b"a", b"l\xff", b"n", b"z"):
            transaction.put(key, b"other")

    file.change(fill)
    reads = 0
    real = file.read

    def counted(work: Callable[[Any], Any]) -> Any:
        nonlocal reads
        reads += 1
        return real(work)

    monkeypatch.setattr(file, "read", counted)
    assert list(file.items(b"m")) == [(b"m%05d" % number, b"%d" % number) for number in range(count)]
    # A thousand in a transaction, no more: a long reader makes the file grow.
    assert reads == max(1, -(-count // 1000))
    assert sum(1 for _ in file.items(b"")) == count + 4
