"""What a look at a directory shows, however odd the names and what they name."""

from __future__ import annotations

import os
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from respool.errors import ConfigError
from respool.spool.directory import Found, MessageDirectory, check_ownership, occupants
from respool.spool.ids import MessageId, encode_base62
from respool.spool.sources import Source

OLD = MessageId("1xV9D2-0007Yr-05")
NEW = MessageId("1xV9DW-000000007cS-1lp7")


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[MessageDirectory]:
    (tmp_path / "input").mkdir()
    opened = MessageDirectory(str(tmp_path / "input"))
    yield opened
    opened.close()


def put(directory: MessageDirectory, *names: str) -> None:
    for name in names:
        path = Path(directory.path, name)
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"")


def test_pairs_and_halves_of_both_layouts_oldest_first(directory: MessageDirectory) -> None:
    put(directory, f"{NEW}-D", f"{NEW}-H", f"2/{OLD}-D", f"2/{OLD}-H", "1xV9D1-0007Yr-05-H", "3/1xV9D3-0007Yr-05-D")
    put(directory, f"{NEW}-J")
    listing = directory.list()
    assert listing.pairs == (Found(OLD, "2"), Found(NEW))
    assert listing.halves == (Found(MessageId("1xV9D1-0007Yr-05")), Found(MessageId("1xV9D3-0007Yr-05"), "3"))
    assert listing.subdirectories == ("2", "3")
    assert listing.strangers == ()


def test_w10_temporaries_are_never_taken_for_messages(directory: MessageDirectory) -> None:
    put(
        directory,
        f"hdr.{OLD}", f"hdr.{NEW}", f"{NEW}-1234-K", f"{OLD}-K", f"{NEW}.eml", f"{NEW}-J", f"{OLD}-X", f".{OLD}-H.tmp",
        f"{OLD}-H.new", f"{OLD}-d", "core", "-H", "-D",
    )  # fmt: skip
    assert directory.list().pairs == directory.list().halves == ()
    # None of them stands in the way of an id but -J.
    assert set(occupants(directory.descriptor, OLD)) == set()
    assert set(occupants(directory.descriptor, NEW)) == {f"{NEW}-J"}


def test_odd_names_are_passed_over(directory: MessageDirectory) -> None:
    # As long as a message's names, and none.
    put(
        directory,
        "1xV9D2-0007Yr-0\n-H",
        "1xV9D2 0007Yr-05-D",
        "é" * 9,
        "x" * 18,
        "x" * 25,
        "x" * 255,
        "1xV9D2-0007Yr-٠5-H",
    )
    os.close(os.open(b"\xff" * 18, os.O_CREAT | os.O_WRONLY, dir_fd=directory.descriptor))
    os.close(os.open(b"1xV9D2-0007Yr-\xff\xfe-D", os.O_CREAT | os.O_WRONLY, dir_fd=directory.descriptor))
    listing = directory.list()
    assert (listing.pairs, listing.halves, listing.strangers) == ((), (), ())


def test_a_message_in_a_wrong_subdirectory_is_left_alone(directory: MessageDirectory) -> None:
    put(directory, f"x/{OLD}-D", f"x/{OLD}-H")
    assert directory.list().pairs == ()
    assert directory.list().subdirectories == ("x",)


def test_what_is_no_regular_file_is_named_and_not_taken(directory: MessageDirectory, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    root = Path(directory.path)
    ids = [f"1xV9D2-0007Yr-0{number}" for number in range(5)]
    for message_id in ids:
        put(directory, f"{message_id}-H")
    (root / f"{ids[0]}-D").symlink_to(secret)
    os.mkfifo(root / f"{ids[1]}-D")
    (root / f"{ids[2]}-D").mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        here = os.open(".", os.O_RDONLY)
        os.chdir(root)  # the path of a socket may be 107 bytes long
        try:
            listener.bind(f"{ids[3]}-D")
        finally:
            os.fchdir(here)
            os.close(here)
        (root / f"{ids[4]}-D").symlink_to("dangling")
        listing = directory.list()
    assert listing.pairs == ()
    assert [str(half.id) for half in listing.halves] == ids
    assert listing.strangers == tuple(f"{message_id}-D" for message_id in ids)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a device")
def test_a_device_is_no_message(directory: MessageDirectory) -> None:
    os.mknod(Path(directory.path, f"{OLD}-D"), 0o20666, os.makedev(1, 3))
    put(directory, f"{OLD}-H")
    assert directory.list().pairs == ()


def test_a_subdirectory_that_is_a_symlink_is_not_entered(directory: MessageDirectory, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for suffix in "DH":
        (elsewhere / f"{OLD}-{suffix}").write_text("x")
    Path(directory.path, "2").symlink_to(elsewhere)
    listing = directory.list()
    assert (listing.pairs, listing.subdirectories) == ((), ())
    with pytest.raises(OSError):
        directory.open_subdirectory("2")


def test_the_directory_itself_may_not_be_a_symlink(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError):
        MessageDirectory(str(tmp_path / "link"))


def test_the_open_directory_is_meant_not_its_path(tmp_path: Path) -> None:
    (tmp_path / "input").mkdir()
    directory = MessageDirectory(str(tmp_path / "input"))
    put(directory, f"{OLD}-D", f"{OLD}-H")
    (tmp_path / "input").rename(tmp_path / "moved")
    (tmp_path / "input").mkdir()
    assert directory.list().pairs == (Found(OLD),)
    directory.close()


def test_two_looks_at_once_see_everything(directory: MessageDirectory) -> None:
    put(directory, *(f"1xV9D2-{encode_base62(n, 6)}-05-{suffix}" for n in range(300) for suffix in "DH"))
    import threading

    counts: list[int] = []
    threads = [threading.Thread(target=lambda: counts.append(len(directory.list().pairs))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == [300] * 8


def test_sorted_as_ids_whatever_the_order_on_disk(directory: MessageDirectory) -> None:
    numbers = list(range(200))
    random.Random(1).shuffle(numbers)
    put(directory, *(f"{encode_base62(1_800_000_000 + n, 6)}-000001-00-{suffix}" for n in numbers for suffix in "HD"))
    times = [found.id.received_time for found in directory.list().pairs]
    assert times == sorted(times)
    assert len(times) == 200


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o750, False), (0o700, False), (0o770, True), (0o757, True), (0o1777, True)]
)
def test_a_directory_that_others_can_write_is_refused(tmp_path: Path, mode: int, refused: bool) -> None:
    (tmp_path / "export").mkdir()
    (tmp_path / "export").chmod(mode)
    source = Source("export", str(tmp_path / "export"))
    if refused:
        with pytest.raises(ConfigError, match="can be written by others"):
            source.check(os.geteuid())
    else:
        source.check(os.geteuid())
    source.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a directory away")
def test_a_directory_of_somebody_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "export").mkdir(mode=0o750)
    os.chown(tmp_path / "export", 12345, -1)
    descriptor = os.open(tmp_path / "export", os.O_RDONLY)
    with pytest.raises(ConfigError, match="belongs to uid 12345"):
        check_ownership("export", descriptor, 1)
    check_ownership("export", descriptor, 12345)
    os.close(descriptor)


def test_one_engine_to_a_source(tmp_path: Path) -> None:
    first, second = Source("export", str(tmp_path)), Source("export", str(tmp_path))
    first.own()
    with pytest.raises(ConfigError, match="another respool"):
        second.own()
    first.close()
    second.own()
    second.close()
