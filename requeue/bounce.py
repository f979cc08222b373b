"""The notice that a message was not delivered: RFC 3464 in RFC 6522, as a message of its own.

It is a proper local Exim message: null sender, ``-localerror``, an id of its own. What the
sender asked for is honoured (RFC 3461): NOTIFY, RET, ENVID, ORCPT. Whether a notice may be
sent at all is the engine's decision; none is ever made for a null sender.

Diagnostics: bounce_notices() raises nothing of its own; OSError from reading the body.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from msgspec import Struct

from ..spool.body import local_chunks
from ..spool.editing import with_id
from ..spool.envelope import Envelope, Header
from ..spool.ids import MessageId
from ..spool.local_message import new_local_message
from ..spool.message import Message
from .delivery_status import (
    DeliveryStatus,
    FailedRecipient,
    field,
    one_line,
    render_delivery_status,
    wants_failure,
)

#: A message up to this size is returned whole, unless its sender asked for the headers only
#: (Exim's bounce_return_size_limit).
LONGEST_RETURNED: Final = 100 * 1024
#: Of the headers of a message never more is returned.
LONGEST_RETURNED_HEADERS: Final = 64 * 1024
#: The ACL variable by which an output says that a notice may go to its sender; it never leaves respool.
VOUCHED: Final = "acl_m_respool_vouched"
_LONGEST_LINE: Final = 998
_MOST_LISTED: Final = 1000
_RET_HEADERS: Final = 2
_MESSAGE_ID: Final = re.compile(rb"<[!-;=?-~]{1,250}@[!-;=?-~]{1,250}>")
_HEADERS_ONLY: Final = b"X-Exim-DSN-Information: Due to administrative limits only headers are returned\n"


class Failure(Struct, frozen=True, kw_only=True):
    """Why a message is not delivered, for all recipients that failures does not name.

    reason is for the sender to read; status is RFC 3463's enhanced code.
    """

    reason: str
    status: str = "5.7.1"
    failures: tuple[FailedRecipient, ...] = ()


def bounce_notices(message: Message, failure: Failure, *, hostname: str, now: float) -> tuple[Message, ...]:
    """The notices for the undelivered recipients of message; none if nobody wants one.

    One for each address that notices go to: the sender, or the errors_to that a router set
    for a recipient. They carry the id of message until they are staged: see with_own_id().
    """
    if not message.sender:
        return ()
    named = {failed.address: failed for failed in failure.failures}
    by_receiver: dict[bytes, list[FailedRecipient]] = {}
    for recipient in message.undelivered:
        if not wants_failure(recipient) or (named and recipient.address not in named):
            continue
        failed = named.get(recipient.address) or FailedRecipient(
            address=recipient.address, status=failure.status, diagnostic=failure.reason
        )
        failed = FailedRecipient(
            address=failed.address, original=recipient.orcpt, status=failed.status,
            diagnostic=failed.diagnostic, remote=failed.remote,
        )  # fmt: skip
        by_receiver.setdefault(recipient.errors_to or message.sender, []).append(failed)
    return tuple(
        _notice(message, receiver, failed, hostname=hostname, now=now) for receiver, failed in by_receiver.items()
    )


def with_own_id(envelope: Envelope, message_id: MessageId) -> Envelope:
    """The notice under its own id, which stands in Received and Message-Id, too."""
    old, new = str(envelope.id).encode(), str(message_id).encode()
    headers = tuple(
        Header(header.flag, header.raw.replace(old, new, 1)) if header.flag in {"P", "I"} else header
        for header in envelope.headers
    )
    return with_id(envelope.replace(headers=headers), message_id)


def _notice(
    message: Message, receiver: bytes, failed: Sequence[FailedRecipient], *, hostname: str, now: float
) -> Message:
    envelope = message.envelope
    utf8 = envelope.is_smtputf8
    boundary = f"{int(now)}-eximdsn-{secrets.token_hex(12)}".encode()
    status = DeliveryStatus(
        reporting_host=hostname,
        recipients=tuple(failed),
        envelope_id=envelope.dsn_envid or b"",
        arrived=envelope.received_time,
    )
    returned, is_whole = _returned(message)
    parts = (
        (b"text/plain; charset=utf-8", _text(failed, is_whole=is_whole)),
        (b"message/global-delivery-status" if utf8 else b"message/delivery-status",
         render_delivery_status(status, utf8=utf8)),
        (_returned_type(utf8=utf8, is_whole=is_whole), returned),
    )  # fmt: skip
    body = b"".join(_part(boundary, kind, content) for kind, content in parts) + b"--%b--\n" % boundary
    return new_local_message(
        envelope.id,
        sender=b"",
        recipients=[receiver],
        headers=tuple(_headers(message, receiver, failed, boundary, hostname=hostname)),
        body=body,
        hostname=one_line(hostname),
        now=now,
        utf8=utf8,
    )


def _headers(
    message: Message, receiver: bytes, failed: Sequence[FailedRecipient], boundary: bytes, *, hostname: str
) -> Iterator[tuple[bytes, bytes]]:
    utf8 = message.envelope.is_smtputf8
    host = one_line(hostname).encode("ascii", "replace")
    yield b"X-Failed-Recipients", _failed_list(failed, utf8=utf8)
    yield b"Auto-Submitted", b"auto-replied"
    yield b"From", b"Mail Delivery System <Mailer-Daemon@%b>" % host
    yield b"To", _written(receiver, utf8=utf8)
    references = _original_message_id(message)
    if references:
        yield b"References", references
    # RFC 6533 6: the report's type is the same for a notice with addresses in UTF-8.
    yield b"Content-Type", b"multipart/report; report-type=delivery-status;\n\tboundary=%b" % boundary
    yield b"MIME-Version", b"1.0"
    yield b"Subject", b"Mail delivery failed: returning message to sender"


def _written(address: bytes, *, utf8: bool) -> bytes:
    """An address for a header field: one line, ASCII unless the notice is an SMTPUTF8 message."""
    text = one_line(address.decode("utf-8", "replace"))
    return text.encode("utf-8" if utf8 else "ascii", "replace") or b"?"


def _failed_list(failed: Sequence[FailedRecipient], *, utf8: bool) -> bytes:
    listed = [_written(one.address, utf8=utf8) for one in failed[:_MOST_LISTED]]
    return b",\n ".join(listed)


def _original_message_id(message: Message) -> bytes:
    for header in message.sent_headers:
        if header.is_named(b"Message-ID"):
            value = header.value.strip()
            return value if _MESSAGE_ID.fullmatch(value) else b""
    return b""


def _text(failed: Sequence[FailedRecipient], *, is_whole: bool) -> bytes:
    lines = [
        "This message was created automatically by mail delivery software.",
        "",
        "A message that you sent could not be delivered to one or more of its",
        "recipients. This is a permanent error. The following address(es) failed:",
        "",
    ]
    for one in failed[:_MOST_LISTED]:
        lines.append(f"  {one_line(one.address.decode('utf-8', 'replace'))}")
        if one.remote is not None and one.remote.reply:
            lines.append(f"    {one_line(one.remote.name)} said: {one_line(one.remote.reply)}")
        elif one.diagnostic:
            lines.append(f"    {one_line(one.diagnostic)}")
    if len(failed) > _MOST_LISTED:
        lines.append(f"  and {len(failed) - _MOST_LISTED} more, listed in the second part")
    if not is_whole:
        lines += ["", "Only the headers of your message are returned."]
    return "\n".join(lines).encode("utf-8", "replace") + b"\n"


def _returned_type(*, utf8: bool, is_whole: bool) -> bytes:
    if utf8:
        return b"message/global" if is_whole else b"message/global-headers"
    return b"message/rfc822" if is_whole else b"text/rfc822-headers"


def _returned(message: Message) -> tuple[bytes, bool]:
    """What is returned of message, and whether that is all of it."""
    envelope = message.envelope
    headers, complete = _returned_headers(message)
    if envelope.dsn_ret == _RET_HEADERS:
        return headers, False
    if not complete or len(headers) + message.body.size > LONGEST_RETURNED:
        return _HEADERS_ONLY + headers, False
    body = b"".join(local_chunks(message.body))
    if any(len(line) > _LONGEST_LINE for line in body.split(b"\n")):
        # A receiving server may refuse the notice for such a line (message_linelength_limit).
        return _HEADERS_ONLY + headers, False
    return headers + b"\n" + body, True


def _returned_headers(message: Message) -> tuple[bytes, bool]:
    sender = one_line(message.sender.decode("utf-8", "replace")).encode()
    fields = [field("Return-path", f"<{sender.decode()}>", utf8=True) + b"\n"]
    size, complete = len(fields[0]), True
    for header in message.sent_headers:
        if size + len(header.raw) > LONGEST_RETURNED_HEADERS:
            return b"".join(fields), False
        if any(len(line) > _LONGEST_LINE for line in header.raw.split(b"\n")):
            complete = False
            continue
        fields.append(header.raw)
        size += len(header.raw)
    return b"".join(fields), complete


def _part(boundary: bytes, kind: bytes, content: bytes) -> bytes:
    encoding = b"" if content.isascii() else b"Content-Transfer-Encoding: 8bit\n"
    end = b"" if content.endswith(b"\n") else b"\n"
    return b"--%b\nContent-Type: %b\n%b\n%b%b\n" % (boundary, kind, encoding, content, end)


def refused(recipients: Iterable[FailedRecipient], reason: str) -> Failure:
    """The failure of just these recipients."""
    return Failure(reason=reason, status="5.0.0", failures=tuple(recipients))
