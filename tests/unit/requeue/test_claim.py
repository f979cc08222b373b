"""Taking a message out of its source: what is moved, what is kept locked, and what a failure leaves alone."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from respool.errors import ConflictError, NotReadyError
from respool.requeue import claim, durable
from respool.requeue.job import Job
from respool.requeue.state import StateDirectory
from respool.spool.directory import Found
from respool.spool.ids import MessageId
from respool.spool.locks import lock_directory, lock_message
from respool.spool.sources import Source

from .claimed import ID, is_locked, open_descriptors


class House:
    """A source with one pair in it, and a state directory."""

    def __init__(self, root: Path) -> None:
        self.directory = root / "source"
        self.directory.mkdir()
        (root / "state").mkdir()
        self.data, self.header = self.directory / ID.data_name, self.directory / ID.header_name
        self.data.write_text(f"{ID.data_name}\nbody\n")
        self.header.write_text("header")
        self.state = StateDirectory(str(root / "state"))
        self.source = Source("directory", str(self.directory))
        self.state.next_claim(ID)  # the block of numbers is reserved

    def take(self, subdirectory: str = "") -> Job:
        return claim.take(self.state, self.source, Found(ID, subdirectory))

    def work(self) -> list[str]:
        return os.listdir(self.state.states["work"])

    def close(self) -> None:
        self.state.close()
        self.source.close()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.close()


def failing(number: int) -> Callable[..., Any]:
    def fail(*_arguments: Any, **_keywords: Any) -> Any:
        raise OSError(number, os.strerror(number))

    return fail


def test_a_message_that_exim_is_done_with_stays_locked(house: House) -> None:
    job = house.take()
    try:
        assert sorted(job.names()) == sorted([ID.data_name, ID.header_name])
        assert os.listdir(house.directory) == []
        assert (job.has_message_lock, job.is_fresh, job.may_have_journal) == (True, True, False)
        assert is_locked(Path(house.state.path, "work", job.claim.name, ID.data_name))
        assert Job.take(house.state, "work", job.claim) is None
    finally:
        job.close()


def test_a_message_that_is_still_queued_is_given_back_to_exim(house: House, tmp_path: Path) -> None:
    original = tmp_path / ID.data_name
    os.link(house.data, original)
    job = house.take()
    try:
        assert not job.has_message_lock
        assert not is_locked(original)
    finally:
        job.close()


def test_a_data_file_without_its_header_file_is_never_locked(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """An Exim that has just made ``-D`` and does not get its lock at once dies: 421 for the client."""
    house.header.unlink()
    locked: list[MessageId] = []

    def lock(descriptor: int, message_id: MessageId) -> bool:
        locked.append(message_id)
        return True

    monkeypatch.setattr(claim, "lock_message", lock)
    with pytest.raises(NotReadyError):
        house.take()
    assert locked == []
    house.header.write_text("header")
    house.take().close()
    assert locked == [ID]


def test_a_header_file_that_goes_before_the_lock_is_had_is_missed(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exim has just delivered: with -H gone, -D is about to go."""

    def lock(descriptor: int, message_id: MessageId) -> bool:
        house.header.unlink()
        return lock_message(descriptor, message_id)

    monkeypatch.setattr(claim, "lock_message", lock)
    before = open_descriptors()
    with pytest.raises(NotReadyError) as caught:
        house.take()
    assert caught.value.missing == ID.header_name
    assert (house.work(), open_descriptors()) == ([], before)
    assert not is_locked(house.data)


@pytest.mark.parametrize(("name", "error"), [(ID.data_name, OSError), (ID.header_name, NotReadyError)])
def test_a_symlink_is_no_half_of_a_message(house: House, tmp_path: Path, name: str, error: type[Exception]) -> None:
    (house.directory / name).rename(tmp_path / "elsewhere")
    (house.directory / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(error):
        house.take()
    assert house.work() == []
    assert len(os.listdir(house.directory)) == 2


def test_half_a_message_is_named(house: House) -> None:
    with pytest.raises(NotReadyError) as caught:
        house.take("W")
    assert caught.value.missing == ID.data_name
    house.data.unlink()
    with pytest.raises(NotReadyError) as caught:
        house.take()
    assert caught.value.missing == ID.data_name


def test_a_message_that_somebody_holds_is_left_alone(house: House) -> None:
    exim = os.open(house.data, os.O_RDWR)
    assert lock_message(exim, ID)
    before = open_descriptors()
    with pytest.raises(ConflictError):
        house.take()
    assert (house.work(), open_descriptors()) == ([], before)
    os.close(exim)
    house.take().close()


@pytest.mark.parametrize("replaced", [True, False])
def test_a_data_file_that_is_another_by_now_is_left_alone(
    house: House, monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    """Between the opening and the lock Exim finished with the name, and perhaps a new export has it."""

    def lock(descriptor: int, message_id: MessageId) -> bool:
        house.data.unlink()
        if replaced:
            house.data.write_text("another")
        return lock_message(descriptor, message_id)

    monkeypatch.setattr(claim, "lock_message", lock)
    before = open_descriptors()
    with pytest.raises(NotReadyError) as caught:
        house.take()
    assert caught.value.missing == ID.data_name
    assert (house.work(), open_descriptors()) == ([], before)
    assert house.header.exists()


def test_without_room_for_a_claim_nothing_is_taken_and_nothing_kept(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = open_descriptors()
    with monkeypatch.context() as full:
        full.setattr(durable, "make_directory", failing(errno.ENOSPC))
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
            house.take()
    assert (house.work(), open_descriptors()) == ([], before)
    assert not is_locked(house.data)
    house.take().close()


@pytest.mark.parametrize(("fails", "error"), [("replaced", NotReadyError), ("no room", OSError)])
def test_a_copy_of_a_descriptor_keeps_no_lock(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, error: type[Exception]
) -> None:
    """A child that was forked meanwhile has one, and an OFD lock lives as long as any."""
    kept = tmp_path / ID.data_name
    os.link(house.data, kept)
    copies: list[int] = []

    def lock(descriptor: int, message_id: MessageId) -> bool:
        copies.append(os.dup(descriptor))
        if fails == "replaced":
            house.data.unlink()
        return lock_message(descriptor, message_id)

    monkeypatch.setattr(claim, "lock_message", lock)
    monkeypatch.setattr(durable, "make_directory", failing(errno.ENOSPC))
    with pytest.raises(error):
        house.take()
    assert len(copies) == 1
    assert not is_locked(kept)
    os.close(copies[0])


def test_a_move_that_fails_leaves_the_claim_to_the_recovery(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()
    with monkeypatch.context() as broken:
        broken.setattr(durable, "rename", failing(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            house.take()
    assert open_descriptors() == before
    assert not is_locked(house.data)
    (left,) = house.state.list("work")
    recovered = Job.take(house.state, "work", left)
    assert recovered is not None
    recovered.close()


def test_a_message_that_vanishes_while_it_is_claimed_leaves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = durable.rename

    def vanish(name: str, new_name: str, *, at: int, to: int) -> None:
        if name == ID.data_name:
            raise FileNotFoundError(name)
        real(name, new_name, at=at, to=to)

    monkeypatch.setattr(durable, "rename", vanish)
    before = open_descriptors()
    with pytest.raises(NotReadyError) as caught:
        house.take()
    assert caught.value.missing == ID.data_name
    assert (house.work(), open_descriptors()) == ([], before)


def test_a_recovery_that_comes_between_has_its_way(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    real = durable.make_directory

    def remove_at_once(name: str, *, at: int) -> None:
        real(name, at=at)
        os.rmdir(name, dir_fd=at)

    before = open_descriptors()
    with monkeypatch.context() as removed:
        removed.setattr(durable, "make_directory", remove_at_once)
        with pytest.raises(ConflictError) as caught:
            house.take()
    assert caught.value.holder == "a recovery"

    taken: list[int] = []

    def lock_at_once(name: str, *, at: int) -> None:
        real(name, at=at)
        taken.append(durable.open_directory(name, at=at))
        assert lock_directory(taken[0])

    with monkeypatch.context() as locked:
        locked.setattr(durable, "make_directory", lock_at_once)
        with pytest.raises(ConflictError) as caught:
            house.take()
    assert caught.value.holder == "a recovery"
    os.close(taken[0])
    assert open_descriptors() == before
    assert house.data.exists()
    assert not is_locked(house.data)


def test_a_queue_gives_its_journal_along_and_loses_its_message_log(tmp_path: Path) -> None:
    spool, state = tmp_path / "spool", StateDirectory(str(tmp_path))
    (spool / "in/input").mkdir(parents=True)
    for name in (ID.data_name, ID.header_name, ID.journal_name):
        (spool / "in/input" / name).write_text(name)
    logs = [spool / "in/msglog" / ID, spool / "in/msglog/W" / ID]
    for log in logs:
        log.parent.mkdir(exist_ok=True)
        log.write_text("log")
    source = Source("queue", str(spool / "in/input"), message_log=str(spool / "in/msglog"))
    job = claim.take(state, source, Found(ID, ""))
    assert sorted(job.names()) == sorted([ID.data_name, ID.header_name, ID.journal_name])
    assert job.may_have_journal
    assert not any(log.exists() for log in logs)
    job.close()
    source.close()
    state.close()


def test_a_message_log_that_exim_makes_later_goes_as_well(tmp_path: Path) -> None:
    spool, state = tmp_path / "spool", StateDirectory(str(tmp_path))
    (spool / "in/input").mkdir(parents=True)
    source = Source("queue", str(spool / "in/input"), message_log=str(spool / "in/msglog"))
    assert source.message_log is None
    for name in (ID.data_name, ID.header_name):
        (spool / "in/input" / name).write_text(name)
    (spool / "in/msglog").mkdir()
    log = spool / "in/msglog" / ID
    log.write_text("log")
    claim.take(state, source, Found(ID, "")).close()
    assert not log.exists()
    source.close()
    state.close()


def test_what_was_claimed_first_is_never_replaced(house: House) -> None:
    job = house.take()
    (house.directory / ID.header_name).write_text("of a second export")
    place = house.source.input.open_subdirectory("")
    try:
        assert claim.collect(job, house.source, place)
    finally:
        os.close(place)
        job.close()
    assert (house.directory / ID.header_name).read_text() == "of a second export"
    assert Path(house.state.path, "work", job.claim.name, ID.header_name).read_text() == "header"
