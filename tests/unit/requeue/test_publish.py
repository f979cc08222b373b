"""Publishing: the pair is there, durable before Exim may act on it, and nothing that was there is touched."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.errors import ConflictError, SpoolFormatError
from respool.requeue import durable, publish
from respool.requeue.job import OutputName
from respool.requeue.publish import Published
from respool.spool.directory import occupants
from respool.spool.ids import MessageId
from respool.spool.locks import lock_message, unlock_message

from .claimed import BODY, HEADER, ID, Claimed, is_locked, open_descriptors

SPLIT = ID.split_directory


@pytest.fixture
def claimed(tmp_path: Path) -> Iterator[Claimed]:
    made = Claimed(tmp_path, split=False)
    yield made
    made.close()


@pytest.fixture
def split(tmp_path: Path) -> Iterator[Claimed]:
    made = Claimed(tmp_path, split=True)
    yield made
    made.close()


def assert_is_pair(directory: Path, message_id: MessageId, body: bytes = BODY) -> None:
    """A message as Exim takes it: both files say whose they are, and hold what was staged."""
    assert (directory / message_id.data_name).read_bytes() == message_id.data_name.encode() + b"\n" + body
    first, _, rest = (directory / message_id.header_name).read_bytes().partition(b"\n")
    assert first == message_id.header_name.encode()
    assert rest.partition(b"XX\n")[0] == HEADER.partition(b"\n")[2].partition(b"XX\n")[0]
    assert not is_locked(directory / message_id.data_name)


def republished(claimed: Claimed) -> MessageId:
    """Publish what was staged under ID; it has to get another id, and nothing of ours may be left under the first."""
    before = open_descriptors()
    (done,) = claimed.publish()
    assert done.id != ID
    assert_is_pair(claimed.input, done.id)
    assert os.listdir(claimed.out) == [done.id.data_name]
    assert open_descriptors() == before
    return done.id


# What is published


@pytest.mark.parametrize("restarted", [False, True])
def test_a_message_is_published_under_its_id(claimed: Claimed, *, restarted: bool) -> None:
    claimed.stage()
    inode = (claimed.work / ID.data_name).stat().st_ino
    if restarted:
        claimed.take_again()
    assert claimed.publish() == (Published(ID, ""),)
    assert_is_pair(claimed.input, ID)
    assert (claimed.input / ID.data_name).stat().st_ino == inode
    assert sorted(os.listdir(claimed.input)) == [ID.data_name, ID.header_name]
    assert os.listdir(claimed.out) == [ID.data_name]
    assert (claimed.job.staged, claimed.job.has_message_lock) == (None, False)
    # Published is published: whoever asks again gets nothing.
    assert claimed.publish() == ()


def test_each_output_goes_to_its_queue_in_the_order_of_the_numbers(claimed: Claimed) -> None:
    outputs = [claimed.output("scanned" if number % 2 else "") for number in range(11)]
    claimed.stage(*outputs)
    assert claimed.job.staged is not None
    expected = tuple(Published(staged.id, staged.name.queue) for staged in claimed.job.staged)
    claimed.take_again()
    assert claimed.publish() == expected
    for done in expected:
        assert_is_pair(claimed.spool / "scanned/input" if done.queue else claimed.input, done.id)
    assert len(list(claimed.spool.rglob("*-H"))) == 11


def test_a_split_spool_gets_the_message_where_exim_looks(split: Claimed) -> None:
    split.stage()
    assert split.publish() == (Published(ID, ""),)
    assert_is_pair(split.input / SPLIT, ID)
    assert os.listdir(split.input) == [SPLIT]


def test_a_split_directory_that_exim_removes_is_made_anew(split: Claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    split.stage()
    before = open_descriptors()
    real, removed = durable.link, 0

    def link(name: str, new_name: str, *, at: int, to: int) -> None:
        nonlocal removed
        if removed < 3:
            removed += 1
            (split.input / SPLIT).rmdir()
        real(name, new_name, at=at, to=to)

    monkeypatch.setattr(durable, "link", link)
    assert split.publish() == (Published(ID, ""),)
    assert_is_pair(split.input / SPLIT, ID)
    assert open_descriptors() == before


def test_a_split_directory_that_is_removed_as_often_as_it_is_made(
    split: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    split.stage()
    real = durable.link

    def link(name: str, new_name: str, *, at: int, to: int) -> None:
        (split.input / SPLIT).rmdir()
        real(name, new_name, at=at, to=to)

    before = open_descriptors()
    with monkeypatch.context() as removed:
        removed.setattr(durable, "link", link)
        with pytest.raises(ConflictError, match="split directory"):
            split.publish()
    assert open_descriptors() == before
    assert not is_locked(split.out / ID.data_name)
    assert split.publish() == (Published(ID, ""),)


# The order of things


def test_exim_may_act_on_an_output_only_once_it_is_durable(claimed: Claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = (claimed.output(), claimed.output(), claimed.output("scanned"), claimed.output(body=b"new\n"))
    claimed.stage(*outputs)
    at_sync: list[tuple[str, bool]] = []
    real = durable.sync

    def sync(descriptor: int) -> None:
        directory = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        if directory.name == "input":
            there = sorted(directory.glob("*-D"))
            at_sync.append((directory.parent.name, all(map(is_locked, there))))
        real(descriptor)

    monkeypatch.setattr(durable, "sync", sync)
    published = claimed.publish()
    assert sorted(at_sync) == [("scanned", True), ("spool", True)]
    for done in published:
        assert not is_locked(next(claimed.spool.rglob(done.id.data_name)))


def test_a_failure_leaves_what_went_before_durable_and_the_rest_for_later(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed.stage(claimed.output(), claimed.output(), claimed.output())
    real = durable.rename
    synced: list[bool] = []
    before = open_descriptors()

    def rename(name: str, new_name: str, *, at: int, to: int) -> None:
        if name == "1-H":
            raise OSError(errno.ENOSPC, "No space left on device")
        real(name, new_name, at=at, to=to)

    def sync(descriptor: int) -> None:
        synced.append(is_locked(claimed.input / ID.data_name))

    with monkeypatch.context() as full:
        full.setattr(durable, "rename", rename)
        full.setattr(durable, "sync", sync)
        with pytest.raises(OSError, match="No space left"):
            claimed.publish()
    assert synced == [True]
    assert not any(map(is_locked, claimed.input.glob("*-D")))
    assert open_descriptors() == before
    assert sorted(name for name in os.listdir(claimed.out) if name.endswith("-H")) == ["1-H", "2-H"]
    assert len(claimed.publish()) == 2
    assert len(list(claimed.input.glob("*-H"))) == 3


def test_a_sync_that_fails_keeps_exim_out_of_nothing(claimed: Claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed.stage(claimed.output(), claimed.output())
    before = open_descriptors()

    def sync(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(durable, "sync", sync)
    with pytest.raises(OSError, match="Input/output error"):
        claimed.publish()
    assert not any(map(is_locked, claimed.input.glob("*-D")))
    assert open_descriptors() == before


# Exim's lock


def test_nothing_is_published_while_exim_holds_the_message(claimed: Claimed) -> None:
    claimed.stage()
    claimed.take_again()
    exim = os.open(claimed.work / ID.data_name, os.O_RDWR)
    assert lock_message(exim, ID)
    with pytest.raises(ConflictError):
        claimed.publish()
    assert os.listdir(claimed.input) == []
    unlock_message(exim, ID)
    os.close(exim)
    assert claimed.publish() == (Published(ID, ""),)


def test_nor_under_the_kept_id_with_another_body(claimed: Claimed) -> None:
    """Whoever has the original -D open could deliver it by our -H."""
    claimed.stage(claimed.output(body=b"new\n"))
    claimed.take_again()
    exim = os.open(claimed.work / ID.data_name, os.O_RDWR)
    assert lock_message(exim, ID)
    claimed.job.open_out()
    claimed.job.open_data()
    before = open_descriptors()
    with pytest.raises(ConflictError):
        claimed.publish()
    assert (os.listdir(claimed.input), open_descriptors()) == ([], before)
    os.close(exim)
    assert claimed.publish() == (Published(ID, ""),)
    assert_is_pair(claimed.input, ID, b"new\n")
    # The original stays locked until the job is settled.
    assert is_locked(claimed.work / ID.data_name)


def test_an_output_with_a_new_id_does_not_wait_for_the_lock_of_the_original(claimed: Claimed) -> None:
    claimed.stage(keep_id=False)
    claimed.take_again()
    exim = os.open(claimed.work / ID.data_name, os.O_RDWR)
    assert lock_message(exim, ID)
    (done,) = claimed.publish()
    assert_is_pair(claimed.input, done.id)
    os.close(exim)


def test_a_staged_file_that_somebody_has_locked(claimed: Claimed) -> None:
    claimed.stage(keep_id=False)
    assert claimed.job.staged is not None
    mine = claimed.job.staged[0].id
    somebody = os.open(claimed.out / mine.data_name, os.O_RDWR)
    assert lock_message(somebody, mine)
    before = open_descriptors()
    with pytest.raises(ConflictError):
        claimed.publish()
    assert (os.listdir(claimed.input), open_descriptors()) == ([], before)
    os.close(somebody)


@pytest.mark.parametrize("fails", [False, True])
def test_a_copy_of_a_descriptor_keeps_no_lock(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch, *, fails: bool
) -> None:
    """A child that was forked meanwhile has one, and an OFD lock lives as long as any."""
    claimed.stage(keep_id=False)
    assert claimed.job.staged is not None
    mine = claimed.job.staged[0].id
    copies: list[int] = []

    def lock(descriptor: int, message_id: MessageId) -> bool:
        copies.append(os.dup(descriptor))
        return lock_message(descriptor, message_id)

    def fail(name: str, new_name: str, *, at: int, to: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(publish, "lock_message", lock)
    if fails:
        monkeypatch.setattr(durable, "link", fail)
        with pytest.raises(OSError, match="No space left"):
            claimed.publish()
    else:
        claimed.publish()
    assert len(copies) == 1
    assert not is_locked(claimed.out / mine.data_name)
    os.close(copies[0])


@pytest.mark.parametrize("name", [ID.data_name, "0-H"])
def test_a_symlink_is_never_published(claimed: Claimed, name: str) -> None:
    claimed.stage()
    (claimed.out / name).rename(claimed.work / "elsewhere")
    (claimed.out / name).symlink_to("../elsewhere")
    claimed.take_again()
    with pytest.raises(OSError, match="symbolic links"):
        claimed.publish()
    assert os.listdir(claimed.input) == []


# An earlier attempt


@pytest.mark.parametrize("has_subdirectory", [False, True])
def test_a_link_of_our_own_is_gone_on_from(claimed: Claimed, *, has_subdirectory: bool) -> None:
    claimed.stage()
    os.link(claimed.out / ID.data_name, claimed.input / ID.data_name)
    if has_subdirectory:
        (claimed.input / SPLIT).mkdir()
    assert claimed.publish() == (Published(ID, ""),)
    assert_is_pair(claimed.input, ID)


def test_both_names_of_a_rename_are_one_publication(claimed: Claimed) -> None:
    """As a power cut may leave it where metadata is not kept in order."""
    claimed.stage()
    os.link(claimed.out / ID.data_name, claimed.input / ID.data_name)
    os.link(claimed.out / "0-H", claimed.input / ID.header_name)
    assert claimed.publish() == (Published(ID, ""),)
    assert_is_pair(claimed.input, ID)
    assert os.listdir(claimed.out) == [ID.data_name]


def test_what_an_earlier_new_id_left_is_in_nobodys_way(claimed: Claimed) -> None:
    claimed.stage()
    (claimed.out / "0-H.new").write_text("of an attempt that was cut short")
    (claimed.input / ID.journal_name).write_text("r@x.example\n")
    republished(claimed)


# Ids that are taken


@pytest.mark.parametrize("name", [ID.data_name, ID.header_name, ID.journal_name])
@pytest.mark.parametrize("place", ["", SPLIT])
def test_a_foreign_file_of_the_id_is_never_touched(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch, name: str, place: str
) -> None:
    claimed.stage()
    real = durable.link
    linked: list[str] = []

    def link(name: str, new_name: str, *, at: int, to: int) -> None:
        linked.append(new_name)
        real(name, new_name, at=at, to=to)

    monkeypatch.setattr(durable, "link", link)
    (claimed.input / place).mkdir(exist_ok=True)
    foreign = claimed.input / place / name
    foreign.write_text("somebody else's")
    new_id = republished(claimed)
    assert foreign.read_text() == "somebody else's"
    assert len(list(claimed.input.rglob(f"{ID}-*"))) == 1
    # Not for a moment is our -D beside a foreign -H: Exim could deliver the one with the other.
    assert linked == [new_id.data_name]


@pytest.mark.parametrize("name", [ID.data_name, ID.header_name])
def test_a_link_of_our_own_goes_with_the_id(claimed: Claimed, name: str) -> None:
    """Our -D stands in the target since before a crash; since then the id was taken there."""
    claimed.stage()
    os.link(claimed.out / ID.data_name, claimed.input / ID.data_name)
    (claimed.input / SPLIT).mkdir()
    foreign = claimed.input / SPLIT / name
    foreign.write_text("somebody else's")
    republished(claimed)
    assert foreign.read_text() == "somebody else's"
    assert list(claimed.input.rglob(f"{ID}-*")) == [foreign]


def test_our_own_data_file_in_the_other_layout_is_taken_away(claimed: Claimed) -> None:
    """Exim's split_spool_directory was changed between a crash and the recovery."""
    claimed.stage()
    (claimed.input / SPLIT).mkdir()
    os.link(claimed.out / ID.data_name, claimed.input / SPLIT / ID.data_name)
    republished(claimed)
    assert list(claimed.input.rglob(f"{ID}-*")) == []


@pytest.mark.parametrize("name", [ID.data_name, ID.header_name])
def test_a_foreign_file_that_comes_between_is_never_touched(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    claimed.stage()
    real = durable.link

    def link(old_name: str, new_name: str, *, at: int, to: int) -> None:
        if new_name == ID.data_name:
            (claimed.input / name).write_text("somebody else's")
        real(old_name, new_name, at=at, to=to)

    at_unlock: list[list[str]] = []

    def unlock(descriptor: int, message_id: MessageId) -> None:
        at_unlock.append([path.name for path in claimed.input.glob(f"{ID}-*")])
        unlock_message(descriptor, message_id)

    monkeypatch.setattr(durable, "link", link)
    monkeypatch.setattr("respool.requeue.job.unlock_message", unlock)
    republished(claimed)
    assert (claimed.input / name).read_text() == "somebody else's"
    # Before the lock was given back ours was away again: Exim could have delivered our -D by the foreign -H.
    assert at_unlock == [[name]]


def test_the_files_of_a_new_id_are_durable_before_they_are_named(
    claimed: Claimed, monkeypatch: pytest.MonkeyPatch
) -> None:
    claimed.stage()
    (claimed.input / ID.journal_name).write_text("r@x.example\n")
    contents: dict[int, bytes] = {}
    checked: list[str] = []
    real_sync, real_replace = durable.sync, durable.replace

    def sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        contents[status.st_ino] = b"" if os.path.isdir(descriptor) else os.pread(descriptor, status.st_size, 0)
        real_sync(descriptor)

    def replace(name: str, new_name: str, *, at: int) -> None:
        header = claimed.out / name
        mine = MessageId(header.read_bytes().partition(b"\n")[0][:-2].decode())
        for path in header, claimed.out / mine.data_name:
            assert contents.get(path.stat().st_ino) == path.read_bytes()
            checked.append(path.name)
        real_replace(name, new_name, at=at)

    monkeypatch.setattr(durable, "sync", sync)
    monkeypatch.setattr(durable, "replace", replace)
    new_id = republished(claimed)
    assert checked == ["0-H.new", new_id.data_name]
    owner = claimed.input.stat()
    for name in (new_id.header_name, new_id.data_name):
        status = (claimed.input / name).stat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o777) == (owner.st_uid, owner.st_gid, 0o640)


def test_where_every_id_is_taken_the_message_waits(claimed: Claimed, monkeypatch: pytest.MonkeyPatch) -> None:
    claimed.stage()
    tried: list[MessageId] = []

    def one_more(directory: int, message_id: MessageId) -> dict[str, os.stat_result]:
        if message_id not in tried:
            tried.append(message_id)
        return {message_id.journal_name: os.fstat(directory), **occupants(directory, message_id)}

    before = open_descriptors()
    with monkeypatch.context() as taken:
        taken.setattr(publish, "occupants", one_more)
        with pytest.raises(ConflictError, match="every id"):
            claimed.publish()
    assert open_descriptors() == before
    assert len(tried) == publish._ATTEMPTS
    assert os.listdir(claimed.input) == []
    (done,) = claimed.publish()
    assert_is_pair(claimed.input, done.id)


# What is in out/


@pytest.mark.parametrize("line", [b"", b"../../../etc/passwd-H\n", b"\xff" * 100, ID.encode() + b"-D\n"])
def test_a_staged_file_that_names_no_id_is_refused(claimed: Claimed, line: bytes) -> None:
    claimed.stage()
    (claimed.out / "0-H").write_bytes(line)
    assert claimed.job.staging is not None
    before = open_descriptors()
    with pytest.raises(SpoolFormatError) as caught:
        publish.read_staged(claimed.job.staging)
    assert (caught.value.file, caught.value.line, caught.value.column) == ("0-H", 1, 1)
    assert caught.value.found == repr(line.partition(b"\n")[0][:40])
    assert open_descriptors() == before


def test_only_outputs_are_read_back(claimed: Claimed) -> None:
    claimed.stage()
    (claimed.out / "plan.json").write_text("{}")
    (claimed.out / "0-H.new").write_text("x")
    claimed.take_again()
    (staged,) = publish.read_staged(claimed.job.open_out())
    assert (staged.name, staged.id) == (OutputName(0), ID)
