"""Edits are values; one pure function applies them.

Header bytes that no edit names stay byte for byte. Dry run, trace and audit print the
same list.

Diagnostics: apply() raises ValueError for an edit that can't be applied (an index out
of range, a value that a spool file can't hold); the engine wraps it as ProcessorError.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import Struct

from ..spool.body import Body
from ..spool.envelope import Header
from ..spool.message import Message


class AddHeader(Struct, frozen=True, tag="add_header"):
    """Add one field, above all others or below them."""

    header: Header
    at: Literal["top", "end"] = "top"


class RemoveHeader(Struct, frozen=True, tag="remove_header"):
    """Remove the header record at index in message.headers."""

    index: int


class ReplaceHeader(Struct, frozen=True, tag="replace_header"):
    """Put header in the place of the record at index."""

    index: int
    header: Header


Edit = AddHeader | RemoveHeader | ReplaceHeader


def add_header(name: str | bytes, value: str | bytes, at: Literal["top", "end"] = "top") -> AddHeader:
    """Add ``name: value``; ValueError where that would be no single header field."""
    return AddHeader(Header.make(_encode(name), _encode(value)), at)


def _encode(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


__all__ = ["AddHeader", "Body", "Edit", "RemoveHeader", "ReplaceHeader", "add_header", "Message", "msgspec"]
