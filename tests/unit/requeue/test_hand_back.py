"""Handing back, where something is in the way at the last steps."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest

from respool.requeue import durable, publish
from respool.requeue.claim import take
from respool.requeue.hand_back import HandBack
from respool.requeue.hold import list_kept
from respool.requeue.job import OUT, Job, OutputName
from respool.requeue.plan import Defer, Output, Requeue
from respool.requeue.publish import Published
from respool.requeue.reading import read_message
from respool.requeue.stage import stage
from respool.requeue.state import StateDirectory
from respool.requeue.target import Target
from respool.spool.ids import MessageId
from respool.spool.locks import lock_message, unlock_message
from respool.spool.sources import Source

MESSAGE = Path(__file__).parents[2] / "data/spool-496/main/input/1xV9Vd-0000wB-2S-H"


class House:
    """An export, a spool with the default queue, and what Exim was told."""

    def __init__(self, root: Path) -> None:
        self.export, self.spool = root / "export", root / "spool"
        for directory in (self.export, self.spool / "input", root / "state"):
            directory.mkdir(parents=True, mode=0o750)
        for suffix in "DH":
            shutil.copyfile(MESSAGE.with_name(MESSAGE.name[:-1] + suffix), self.export / (MESSAGE.name[:-1] + suffix))
        self.state = StateDirectory(str(root / "state"))
        self.source = Source("export", str(self.export))
        self.target = Target("spool", str(self.spool))
        self.told: list[Published] = []
        self.hand_back = HandBack(self.state, self.target, tell=self._tell, source=self.source)

    def _tell(self, published: Iterable[Published]) -> int:
        self.told += published
        return len(self.told)

    def claim(self) -> Job:
        (found,) = self.source.input.list().pairs
        return take(self.state, self.source, found)

    def queues(self) -> set[tuple[str, str]]:
        """Id and queue of all that is published."""
        return {
            (path.name[:-2], "" if path.parents[1] == self.spool else path.parents[1].name)
            for path in self.spool.rglob("input/*-H")
        }


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


def _outputs(job: Job) -> tuple[Output, ...]:
    message = read_message(job)
    return tuple(Output(message=message, queue=queue) for queue in ("scanned", "", "usual", "scanned"))


@pytest.mark.parametrize("published_before", range(5))
def test_after_a_restart_exim_is_told_for_the_queue_of_each_output(
    house: House, published_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.claim()
    stage(job, _outputs(job), house.target, keep_id=True)
    real, count = durable.rename, 0

    def rename(name: str, new_name: str, *, at: int, to: int) -> None:
        nonlocal count
        if name.endswith("-H") and count == published_before:
            raise OSError("the process dies here")
        count += name.endswith("-H")
        real(name, new_name, at=at, to=to)

    if published_before < 4:
        monkeypatch.setattr(durable, "rename", rename)
        with pytest.raises(OSError, match="dies here"):
            house.target.publish(job, house.hand_back._syncs)
        monkeypatch.undo()
    else:
        house.target.publish(job, house.hand_back._syncs)
    job.close()
    assert len(house.queues()) == published_before
    assert house.told == []
    again = Job.take(house.state, "work", job.claim)
    assert again is not None
    house.hand_back.finish(again, recovered=True)
    again.close()
    assert {(str(one.id), one.queue) for one in house.told} == house.queues()
    assert len(house.told) == 4
    assert sorted(one.queue for one in house.told) == ["", "scanned", "scanned", "usual"]


def test_an_output_that_can_t_be_unlocked_keeps_exim_out_of_no_other(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = house.claim()
    stage(job, _outputs(job), house.target, keep_id=False)
    failed: list[MessageId] = []

    def unlock(descriptor: int, message_id: MessageId) -> None:
        if not failed:
            failed.append(message_id)
            raise OSError(errno.EBADF, "closed by somebody else")
        unlock_message(descriptor, message_id)

    monkeypatch.setattr(publish, "unlock_message", unlock)
    with pytest.raises(OSError, match="somebody else"):
        house.target.publish(job, house.hand_back._syncs)
    free: set[str] = set()
    for path in house.spool.rglob("input/*-D"):
        with path.open("rb+") as file:
            if lock_message(file.fileno(), MessageId(path.name[:-2])):
                free.add(path.name[:-2])
    assert {name for name, _ in house.queues()} - free == {str(failed[0])}
    job.close()


def test_a_rename_of_which_a_power_cut_left_both_names_was_made(house: House) -> None:
    """Where metadata is not kept in order: the target is synced first, then out/."""
    job = house.claim()
    stage(job, _outputs(job)[:2], house.target, keep_id=True)
    house.target.publish(job, house.hand_back._syncs)
    published = house.queues()
    job.close()
    out = Path(house.state.path) / "work" / job.claim.name / OUT
    for number, name in enumerate(("0@scanned-H", "1-H")):
        ((header, _),) = [pair for pair in published if pair[1] == ("scanned", "")[number]]
        place = house.spool / ("scanned" if number == 0 else "") / "input"
        (out / name).hardlink_to(place / f"{header}-H")
    again = Job.take(house.state, "work", job.claim)
    assert again is not None
    house.hand_back.finish(again, recovered=True)
    again.close()
    assert house.queues() == published
    assert len(list(house.spool.rglob("*-D"))) == len(list(house.spool.rglob("*-H"))) == 2
    assert house.state.list("work") == []


def test_of_what_it_has_delivered_since_exim_is_told_no_more(house: House) -> None:
    job = house.claim()
    stage(job, _outputs(job), house.target, keep_id=False)
    house.target.publish(job, house.hand_back._syncs)
    for path in [*house.spool.rglob("input/*-H"), *house.spool.rglob("input/*-D")]:
        path.unlink()
    house.hand_back.finish(job, recovered=True)
    job.close()
    assert house.told == []
    assert house.state.list("work") == []


def test_what_can_not_be_removed_yet_is_done_all_the_same(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A settled claim is gone by its rename; the next sweep removes what is left of it."""
    job = house.claim()
    plan = Requeue(outputs=_outputs(job))

    real = durable.remove_tree

    def fail(name: str, *, at: int) -> None:
        if name.startswith("gone."):
            raise OSError(5, "Input/output error", name)
        real(name, at=at)

    monkeypatch.setattr(durable, "remove_tree", fail)
    house.hand_back.carry_out(job, plan)
    job.close()
    monkeypatch.undo()
    work = house.state.states["work"]
    assert house.state.list("work") == []
    assert durable.exists(f"gone.{job.claim.name}", at=work) is not None
    house.state.sweep_gone()
    assert durable.exists(f"gone.{job.claim.name}", at=work) is None


def test_the_staged_name_of_an_output_says_its_queue(house: House) -> None:
    job = house.claim()
    stage(job, _outputs(job), house.target, keep_id=True)
    out = durable.open_directory(OUT, at=job.descriptor)
    assert durable.exists(OutputName(0, "scanned").name, at=out) is not None
    job.close()


def test_a_reason_of_any_length_leaves_a_status_that_can_be_read(house: House) -> None:
    """A server may name addresses of 60 KB; a status that is too long would be due at once, for ever."""
    job = house.claim()
    house.hand_back.put_off(job, Defer(reason="\x1b" * 200_000, retry_at=9e9))
    job.close()
    (kept,) = list_kept(house.state, "deferred")
    assert kept.status.retry_at == 9e9
    assert len(kept.status.reason) < 2000
