"""One fsync for all who wait, and none for whom it came too early."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from respool.requeue import durable
from respool.requeue.group_sync import GroupSync

PATIENCE = 20.0


class SlowSync:
    """Stands in for durable.sync: each fsync waits until it is let go; error is what the next one ends with."""

    def __init__(self) -> None:
        self.begun: list[int] = []
        self.entered = threading.Semaphore(0)
        self.let_go = threading.Semaphore(0)
        self.error: BaseException | None = None

    def __call__(self, descriptor: int) -> None:
        self.begun.append(descriptor)
        self.entered.release()
        assert self.let_go.acquire(timeout=PATIENCE)
        error, self.error = self.error, None
        if error is not None:
            raise error


class Caller(threading.Thread):
    """Calls, and keeps what it ended with."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # noqa: BLE001 the test looks at it
            self.error = error

    def result(self) -> BaseException | None:
        self.join(PATIENCE)
        assert not self.is_alive()
        return self.error


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> SlowSync:
    stand_in = SlowSync()
    monkeypatch.setattr(durable, "sync", stand_in)
    return stand_in


@pytest.fixture
def directories(tmp_path: Path) -> Iterator[tuple[int, int]]:
    (tmp_path / "other").mkdir()
    opened = tuple(os.open(path, os.O_RDONLY) for path in (tmp_path, tmp_path / "other"))
    yield opened[0], opened[1]
    for descriptor in opened:
        os.close(descriptor)


def wait_for_callers(syncs: GroupSync, count: int) -> None:
    """Until so many threads wait for the fsync that is under way."""
    limit = threading.Event()
    for _ in range(int(PATIENCE / 0.01)):
        if len(vars(syncs._condition)["_waiters"]) >= count:
            return
        limit.wait(0.01)
    raise AssertionError("nobody waits")


def one_under_way(syncs: GroupSync, slow: SlowSync, directory: int, count: int) -> tuple[Caller, list[Caller]]:
    """A thread whose fsync is under way, and so many that came meanwhile and wait."""
    first = Caller(partial(syncs.sync, directory))
    assert slow.entered.acquire(timeout=PATIENCE)
    others = [Caller(partial(syncs.sync, directory)) for _ in range(count)]
    wait_for_callers(syncs, count)
    return first, others


def test_who_comes_during_an_fsync_shares_the_next_one(slow: SlowSync, directories: tuple[int, int]) -> None:
    first, others = one_under_way(GroupSync(), slow, directories[0], 5)
    slow.let_go.release()
    assert first.result() is None
    # The one under way when they called covered none of them.
    assert slow.entered.acquire(timeout=PATIENCE)
    assert all(other.is_alive() for other in others)
    slow.let_go.release()
    assert [other.result() for other in others] == [None] * 5
    assert len(slow.begun) == 2


def test_directories_do_not_wait_for_each_other(slow: SlowSync, directories: tuple[int, int]) -> None:
    syncs = GroupSync()
    callers = [Caller(partial(syncs.sync, directory)) for directory in directories]
    for _ in directories:
        assert slow.entered.acquire(timeout=PATIENCE)
    slow.let_go.release(2)
    assert [caller.result() for caller in callers] == [None, None]
    assert sorted(slow.begun) == sorted(directories)


@pytest.mark.parametrize(
    ("error", "told"), [(OSError(errno.EIO, "bad block"), errno.EIO), (KeyboardInterrupt(), errno.EINTR)]
)
def test_a_failed_fsync_fails_all_who_shared_it(
    slow: SlowSync, directories: tuple[int, int], error: BaseException, told: int
) -> None:
    syncs, directory = GroupSync(), directories[0]
    first, others = one_under_way(syncs, slow, directory, 3)
    slow.let_go.release()
    assert slow.entered.acquire(timeout=PATIENCE)
    slow.error = error
    slow.let_go.release()
    assert first.result() is None
    ended = [other.result() for other in others]
    # The thread that called it has the error itself.
    assert sum(one is error for one in ended) == 1
    assert [one.errno for one in ended if isinstance(one, OSError) and one is not error] == [told, told]
    # Nobody is left out, and the next one is tried anew.
    slow.let_go.release()
    syncs.sync(directory)
    assert len(slow.begun) == 3
