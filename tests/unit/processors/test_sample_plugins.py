"""The plugins in samples/plugins, each as a configuration loads it; external_sender_note has a file of its own."""

from __future__ import annotations

import base64
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import structlog

from respool import (
    Bounce,
    ConfigError,
    Effect,
    Freeze,
    Hold,
    Message,
    Proceed,
    Processor,
    ProcessorConfig,
    TemporaryError,
)
from respool.processors import registry
from respool.testing import make_context, make_message, run

SAMPLES = Path(__file__).resolve().parents[3] / "samples" / "plugins"

Load = Callable[[str], type[Processor[Any]]]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """A plugin by ``file:Class``, from a copy: a checkout may be writable by a group, which respool refuses."""

    def load_one(use: str) -> type[Processor[Any]]:
        name, _, kind = use.partition(":")
        path = tmp_path / f"{name}.py"
        path.write_bytes((SAMPLES / f"{name}.py").read_bytes())
        path.chmod(0o644)
        return registry.find(f"{path}:{kind}")

    return load_one


def made(kind: type[Processor[Any]], **config: Any) -> Processor[Any]:
    """A processor of a class that is known only when the test runs."""
    settings: Callable[..., ProcessorConfig] = kind.config_type
    return kind(settings(**config))


# attachment_policy


@pytest.fixture
def policy(load: Load) -> type[Processor[Any]]:
    return load("attachment_policy:AttachmentPolicy")


def mail(content_type: str, body: str | bytes, *others: tuple[str, str], wireformat: bool = False) -> Message:
    content = (body.encode() if isinstance(body, str) else body).removesuffix(b"\n") + b"\n"
    if wireformat:
        content = content.replace(b"\n", b"\r\n")
    fields = [("From", "a@b.example"), ("Content-Type", content_type), *others]
    return make_message(fields, body=content, wireformat=wireformat)


def attached(disposition: str, content_type: str = "application/octet-stream") -> Message:
    body = f"--b\nContent-Type: text/plain\n\nhello\n--b\nContent-Type: {content_type}\n{disposition}\n\nMZ\n--b--\n"
    return mail('multipart/mixed; boundary="b"', body)


@pytest.mark.parametrize(
    "disposition",
    [
        "Content-Disposition: attachment; filename=a.exe",
        'Content-Disposition: attachment; filename="invoice.pdf.EXE"',
        'Content-Disposition: attachment; filename="a.exe. . "',
        "Content-Disposition: attachment;\n\tfilename*=utf-8''a%2Eexe",
        "Content-Disposition: attachment;\n filename*0=a.e;\n filename*1=xe",
        'Content-Disposition: attachment; filename="=?utf-8?B?YS5leGU=?="',
        'Content-Disposition: attachment; filename="a.ex\u200be"',
        'Content-Disposition: attachment; filename="a.\uff45\uff58\uff45"',
        'CONTENT-DISPOSITION: Attachment; FileName="a.exe"',
        "X-Other: 1\nContent-Disposition: inline; filename=a.exe",
    ],
)
def test_forbidden_names_in_every_dress(policy: type[Processor[Any]], disposition: str) -> None:
    assert run(policy, attached(disposition)).verdict == Hold(reason="an attachment ends in .exe")


def test_the_name_of_a_type_counts_too_and_types_match_as_patterns(policy: type[Processor[Any]]) -> None:
    assert isinstance(run(policy, attached("X: y", 'application/zip; name="a.js"')).verdict, Hold)
    assert isinstance(run(policy, attached("X: y", "application/x-msdownload")).verdict, Hold)
    config = {"forbidden_types": ["video/*"], "otherwise": "bounce"}
    assert isinstance(run(policy, attached("X: y", "Video/MP4"), config=config).verdict, Bounce)
    assert run(policy, attached("X: y", "application/x-msdownload"), config=config).verdict == Proceed()


@pytest.mark.parametrize("wireformat", [False, True])
def test_what_is_forwarded_and_nested_is_looked_into(policy: type[Processor[Any]], wireformat: bool) -> None:
    inner = "--i\nContent-Disposition: attachment; filename=x.scr\n\nMZ\n--i--\n"
    body = (
        "--o\nContent-Type: message/rfc822\n\nFrom: x@y.example\nContent-Type: multipart/mixed;\n boundary=i\n\n"
        f"preamble\n{inner}\nepilogue\n--o\n\nplain\n--o--\n"
    )
    message = mail("multipart/mixed; boundary=o", body, wireformat=wireformat)
    assert isinstance(run(policy, message).verdict, Hold)


def test_ordinary_mail_goes_on(policy: type[Processor[Any]]) -> None:
    assert run(policy).verdict == Proceed()
    assert run(policy, attached('Content-Disposition: attachment; filename="exe.pdf"')).verdict == Proceed()
    # Text that only looks like a part is none: its boundary is not that of the multipart.
    body = "--b\n\n--x\nContent-Disposition: attachment; filename=a.exe\n\n--b--\nepilogue a.exe\n"
    assert run(policy, mail("multipart/mixed; boundary=b", body)).verdict == Proceed()


def test_sizes_are_of_what_is_decoded(policy: type[Processor[Any]]) -> None:
    content = base64.encodebytes(os.urandom(30_000)).decode()
    body = f"--b\nContent-Transfer-Encoding: base64\n\n{content}\n--b--\n"
    message = mail("multipart/mixed; boundary=b", body)
    assert run(policy, message, config={"largest_bytes": 30_010}).verdict == Proceed()
    assert isinstance(run(policy, message, config={"largest_bytes": 29_990}).verdict, Hold)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (mail("multipart/mixed", "--b\n\n--b--\n"), "without a boundary"),
        (mail("multipart/mixed; boundary=b\u00fc", "--b\n\n--b--\n"), "without a boundary"),
        (mail("multipart/mixed/x; boundary=b", "--b\n\n"), "Content-Type that is none"),
        (mail("text/plain", "x", ("Content-Type", "multipart/mixed; boundary=b")), "two content-type"),
        (attached("Content-Disposition: attachment; filename=a.txt; filename=a.exe"), "two file names"),
        (attached("Content-Disposition: attachment" + "; x=y" * 3000), "without end"),
        (attached("X: y\n" * 100_000), "without end"),
        (mail("multipart/mixed; boundary=b", "--b\n\n" * 1001), "too many parts"),
        (
            mail(
                "multipart/mixed; boundary=b0",
                "".join(f"--b{n}\nContent-Type: multipart/mixed; boundary=b{n + 1}\n\n" for n in range(30)),
            ),
            "too deep",
        ),
        (mail("message/rfc822", "Content-Type: message/rfc822\n\n" * 30), "too deep"),
        (mail("message/rfc822", "eA==", ("Content-Transfer-Encoding", "base64")), "encoded"),
    ],
)
def test_what_can_be_read_in_two_ways_or_without_end(
    policy: type[Processor[Any]], message: Message, reason: str
) -> None:
    verdict = run(policy, message).verdict
    assert isinstance(verdict, Hold)
    assert reason in verdict.reason
    assert isinstance(run(policy, message, config={"unreadable": "freeze"}).verdict, Freeze)
    assert isinstance(run(policy, message, config={"unreadable": "proceed"}).verdict, Proceed)


@pytest.mark.parametrize(
    "body", [b"-" * 3_000_000, b"--b" * 1_000_000, b"\n" * 3_000_000, b"--b\n" * 900, b"\0\xff\r--b\r" * 300_000]
)
def test_hostile_bodies_take_time_in_proportion(policy: type[Processor[Any]], body: bytes) -> None:
    before = time.process_time()
    run(policy, mail("multipart/mixed; boundary=b", body))
    assert time.process_time() - before < 20  # quadratic work on 3 MB would take hours


# archive_copy


def effects_of(processor: Processor[Any], message: Message) -> list[tuple[str, bytes]]:
    context = make_context()
    run(processor, message, context=context)
    return context.effects.declared


def carry_out(processor: Processor[Any], message: Message, declared: tuple[str, bytes], claim: int = 1) -> None:
    effect = Effect(
        id=message.id, claim=claim, processor="archive-copy", number=0, kind=declared[0], payload=declared[1]
    )
    processor.run_effect(effect, structlog.get_logger())


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    directory = tmp_path / "archive"
    directory.mkdir(mode=0o700)
    return directory


def test_a_copy_is_written_after_the_commit_and_once(load: Load, archive: Path) -> None:
    processor = made(load("archive_copy:ArchiveCopy"), directory=str(archive))
    message = make_message(sender="a@b.example", recipients=["x@y.example", "z\r@y.example"])
    (declared,) = effects_of(processor, message)
    assert list(archive.iterdir()) == []
    carry_out(processor, message, declared)
    (copy,) = archive.iterdir()
    content = copy.read_bytes()
    assert content.startswith(
        b"Return-Path: <a@b.example>\nX-Envelope-To: <x@y.example>\nX-Envelope-To: <z?@y.example>\n"
    )
    assert content.endswith(b"\n\nHello,\n\nworld.\n")
    assert copy.name == f"{message.id}.1.archive-copy.0.eml"
    inode = copy.stat().st_ino
    carry_out(processor, message, declared)
    assert [path.stat().st_ino for path in archive.iterdir()] == [inode]
    carry_out(processor, message, declared, claim=2)  # the id exported again is another message
    assert len(list(archive.iterdir())) == 2


def test_an_archive_in_trouble_is_tried_again(load: Load, archive: Path) -> None:
    kind = load("archive_copy:ArchiveCopy")
    processor = registry.build(f"{archive.parent}/archive_copy.py:ArchiveCopy", {"directory": str(archive)})
    assert kind.__name__ == type(processor).__name__
    message = make_message()
    (declared,) = effects_of(processor, message)
    archive.rename(archive.with_name("elsewhere"))
    with pytest.raises(OSError):
        carry_out(processor, message, declared)
    archive.with_name("elsewhere").rename(archive)
    carry_out(processor, message, declared)
    assert len(list(archive.iterdir())) == 1


def test_what_is_too_large_is_held_and_a_bad_directory_refused(load: Load, archive: Path) -> None:
    kind = load("archive_copy:ArchiveCopy")
    ran = run(kind, config={"directory": str(archive), "largest_bytes": 10})
    assert isinstance(ran.verdict, Hold)
    for directory in ("archive", "/nowhere/archive"):
        with pytest.raises(ConfigError):
            run(kind, config={"directory": directory})
    archive.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod"):
        run(kind, config={"directory": str(archive)})


# outside_scanner


class Clamd:
    """clamd's side of INSTREAM, on a Unix socket or TCP: reads whole streams, says what it is told to say."""

    def __init__(self, family: socket.AddressFamily, address: Any) -> None:
        self.socket = socket.socket(family, socket.SOCK_STREAM)
        self.socket.bind(address)
        self.socket.listen(8)
        self.answer: bytes | None = b"stream: OK\0"
        self.limit = 1 << 30
        self.streams: list[bytes] = []
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()
        self._thread.join(60)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                connection.settimeout(60)
                # A client that gives up may do so in the middle of its stream.
                try:
                    self._talk(connection)
                except (OSError, struct.error):
                    continue

    def _talk(self, connection: socket.socket) -> None:
        reader = connection.makefile("rb")
        assert b"zINSTREAM\0".startswith(reader.read(10))
        stream = b""
        while (length := struct.unpack("!I", reader.read(4))[0]) != 0:
            stream += reader.read(length)
            if len(stream) > self.limit:
                connection.sendall(b"INSTREAM size limit exceeded. ERROR\0")
                return
        self.streams.append(stream)
        if self.answer is None:
            connection.recv(1)  # silent, until the other side gives up
            return
        connection.sendall(self.answer)


@pytest.fixture(params=["unix", "tcp"])
def clamd(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Clamd, str]]:
    if request.param == "unix":
        address = str(tmp_path / "clamd.ctl")
        server = Clamd(socket.AF_UNIX, address)
    else:
        server = Clamd(socket.AF_INET, ("127.0.0.1", 0))
        address = f"127.0.0.1:{server.socket.getsockname()[1]}"
    yield server, address
    server.close()


def scanner(load: Load, address: str, **config: Any) -> Processor[Any]:
    return made(load("outside_scanner:OutsideScanner"), address=address, **config)


def test_the_whole_message_is_sent_and_clean_mail_goes_on(load: Load, clamd: tuple[Clamd, str]) -> None:
    server, address = clamd
    message = make_message(body=b"x" * 600_000 + b"\n")
    assert run(scanner(load, address), message).variables["acl_m_scan"] == b"clean"
    (stream,) = server.streams
    assert stream.startswith(b"From: ")
    assert stream.endswith(b"\n\n" + b"x" * 600_000 + b"\n")


def test_what_is_found_is_named(load: Load, clamd: tuple[Clamd, str]) -> None:
    server, address = clamd
    server.answer = b"stream: Eicar-Test-Signature FOUND\0"
    assert run(scanner(load, address)).verdict == Hold(reason="the scanner found Eicar-Test-Signature")
    frozen = run(scanner(load, address, otherwise="freeze"))
    assert isinstance(frozen.verdict, Freeze)
    assert frozen.variables["acl_m_scan"] == b"Eicar-Test-Signature"


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0", b"stream: lstat() failed ERROR\0", b"stream: OK", b"stream: x\r\nBcc: y FOUND\0", b"x" * 100_000],
)
def test_an_answer_that_is_none_says_nothing_of_the_message(
    load: Load, clamd: tuple[Clamd, str], answer: bytes
) -> None:
    server, address = clamd
    server.answer = answer
    with pytest.raises(TemporaryError):
        run(scanner(load, address))
    ran = run(scanner(load, address, on_failure="proceed"))
    assert ran.variables["acl_m_scan"] == b"unscanned"


def test_clamd_that_has_enough_answers_and_closes(load: Load, clamd: tuple[Clamd, str]) -> None:
    server, address = clamd
    server.limit = 100_000
    with pytest.raises(TemporaryError):
        run(scanner(load, address), make_message(body=b"x" * 8_000_000 + b"\n"))
    assert isinstance(
        run(scanner(load, address, largest_bytes=1000), make_message(body=b"y" * 2000 + b"\n")).verdict, Proceed
    )
    assert server.streams == []


def test_a_silent_scanner_takes_no_more_than_its_time_and_then_none(
    load: Load, clamd: tuple[Clamd, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, address = clamd
    server.answer = None
    processor = scanner(load, address, timeout_seconds=0.1, failures_before_pause=2, pause_seconds=3600)
    for _ in range(2):
        with pytest.raises(TemporaryError, match=r"timed out|in time"):
            run(processor)
    for _ in range(3):
        with pytest.raises(TemporaryError, match="left alone"):
            run(processor)
    later = SimpleNamespace(monotonic=lambda: time.monotonic() + 3601)
    monkeypatch.setitem(type(processor).process.__globals__, "time", later)
    server.answer = b"stream: OK\0"
    # Now it has the time that it needs.
    processor.config = msgspec.structs.replace(processor.config, timeout_seconds=60)
    context = msgspec.structs.replace(make_context(), deadline=later.monotonic() + 60)
    assert run(processor, context=context).variables["acl_m_scan"] == b"clean"
    assert run(processor, context=context).variables["acl_m_scan"] == b"clean"
    assert server.connections == 4


def test_the_deadline_of_the_message_counts(load: Load, clamd: tuple[Clamd, str]) -> None:
    server, address = clamd
    server.answer = None
    context = msgspec.structs.replace(make_context(), deadline=time.monotonic() + 0.7)
    before = time.monotonic()
    with pytest.raises(TemporaryError):
        run(scanner(load, address, timeout_seconds=300), context=context)
    assert time.monotonic() - before < 60


def test_nobody_there(load: Load, tmp_path: Path) -> None:
    with pytest.raises(TemporaryError, match=r"clamd\.ctl"):
        run(scanner(load, str(tmp_path / "clamd.ctl")))
    with pytest.raises(ConfigError):
        scanner(load, "clamd")
