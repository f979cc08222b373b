"""A respool processor in one file: what may be attached, by name, type and size.

It reads the MIME structure itself, in one pass and in bounded memory, since everything in
it is a stranger's: parts within parts and forwarded messages are looked into down to a
depth; what can be read in two ways (two Content-Type fields, two file names, a multipart
without a boundary) or is beyond the limits is `unreadable`, and has a verdict of its own.
What is inside archives and inline uuencode is not looked at: that is a scanner's work.

    [[processor]]
    use = "/etc/respool/plugins/attachment_policy.py:AttachmentPolicy"
    config = { otherwise = "hold", largest_bytes = 20_000_000 }
"""

from __future__ import annotations

import email.parser
import email.policy
import email.utils
import fnmatch
import re
import unicodedata
from collections.abc import Iterable, Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from respool import ConfigError, Context, Message, Processor, ProcessorConfig, Verdict, bounce, freeze, hold, proceed

_PROGRAMS: Final = (
    "bat", "chm", "cmd", "com", "cpl", "dll", "exe", "hta", "iso", "jar", "js", "jse", "lnk", "msi", "pif", "ps1",
    "reg", "scr", "vbe", "vbs", "wsf",
)  # fmt: skip
_FIELDS: Final = (b"content-type", b"content-disposition", b"content-transfer-encoding")
_TYPE: Final = re.compile(r"\s*[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+\s*(?:;|\Z)")
#: Bytes of a line that are kept: a boundary has at most 70 (RFC 2046 5.1.1), a header line 998 (RFC 5322 2.1.1).
_LINE: Final = 2048
#: Bytes of the three fields of one part: the parser's work may grow with their square.
_LONGEST_FIELDS: Final = 8192
_LONGEST_HEADER: Final = 256 * 1024


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    forbidden_extensions: Annotated[
        tuple[str, ...], Meta(description="Ends of file names, without the dot, in any case.")
    ] = _PROGRAMS
    forbidden_types: Annotated[
        tuple[str, ...], Meta(description='Media types; "*" and "?" match as in file names.')
    ] = ("application/x-msdownload", "application/x-ms-installer")
    largest_bytes: Annotated[
        Annotated[int, Meta(gt=0)] | None, Meta(description="Size of one part, decoded; unset: any.")
    ] = None
    otherwise: Annotated[Literal["hold", "freeze", "bounce"], Meta(description="The verdict on what is forbidden.")] = (
        "hold"
    )
    unreadable: Annotated[
        Literal["hold", "freeze", "proceed"], Meta(description="The verdict where the structure can't be told.")
    ] = "hold"
    deepest: Annotated[int, Meta(description="Levels of parts within parts.", ge=1, le=100)] = 20
    most_parts: Annotated[int, Meta(description="Parts of a message.", ge=1, le=100_000)] = 1000


class Unreadable(ValueError):
    """The structure can be read in more than one way, or goes beyond the limits."""


class Part(Struct, kw_only=True):
    """A leaf of the structure; size is what is left of it once it is decoded, in bytes."""

    media_type: str
    names: tuple[str, ...]
    is_base64: bool
    size: int = 0


class AttachmentPolicy(Processor[Config]):
    """Find forbidden attachments."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        for name in config.forbidden_extensions:
            if not name or name.startswith(".") or "/" in name:
                raise ConfigError(f'"{name}" is no end of a file name: write it without the dot', key="config")
        self._extensions = frozenset(name.lower() for name in config.forbidden_extensions)

    def process(self, message: Message, context: Context) -> Verdict:
        """Look at every part until one is forbidden."""
        try:
            for part in parts(message, deepest=self.config.deepest, most=self.config.most_parts):
                fault = self._fault(part)
                if fault:
                    context.log.info("attachment.forbidden", fault=fault)
                    return self._verdict(self.config.otherwise, fault)
        except Unreadable as error:
            return self._verdict(self.config.unreadable, f"its attachments can't be told: {error}")
        return proceed()

    def _fault(self, part: Part) -> str:
        for name in part.names:
            extension = extension_of(name)
            if extension in self._extensions:
                return f"an attachment ends in .{extension}"
        for pattern in self.config.forbidden_types:
            if fnmatch.fnmatchcase(part.media_type, pattern.lower()):
                return f"an attachment is {pattern}"
        if self.config.largest_bytes is not None and part.size > self.config.largest_bytes:
            return f"an attachment is larger than {self.config.largest_bytes} bytes"
        return ""

    @staticmethod
    def _verdict(kind: str, reason: str) -> Verdict:
        match kind:
            case "freeze":
                return freeze(reason)
            case "bounce":
                return bounce(reason)
            case "proceed":
                return proceed(reason=reason)
            case _:
                return hold(reason)


def extension_of(name: str) -> str:
    """What a file system would take for the end of a name: without trailing dots, blanks, invisible characters."""
    visible = "".join(character for character in name if unicodedata.category(character) not in {"Cf", "Cc"})
    return unicodedata.normalize("NFKC", visible).rstrip(". ").rpartition(".")[2].lower()


def parts(message: Message, *, deepest: int, most: int) -> Iterator[Part]:
    """The leaves of the MIME structure, each once it is complete. Raises Unreadable."""
    walk = _Walk(deepest, most)
    walk.begin(b"".join(field.raw for field in message.sent_headers if field.name.lower() in _FIELDS))
    for line, length in _lines(message.body.chunks()):
        yield from walk.take(line, length)
    yield from walk.end()


def _lines(chunks: Iterable[bytes]) -> Iterator[tuple[bytes, int]]:
    """The beginning of each line, and the length of the whole without its end."""
    kept, length = b"", 0
    for chunk in chunks:
        *ended, rest = chunk.split(b"\n")
        for piece in ended:
            yield (kept + piece[:_LINE])[:_LINE].removesuffix(b"\r"), length + len(piece)
            kept, length = b"", 0
        kept, length = (kept + rest[:_LINE])[:_LINE], length + len(rest)
    if length:
        yield kept, length


class _Walk:
    """Where in the structure the reading is."""

    def __init__(self, deepest: int, most: int) -> None:
        self._deepest, self._left = deepest, most
        #: Boundaries of the multiparts we are in, outermost first, each with its depth.
        self._open: list[tuple[bytes, int]] = []
        self._depth = 0
        self._part: Part | None = None
        self._header: bytearray | None = None

    def begin(self, fields: bytes) -> None:
        """A header has ended: what follows is a multipart, a message, or a leaf."""
        self._header = None
        self._left -= 1
        if self._left < 0:
            raise Unreadable("too many parts")
        media_type, boundary, names, encoding = _read_fields(fields)
        is_message = media_type in {"message/rfc822", "message/global"}
        if boundary is not None or is_message:
            self._depth += 1
            if self._depth > self._deepest:
                raise Unreadable("parts within parts, too deep")
            if encoding not in {"", "7bit", "8bit", "binary"}:
                raise Unreadable(f"a {media_type} that is encoded")  # RFC 2045 6.4
        if boundary is not None:
            self._open.append((boundary, self._depth))
        elif is_message:
            self._header = bytearray()
        else:
            self._part = Part(media_type=media_type, names=names, is_base64=encoding == "base64")

    def take(self, line: bytes, length: int) -> Iterator[Part]:
        """One more line; the part that it ends, if it does."""
        if line.startswith(b"--") and self._open:
            stripped = line.rstrip(b" \t")
            for place in range(len(self._open) - 1, -1, -1):
                boundary, depth = self._open[place]
                if stripped in {b"--" + boundary, b"--" + boundary + b"--"}:
                    yield from self.end()
                    is_last = len(stripped) != len(boundary) + 2
                    del self._open[place + (not is_last) :]
                    self._depth = depth - is_last
                    self._header = None if is_last else bytearray()
                    return
        if self._header is not None:
            self._take_header(line, length)
        elif self._part is not None:
            self._part.size += len(line.strip()) * 3 // 4 if self._part.is_base64 and length <= _LINE else length

    def _take_header(self, line: bytes, length: int) -> None:
        header = self._header
        if header is None:
            return
        if not line.strip():
            self.begin(bytes(header))
            return
        if length > _LINE or len(header) + length > _LONGEST_HEADER:
            raise Unreadable("a header without end")
        header += line + b"\n"

    def end(self) -> Iterator[Part]:
        """The part that is open ends here."""
        if self._header is not None:
            self.begin(bytes(self._header))
            self._header = None
        if self._part is not None:
            yield self._part
        self._part = None


def _read_fields(header: bytes) -> tuple[str, bytes | None, tuple[str, ...], str]:
    """Media type, boundary if it is a multipart, file names, transfer encoding. Raises Unreadable."""
    fields = _only_ours(header)
    if len(fields) > _LONGEST_FIELDS:
        raise Unreadable("Content fields without end")
    # RFC 6532 allows UTF-8; of anything else the ASCII in it, an end of a name above all, is what counts.
    parsed = email.parser.HeaderParser(policy=email.policy.compat32).parsestr(fields.decode("utf-8", "replace"))
    for name in _FIELDS:
        if len(parsed.get_all(name.decode(), [])) > 1:
            raise Unreadable(f"two {name.decode()} fields")
    written = str(parsed.get("content-type", "text/plain"))
    if _TYPE.match(written) is None:
        # Some take it for text, others for what it nearly says.
        raise Unreadable("a Content-Type that is none")
    media_type = parsed.get_content_type()
    boundary: bytes | None = None
    if media_type.startswith("multipart/"):
        text = parsed.get_boundary()
        if not text or len(text) > 200 or not text.isascii():
            raise Unreadable("a multipart without a boundary that all would read alike")
        boundary = text.encode().rstrip(b" ")
    names: list[str] = []
    for field, parameter in (("content-disposition", "filename"), ("content-type", "name")):
        values = [value for key, value in parsed.get_params([], header=field) if key.lower() == parameter]
        if len(values) > 1:
            raise Unreadable("two file names for one part")
        for value in values:
            names.append(_decoded(email.utils.collapse_rfc2231_value(value)))
    encoding = str(parsed.get("content-transfer-encoding", "")).strip().lower()
    return media_type, boundary, tuple(names), encoding


def _only_ours(header: bytes) -> bytes:
    """The three fields with their continuation lines."""
    kept: list[bytes] = []
    is_ours = False
    for line in header.split(b"\n"):
        if line[:1] not in {b" ", b"\t"}:
            is_ours = line.partition(b":")[0].strip().lower() in _FIELDS
        if is_ours and line.strip():
            kept.append(line + b"\n")
    return b"".join(kept)


def _decoded(name: str) -> str:
    """A name that was written with encoded words, as clients write and read them against RFC 2231."""
    try:
        return str(make_header(decode_header(name)))
    except (HeaderParseError, ValueError, LookupError):
        return name
