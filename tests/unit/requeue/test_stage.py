"""Staging: what is in ``out/`` after the commit, and that all of it was durable before."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from respool.requeue import durable
from respool.requeue.effects import Effect, parse_plan
from respool.requeue.job import OutputName, Staged
from respool.requeue.plan import Output
from respool.requeue.stage import copy_data, stage
from respool.requeue.target import Target
from respool.spool.body import BytesBody
from respool.spool.envelope import Header
from respool.spool.header_file import parse_header_file
from respool.spool.ids import MessageId
from respool.spool.message import Message

from .claimed import BODY, HEADER, ID, Claimed, is_locked, open_descriptors


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[Claimed]:
    made = Claimed(tmp_path)
    yield made
    made.close()


def staged_ids(claimed: Claimed) -> list[MessageId]:
    assert claimed.job.staged is not None
    return [staged.id for staged in claimed.job.staged]


def test_the_first_output_keeps_the_id_and_the_very_data_file(claimed: Claimed) -> None:
    claimed.stage()
    assert claimed.job.staged == (Staged(OutputName(0), ID),)
    assert sorted(os.listdir(claimed.out)) == ["0-H", ID.data_name]
    assert (claimed.out / ID.data_name).samefile(claimed.work / ID.data_name)
    assert claimed.job.effects == ()
    assert claimed.job.has_message_lock
    assert not (claimed.work / "out.tmp").exists()
    # Of recipients in an old form a modern Exim loses a byte or the flags; all else stays as it was.
    assert (claimed.out / "0-H").read_bytes() == HEADER.replace(b" o 1,2#2\n", b" o 1,2  0,-1#3\n")
    assert (claimed.work / ID.header_name).read_bytes() == HEADER


def test_a_replaced_body_is_a_new_file_under_the_kept_id(claimed: Claimed) -> None:
    body = b"x" * 300_000 + b"\nend\n"
    claimed.stage(claimed.output(body=body))
    assert staged_ids(claimed) == [ID]
    assert (claimed.out / ID.data_name).read_bytes() == ID.data_name.encode() + b"\n" + body
    assert (claimed.work / ID.data_name).read_bytes() == ID.data_name.encode() + b"\n" + BODY


def test_all_other_outputs_get_ids_of_their_own(claimed: Claimed) -> None:
    claimed.stage(claimed.output(), claimed.output("scanned"), claimed.output(body=b"another\n"))
    first, second, third = staged_ids(claimed)
    assert len({first, second, third}) == 3
    assert first == ID
    assert claimed.job.staged is not None
    assert [staged.name.name for staged in claimed.job.staged] == ["0-H", "1@scanned-H", "2-H"]
    assert (claimed.out / second.data_name).read_bytes() == second.data_name.encode() + b"\n" + BODY
    assert (claimed.out / third.data_name).read_bytes() == third.data_name.encode() + b"\nanother\n"
    assert parse_header_file((claimed.out / "1@scanned-H").read_bytes(), file="x").id == second
    # What is not the claimed file itself has the owner and the mode of the spool's files.
    owner = claimed.input.stat()
    for name in ("0-H", "1@scanned-H", "2-H", second.data_name, third.data_name):
        status = (claimed.out / name).stat()
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (owner.st_uid, owner.st_gid, 0o640)


def test_a_new_id_where_the_claimed_one_may_not_be_kept(claimed: Claimed) -> None:
    claimed.stage(keep_id=False)
    (new_id,) = staged_ids(claimed)
    assert new_id != ID
    assert (claimed.out / "0-H").read_bytes().startswith(new_id.header_name.encode() + b"\n")
    assert not (claimed.out / new_id.data_name).samefile(claimed.work / ID.data_name)


def test_a_new_id_where_the_claimed_one_is_taken(claimed: Claimed) -> None:
    (claimed.input / ID.journal_name).write_text("r@x.example\n")
    claimed.stage()
    assert staged_ids(claimed) != [ID]


def test_a_new_id_while_the_original_is_still_queued(claimed: Claimed, tmp_path: Path) -> None:
    os.link(claimed.work / ID.data_name, tmp_path / "original")
    claimed.stage()
    assert staged_ids(claimed) != [ID]
    assert not is_locked(claimed.work / ID.data_name)


def test_a_new_id_where_the_destination_can_not_read_the_claimed_one(claimed: Claimed) -> None:
    old_exim = Target("spool", str(claimed.spool), id_format="short")
    stage(claimed.job, (claimed.output(),), old_exim, keep_id=True)
    old_exim.close()
    (new_id,) = staged_ids(claimed)
    assert len(new_id) == 16
    assert (claimed.out / new_id.data_name).read_bytes() == new_id.data_name.encode() + b"\n" + BODY


def test_a_notice_never_has_the_id_of_what_it_is_about(claimed: Claimed) -> None:
    envelope = claimed.message.envelope
    header = Header("I", b"Message-Id: <E" + ID.encode() + b"@mx.example>\n")
    notice = Message(envelope.replace(headers=(header,)), BytesBody(b"sorry\n"))
    claimed.stage(Output(message=notice, original_body=False, is_notice=True))
    (new_id,) = staged_ids(claimed)
    assert new_id != ID
    (own,) = parse_header_file((claimed.out / "0-H").read_bytes(), file="x").headers
    assert own.raw == b"Message-Id: <E" + new_id.encode() + b"@mx.example>\n"
    # A message that merely names its old id keeps its header as it was.
    claimed.take_again()
    durable.remove_tree("out", at=claimed.job.descriptor)
    claimed.stage(Output(message=notice, original_body=False), keep_id=False)
    (kept,) = parse_header_file((claimed.out / "0-H").read_bytes(), file="x").headers
    assert kept.raw == header.raw


def test_effects_are_committed_with_the_outputs(claimed: Claimed) -> None:
    effects = (Effect(processor="p", number=0, kind="line", payload=b"x"),)
    stage(claimed.job, (claimed.output(),), claimed.target, keep_id=True, effects=effects)
    assert claimed.job.effects == effects
    assert parse_plan((claimed.out / "plan.json").read_bytes()) == effects
    msgspec.json.decode((claimed.out / "plan.json").read_bytes())  # for people, too


@pytest.mark.parametrize("is_open", [True, False])
def test_nothing_of_an_attempt_that_was_cut_short_is_committed(claimed: Claimed, *, is_open: bool) -> None:
    claimed.take_again()
    os.mkdir("out.tmp", dir_fd=claimed.job.descriptor)
    (claimed.work / "out.tmp/7-H").write_text("left behind")
    if is_open:
        claimed.job.staging = durable.open_directory("out.tmp", at=claimed.job.descriptor)
    claimed.stage()
    assert sorted(os.listdir(claimed.out)) == ["0-H", ID.data_name]


def test_a_second_attempt_needs_nothing_of_the_first(claimed: Claimed) -> None:
    claimed.take_again()
    claimed.stage()
    assert sorted(os.listdir(claimed.out)) == ["0-H", ID.data_name]


def test_what_a_fresh_claim_has_is_not_looked_for(claimed: Claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_for: list[str] = []
    real = durable.exists

    def exists(name: str, *, at: int) -> os.stat_result | None:
        looked_for.append(name)
        return real(name, at=at)

    monkeypatch.setattr(durable, "exists", exists)
    claimed.stage()
    assert "out.tmp" not in looked_for


def test_every_new_file_is_durable_before_the_commit(claimed: Claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    contents: dict[int, bytes] = {}
    at_commit: list[set[str]] = []

    def recorded(real: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: Any, **keywords: Any) -> None:
            if real is real_sync:
                status = os.fstat(arguments[0])
                if stat.S_ISREG(status.st_mode):
                    contents[status.st_ino] = os.pread(arguments[0], status.st_size, 0)
            elif arguments[:2] == ("out.tmp", "out"):
                staging = claimed.work / "out.tmp"
                durable_files = {
                    path.name for path in staging.iterdir() if contents.get(path.stat().st_ino) == path.read_bytes()
                }
                at_commit.append(durable_files)
            real(*arguments, **keywords)

        return call

    real_sync = durable.sync
    monkeypatch.setattr(durable, "sync", recorded(durable.sync))
    monkeypatch.setattr(durable, "rename", recorded(durable.rename))
    effects = (Effect(processor="p", number=0, kind="line"),)
    outputs = (claimed.output(body=b"new\n"), claimed.output())
    stage(claimed.job, outputs, claimed.target, keep_id=True, effects=effects)
    assert at_commit == [{path.name for path in claimed.out.iterdir()}]
    assert len(at_commit[0]) == 5


def test_staging_keeps_one_descriptor_open(claimed: Claimed) -> None:
    before = open_descriptors()
    claimed.stage(claimed.output(), claimed.output(), claimed.output(body=b"x\n"))
    assert open_descriptors() == before + 1
    assert claimed.job.staging is not None
    assert os.listdir(claimed.job.staging) == os.listdir(claimed.out)


@pytest.mark.parametrize("new_id", ["1xV9DX-000000007cS-1lp7", "1xV9DX-0007Yr-05"])
def test_a_clone_is_given_its_own_first_line_where_that_is_as_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new_id: str
) -> None:
    cloned: list[int] = []

    def clone(source: int, target: int) -> bool:
        """As on a file system that can; this one may not."""
        cloned.append(target)
        os.pwrite(target, os.pread(source, 1 << 20, 0), 0)
        return True

    copied: list[int] = []
    real = durable.copy_tail

    def copy_tail(source: int, target: int, offset: int) -> None:
        copied.append(target)
        real(source, target, offset)

    monkeypatch.setattr(durable, "clone", clone)
    monkeypatch.setattr(durable, "copy_tail", copy_tail)
    mine = MessageId(new_id)
    (tmp_path / "source").write_bytes(ID.data_name.encode() + b"\n" + BODY)
    with open(tmp_path / "source", "rb") as source, open(tmp_path / "target", "wb+") as target:
        copy_data(source.fileno(), ID, target.fileno(), mine)
        assert (cloned, copied) == (([target.fileno()], []) if mine.is_long else ([], [target.fileno()]))
    assert (tmp_path / "target").read_bytes() == mine.data_name.encode() + b"\n" + BODY
