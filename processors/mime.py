"""The MIME structure of a message, read in one pass and in bounded memory.

Everything in it is a stranger's: what can be read in two ways (two Content-Type fields, a
multipart without a boundary, a header line of blanks) or goes beyond the limits is an
error, since a reader that guesses sees another message than the one that is shown.
Content is not decoded, and what is inside archives or inline uuencode is not looked at. A
header goes to its empty line, whatever stands in it, since those in bounces may be cut off.

Diagnostics: UnreadableMimeError, which holds the message where nobody catches it; OSError
from the body goes to the caller.
"""

from __future__ import annotations

import email.message
import email.parser
import email.utils
import re
from collections.abc import Iterator
from email.errors import HeaderParseError, MultipartInvariantViolationDefect
from email.header import decode_header, make_header
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from ..errors import PermanentError
from ..spool.message import Message

_FIELDS: Final = (b"content-type", b"content-disposition", b"content-transfer-encoding")
_TYPE: Final = re.compile(r"\s*[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+\s*(?:;|\Z)")
_IDENTITY: Final = frozenset({"7bit", "8bit", "binary"})
#: Bytes of a line that are kept: a boundary has at most 70 (RFC 2046 5.1.1), a header line 998 (RFC 5322 2.1.1).
_LINE: Final = 2048
_LONGEST_BOUNDARY: Final = 200
#: Bytes of the three fields of one part: the parser's work may grow with their square.
_LONGEST_FIELDS: Final = 8192
_LONGEST_HEADER: Final = 256 * 1024
#: Bytes of MimePart.head.
_HEAD: Final = 16 * 1024
#: One that can't match: we are in no multipart.
_NO_DELIMITER: Final = re.compile(rb"(?!)")


class UnreadableMimeError(PermanentError):
    """The structure can be read in more than one way, or goes beyond the limits."""


class MimePart(Struct, frozen=True, kw_only=True):
    """One part of a message, or the message itself where it has no parts.

    media_type, disposition and encoding are in lower case: text/plain, "" and 7bit where
    nothing is said (RFC 2045 5.2). file_names are decoded, and there may be one from each
    of two fields. inside has the multiparts and messages that a leaf stands in, outermost
    first. start is where its content begins in the body, None for a header that
    no empty line ends. head is the first 16 KiB of the content as it stands; size counts
    all of it, in bytes: decoded if it is base64.
    """

    number: int
    media_type: str
    parameters: tuple[tuple[str, str], ...] = ()
    disposition: str = ""
    file_names: tuple[str, ...] = ()
    encoding: str = "7bit"
    inside: tuple[MimePart, ...] = ()
    start: int | None = None
    head: bytes = b""
    size: int = 0

    def parameter(self, name: str) -> tuple[str, ...]:
        """The values of a Content-Type parameter, by its name in lower case: there may be none, or several."""
        return tuple(value for key, value in self.parameters if key == name)

    @property
    def is_multipart(self) -> bool:
        """True for a part that has parts."""
        return self.media_type.startswith("multipart/")

    @property
    def is_message(self) -> bool:
        """True for a message in the message."""
        return self.media_type in {"message/rfc822", "message/global"}


def mime_parts(message: Message, *, deepest: int = 20, most: int = 1000) -> Iterator[MimePart]:
    """The leaves of the structure, in order, each once its end has been read; those of messages within, too.

    deepest: levels of parts within parts; most: parts. Raises UnreadableMimeError, possibly
    after some leaves: who must not act on half of a structure takes all of them first.
    """
    reader = _Reader(message.body.chunks())
    fields = b"".join(field.raw for field in message.sent_headers if field.name.lower() in _FIELDS)
    inside: tuple[MimePart, ...] = ()
    #: What ended the header before an empty line could.
    ended: _Delimiter | None = None
    for number in range(most):
        part = _read_fields(fields, inside, number, None if ended else reader.position)
        if part.is_multipart or part.is_message:
            if len(inside) == deepest:
                raise UnreadableMimeError("parts within parts, too deep")
            # Each without its own, or what they print as would double with every level.
            inside = (*inside, replace(part, inside=()))
            reader.expect(inside)
        if part.is_message and ended is None:
            fields, ended = reader.header()
            continue
        head, size = bytearray(), 0
        for piece in () if ended else reader.content():
            head += piece[: _HEAD - len(head)]
            size += len(piece.translate(None, b" \t\r\n")) if part.encoding == "base64" else len(piece)
        if not part.is_multipart and not part.is_message:
            yield replace(part, head=bytes(head), size=size * 3 // 4 if part.encoding == "base64" else size)
        delimiter = ended or reader.delimiter()
        while delimiter.is_last and delimiter is not _END:
            inside = inside[: delimiter.level]
            reader.expect(inside)
            for _ in reader.content():
                pass  # an epilogue
            delimiter = reader.delimiter()
        if delimiter is _END:
            return
        inside = inside[: delimiter.level + 1]
        reader.expect(inside)
        fields, ended = reader.header()
    raise UnreadableMimeError("too many parts")


class _Delimiter(Struct, frozen=True):
    """A line that ends a part: of which multipart, counted from the outermost, and whether it ends that as well."""

    level: int
    is_last: bool


#: The end of the body ends everything.
_END: Final = _Delimiter(0, True)


class _Reader:
    """Where in the body the reading is. Content is searched for delimiters, not taken apart into lines."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        #: Begins with a byte that has been read, so that it shows whether a line begins after it.
        self._buffer = b"\n"
        self._at = 1
        #: Offset in the body of what is read next.
        self.position = 0
        self._boundaries: list[bytes | None] = []
        self._pattern = _NO_DELIMITER

    def expect(self, inside: tuple[MimePart, ...]) -> None:
        """From here on the delimiters of these are looked for."""
        self._boundaries = [_boundary_of(part) if part.is_multipart else None for part in inside]
        # The innermost first: it is the one meant where two are alike.
        wanted = [re.escape(boundary) for boundary in reversed(self._boundaries) if boundary is not None]
        pattern = rb"\n--(%b)(--)?[ \t\r]{0,99}+\n" % b"|".join(wanted)
        self._pattern = re.compile(pattern) if wanted else _NO_DELIMITER

    def content(self) -> Iterator[bytes]:
        """What comes before the next delimiter, in pieces."""
        while True:
            found = self._pattern.search(self._buffer, self._at - 1)
            if found is not None:
                yield self._take(found.start() + 1 - self._at)
                return
            # A delimiter may have begun in the last line, unless that is too long to be one.
            last = self._buffer.rfind(b"\n", self._at - 1) + 1
            is_short = last and len(self._buffer) - last <= _LINE
            yield self._take((last if is_short else len(self._buffer)) - self._at)
            if not self._fill():
                if self._delimiter_in(self._buffer[self._at - 1 :] + b"\n") is None:
                    yield self._take(len(self._buffer) - self._at)
                return

    def delimiter(self) -> _Delimiter:
        """The delimiter that ended the content."""
        line, _ = self._line()
        return self._delimiter_in(b"\n" + line + b"\n") or _END

    def header(self) -> tuple[bytes, _Delimiter | None]:
        """The fields that say what a part is, and the delimiter if one comes before the empty line."""
        kept = bytearray()
        length = 0
        is_wanted = False
        while True:
            line, line_length = self._line()
            length += line_length
            if line_length > _LINE or length > _LONGEST_HEADER:
                raise UnreadableMimeError("a header without end")
            if not line_length:
                return bytes(kept), _END
            line = line.removesuffix(b"\n").removesuffix(b"\r")
            if not line:
                return bytes(kept), None
            delimiter = self._delimiter_in(b"\n" + line + b"\n")
            if delimiter is not None:
                return bytes(kept), delimiter
            if not line.strip():
                raise UnreadableMimeError("a header line of blanks")  # to some the end of the header
            if line[:1] not in {b" ", b"\t"}:
                is_wanted = line.partition(b":")[0].strip().lower() in _FIELDS
            if is_wanted:
                kept += line + b"\n"

    def _delimiter_in(self, line: bytes) -> _Delimiter | None:
        found = self._pattern.match(line)
        if found is None:
            return None
        level = max(level for level, boundary in enumerate(self._boundaries) if boundary == found[1])
        return _Delimiter(level, found[2] is not None)

    def _line(self) -> tuple[bytes, int]:
        """The beginning of the next line, and the length of the whole; both with its LF. Empty at the end."""
        kept, length = b"", 0
        while True:
            end = self._buffer.find(b"\n", self._at) + 1
            piece = self._take((end or len(self._buffer)) - self._at)
            kept += piece[: _LINE - len(kept)]
            length += len(piece)
            if end or not self._fill():
                return kept, length

    def _take(self, length: int) -> bytes:
        piece = self._buffer[self._at : self._at + length]
        self._at += length
        self.position += length
        return piece

    def _fill(self) -> bool:
        chunk = next(self._chunks, None)
        if chunk is None:
            return False
        self._buffer = self._buffer[self._at - 1 :] + chunk
        self._at = 1
        return True


def _boundary_of(part: MimePart) -> bytes:
    values = part.parameter("boundary")
    boundary = values[0].rstrip() if len(values) == 1 else ""
    if not 0 < len(boundary) <= _LONGEST_BOUNDARY or not boundary.isascii() or not boundary.isprintable():
        raise UnreadableMimeError("a multipart without a boundary that all would read alike")
    return boundary.encode()


def _read_fields(fields: bytes, inside: tuple[MimePart, ...], number: int, start: int | None) -> MimePart:
    """A part by its fields. Raises UnreadableMimeError."""
    if len(fields) > _LONGEST_FIELDS:
        raise UnreadableMimeError("Content fields without end")
    # RFC 6532 allows UTF-8; of anything else the ASCII in it, an end of a name above all, is what counts.
    parsed = email.parser.HeaderParser().parsestr(fields.decode("utf-8", "replace"))
    # Before 3.11.3 Python misses, where only a header was to be read, the parts that its Content-Type promises.
    defects = [one for one in parsed.defects if not isinstance(one, MultipartInvariantViolationDefect)]
    if defects or parsed.get_payload():
        raise UnreadableMimeError("a Content field that is not well formed")
    for name in _FIELDS:
        if len(parsed.get_all(name.decode(), [])) > 1:
            raise UnreadableMimeError(f"two {name.decode()} fields")
    if inside and inside[-1].media_type == "multipart/digest":
        parsed.set_default_type("message/rfc822")  # RFC 2046 5.1.5
    written = parsed.get("content-type")
    if written is not None and _TYPE.match(str(written)) is None:
        # Some take it for text, others for what it nearly says.
        raise UnreadableMimeError("a Content-Type that is none")
    parameters = _parameters(parsed, "content-type")[1:]
    part = MimePart(
        number=number,
        media_type=parsed.get_content_type(),
        parameters=parameters,
        disposition=str(parsed.get_content_disposition() or ""),
        # Also where no disposition stands before it.
        file_names=_file_names(_parameters(parsed, "content-disposition"), parameters),
        encoding=str(parsed.get("content-transfer-encoding", "7bit")).strip().lower(),
        inside=inside,
        start=start,
    )
    if (part.is_multipart or part.is_message) and part.encoding not in _IDENTITY:
        raise UnreadableMimeError(f"a {part.media_type} that is encoded")  # RFC 2045 6.4
    return part


def _parameters(parsed: email.message.Message, field: str) -> tuple[tuple[str, str], ...]:
    try:
        written = parsed.get_params([], header=field)
        return tuple((name.lower(), email.utils.collapse_rfc2231_value(value)) for name, value in written)
    except (TypeError, ValueError) as error:
        # The email package, of name*0 beside name*, of numbers of thousands of digits, of character sets with NUL.
        raise UnreadableMimeError(f"a {field} whose parameters are not well formed") from error


def _file_names(of_disposition: tuple[tuple[str, str], ...], of_type: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    names: list[str] = []
    for parameters, wanted in ((of_disposition, "filename"), (of_type, "name")):
        found = [_decoded(value) for name, value in parameters if name == wanted]
        if len(found) > 1:
            raise UnreadableMimeError("two file names for one part")
        names += found
    return tuple(names)


def _decoded(name: str) -> str:
    """A name that was written with encoded words, as clients write and read them against RFC 2231."""
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, ValueError, LookupError):
        return name
