"""The rows of the recovery table that need the source: what a claim lacks is fetched, or known to be lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.errors import ConflictError
from respool.requeue.job import Job, Phase
from respool.requeue.recovery import recover
from respool.requeue.state import Claim, StateDirectory
from respool.spool.ids import MessageId
from respool.spool.sources import Source

ID = MessageId("1xV9DW-000000007cS-1lp7")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    (tmp_path / "state").mkdir()
    opened = StateDirectory(str(tmp_path / "state"))
    yield opened
    opened.close()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "source"
    made.mkdir()
    return made


@pytest.fixture
def job(state: StateDirectory) -> Iterator[Job]:
    claim = Claim(1, ID)
    os.mkdir(claim.name, dir_fd=state.states["work"])
    taken = Job.take(state, "work", claim)
    assert taken is not None
    yield taken
    taken.close()


def put(job: Job, *names: str) -> None:
    for name in names:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=job.descriptor))


def test_an_empty_claim_is_removed_with_what_was_staged(state: StateDirectory, directory: Path, job: Job) -> None:
    os.mkdir("out.tmp", dir_fd=job.descriptor)
    put(job, "out.tmp/0-H")
    assert recover(state, Source("directory", str(directory)), job) is Phase.EMPTY
    assert os.listdir(state.states["work"]) == []


@pytest.mark.parametrize("split", ["", ID.split_directory])
def test_the_header_file_is_fetched_from_either_layout(
    state: StateDirectory, directory: Path, job: Job, split: str
) -> None:
    put(job, ID.data_name)
    (directory / split).mkdir(exist_ok=True)
    (directory / split / ID.header_name).write_text("header")
    assert recover(state, Source("directory", str(directory)), job) is Phase.CLAIMED
    assert sorted(job.names()) == [ID.data_name, ID.header_name]
    assert not (directory / split / ID.header_name).exists()


def test_half_a_message_stays_half(state: StateDirectory, directory: Path, job: Job) -> None:
    put(job, ID.data_name)
    assert recover(state, Source("directory", str(directory)), job) is Phase.HALF
    # A header file alone, with another in the source: that one belongs to another claim.
    os.rename(ID.data_name, ID.header_name, src_dir_fd=job.descriptor, dst_dir_fd=job.descriptor)
    job.release_data()
    (directory / ID.header_name).write_text("another")
    assert recover(state, Source("directory", str(directory)), job) is Phase.HALF
    assert (directory / ID.header_name).read_text() == "another"


def test_without_a_source_nothing_is_fetched(state: StateDirectory, directory: Path, job: Job) -> None:
    put(job, ID.data_name)
    (directory / ID.header_name).write_text("header")
    assert recover(state, None, job) is Phase.HALF
    assert job.names() == [ID.data_name]


def test_nothing_is_fetched_while_exim_has_the_lock(
    state: StateDirectory, directory: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(job, ID.data_name)
    (directory / ID.header_name).write_text("header")
    monkeypatch.setattr("respool.requeue.job.lock_message", lambda _descriptor, _id: False)
    with pytest.raises(ConflictError):
        recover(state, Source("directory", str(directory)), job)
    assert (directory / ID.header_name).exists()


def test_a_complete_claim_is_left_as_it_is(state: StateDirectory, directory: Path, job: Job) -> None:
    put(job, ID.data_name, ID.header_name)
    assert recover(state, Source("directory", str(directory)), job) is Phase.CLAIMED
    assert sorted(job.names()) == [ID.data_name, ID.header_name]
    job.is_fresh = True
    os.mkdir("out", dir_fd=job.descriptor)
    assert recover(state, None, job) is Phase.CLAIMED
    job.is_fresh = False
    assert recover(state, None, job) is Phase.PUBLISHED


@pytest.mark.parametrize("split", ["", ID.split_directory])
def test_no_descriptor_is_left_open(state: StateDirectory, directory: Path, job: Job, split: str) -> None:
    put(job, ID.data_name)
    (directory / split).mkdir(exist_ok=True)
    source = Source("directory", str(directory))
    assert job.lock()
    before = len(os.listdir("/proc/self/fd"))
    assert recover(state, source, job) is Phase.HALF
    (directory / split / ID.header_name).write_text("header")
    assert recover(state, source, job) is Phase.CLAIMED
    assert len(os.listdir("/proc/self/fd")) == before
