"""A message as plain text that is safe to look at: nothing of it is ever sent as markup.

Bounded in size, depth and number of parts; of HTML the text between the tags is shown,
and what a browser would fetch is not there to be fetched.

Diagnostics: raises nothing; what can't be decoded is shown as it is.
"""

from __future__ import annotations

import binascii
import email
import email.message
import email.policy
import html
from collections.abc import Iterator
from email.errors import MessageError
from email.header import decode_header
from typing import Final

from ...spool.body import local_chunks
from ...spool.message import Message
from ..cli.terminal import escape, escape_lines

_MOST_BYTES: Final = 512 * 1024
_MOST_TEXT: Final = 128 * 1024
_MOST_PARTS: Final = 50
_SHOWN: Final = (b"from", b"to", b"cc", b"reply-to", b"subject", b"date", b"message-id")
#: Content of these is no text for a reader.
_SILENT: Final = ("script", "style", "head", "title")


def preview(message: Message) -> str:
    """The headers that a reader looks for, then every part that is text."""
    lines = [
        f"{escape(header.name or b'')}: {decoded(header.value)}"
        for header in message.sent_headers
        if (header.name or b"").lower() in _SHOWN
    ]
    return "\n".join([*lines, "", *_parts(message)]) + "\n"


def source(message: Message) -> str:
    """The message as it will be sent, its beginning, with everything unprintable escaped."""
    content, is_cut = _content(message)
    return escape_lines(content[:_MOST_TEXT]) + ("\n[cut here]\n" if is_cut or len(content) > _MOST_TEXT else "")


def decoded(value: bytes) -> str:
    """A header's value with its encoded words decoded (RFC 2047), on one line."""
    flat = " ".join(value.decode("utf-8", "backslashreplace").split())
    if "=?" not in flat or len(flat) > 4096:
        return escape(flat[:4096])
    try:
        pieces = [
            piece.decode(charset or "ascii", "replace") if isinstance(piece, bytes) else piece
            for piece, charset in decode_header(flat)
        ]
    except (MessageError, LookupError, ValueError):
        return escape(flat)
    return escape("".join(pieces))


def text_of_html(content: str) -> str:
    """The text between the tags, in time proportional to its length."""
    pieces: list[str] = []
    lowered = content.lower()
    position = 0
    while (start := content.find("<", position)) >= 0:
        pieces.append(content[position:start])
        end = content.find(">", start)
        if end < 0:
            break
        name = lowered[start + 1 : start + 10].split(">")[0].split("/")[0].split()[:1]
        position = end + 1
        if name and name[0] in _SILENT:
            close = lowered.find(f"</{name[0]}", end)
            if close < 0:
                break
            position = close
        elif name and name[0] in {"br", "p", "div", "tr", "li", "h1", "h2", "h3"}:
            pieces.append("\n")
    else:
        pieces.append(content[position:])
    text = html.unescape("".join(pieces))
    lines = (" ".join(line.split()) for line in text.split("\n"))
    return "\n".join(line for line in lines if line)


def _content(message: Message) -> tuple[bytes, bool]:
    pieces: list[bytes] = []
    size = 0
    for piece in _pieces(message):
        pieces.append(piece)
        size += len(piece)
        if size > _MOST_BYTES:
            return b"".join(pieces)[:_MOST_BYTES], True
    return b"".join(pieces), False


def _pieces(message: Message) -> Iterator[bytes]:
    for header in message.sent_headers:
        yield header.raw
    yield b"\n"
    yield from local_chunks(message.body)


def _parts(message: Message) -> Iterator[str]:
    content, is_cut = _content(message)
    try:
        parsed = email.message_from_bytes(content, policy=email.policy.compat32)
        parts = [part for _, part in zip(range(_MOST_PARTS), parsed.walk(), strict=False)]
    except (RecursionError, MessageError, LookupError, ValueError):
        yield "[its parts can't be told apart]"
        yield source(message)
        return
    left = _MOST_TEXT
    for part in parts:
        if part.is_multipart():
            continue
        kind = escape(part.get_content_type())
        text = _text(part) if kind in {"text/plain", "text/html"} else None
        if text is None:
            yield f"[a part that is not shown: {kind}]"
            continue
        if kind == "text/html":
            yield "[HTML, its text only]"
        yield escape_lines(text[:left])
        left -= min(left, len(text))
        if left == 0:
            break
    if is_cut or left == 0:
        yield "[cut here]"


def _text(part: email.message.Message) -> str | None:
    try:
        payload = part.get_payload(decode=True)
        charset = part.get_content_charset("utf-8")
    except (MessageError, LookupError, ValueError, binascii.Error):
        return None
    if not isinstance(payload, bytes):
        return None
    try:
        text = payload.decode(charset, "backslashreplace")
    except (LookupError, ValueError):
        text = payload.decode("utf-8", "backslashreplace")
    text = text.replace("\r\n", "\n")
    return text_of_html(text) if part.get_content_type() == "text/html" else text
