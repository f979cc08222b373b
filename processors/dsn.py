"""Delivery status notifications as values, with what Exim adds to them.

RFC 3464, RFC 6533 (``message/global-delivery-status``), and the extra fields that an Exim
built with EXPERIMENTAL_DSN_INFO writes for each failed recipient: a second ``Remote-MTA``
with the address, ``X-Remote-MTA-smtp-greeting``, ``X-Remote-MTA-helo-response`` and
``X-Exim-Diagnostic`` (deliver.c). A plugin calls ``parse_dsn(message)``.

Anybody can write a notice: what it says is a claim, not a fact.

Diagnostics: parse_dsn() raises nothing but OSError for a body that can't be read; what is
no notice, or has no readable status part, is None.
"""

from __future__ import annotations

import base64
import binascii
import quopri
import re
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from ..spool.body import local_chunks
from ..spool.message import Message

MAXIMUM_BODY: Final = 1 << 20
"""Bytes of the body that are read: the status part stands before the returned message."""

MAXIMUM_RECIPIENTS: Final = 10_000

_Fields = tuple[tuple[bytes, bytes], ...]

_PARAMETER: Final = re.compile(
    rb';[ \t\n]*+([^\s()<>@,;:\\"/\[\]?=]{1,60})[ \t]*+=[ \t]*+(?:"((?:[^"\\]|\\.){0,1000})"|([^\s;"]{1,1000}))',
    re.DOTALL,
)
_FIELD: Final = re.compile(rb"([!-9;-~]{1,80})[ \t]*+:(.*)", re.DOTALL)
_FOLD: Final = re.compile(rb"\n[ \t]")
_ADDRESS: Final = re.compile(rb"\[([0-9A-Fa-f:.]{2,45})\](?::([0-9]{1,5}))?")
_STATUS: Final = re.compile(rb"[245]\.[0-9]{1,3}\.[0-9]{1,3}")


class DsnRecipient(Struct, frozen=True, kw_only=True):
    """What a notice says of one recipient; empty where it says nothing.

    Addresses and diagnostics are without their type (``rfc822;``, ``smtp;``). action is in
    lower case (failed, delayed, delivered, relayed, expanded). remote_address and
    remote_port, smtp_greeting, helo_response and exim_diagnostic are Exim's extra fields.
    fields are all as they stood, unfolded.
    """

    final_recipient: bytes = b""
    original_recipient: bytes = b""
    action: str = ""
    status: str = ""
    remote_mta: bytes = b""
    diagnostic: bytes = b""
    remote_address: str = ""
    remote_port: int = 0
    smtp_greeting: bytes = b""
    helo_response: bytes = b""
    exim_diagnostic: bytes = b""
    fields: _Fields = ()


class DeliveryNotice(Struct, frozen=True, kw_only=True):
    """A notification. failed_recipients is Exim's ``X-Failed-Recipients``."""

    reporting_mta: bytes = b""
    original_envelope_id: bytes = b""
    recipients: tuple[DsnRecipient, ...] = ()
    failed_recipients: tuple[bytes, ...] = ()
    fields: _Fields = ()


def parse_dsn(message: Message) -> DeliveryNotice | None:
    """The notice that message is, or None. Reads a megabyte of the body at most."""
    content_type = b""
    failed: list[bytes] = []
    for header in message.sent_headers:
        name = header.name.lower()
        if name == b"content-type" and not content_type:
            content_type = header.value
        elif name == b"x-failed-recipients":
            failed += [item.strip() for item in _unfolded(header.value).split(b",") if item.strip()]
    kind, parameters = _media_type(content_type)
    boundary = parameters.get(b"boundary", b"").rstrip(b" \t")
    if kind != b"multipart/report" or not 0 < len(boundary) <= 70:
        return None
    if parameters.get(b"report-type", b"delivery-status").lower() not in {
        b"delivery-status",
        b"global-delivery-status",
    }:
        return None
    status = _status_part(_beginning(local_chunks(message.body)), boundary)
    if status is None:
        return None
    first, *groups = _groups(status) or [()]
    if not any(name.lower() == b"reporting-mta" for name, _ in first):
        # Some leave the fields of the message out (RFC 3464 2.2 demands one).
        first, groups = (), [first, *groups] if first else groups
    return DeliveryNotice(
        reporting_mta=_typed(_first(first, b"reporting-mta")),
        original_envelope_id=_first(first, b"original-envelope-id"),
        recipients=tuple(_recipient(group) for group in groups[:MAXIMUM_RECIPIENTS]),
        failed_recipients=tuple(failed[:MAXIMUM_RECIPIENTS]),
        fields=first,
    )


def _beginning(chunks: Iterable[bytes]) -> bytes:
    content = bytearray()
    for chunk in chunks:
        content += chunk
        if len(content) >= MAXIMUM_BODY:
            break
    return bytes(content[:MAXIMUM_BODY])


def _media_type(value: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """The type in lower case, and its parameters (RFC 2045 5.1); the first of a name counts."""
    value = value[:8192]
    kind = _without_comment(value.partition(b";")[0]).strip().lower()
    parameters: dict[bytes, bytes] = {}
    for match in _PARAMETER.finditer(value):
        quoted: bytes | None = match[2]
        text = match[3] if quoted is None else re.sub(rb"\\(.)", rb"\1", quoted, flags=re.DOTALL)
        parameters.setdefault(match[1].lower(), text)
    return kind, parameters


def _without_comment(value: bytes) -> bytes:
    """The value without a comment at its end (RFC 5322 3.2.2), one that holds no other."""
    head, opening, comment = value.strip().rpartition(b"(")
    return head if opening and comment.find(b")") == len(comment) - 1 >= 0 else value


def _status_part(body: bytes, boundary: bytes) -> bytes | None:
    """The content of the first part with a delivery status."""
    delimiter = b"--" + boundary
    lines = body.split(b"\n")
    start: int | None = None
    for number, line in enumerate(lines):
        if not line.startswith(delimiter):
            continue
        rest = line[len(delimiter) :].strip(b" \t\r")
        if rest not in {b"", b"--"}:
            continue
        if start is not None and (found := _if_status(lines[start:number])) is not None:
            return found
        if rest:
            return None
        start = number + 1
    # Cut off before its end, by us or by somebody else.
    return None if start is None else _if_status(lines[start:])


def _if_status(lines: list[bytes]) -> bytes | None:
    try:
        end = lines.index(b"")
    except ValueError:
        return None
    kind = encoding = b""
    for name, value in _fields(lines[:end]):
        if name.lower() == b"content-type":
            kind = _media_type(value)[0]
        elif name.lower() == b"content-transfer-encoding":
            encoding = value.lower()
    if kind not in {b"message/delivery-status", b"message/global-delivery-status"}:
        return None
    content = b"\n".join(lines[end + 1 :])
    if encoding == b"quoted-printable":
        return quopri.decodestring(content)
    if encoding == b"base64":
        try:
            return base64.b64decode(content).replace(b"\r\n", b"\n")
        except binascii.Error:
            return None
    return content


def _groups(content: bytes) -> list[_Fields]:
    """The blocks of fields that empty lines part."""
    groups: list[_Fields] = []
    block: list[bytes] = []
    for line in [*content.split(b"\n"), b""]:
        if line.strip(b" \t\r"):
            block.append(line)
        elif block:
            if fields := _fields(block):
                groups.append(fields)
            block = []
    return groups


def _fields(lines: Iterable[bytes]) -> _Fields:
    """Fields unfolded; lines that are none are passed over."""
    unfolded: list[list[bytes]] = []
    for line in lines:
        if line[:1] in {b" ", b"\t"} and unfolded:
            unfolded[-1].append(line.strip(b" \t\r"))
        else:
            unfolded.append([line.rstrip(b"\r")])
    fields: list[tuple[bytes, bytes]] = []
    for pieces in unfolded:
        if match := _FIELD.fullmatch(b" ".join(pieces)):
            fields.append((match[1], match[2].strip(b" \t\r")))
    return tuple(fields)


def _recipient(group: _Fields) -> DsnRecipient:
    remote_mta, address = b"", None
    for name, value in group:
        if name.lower() != b"remote-mta":
            continue
        # Exim writes two, against RFC 3464 2.3.5: the name counts, and its X-ip is the address.
        if value.lower().startswith(b"x-ip;"):
            address = address or _ADDRESS.match(_typed(value))
        else:
            remote_mta = remote_mta or _typed(value)
    port = 0 if address is None else int(address[2] or 25)
    status = _STATUS.match(_first(group, b"status"))
    return DsnRecipient(
        final_recipient=_typed(_first(group, b"final-recipient")),
        original_recipient=_typed(_first(group, b"original-recipient")),
        action=_first(group, b"action").partition(b"(")[0].strip().lower().decode("ascii", "replace"),
        status="" if status is None else status[0].decode(),
        remote_mta=remote_mta,
        diagnostic=_typed(_first(group, b"diagnostic-code")),
        remote_address="" if address is None else address[1].decode(),
        remote_port=port if port < 65536 else 0,
        smtp_greeting=_typed(_first(group, b"x-remote-mta-smtp-greeting")),
        helo_response=_typed(_first(group, b"x-remote-mta-helo-response")),
        exim_diagnostic=_typed(_first(group, b"x-exim-diagnostic")),
        fields=group,
    )


def _first(fields: _Fields, name: bytes) -> bytes:
    return next((value for other, value in fields if other.lower() == name), b"")


def _typed(value: bytes) -> bytes:
    """What follows ``type;``; all of it where there is no type."""
    kind, semicolon, text = value.partition(b";")
    return text.strip(b" \t") if semicolon and re.fullmatch(rb"[A-Za-z0-9-]{1,40}", kind.strip()) else value


def _unfolded(value: bytes) -> bytes:
    return _FOLD.sub(b" ", value)
