"""The phases of a job by what lies in its directory, and what is remembered beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.requeue.job import Job, OutputName, Phase, Status, parse_output, phase_of
from respool.requeue.state import Claim, StateDirectory
from respool.spool.ids import MessageId

ID = MessageId("1xV9DW-000000007cS-1lp7")
D, H = ID.data_name, ID.header_name


@pytest.fixture
def state(tmp_path: Path) -> Iterator[StateDirectory]:
    opened = StateDirectory(str(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def job(state: StateDirectory) -> Iterator[Job]:
    claim = Claim(1, ID)
    os.mkdir(claim.name, dir_fd=state.states["work"])
    taken = Job.take(state, "work", claim)
    assert taken is not None
    yield taken
    taken.close()


@pytest.mark.parametrize(
    ("names", "out", "phase"),
    [
        ((), None, Phase.EMPTY),
        (("out.tmp",), None, Phase.EMPTY),
        ((D,), None, Phase.HALF),
        ((H,), None, Phase.HALF),
        ((D, H, "out.tmp"), None, Phase.CLAIMED),
        ((D, H, "out"), (D, "0-H"), Phase.COMMITTED),
        ((D, "out"), ("1@later-H",), Phase.COMMITTED),
        ((D, H, "out"), (D, "0-H.new"), Phase.PUBLISHED),
        ((D, H, "out"), (), Phase.PUBLISHED),
    ],
)
def test_every_row_of_the_table(names: tuple[str, ...], out: tuple[str, ...] | None, phase: Phase) -> None:
    assert phase_of(ID, names, out) is phase


@pytest.mark.parametrize("output", [OutputName(0), OutputName(999999), OutputName(10, "q" * 64), OutputName(1, "in")])
def test_the_name_of_an_output_there_and_back(output: OutputName) -> None:
    assert parse_output(output.name) == output


@pytest.mark.parametrize("name", ["00-H", "-1-H", "1000000-H", "1@-H", "1@a/b-H", "1@a@b-H", f"1@{'q' * 65}-H", "1-D"])
def test_other_names_are_no_outputs(name: str) -> None:
    assert parse_output(name) is None


def test_the_phase_is_that_of_the_directory(job: Job) -> None:
    def make(name: str) -> None:
        os.close(os.open(name, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=job.descriptor))

    assert job.phase() is Phase.EMPTY
    make(D)
    assert job.phase() is Phase.HALF
    make(H)
    assert job.phase() is Phase.CLAIMED
    os.mkdir("out", dir_fd=job.descriptor)
    assert job.phase() is Phase.PUBLISHED
    make("out/0-H")
    assert job.phase() is Phase.COMMITTED


def test_the_status_is_read_as_it_was_written_and_nonsense_as_none(job: Job) -> None:
    assert job.read_status() == Status()
    status = Status(attempt=3, crashes=1, reason="no", since=1.5, released=("auth",), as_is=True)
    # What a crash left of an earlier writing is no obstacle.
    os.close(os.open("status.json.tmp", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=job.descriptor))
    job.write_status(status)
    assert job.read_status() == status
    assert job.names() == ["status.json"]
    descriptor = os.open("status.json", os.O_WRONLY | os.O_TRUNC, dir_fd=job.descriptor)
    os.write(descriptor, b"{")
    os.close(descriptor)
    assert job.read_status() == Status()


def test_a_directory_has_one_owner_until_it_is_closed(state: StateDirectory, job: Job) -> None:
    assert Job.take(state, "work", job.claim) is None
    job.close()
    again = Job.take(state, "work", job.claim)
    assert again is not None
    again.close()


def test_what_is_not_there_cannot_be_taken(state: StateDirectory) -> None:
    assert Job.take(state, "held", Claim(1, ID)) is None


def test_a_job_that_moves_is_in_the_other_state_alone(state: StateDirectory, job: Job) -> None:
    job.move("held")
    assert job.place == "held"
    assert os.listdir(state.states["work"]) == []
    assert os.listdir(state.states["held"]) == [job.claim.name]


def test_a_directory_that_moves_while_it_is_taken_is_left(
    state: StateDirectory, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    job.close()

    def lock_and_move(_descriptor: int) -> bool:
        os.rename(job.claim.name, job.claim.name, src_dir_fd=state.states["work"], dst_dir_fd=state.states["held"])
        return True

    monkeypatch.setattr("respool.requeue.job.lock_directory", lock_and_move)
    before = len(os.listdir("/proc/self/fd"))
    assert Job.take(state, "work", job.claim) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_message_lock_is_kept_until_it_is_given_back(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def lock(_descriptor: int, _id: MessageId) -> bool:
        calls.append("lock")
        return True

    monkeypatch.setattr("respool.requeue.job.lock_message", lock)
    monkeypatch.setattr("respool.requeue.job.unlock_message", lambda _descriptor, _id: calls.append("unlock"))
    os.close(os.open(D, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=job.descriptor))
    job.open_data()
    job.unlock()
    assert calls == [], "a lock that is not ours was given back"
    assert job.lock()
    assert job.lock()
    assert calls == ["lock"]
    job.release_data()
    assert job.data is None
    assert not job.has_message_lock
    job.unlock()
    assert calls == ["lock", "unlock"]


def test_what_is_taken_over_may_be_anything(job: Job) -> None:
    """Nothing is known yet of a claim that another process made."""
    assert not job.is_fresh
    assert job.may_have_journal
    assert (job.read_status().attempt, job.read_status().crashes) == (1, 0)


def test_close_leaves_no_descriptor_open(state: StateDirectory, job: Job) -> None:
    job.close()
    before = len(os.listdir("/proc/self/fd"))
    again = Job.take(state, "work", job.claim)
    assert again is not None
    os.close(os.open(D, os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=again.descriptor))
    os.mkdir("out", dir_fd=again.descriptor)
    again.open_out()
    assert again.lock()
    again.close()
    assert len(os.listdir("/proc/self/fd")) == before
    again.close()  # it has nothing any more that could be another's by now


def test_a_copy_of_its_descriptor_keeps_nobody_out(state: StateDirectory, job: Job) -> None:
    """A forked child's, for one."""
    copy = os.dup(job.descriptor)
    job.close()
    again = Job.take(state, "work", job.claim)
    assert again is not None
    again.close()
    os.close(copy)


def test_what_is_left_is_not_touched_any_more(job: Job) -> None:
    descriptor = job.descriptor
    job.leave()
    with pytest.raises(OSError, match="Bad file descriptor"):
        job.names()
    job.close()
    os.close(descriptor)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_the_status_belongs_to_whom_the_directory_belongs(job: Job) -> None:
    os.fchown(job.descriptor, 65534, 65533)
    job.write_status(Status())
    status = os.stat("status.json", dir_fd=job.descriptor)
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (65534, 65533, 0o640)


def test_looking_leaves_no_descriptor_open(state: StateDirectory, job: Job) -> None:
    os.mkdir("out", dir_fd=job.descriptor)
    before = len(os.listdir("/proc/self/fd"))
    assert job.phase() is Phase.PUBLISHED
    assert job.read_status() == Status()
    job.write_status(Status(attempt=2))
    assert job.read_status() == Status(attempt=2)
    assert Job.take(state, "work", job.claim) is None
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_long_reason_is_kept(job: Job) -> None:
    job.write_status(Status(reason="x" * 60_000))
    assert len(job.read_status().reason) == 60_000
