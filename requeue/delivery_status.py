"""The machine-readable part of a delivery status notification (RFC 3464, RFC 6533).

Failures only: respool reports nothing else. Everything that is written here was somebody
else's (addresses, replies, reasons), so each value becomes one field, folded at its own
blanks only, free of control characters and of bounded length; reading it back gives the value.

Diagnostics: raises nothing; what can't be written is written with ``?`` in its place.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Final

from msgspec import Struct

from ..spool.envelope import DSN_FAILURE, DSN_NEVER, Recipient
from .xtext import decode_xtext

#: Longest value of a field, in bytes: with its name and without a blank to fold at it still
#: fits a line of RFC 5322 (998).
LONGEST_VALUE: Final = 900
_FOLD_AT: Final = 78
_CONTROLS: Final = re.compile(r"[\x00-\x20\x7f-\x9f\u2028\u2029]+")
_TYPED: Final = re.compile(rb"([A-Za-z0-9-]{1,32});(.+)", re.DOTALL)
_STATUS: Final = re.compile(r"[45]\.[0-9]{1,3}\.[0-9]{1,3}")


class RemoteServer(Struct, frozen=True, kw_only=True):
    """The server that refused: its name, where it was reached, and what it said."""

    name: str
    address: str = ""
    port: int = 25
    greeting: str = ""
    ehlo_response: str = ""
    reply: str = ""


class FailedRecipient(Struct, frozen=True, kw_only=True):
    """One recipient block. original is the ORCPT as in the envelope, status RFC 3463's 5.x.y."""

    address: bytes
    original: bytes = b""
    status: str = "5.0.0"
    diagnostic: str = ""
    remote: RemoteServer | None = None


class DeliveryStatus(Struct, frozen=True, kw_only=True):
    """The whole part. envelope_id is the ENVID as in the envelope (xtext), arrived Unix time."""

    reporting_host: str
    recipients: tuple[FailedRecipient, ...]
    envelope_id: bytes = b""
    arrived: int | None = None


def wants_failure(recipient: Recipient) -> bool:
    """Whether the sender wants to hear of a failure for recipient: NOTIFY (RFC 3461 5.2.6)."""
    flags = recipient.dsn_flags & ~1
    if flags & DSN_NEVER:
        return False
    return not flags or bool(flags & DSN_FAILURE)


def render_delivery_status(status: DeliveryStatus, *, utf8: bool) -> bytes:
    """The content of ``message/delivery-status``, or of ``message/global-delivery-status`` with utf8."""
    lines = [field("Reporting-MTA", f"dns; {one_line(status.reporting_host)}", utf8=utf8)]
    if status.envelope_id:
        lines.append(field("Original-Envelope-Id", one_line(_decoded(status.envelope_id)), utf8=utf8))
    if status.arrived is not None:
        moment = datetime.fromtimestamp(min(max(status.arrived, 0), 0x7FFFFFFFF), UTC)
        lines.append(field("Arrival-Date", format_datetime(moment), utf8=utf8))
    for recipient in status.recipients:
        lines.append(b"")
        lines += _block(recipient, utf8=utf8)
    return b"\n".join(lines) + b"\n"


def _block(recipient: FailedRecipient, *, utf8: bool) -> Sequence[bytes]:
    """The fields in Exim's order, with its X- fields (deliver.c, EXPERIMENTAL_DSN_INFO)."""
    fields: list[tuple[str, str]] = []
    original = _TYPED.fullmatch(recipient.original)
    if original is not None:
        fields.append(("Original-Recipient", f"{original[1].decode()};{one_line(_decoded(original[2]))}"))
    fields.append(("Action", "failed"))
    fields.append(("Final-Recipient", typed_address(recipient.address, utf8=utf8)))
    fields.append(("Status", recipient.status if _STATUS.fullmatch(recipient.status) else "5.0.0"))
    remote = recipient.remote
    if remote is not None:
        # RFC 3464 2.3: one Remote-MTA; Exim's second one, of type X-ip, gets a name of its own.
        fields.append(("Remote-MTA", f"dns; {one_line(remote.name)}"))
        if remote.address:
            port = "" if remote.port == 25 else f":{remote.port}"
            fields.append(("X-Remote-MTA-ip", f"X-ip; [{one_line(remote.address)}]{port}"))
        for name, text in (
            ("X-Remote-MTA-smtp-greeting", remote.greeting), ("X-Remote-MTA-helo-response", remote.ehlo_response),
        ):  # fmt: skip
            if text:
                fields.append((name, f"X-str; {one_line(text)}"))
    if recipient.diagnostic:
        fields.append(("X-Exim-Diagnostic", f"X-str; {one_line(recipient.diagnostic)}"))
    if remote is not None and remote.reply:
        fields.append(("Diagnostic-Code", f"smtp; {one_line(remote.reply)}"))
    return [field(name, value, utf8=utf8) for name, value in fields]


def typed_address(address: bytes, *, utf8: bool) -> str:
    """``rfc822;address``, or ``utf-8;address`` where it is not ASCII (RFC 6533 3)."""
    if address.isascii():
        return f"rfc822;{one_line(address.decode('ascii'))}"
    text = one_line(address.decode("utf-8", "replace"))
    if utf8:
        return f"utf-8;{text}"
    # utf-8-addr-xtext: also for readers of ASCII.
    escaped = "".join(c if "!" <= c <= "~" and c not in "\\+=" else f"\\x{{{ord(c):X}}}" for c in text)
    return f"utf-8;{escaped}"


def _decoded(xtext: bytes) -> str:
    try:
        decoded = decode_xtext(xtext)
    except ValueError:
        decoded = xtext
    return decoded.decode("utf-8", "replace")


def one_line(text: str) -> str:
    """Text with each run of blanks and control characters as one blank, of at most LONGEST_VALUE bytes."""
    line = _CONTROLS.sub(" ", text[: 4 * LONGEST_VALUE]).strip()
    data = line.encode("utf-8", "replace")
    if len(data) > LONGEST_VALUE:
        mark = "[truncated]"
        line = data[: LONGEST_VALUE - len(mark)].decode("utf-8", "ignore").rstrip() + mark
    return line


def field(name: str, value: str, *, utf8: bool) -> bytes:
    """``name: value`` without its line end, folded so that unfolding gives value back."""
    data = value.encode("utf-8" if utf8 else "ascii", "replace")
    lines: list[bytes] = []
    start = line = name.encode("ascii") + b":"
    for word in data.split(b" "):
        if len(line) + 1 + len(word) > _FOLD_AT and line is not start:
            lines.append(line)
            line = b""
        line += b" " + word
    lines.append(line)
    return b"\n".join(lines)
