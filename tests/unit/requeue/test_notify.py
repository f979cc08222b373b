"""Telling Exim: the bytes of a note, where it goes, and that nothing ever waits for it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from respool.requeue.exim_program import CommandNotifier
from respool.requeue.notify import Notifier, SocketThenCommand, payload
from respool.requeue.publish import Published
from respool.spool.ids import IdMinter, MessageId

SHORT, LONG = MessageId("1xV9FU-0008MT-0W"), MessageId("1xV9Ep-000000007v4-3VHN")


@pytest.mark.parametrize(
    ("message_id", "queue", "expected"),
    [
        (SHORT, "", b"\x011xV9FU-0008MT-0W\x00"),
        (LONG, "", b"\x011xV9Ep-000000007v4-3VHN\x00\x00"),
        (LONG, "foo", b"\x011xV9Ep-000000007v4-3VHN\x00foo\x00"),
    ],
    ids=["4.94-4.96", "4.97", "4.97-queue"],
)
def test_the_bytes_of_a_note(message_id: MessageId, queue: str, expected: bytes) -> None:
    """daemon.c: the id at 1; from 4.97 on the queue's name at 25, of an uncleared buffer of 255 bytes."""
    assert payload(message_id, queue) == expected
    assert len(payload(LONG, "q" * 64)) <= 255


class Daemon:
    """The end of the socket that Exim has; it reads only when asked to."""

    def __init__(self, address: str | bytes) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def received(self) -> list[bytes]:
        notes: list[bytes] = []
        while True:
            try:
                notes.append(self.socket.recv(300))
            except BlockingIOError:
                return notes


@pytest.fixture
def listen() -> Iterator[Callable[[str | bytes], Daemon]]:
    daemons: list[Daemon] = []

    def start(address: str | bytes) -> Daemon:
        daemons.append(Daemon(address))
        return daemons[-1]

    yield start
    for daemon in daemons:
        daemon.socket.close()


@pytest.mark.parametrize("named", [False, True], ids=["default", "notifier_socket"])
@pytest.mark.parametrize("is_path", [False, True], ids=["abstract", "path"])
def test_the_address_is_found(
    tmp_path: Path, listen: Callable[[str | bytes], Daemon], is_path: bool, named: bool
) -> None:
    """Abstract on Linux, a path elsewhere (daemon.c); a socket that can be seen is a path."""
    path = f"{tmp_path}/told" if named else f"{tmp_path}/exim_daemon_notify"
    daemon = listen(path if is_path else b"\0" + path.encode())
    notifier = Notifier.for_spool(str(tmp_path), path if named else "")
    assert notifier.tell([Published(LONG, "foo"), Published(SHORT, "")]) == 2
    assert daemon.received() == [payload(LONG, "foo"), payload(SHORT, "")]
    notifier.close()


def test_a_daemon_that_does_not_read_is_not_waited_for(tmp_path: Path, listen: Callable[[str | bytes], Daemon]) -> None:
    """One without ``-bd`` makes the socket and never reads it: its buffer fills up."""
    daemon = listen(f"{tmp_path}/exim_daemon_notify")
    notifier = Notifier.for_spool(str(tmp_path))
    minter = IdMinter(long=True)
    outputs = [Published(minter.mint(), "") for _ in range(5000)]
    refused = notifier.refused(outputs)
    assert 0 < len(refused) < len(outputs)
    assert len(daemon.received()) + len(refused) == len(outputs)
    # Room again: nothing is broken for good.
    assert notifier.tell(outputs[:1]) == 1
    notifier.close()


def test_an_absent_daemon_and_an_impossible_address_count_nothing(tmp_path: Path) -> None:
    for name in ("", f"{tmp_path}/" + "x" * 200):
        notifier = Notifier.for_spool(str(tmp_path), name)
        assert notifier.tell([Published(LONG, "")]) == 0
        notifier.close()


def test_a_short_id_in_a_named_queue_can_not_be_told_by_note(
    tmp_path: Path, listen: Callable[[str | bytes], Daemon]
) -> None:
    """Before 4.97 a note names no queue: the daemon would look in the default one."""
    daemon = listen(b"\0" + f"{tmp_path}/exim_daemon_notify".encode())
    notifier = Notifier.for_spool(str(tmp_path))
    assert notifier.refused([Published(SHORT, "foo")]) == (Published(SHORT, "foo"),)
    assert daemon.received() == []
    notifier.close()


def _command(tmp_path: Path, script: str) -> str:
    path = tmp_path / "exim"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def _wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_the_command_is_told_in_batches_for_one_queue_each(tmp_path: Path) -> None:
    """While the first run hangs, the others gather; nobody who tells waits."""
    command = _command(tmp_path, f'echo "$@" >>{tmp_path}/calls\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.01; done')
    notifier = CommandNotifier(command, structlog.get_logger())
    minter = IdMinter(long=True)
    first = Published(minter.mint(), "")
    notifier.tell([first])
    _wait_for((tmp_path / "calls").exists)
    here = [Published(minter.mint(), "") for _ in range(150)]
    there = [Published(minter.mint(), "foo") for _ in range(3)]
    assert notifier.tell([*here, *there]) == 153
    (tmp_path / "go").touch()
    notifier.close()
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == [
        f"-Mc {first.id}",
        "-Mc " + " ".join(one.id for one in here[:100]),
        "-Mc " + " ".join(one.id for one in here[100:]),
        "-qGfoo -Mc " + " ".join(one.id for one in there),
    ]
    assert (notifier.failed, notifier.dropped) == (0, 0)


@pytest.mark.parametrize(
    ("script", "error"), [("exit 3", "exit code 3"), (None, "No such file")], ids=["fails", "absent"]
)
def test_a_command_that_fails_is_logged_and_fails_no_message(tmp_path: Path, script: str | None, error: str) -> None:
    command = _command(tmp_path, script) if script else str(tmp_path / "none")
    with capture_logs() as events:
        notifier = CommandNotifier(command, structlog.get_logger())
        assert notifier.tell([Published(LONG, "foo")]) == 1
        notifier.close()
    assert notifier.failed == 1
    (event,) = events
    assert (event["event"], event["log_level"], event["queue"], event["messages"]) == (
        "exim.untold",
        "warning",
        "foo",
        1,
    )
    assert error in event["error"]


def test_more_than_can_wait_is_left_to_exims_runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("respool.requeue.exim_program._MOST_WAITING", 5)
    command = _command(tmp_path, f"touch {tmp_path}/called\nwhile [ ! -e {tmp_path}/go ]; do sleep 0.01; done")
    minter = IdMinter(long=True)
    with capture_logs() as events:
        notifier = CommandNotifier(command, structlog.get_logger())
        notifier.tell([Published(minter.mint(), "")])
        _wait_for((tmp_path / "called").exists)
        assert notifier.tell([Published(minter.mint(), "") for _ in range(9)]) == 5
        (tmp_path / "go").touch()
        notifier.close()
    assert notifier.dropped == 4
    assert [event["event"] for event in events] == ["exim.untold"], "once, not for each"


def test_what_the_socket_does_not_take_the_command_gets(
    tmp_path: Path, listen: Callable[[str | bytes], Daemon]
) -> None:
    daemon = listen(b"\0" + f"{tmp_path}/exim_daemon_notify".encode())
    command = CommandNotifier(_command(tmp_path, f'echo "$@" >>{tmp_path}/calls'), structlog.get_logger())
    notifier = Notifier.for_spool(str(tmp_path))
    both = SocketThenCommand(notifier, command)
    assert both.tell([Published(LONG, ""), Published(SHORT, "foo")]) == 2
    command.close()
    notifier.close()
    assert daemon.received() == [payload(LONG, "")]
    assert (tmp_path / "calls").read_text().split() == ["-qGfoo", "-Mc", SHORT]
