"""Hostile servers and hostile addresses: a value or the error that is promised, nothing else."""

from __future__ import annotations

import contextlib
import re

from hypothesis import given
from hypothesis import strategies as st

from respool.requeue.smtp_commands import (
    ClientIdentity,
    UnsendableError,
    mail_command,
    rcpt_command,
    xclient_commands,
)
from respool.requeue.smtp_dialogue import dotted
from respool.requeue.smtp_replies import DialogueError, Extensions, Reply, ReplyReader, read_extensions
from respool.requeue.xtext import decode_xtext
from respool.spool.directive import Directive
from respool.spool.editing import set_directive
from respool.spool.envelope import Recipient

from ..unit.processors.processor_kit import make_message

ALL = Extensions(dict.fromkeys(("SIZE", "8BITMIME", "SMTPUTF8", "DSN", "PIPELINING", "CHUNKING"), ()))
noise = st.one_of(st.binary(max_size=200), st.text("0123456789- \r\n.250", max_size=200).map(str.encode))
line = st.binary(min_size=1, max_size=120).map(lambda b: b.replace(b"\n", b"").replace(b"\0", b"") or b"x")


@given(st.lists(noise, max_size=8))
def test_any_bytes_are_replies_or_an_error(pieces: list[bytes]) -> None:
    reader = ReplyReader()
    with contextlib.suppress(DialogueError):
        for piece in pieces:
            reader.feed(piece)
            while (reply := reader.next()) is not None:
                assert 200 <= reply.code < 600
                read_extensions(reply)


@given(
    st.lists(
        st.builds(
            Reply,
            st.integers(200, 599),
            st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40), min_size=1, max_size=5)
            .map(tuple),
        ),
        max_size=5,
    ),
    st.integers(1, 7),
)  # fmt: skip
def test_replies_are_read_back_however_they_are_cut(replies: list[Reply], step: int) -> None:
    wire = b""
    for reply in replies:
        *first, last = reply.lines
        wire += b"".join(b"%d-%b\r\n" % (reply.code, one.encode()) for one in first)
        wire += b"%d %b\r\n" % (reply.code, last.encode())
    reader = ReplyReader()
    found: list[Reply] = []
    for start in range(0, len(wire), step):
        reader.feed(wire[start : start + step])
        while (reply_read := reader.next()) is not None:
            found.append(reply_read)
    assert found == replies
    assert reader.is_empty


@given(line, line, line, line, st.integers(0, 31))
def test_no_address_adds_to_a_command(sender: bytes, address: bytes, orcpt: bytes, envid: bytes, flags: int) -> None:
    envelope = make_message(sender=sender).envelope
    envelope = set_directive(envelope, Directive.make(b"dsn_envid", envid))
    commands: list[bytes] = []
    with contextlib.suppress(UnsendableError):
        commands.append(mail_command(envelope, ALL, size=1, is_8bit=True, utf8=True))
    with contextlib.suppress(UnsendableError):
        commands.append(rcpt_command(Recipient.make(address, orcpt=orcpt, dsn_flags=flags), ALL, utf8=True))
    for command in commands:
        assert command.endswith(b"\r\n")
        assert not re.search(rb"[\x00-\x1f\x7f]", command[:-2])
        # Outside quotes there is one path, and behind it known parameters alone.
        bare = re.sub(rb'"(?:[^"\\]|\\.)*"', b"q", command[:-2])
        assert re.fullmatch(
            rb"(?:MAIL FROM|RCPT TO):<[^<> ]*>(?: (?:SIZE|BODY|RET|ENVID|NOTIFY|ORCPT)=[^ ]+| SMTPUTF8)*", bare
        )


@given(line, line, line, st.integers(0, 65535))
def test_xclient_carries_any_value(name: bytes, helo: bytes, login: bytes, port: int) -> None:
    identity = ClientIdentity(address=b"2001:db8::1", port=port, name=name, helo=helo, login=login)
    commands = xclient_commands(identity, ("ADDR", "PORT", "NAME", "HELO", "LOGIN", "PROTO"), "postfix")
    told: dict[bytes, bytes] = {}
    for command in commands:
        assert len(command) <= 502
        assert command.startswith(b"XCLIENT ")
        told.update(attribute.split(b"=", 1) for attribute in command[8:-2].split(b" "))  # type: ignore[misc]
    assert told[b"ADDR"] == b"IPV6:2001:db8::1"
    for key, value in ((b"NAME", name), (b"HELO", helo), (b"LOGIN", login)):
        assert told[key] == b"[UNAVAILABLE]" or decode_xtext(told[key]) == value


@given(st.lists(st.text("a.\n\r", max_size=12).map(str.encode), max_size=6))
def test_data_ends_once_and_says_what_was_meant(chunks: list[bytes]) -> None:
    content = b"".join(chunks)
    wire = b"".join(dotted(chunks))
    lines = wire.split(b"\r\n")
    assert lines[-2:] == [b".", b""]
    assert b"." not in lines[:-2]
    assert not re.search(rb"\r(?!\n)|(?<!\r)\n", wire)
    read = b"".join(one.removeprefix(b".") + b"\n" for one in lines[:-2])
    expected = content.replace(b"\r", b" ")
    assert read == (expected if expected.endswith(b"\n") or not expected else expected + b"\n")
