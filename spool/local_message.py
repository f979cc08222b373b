"""A message of our own, as Exim's spool holds one that was submitted on this host.

Diagnostics: new_local_message() raises ValueError for what a spool file or a header
section can't hold, a line break in a value above all: nothing can be injected.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from typing import Final

from .body import BytesBody
from .directive import Directive
from .editing import set_recipients, set_sender, with_body
from .envelope import Envelope, Header, Recipient
from .ids import MessageId
from .message import Message

_LONGEST_HOST: Final = 253


def new_local_message(
    message_id: MessageId,
    *,
    sender: bytes,
    recipients: Sequence[bytes],
    headers: Sequence[tuple[bytes, bytes]],
    body: bytes,
    hostname: str,
    now: float,
    utf8: bool = False,
) -> Message:
    """A message with these header fields below Received, Message-Id and Date, which are made here.

    sender is the envelope's, empty for the null sender. message_id stands in Received and
    Message-Id, too; the requeue puts the final one in its place. body is in LF lines and
    ends with one. now is Unix time. utf8 makes it an SMTPUTF8 message.
    """
    account = pwd.getpwuid(os.geteuid())
    login, protocol = account.pw_name.encode(), b"utf8local" if utf8 else b"local"
    host = hostname.encode("ascii", "replace")[:_LONGEST_HOST]
    name, date = str(message_id).encode(), formatdate(now, localtime=True).encode()
    only = b"\n\tfor %b" % _shown(recipients[0], utf8=utf8) if len(recipients) == 1 else b""
    received = b"from %b by %b with %b (respool)\n\tid %b%b;\n\t%b" % (login, host, protocol, name, only, date)
    fields = [
        Header.make(b"Received", received),
        *(Header.make(field, value) for field, value in headers),
        Header.make(b"Message-Id", b"<E%b@%b>" % (name, host)),
        Header.make(b"Date", date),
    ]
    envelope = Envelope(
        id=message_id,
        login=login,
        uid=account.pw_uid,
        gid=account.pw_gid,
        sender=b"",
        received_time=int(now),
        warning_count=0,
        directives=tuple(_directives(now, login, protocol, is_error=not sender)),
        recipients=(),
        headers=tuple(fields),
    )
    envelope = set_recipients(set_sender(envelope, sender), map(Recipient.make, recipients))
    content = BytesBody(body)
    return Message(with_body(envelope, content), content)


def _shown(address: bytes, *, utf8: bool) -> bytes:
    """An address for Received: one word, ASCII unless the message is an SMTPUTF8 one."""
    text = address.decode("utf-8", "replace")
    word = "".join(character if character.isprintable() and character != " " else "?" for character in text)
    return word.encode("utf-8" if utf8 else "ascii", "replace") or b"?"


def _directives(now: float, login: bytes, protocol: bytes, *, is_error: bool) -> Iterator[Directive]:
    """As Exim writes them for a local message, in its order (spool_out.c)."""
    seconds, microseconds = int(now), int(now % 1 * 1_000_000)
    yield Directive.make(b"received_time_usec", b".%06d" % microseconds)
    yield Directive.make(b"received_time_complete", b"%d.%06d" % (seconds, microseconds))
    yield Directive.make(b"ident", login)
    yield Directive.make(b"received_protocol", protocol)
    yield Directive.make(b"allow_unqualified_recipient")
    yield Directive.make(b"allow_unqualified_sender")
    yield Directive.make(b"deliver_firsttime")
    if is_error:
        yield Directive.make(b"localerror")
    if protocol == b"utf8local":
        yield Directive.make(b"smtputf8")
