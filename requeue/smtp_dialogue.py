"""The client's side of SMTP, without a socket: what to say next, given what was answered.

Each function is a generator: it yields an Exchange (bytes to send, how many replies they get) and
is sent the replies; what it returns is the outcome. Whoever runs it does the input and output, and
ends it by an exception where the connection breaks.

Diagnostics: DialogueError where the server refuses to talk (greeting, EHLO, XCLIENT); a message or a
recipient that is refused is a value.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from enum import Enum
from typing import Final

from msgspec import Struct

from ..spool.body import local_chunks, wire_chunks
from ..spool.envelope import Recipient
from ..spool.message import Message
from .smtp_commands import (
    ClientIdentity,
    Dialect,
    UnsendableError,
    ehlo_command,
    mail_command,
    rcpt_command,
    xclient_commands,
)
from .smtp_replies import NO_EXTENSIONS, DialogueError, Extensions, Reply, read_extensions

#: Commands sent ahead of their replies: what they answer always fits the buffers between us.
_MOST_AHEAD: Final = 50


class Wait(Enum):
    """What is waited for: the share of the timeout that it may take (RFC 5321 4.5.3.2, scaled from 5 minutes)."""

    COMMAND = 1.0
    DATA_START = 0.4
    DATA_END = 2.0


class Exchange(Struct, frozen=True):
    """Content to send, then so many replies to read. name is what is waited for, for messages and logs."""

    content: Iterable[bytes]
    replies: int
    name: str
    wait: Wait = Wait.COMMAND


Dialogue = Generator[Exchange, tuple[Reply, ...], "Outcome"]


class Refusal(Struct, frozen=True):
    """Why one recipient did not get the message: the server's reply, or our own reason."""

    recipient: Recipient
    is_permanent: bool
    status: str
    reason: str
    from_server: bool = True


class Outcome(Struct, frozen=True, kw_only=True):
    """What became of one transaction. retry_now: recipients that the server wants in another one."""

    delivered: tuple[Recipient, ...] = ()
    refusals: tuple[Refusal, ...] = ()
    retry_now: tuple[Recipient, ...] = ()
    reply: str = ""


class Letter(Struct, frozen=True, kw_only=True):
    """A message on its way to one server: what does not depend on the recipients."""

    message: Message
    size: int
    is_8bit: bool
    needs_utf8: bool


def make_letter(message: Message) -> Letter:
    """Look at a message once. OSError from its body."""
    headers = b"".join(header.raw for header in message.sent_headers)
    envelope = message.envelope
    lines = headers.count(b"\n") + 1 + (0 if message.body.wireformat else envelope.body_linecount or 0)
    is_8bit = not headers.isascii() or any(not chunk.isascii() for chunk in message.body.chunks())
    # 8-bit header fields of old, without SMTPUTF8 on the way in, go as they came.
    utf8_headers = envelope.is_smtputf8 and not headers.isascii()
    return Letter(
        message=message,
        size=len(headers) + 1 + message.body.size + lines,
        is_8bit=is_8bit,
        needs_utf8=utf8_headers or not envelope.sender.isascii(),
    )


def greet(name: bytes) -> Generator[Exchange, tuple[Reply, ...], tuple[Extensions, str]]:
    """EHLO, or HELO where that is not known; what the server offers, and the letter for the log."""
    (reply,) = yield Exchange((ehlo_command(name),), 1, "EHLO")
    if reply.is_positive:
        return read_extensions(reply), "e"
    if reply.code in {500, 501, 502, 504, 550}:
        (reply,) = yield Exchange((ehlo_command(name, verb="HELO"),), 1, "HELO")
        if reply.is_positive:
            return NO_EXTENSIONS, "h"
    raise DialogueError(f"the server refused EHLO: {reply.text}", detail="EHLO refused")


def introduce(
    identity: ClientIdentity, name: bytes, extensions: Extensions, dialect: Dialect
) -> Generator[Exchange, tuple[Reply, ...], Extensions]:
    """XCLIENT, then EHLO as the client said it; what is offered to that client."""
    if not extensions.xclient:
        raise DialogueError("the server does not offer XCLIENT to this host", detail="XCLIENT not offered")
    try:
        commands = xclient_commands(identity, extensions.xclient, dialect)
    except UnsendableError as error:
        raise DialogueError(str(error), detail="XCLIENT impossible") from error
    for command in commands:
        (reply,) = yield Exchange((command,), 1, "XCLIENT")
        if not reply.is_positive:
            raise DialogueError(f"the server refused XCLIENT: {reply.text}", detail="XCLIENT refused")
        extensions, _ = yield from greet(identity.helo or name)
    return extensions


def transact(letter: Letter, recipients: Sequence[Recipient], extensions: Extensions) -> Dialogue:
    """One message to some recipients, from MAIL to the final reply."""
    envelope = letter.message.envelope
    utf8 = letter.needs_utf8 or any(not recipient.address.isascii() for recipient in recipients)
    try:
        mail = mail_command(envelope, extensions, size=letter.size, is_8bit=letter.is_8bit, utf8=utf8)
    except UnsendableError as error:
        if utf8 and not letter.needs_utf8 and error.status == "5.6.7":
            # Only for the recipients that need it.
            return (yield from _without_utf8(letter, recipients, extensions, error))
        return Outcome(refusals=_unsendable(recipients, error))
    refusals: list[Refusal] = []
    sendable: list[Recipient] = []
    commands: list[bytes] = [mail]
    for recipient in recipients:
        try:
            commands.append(rcpt_command(recipient, extensions, utf8=utf8))
            sendable.append(recipient)
        except UnsendableError as error:
            refusals += _unsendable((recipient,), error)
    if not sendable:
        return Outcome(refusals=tuple(refusals))
    mail_reply, *rcpt_replies = yield from _envelope(commands, pipelining="PIPELINING" in extensions)
    if not mail_reply.is_positive:
        yield from _reset()
        return Outcome(refusals=(*refusals, *(_refused(recipient, mail_reply) for recipient in sendable)))
    accepted: list[Recipient] = []
    too_many: list[Recipient] = []
    for recipient, reply in zip(sendable, rcpt_replies, strict=True):
        if reply.is_positive:
            accepted.append(recipient)
        elif accepted and reply.code in {452, 552}:
            # RFC 5321 4.5.3.1.10: too many recipients, also with the old code; the others another time.
            too_many.append(recipient)
        else:
            refusals.append(_refused(recipient, reply))
    if not accepted:
        yield from _reset()
        return Outcome(refusals=tuple(refusals))
    final = yield from (_send_chunks(letter) if "CHUNKING" in extensions else _send_data(letter))
    if final.is_positive:
        return Outcome(
            delivered=tuple(accepted), refusals=tuple(refusals), retry_now=tuple(too_many), reply=final.text
        )  # fmt: skip
    refusals += [_refused(recipient, final) for recipient in (*accepted, *too_many)]
    return Outcome(refusals=tuple(refusals))


def _without_utf8(
    letter: Letter, recipients: Sequence[Recipient], extensions: Extensions, error: UnsendableError
) -> Dialogue:
    plain = [recipient for recipient in recipients if recipient.address.isascii()]
    others = _unsendable([recipient for recipient in recipients if not recipient.address.isascii()], error)
    if not plain:
        return Outcome(refusals=others)
    outcome = yield from transact(letter, plain, extensions)
    return Outcome(
        delivered=outcome.delivered, refusals=(*others, *outcome.refusals), retry_now=outcome.retry_now,
        reply=outcome.reply,
    )  # fmt: skip


def _unsendable(recipients: Iterable[Recipient], error: UnsendableError) -> tuple[Refusal, ...]:
    return tuple(Refusal(recipient, True, error.status, str(error), False) for recipient in recipients)


def _refused(recipient: Recipient, reply: Reply) -> Refusal:
    return Refusal(recipient, reply.is_permanent, reply.enhanced, reply.text)


def _envelope(
    commands: Sequence[bytes], *, pipelining: bool
) -> Generator[Exchange, tuple[Reply, ...], Sequence[Reply]]:
    """MAIL and every RCPT; without pipelining no RCPT where MAIL was refused."""
    replies: list[Reply] = []
    step = _MOST_AHEAD if pipelining else 1
    for start in range(0, len(commands), step):
        group = commands[start : start + step]
        replies += yield Exchange(group, len(group), "RCPT" if start else "MAIL")
        if not replies[0].is_positive:
            break
    return replies


def _reset() -> Generator[Exchange, tuple[Reply, ...], None]:
    yield Exchange((b"RSET\r\n",), 1, "RSET")


def _send_data(letter: Letter) -> Generator[Exchange, tuple[Reply, ...], Reply]:
    (start,) = yield Exchange((b"DATA\r\n",), 1, "DATA", Wait.DATA_START)
    if not 300 <= start.code < 400:
        yield from _reset()
        return start if start.code >= 400 else Reply(451, (f"the server answered DATA with {start.text}",))
    (final,) = yield Exchange(dotted(_local_message(letter.message)), 1, "the end of DATA", Wait.DATA_END)
    return final


def _send_chunks(letter: Letter) -> Generator[Exchange, tuple[Reply, ...], Reply]:
    """BDAT (RFC 3030): each chunk after the reply to the one before, since a refusal ends it."""
    held = b""
    for chunk in _wire_message(letter.message):
        if held:
            (reply,) = yield Exchange((b"BDAT %d\r\n" % len(held), held), 1, "BDAT", Wait.DATA_END)
            if not reply.is_positive:
                yield from _reset()
                return reply
        held = chunk
    (final,) = yield Exchange((b"BDAT %d LAST\r\n" % len(held), held), 1, "BDAT LAST", Wait.DATA_END)
    return final


def _wire_message(message: Message) -> Iterator[bytes]:
    """The message with CRLF line ends, the headers with the first piece of the body."""
    held = b"".join(header.raw for header in message.sent_headers).replace(b"\n", b"\r\n") + b"\r\n"
    for chunk in wire_chunks(message.body):
        yield held + chunk
        held = b""
    if held:
        yield held


def _local_message(message: Message) -> Iterator[bytes]:
    yield b"".join(header.raw for header in message.sent_headers) + b"\n"
    yield from local_chunks(message.body)


def dotted(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Local-format content for DATA: CRLF line ends, dots doubled, the final dot.

    A CR that ends no line becomes a blank: a server that takes it, or a lone LF, for the end of a
    line would see an end of the data, and another message behind it, where there is none.
    """
    at_line_start = True
    for chunk in chunks:
        if not chunk:
            continue
        stuffed = chunk.replace(b"\r", b" ").replace(b"\n.", b"\n..").replace(b"\n", b"\r\n")
        yield b"." + stuffed if at_line_start and chunk.startswith(b".") else stuffed
        at_line_start = chunk.endswith(b"\n")
    yield b".\r\n" if at_line_start else b"\r\n.\r\n"
