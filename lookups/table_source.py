r"""The text files that tables are built from: Exim's lsearch, CSV, JSON lines.

Each reader yields (key, value, line number) in the order of the file, in memory bounded
by its longest entry. What Exim could not read back from a table is refused with the
line: a NUL, an empty key, a key over 511 bytes.

lsearch: as Exim's documentation has it and exim_dbmbuild does it. Comments and empty
lines are ignored, in the middle of an entry too (Exim's own lsearch drops the rest of
such an entry); ``key: value``, ``key value`` or ``"quoted \x20 key": value``; a line that
begins with white space continues the value after one blank.
CSV: two columns, RFC 4180 quotes, no header but ``key,value`` itself.
JSON lines: ``{"key": …, "value": …}``, each a string or ``{"b64": …}``.

Diagnostics: the readers raise TableSourceError, which names file and line, and OSError
from reading the file.
"""

from __future__ import annotations

import base64
import binascii
import csv
import re
from collections.abc import Callable, Iterator
from enum import Enum
from typing import BinaryIO

import msgspec

from ..errors import PermanentError
from .table_reference import MAXIMUM_KEY_SIZE

MAXIMUM_ENTRY_SIZE = 1 << 20
"""Bytes of the longest line, and of the longest value of several lines."""

_BLOCK_SIZE = 1 << 20

Entry = tuple[bytes, bytes, int]
"""Key, value, number of the line where the entry begins, from 1."""


class TableSourceError(PermanentError):
    """A source can't become a table; line counts from 1."""

    def __init__(self, file: str, line: int, reason: str) -> None:
        self.file, self.line = file, line
        super().__init__(f"{file}:{line}: {reason}")


class SourceFormat(Enum):
    """The three kinds of source."""

    LSEARCH = "lsearch"
    CSV = "csv"
    JSON_LINES = "jsonl"


def format_of(path: str) -> SourceFormat:
    """Tell the format by the end of the name: .csv; .jsonl, .ndjson, .json; else lsearch."""
    if path.endswith(".csv"):
        return SourceFormat.CSV
    if path.endswith((".jsonl", ".ndjson", ".json")):
        return SourceFormat.JSON_LINES
    return SourceFormat.LSEARCH


def read_entries(
    file: BinaryIO, name: str, source_format: SourceFormat, *, lower_keys: bool | None = None
) -> Iterator[Entry]:
    """Yield the entries of an open source; name is for errors.

    lower_keys None means: lower case (ASCII only) for lsearch, whose matching ignores case
    where LMDB's does not; as written for the others. Raises TableSourceError, OSError.
    """
    if lower_keys is None:
        lower_keys = source_format is SourceFormat.LSEARCH
    reader = _READERS[source_format]
    for key, value, line in reader(file, name):
        if not 0 < len(key) <= MAXIMUM_KEY_SIZE:
            raise TableSourceError(name, line, f"a key has 1 to {MAXIMUM_KEY_SIZE} bytes, this one has {len(key)}")
        if b"\0" in key or b"\0" in value:
            raise TableSourceError(name, line, "a NUL: Exim would read only what stands before it")
        yield (key.lower() if lower_keys else key), value, line


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[int, bytes]]:
    number, rest = 0, b""
    while block := file.read(_BLOCK_SIZE):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        for line in lines:
            number += 1
            if len(line) > MAXIMUM_ENTRY_SIZE:
                raise TableSourceError(name, number, f"a line over {MAXIMUM_ENTRY_SIZE} bytes")
            yield number, line
        if len(rest) > MAXIMUM_ENTRY_SIZE:
            raise TableSourceError(name, number + 1, f"a line over {MAXIMUM_ENTRY_SIZE} bytes")
    if rest:
        yield number + 1, rest


# Exim src/lookups/lsearch.c: a key ends at a colon or white space (C's isspace); white space
# after it and one colon with more white space after that belong to neither key nor value.
_PLAIN = re.compile(rb"([^: \t\v\f\r]*)[ \t\v\f\r]*:?[ \t\v\f\r]*(.*)", re.DOTALL)
_QUOTED = re.compile(rb'"((?:[^"\\]|\\.)*)"[ \t\v\f\r]*:?[ \t\v\f\r]*(.*)', re.DOTALL)
_ESCAPE = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{0,2})|(.))", re.DOTALL)
_WHITE = b" \t\v\f\r"
_CONTROLS = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def _lsearch(file: BinaryIO, name: str) -> Iterator[Entry]:
    key: bytes | None = None
    parts: list[bytes] = []
    size = start = 0
    for number, raw in _lines(file, name):
        line = raw.rstrip(_WHITE)
        if not line or line[0] == 0x23:
            continue
        if line[0] in _WHITE:
            if key is None:
                raise TableSourceError(name, number, "a continuation line before any key")
            parts.append(b" " + line.lstrip(_WHITE))
            size += len(parts[-1])
            if size > MAXIMUM_ENTRY_SIZE:
                raise TableSourceError(name, start, f"a value over {MAXIMUM_ENTRY_SIZE} bytes")
            continue
        if key is not None:
            yield key, b"".join(parts), start
        quoted = line[0] == 0x22
        match = (_QUOTED if quoted else _PLAIN).fullmatch(line)
        if match is None:
            raise TableSourceError(name, number, "a quoted key without its closing quote")
        written: bytes = match[1]
        key = _ESCAPE.sub(_unescape, written) if quoted else written
        parts, size, start = [match[2]], len(match[2]), number
    if key is not None:
        yield key, b"".join(parts), start


def _unescape(match: re.Match[bytes]) -> bytes:
    # Exim src/string.c string_interpret_escape()
    octal, hexadecimal, other = match.groups()
    if octal is not None:
        return bytes([int(octal, 8) & 0xFF])
    if hexadecimal is not None:
        return bytes([int(hexadecimal or b"0", 16)])
    return _CONTROLS.get(other, other)


def _csv(file: BinaryIO, name: str) -> Iterator[Entry]:
    lines = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in _lines(file, name))
    reader = csv.reader(lines, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise TableSourceError(name, line, str(error)) from error
        if not row or (line == 1 and row == ["key", "value"]):
            continue
        if len(row) != 2:
            raise TableSourceError(name, line, f"expected two columns, found {len(row)}")
        key, value = row
        yield key.encode("utf-8", "surrogateescape"), value.encode("utf-8", "surrogateescape"), line


class _Base64(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    b64: str


class _JsonLine(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    key: str | _Base64
    value: str | _Base64


def _json_lines(file: BinaryIO, name: str) -> Iterator[Entry]:
    decoder = msgspec.json.Decoder(_JsonLine)
    for number, line in _lines(file, name):
        if not line.strip():
            continue
        try:
            entry = decoder.decode(line)
            yield _json_bytes(entry.key), _json_bytes(entry.value), number
        except (msgspec.MsgspecError, UnicodeError, binascii.Error) as error:
            raise TableSourceError(name, number, str(error)) from error
        except RecursionError as error:
            raise TableSourceError(name, number, "nested too deeply") from error


def _json_bytes(text: str | _Base64) -> bytes:
    if isinstance(text, _Base64):
        return base64.b64decode(text.b64.encode("ascii"), validate=True)
    return text.encode("utf-8")


def json_line(key: bytes, value: bytes) -> bytes:
    """Write one entry as the JSON lines reader takes it, without the newline."""
    return msgspec.json.encode(_JsonLine(_json_text(key), _json_text(value)))


_BARE_KEY = re.compile(rb"[^\x00-\x20:\"#\x7f][^\x00-\x20:\x7f]*")


def lsearch_line(key: bytes, value: bytes) -> bytes:
    """Write one entry as an lsearch line, the key quoted where it must be, the value as it is."""
    if _BARE_KEY.fullmatch(key) is None:
        key = b'"' + re.sub(rb'[\x00-\x1f"\\\x7f]', lambda match: b"\\x%02x" % match[0][0], key) + b'"'
    return key + b": " + value


def _json_text(text: bytes) -> str | _Base64:
    try:
        return text.decode("utf-8")
    except UnicodeDecodeError:
        return _Base64(base64.b64encode(text).decode("ascii"))


_READERS: dict[SourceFormat, Callable[[BinaryIO, str], Iterator[Entry]]] = {
    SourceFormat.LSEARCH: _lsearch,
    SourceFormat.CSV: _csv,
    SourceFormat.JSON_LINES: _json_lines,
}
