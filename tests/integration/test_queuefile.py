"""The stand-in for queuefile, held against what was seen of the transport (and against Exim where it can be)."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

import pytest

from .conftest import EximFactory
from .exim import Exim
from .queuefile import LOCKED_BY_ANOTHER, ExportingExim, HeaderFile, export, run_attempt

pytestmark = pytest.mark.exim

MESSAGE = b"Subject: hello\n\nfirst line\n"
RECIPIENTS = ("a@file.example", "b@file.example", "c@file.example")


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.fixture
def directory(exim: Exim) -> Path:
    return exim.make_directory("export")


def test_export_links_and_leaves_the_original(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE)
    export(exim.spool, message_id, directory)
    for suffix in ("-H", "-D"):
        assert (directory / f"{message_id}{suffix}").samefile(exim.spool_file(message_id, suffix))
    with pytest.raises(FileExistsError):
        export(exim.spool, message_id, directory)
    assert names(directory) == [f"{message_id}-D", f"{message_id}-H"]


def test_a_leftover_data_file_takes_the_header_file_away_again(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE)
    (directory / f"{message_id}-D").write_bytes(b"left over")
    assert "file-exists" in run_attempt(exim.spool, message_id, directory)
    assert names(directory) == [f"{message_id}-D"]
    assert exim.pairs() == (message_id,)
    assert not exim.spool_file(message_id, "-J").exists()


def test_a_copy_shares_nothing(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE)
    export(exim.spool, message_id, directory, copy=True)
    for suffix in ("-H", "-D"):
        copied, original = directory / f"{message_id}{suffix}", exim.spool_file(message_id, suffix)
        assert not copied.samefile(original)
        assert copied.read_bytes() == original.read_bytes()


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("queue", ["", "scan"])
def test_a_whole_attempt_removes_the_original_in_exims_order(start_exim: EximFactory, split: bool, queue: str) -> None:
    exim = start_exim(split=split, queue=queue)
    directory = exim.make_directory("export")
    message_id = exim.receive(MESSAGE, recipients=RECIPIENTS)
    steps = run_attempt(exim.spool, message_id, directory, queue=queue)
    assert steps == [
        "locked", "journal-created", "header-linked", "exported", "journalled", "msglog-unlinked", "data-unlinked",
        "header-unlinked", "journal-unlinked", "closed",
    ]  # fmt: skip
    assert exim.ids(queue) == ()
    assert not [path for path in exim.spool.rglob("msglog/**/*") if path.is_file()]
    assert (directory / f"{message_id}-D").stat().st_nlink == 1


def test_the_lock_is_held_until_the_original_is_gone(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE)
    with ExportingExim(exim.spool, message_id, directory, pause=["exported", "header-unlinked"]) as attempt:
        for step in ("exported", "header-unlinked"):
            attempt.wait_for(step)
            with (directory / f"{message_id}-D").open("rb+") as data, pytest.raises(BlockingIOError):
                fcntl.lockf(data, fcntl.LOCK_EX | fcntl.LOCK_NB, 19, 0, os.SEEK_SET)
            if step == "exported":
                exim.deliver(message_id)
                assert f"Spool file for {message_id} is locked" in exim.log()
            attempt.go_on()
        assert attempt.wait() == 0
    with (directory / f"{message_id}-D").open("rb+") as data:
        fcntl.lockf(data, fcntl.LOCK_EX | fcntl.LOCK_NB, 19, 0, os.SEEK_SET)
    assert exim.deliveries() == ()


def test_a_second_attempt_at_the_same_time_gives_up(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE)
    with ExportingExim(exim.spool, message_id, directory, pause=["locked"]) as first:
        first.wait_for("locked")
        with ExportingExim(exim.spool, message_id, directory) as second:
            assert second.wait() == LOCKED_BY_ANOTHER


def test_a_naive_router_exports_once_for_each_recipient(exim: Exim, directory: Path) -> None:
    """As ``naive-1`` to ``naive-3`` of the real transport: the tree grows by one from export to export."""
    message_id = exim.receive(MESSAGE, recipients=RECIPIENTS)
    trees: list[set[bytes]] = []
    for attempt in range(3):
        steps = run_attempt(exim.spool, message_id, directory, naive=True)
        assert steps.count("exported") == 1
        assert steps.count("file-exists") == 2 - attempt
        exported = directory / f"{message_id}-H"
        header_file = HeaderFile(exported.read_bytes())
        assert header_file.recipients == [address.encode() for address in RECIPIENTS]
        trees.append(header_file.done)
        assert (directory / f"{message_id}-D").stat().st_nlink == (2 if attempt < 2 else 1)
        for name in names(directory):
            (directory / name).unlink()
    assert trees == [set(), {b"a@file.example"}, {b"a@file.example", b"b@file.example"}]
    assert exim.ids() == ()


def test_a_naive_attempt_exports_again_what_is_consumed_meanwhile(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE, recipients=RECIPIENTS[:2])
    with ExportingExim(exim.spool, message_id, directory, naive=True, pause=["journalled"]) as attempt:
        attempt.wait_for("journalled")
        for name in names(directory):
            (directory / name).unlink()
        attempt.go_on()
        attempt.wait_for("journalled")
        attempt.go_on()
        assert attempt.wait() == 0
        assert attempt.steps.count("exported") == 2
    # Both exports of one attempt show the tree as it was at its start (deliver.c).
    assert HeaderFile((directory / f"{message_id}-H").read_bytes()).done == set()


def test_exim_goes_on_with_what_the_stand_in_left_queued(exim: Exim, directory: Path) -> None:
    """The rewritten -H is one that Exim takes: it delivers to the deferred recipient and to nobody else."""
    message_id = exim.receive(MESSAGE, recipients=RECIPIENTS)
    steps = run_attempt(exim.spool, message_id, directory, deferring=["b@file.example"])
    assert steps[-3:] == ["header-rewritten", "journal-unlinked", "closed"]
    assert (directory / f"{message_id}-D").stat().st_nlink == 2
    assert b"-deliver_firsttime" not in exim.spool_file(message_id, "-H").read_bytes()
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, "b@file.example")]
    assert exim.panic_log() == ""


def test_exim_reads_the_journal_of_a_crashed_attempt(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE, recipients=RECIPIENTS)
    with ExportingExim(exim.spool, message_id, directory, naive=True, crash=["journalled"]) as attempt:
        assert attempt.wait() < 0
    assert exim.spool_file(message_id, "-J").read_bytes() == b"a@file.example\n"
    exim.deliver(message_id)
    assert exim.delivered() == [(message_id, "b@file.example"), (message_id, "c@file.example")]


def test_a_crash_between_the_links_leaves_half_an_export(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE)
    run_attempt(exim.spool, message_id, directory, crash=["header-linked"])
    assert names(directory) == [f"{message_id}-H"]
    assert exim.pairs() == (message_id,)
    assert "file-exists" in run_attempt(exim.spool, message_id, directory)


def test_a_crash_between_the_unlinks_leaves_stale_files(exim: Exim, directory: Path) -> None:
    message_id = exim.receive(MESSAGE)
    run_attempt(exim.spool, message_id, directory, crash=["data-unlinked"])
    assert (directory / f"{message_id}-D").stat().st_nlink == 1
    left = [suffix for suffix in ("-D", "-H", "-J") if exim.spool_file(message_id, suffix).exists()]
    assert left == ["-H", "-J"]


def test_variables_of_several_lines_are_stepped_over(start_exim: EximFactory) -> None:
    exim = start_exim(data_acl="  warn set acl_m_trap = -x\\nXX\\n1\\nz@file.example\\n\n")
    message_id = exim.receive(MESSAGE, recipients=RECIPIENTS)
    content = exim.spool_file(message_id, "-H").read_bytes()
    assert b"\nXX\n1\nz@file.example\n" in content
    header_file = HeaderFile(content)
    assert header_file.recipients == [address.encode() for address in RECIPIENTS]
    assert header_file.render() == content.replace(b"-deliver_firsttime\n", b"")
