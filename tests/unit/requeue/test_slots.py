"""Job directories that are kept: empty, locked, nobody else's, and named for one claim after the other."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.errors import NotReadyError
from respool.requeue import durable, slots
from respool.requeue.claim import take
from respool.requeue.hand_back import HandBack
from respool.requeue.job import STAGING, Job
from respool.requeue.notify import tell_nobody
from respool.requeue.plan import Hold, Output, Requeue
from respool.requeue.reading import read_message
from respool.requeue.recovery import recover
from respool.requeue.slots import Slots
from respool.requeue.state import StateDirectory
from respool.requeue.target import Target
from respool.spool.directory import Found
from respool.spool.ids import MessageId
from respool.spool.sources import Source

DATA = Path(__file__).parents[2] / "data/spool-496/main/input"
IDS = [MessageId(name) for name in ("1xV9Vd-0000wB-2S", "1xV9Vg-0000wS-25", "1xV9Vd-0000w8-0R")]


class House:
    """A source with a few messages, a spool, and what hands back between them."""

    def __init__(self, root: Path) -> None:
        self.export, self.input, self.work = root / "export", root / "spool/input", root / "state/work"
        for directory in (self.export, self.input, root / "state"):
            directory.mkdir(parents=True, mode=0o750)
        for message_id in IDS:
            for suffix in ("-D", "-H"):
                shutil.copyfile(DATA / f"{message_id}{suffix}", self.export / f"{message_id}{suffix}")
        self.state = StateDirectory(str(root / "state"))
        self.source = Source("export", str(self.export))
        self.target = Target("spool", str(root / "spool"))
        self.slots = Slots(self.state)
        self.hand_back = HandBack(
            self.state, self.target, tell=tell_nobody, source=self.source, slots=self.slots
        )  # fmt: skip

    def take(self, message_id: MessageId) -> Job:
        return take(self.state, self.source, Found(message_id), self.slots)

    def requeue(self, job: Job) -> None:
        self.hand_back.carry_out(job, Requeue(outputs=(Output(message=read_message(job)),)))
        job.close()

    def kept(self) -> list[str]:
        return sorted(path.name for path in self.work.iterdir())


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    made = House(tmp_path)
    yield made
    made.slots.close()
    made.target.close()
    made.source.close()
    made.state.close()


def test_one_directory_serves_one_message_after_the_other(house: House) -> None:
    inodes: set[int] = set()
    for message_id in IDS:
        job = house.take(message_id)
        inodes.add((house.work / job.claim.name).stat().st_ino)
        assert set(job.names()) - {STAGING} == {message_id.data_name, message_id.header_name}
        house.requeue(job)
        assert house.kept() == [f"gone.{job.claim.name}"]
        assert [path.name for path in (house.work / house.kept()[0]).rglob("*")] == [STAGING]
        assert (house.input / message_id.header_name).read_bytes().startswith(message_id.header_name.encode())
        assert (house.input / message_id.data_name).read_bytes() == (DATA / message_id.data_name).read_bytes()
    assert len(inodes) == 1


def test_a_sweep_leaves_a_kept_directory_alone_and_removes_one_whose_worker_died(house: House) -> None:
    house.requeue(house.take(IDS[0]))
    house.state.sweep_gone()
    assert len(house.kept()) == 1
    # A death gives up the locks, and nothing else.
    for slot in house.slots._free:
        os.close(slot.staging)
        os.close(slot.descriptor)
    house.slots._free.clear()
    house.state.sweep_gone()
    assert house.kept() == []


def test_no_recovery_gets_a_job_in_a_kept_directory(house: House) -> None:
    house.requeue(house.take(IDS[0]))
    job = house.take(IDS[1])
    assert Job.take(house.state, "work", job.claim) is None
    job.close()
    again = Job.take(house.state, "work", job.claim)
    assert again is not None
    again.close()


def test_what_a_failed_attempt_left_is_not_staged(house: House) -> None:
    house.requeue(house.take(IDS[0]))
    job = house.take(IDS[1])
    (house.work / job.claim.name / STAGING / "7-H").write_text("of an attempt that was cut short")
    job.is_fresh = False
    house.requeue(job)
    assert sorted(path.name for path in house.input.iterdir() if path.name.endswith("-H")) == sorted(
        message_id.header_name for message_id in IDS[:2]
    )


def test_a_held_message_takes_the_directory_along_without_the_staging(house: House) -> None:
    house.requeue(house.take(IDS[0]))
    job = house.take(IDS[1])
    house.hand_back.carry_out(job, Hold(reason="look at it"))
    job.close()
    held = house.work.parent / "held" / job.claim.name
    assert sorted(os.listdir(held)) == sorted([IDS[1].data_name, IDS[1].header_name, "status.json"])
    assert house.kept() == []


def test_a_crash_after_the_naming_leaves_an_empty_claim(house: House) -> None:
    house.requeue(house.take(IDS[0]))
    claim = house.state.next_claim(IDS[1])
    job = house.slots.take(claim)
    assert job is not None
    job.close()
    found = Job.take(house.state, "work", claim)
    assert found is not None
    assert recover(house.state, house.source, found).name == "EMPTY"
    found.close()
    assert house.kept() == []


def test_a_message_that_vanishes_while_it_is_claimed_gives_the_directory_back(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house.requeue(house.take(IDS[0]))
    real = durable.rename

    def vanish(name: str, new_name: str, *, at: int, to: int) -> None:
        if name == IDS[1].data_name:
            raise FileNotFoundError(name)
        real(name, new_name, at=at, to=to)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", vanish)
        with pytest.raises(NotReadyError):
            house.take(IDS[1])
    assert [name.partition(".")[0] for name in house.kept()] == ["gone"]
    house.requeue(house.take(IDS[1]))
    assert (house.input / IDS[1].header_name).exists()


def test_what_can_t_be_removed_is_no_failure_of_the_message(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    job = house.take(IDS[0])

    def fail(name: str, *, at: int) -> None:
        raise OSError(5, "Input/output error", name)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "unlink", fail)
        house.requeue(job)
    assert house.kept() == [f"gone.{job.claim.name}"]
    house.state.sweep_gone()
    assert house.kept() == []


def test_at_the_end_none_is_left(house: House) -> None:
    house.requeue(house.take(IDS[0]))
    house.slots.close()
    assert house.kept() == []


def test_the_end_leaves_no_descriptor_open(house: House) -> None:
    before = len(os.listdir("/proc/self/fd"))
    house.requeue(house.take(IDS[0]))
    assert len(os.listdir("/proc/self/fd")) == before + 2
    house.slots.close()
    assert len(os.listdir("/proc/self/fd")) == before


def test_so_many_are_kept_and_no_more(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slots, "_MOST", 2)
    jobs = [house.take(message_id) for message_id in IDS]
    for count, job in enumerate(jobs, 1):
        house.requeue(job)
        assert len([name for name in house.kept() if name.startswith("gone.")]) == min(count, 2)
        assert len(house.slots._free) == min(count, 2)


def test_a_job_without_staging_has_nothing_to_keep(house: House) -> None:
    job = house.take(IDS[0])
    slots.forget(job, house.slots)
    job.close()
    assert house.kept() == []


def test_one_that_can_t_be_renamed_is_left_to_the_sweep(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    before = len(os.listdir("/proc/self/fd"))
    house.requeue(house.take(IDS[0]))
    # A forked child's.
    copy = os.dup(house.slots._free[0].descriptor)

    def fail(name: str, new_name: str, *, at: int, to: int) -> None:
        raise OSError(5, "Input/output error", name)

    with monkeypatch.context() as patch:
        patch.setattr(durable, "rename", fail)
        with pytest.raises(OSError, match="Input/output error"):
            house.slots.take(house.state.next_claim(IDS[1]))
    assert len(os.listdir("/proc/self/fd")) == before + 1
    house.state.sweep_gone()
    assert house.kept() == []
    os.close(copy)
