"""Replies, commands and the dialogue, without a socket."""

from __future__ import annotations

import pytest

from respool.requeue.smtp_commands import (
    ClientIdentity,
    UnsendableError,
    check_mailbox,
    ehlo_command,
    xclient_commands,
)
from respool.requeue.smtp_dialogue import Exchange, dotted, greet, make_letter, transact
from respool.requeue.smtp_replies import (
    LONGEST_REPLY_LINE,
    MOST_REPLY_LINES,
    DialogueError,
    Extensions,
    Reply,
    ReplyReader,
    read_extensions,
)
from respool.spool.envelope import Recipient

from ..processors.processor_kit import make_message


def read(data: bytes) -> list[Reply]:
    reader = ReplyReader()
    reader.feed(data)
    found: list[Reply] = []
    while (reply := reader.next()) is not None:
        found.append(reply)
    return found


def test_replies() -> None:
    assert read(b"250-a\r\n250-\r\n250 b c\r\n354\r\n421 4.3.2 x\n25") == [
        Reply(250, ("a", "", "b c")), Reply(354, ("",)), Reply(421, ("4.3.2 x",)),
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data", [b"hello\r\n", b"150 x\r\n", b"2500 x\r\n", b"250-a\r\n251 b\r\n", b"\r\n", b"250_a\r\n", b"SSH-2.0-x\r\n"]
)
def test_what_is_no_reply(data: bytes) -> None:
    with pytest.raises(DialogueError):
        read(data)


@pytest.mark.parametrize("data", [b"250 " + b"x" * LONGEST_REPLY_LINE, b"250-x\r\n" * MOST_REPLY_LINES])
def test_replies_are_bounded(data: bytes) -> None:
    with pytest.raises(DialogueError):
        read(data)
    with pytest.raises(DialogueError):
        read(data + b"\r\n250 x\r\n")


@pytest.mark.parametrize(
    ("reply", "enhanced"),
    [
        (Reply(550, ("5.1.1 no",)), "5.1.1"), (Reply(550, ("no",)), "5.0.0"), (Reply(450, ("5.1.1 no",)), "4.0.0"),
        (Reply(250, ("2.0.0",)), "2.0.0"), (Reply(550, ("5.1.1234 no",)), "5.0.0"),
    ],
)  # fmt: skip
def test_enhanced_codes(reply: Reply, enhanced: str) -> None:
    assert reply.enhanced == enhanced


def test_extensions() -> None:
    reply = Reply(250, ("mx", "size 100", "8bitmime", "XCLIENT NAME addr", "", "-bad", "AUTH=LOGIN"))
    extensions = read_extensions(reply)
    assert extensions.size_limit == 100
    assert extensions.xclient == ("NAME", "ADDR")
    assert ("8BITMIME" in extensions, "-BAD" in extensions, "MX" in extensions) == (True, False, False)
    assert Extensions({"SIZE": ("x",)}).size_limit == 0


@pytest.mark.parametrize("address", [b"a@b", b'"a b>"@c', b'"a\\""@b', b"a+b=c@[IPv6:::1]", b"postmaster", b"a'b!@c"])
def test_mailboxes(address: bytes) -> None:
    assert check_mailbox(address, utf8=False) == address


@pytest.mark.parametrize(
    "address", [b"", b"a b@c", b"a>b@c", b"a<@c", b"a\r\nRSET@c", b'"a@b', b'"a\r"@b', b"a\\@b", b"a" * 1001, b"a\0@b"]
)
def test_no_mailboxes(address: bytes) -> None:
    with pytest.raises(UnsendableError):
        check_mailbox(address, utf8=True)


def test_xclient_is_cut_into_commands() -> None:
    identity = ClientIdentity(address=b"192.0.2.1", port=1, name=b"n" * 250, helo=b"h" * 250, login=b"\r\n" + b"l" * 80)
    commands = xclient_commands(identity, ("NAME", "ADDR", "PORT", "HELO", "LOGIN", "NEWER"), "auto")
    assert len(commands) == 2
    assert commands[0].startswith(b"XCLIENT ADDR=192.0.2.1 PORT=1 NAME=nnn")
    assert b" LOGIN=+0D+0Alll" in b"".join(commands)
    assert all(command.endswith(b"\r\n") and command.count(b"\n") == 1 for command in commands)
    assert max(map(len, commands)) <= 502


def test_a_name_that_ehlo_can_not_say() -> None:
    assert ehlo_command(b"client.example") == b"EHLO client.example\r\n"
    assert ehlo_command(b"x\r\nMAIL FROM:<>") == b"EHLO [127.0.0.1]\r\n"


def answer(dialogue: object, *replies: tuple[Reply, ...]) -> tuple[list[bytes], object]:
    """Run a dialogue with these replies: all that was said, and the outcome."""
    said: list[bytes] = []
    exchange: Exchange = next(dialogue)  # type: ignore[call-overload]
    waiting = list(replies)
    while True:
        said.append(b"".join(exchange.content))
        reply = waiting.pop(0)
        assert len(reply) == exchange.replies
        try:
            exchange = dialogue.send(reply)  # type: ignore[attr-defined]
        except StopIteration as end:
            assert not waiting
            return said, end.value


OK, NO, LATER = Reply(250, ("OK",)), Reply(550, ("5.1.1 no",)), Reply(451, ("later",))
PIPELINED = Extensions({"PIPELINING": (), "CHUNKING": ()})


def recipients(*names: str) -> list[Recipient]:
    return [Recipient.make(f"{name}@x".encode()) for name in names]


def test_helo_where_ehlo_is_unknown() -> None:
    said, outcome = answer(greet(b"me"), (Reply(502, ("what",)),), (OK,))
    assert said == [b"EHLO me\r\n", b"HELO me\r\n"]
    assert outcome == (Extensions({}), "h")


def test_pipelined() -> None:
    letter = make_letter(make_message(body=b"x\n"))
    said, outcome = answer(transact(letter, recipients("a", "b", "c"), PIPELINED), (OK, OK, NO, LATER), (OK,))
    assert said[0].count(b"\r\n") == 4
    content = b"From: A <a@example.com>\r\n\r\nx\r\n"
    assert said[1] == b"BDAT %d LAST\r\n" % len(content) + content
    assert [r.address for r in outcome.delivered] == [b"a@x"]  # type: ignore[attr-defined]
    assert [(r.recipient.address, r.is_permanent, r.status) for r in outcome.refusals] == [  # type: ignore[attr-defined]
        (b"b@x", True, "5.1.1"), (b"c@x", False, "4.0.0"),
    ]  # fmt: skip


def test_not_pipelined_and_mail_refused() -> None:
    letter = make_letter(make_message())
    said, outcome = answer(transact(letter, recipients("a", "b"), Extensions({})), (NO,), (OK,))
    assert said == [b"MAIL FROM:<bounce@example.com>\r\n", b"RSET\r\n"]
    assert len(outcome.refusals) == 2  # type: ignore[attr-defined]


def test_nobody_accepted_means_no_data() -> None:
    letter = make_letter(make_message())
    said, outcome = answer(transact(letter, recipients("a"), PIPELINED), (OK, NO), (OK,))
    assert said[-1] == b"RSET\r\n"
    assert outcome.delivered == ()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("chunks", "wire"),
    [
        ([b""], b".\r\n"), ([b"a\n"], b"a\r\n.\r\n"), ([b"a"], b"a\r\n.\r\n"), ([b".\n", b".\n"], b"..\r\n..\r\n.\r\n"),
        ([b"a\n", b"", b".b"], b"a\r\n..b\r\n.\r\n"), ([b"a", b".\n"], b"a.\r\n.\r\n"), ([b"a\r", b"\r.\n"], b"a  .\r\n.\r\n"),
    ],
)  # fmt: skip
def test_dots(chunks: list[bytes], wire: bytes) -> None:
    assert b"".join(dotted(chunks)) == wire
