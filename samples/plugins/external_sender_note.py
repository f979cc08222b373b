"""A respool processor in one file: tells readers that a message came from outside.

It adds a header field, which mail clients and sieve scripts show or act on. A field of that
name that came in is removed, since it could be forged; so is one that a signature covers,
whose loss that signature then notices.

With `note` it also puts some lines above the message's text, plain and HTML, and the field
says what became of that: `note=added`; `signed` or `encrypted` (left alone: S/MIME, PGP, and
where a DKIM or ARC signature came with it); `no-text`; `unreadable` (an encoding or character
set in which ASCII is not itself, or a structure that can be read in two ways).

Most mail is signed by DKIM, so it gets no note unless `over_signatures` is set. That is for
a site where mail ends: the authors' signatures no longer verify after it, and whoever the
mail is forwarded to sees DKIM fail, and DMARC with it unless they trust our ARC seal. Our
own signature and seal cover the note, since signing and sealing come after this.

A message that passes twice gets no second note, unless something on its way wrote its text
anew. A sender can hide the note in HTML by styles, but not the field: let rules act on that.

    [[processor]]
    use = "/etc/respool/plugins/external_sender_note.py:ExternalSenderNote"
    config = { our_domains = ["example.org"], note = "This message comes from outside." }
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64, b2a_base64
from typing import Annotated, Final

from msgspec import Meta

from respool import (
    ConfigError,
    Context,
    InsertIntoBody,
    Message,
    MimePart,
    Processor,
    ProcessorConfig,
    RemoveHeader,
    UnreadableMimeError,
    Verdict,
    add_header,
    mime_parts,
    proceed,
)

_NOT_OF_A_DOMAIN: Final = re.compile(rb"[^A-Za-z0-9.-]")
#: A line that is the same in plain text, HTML, quoted-printable (short, no blank at its end) and format=flowed,
#: and never a delimiter of parts, a signature separator or the beginning of a message in a mailbox.
_LINE_OF_NOTE: Final = re.compile(r"(?!--|From )(?! )[ !-%'-;?-~]{1,70}(?<! )")
_MOST_LINES: Final = 5
_SIGNATURES: Final = (b"dkim-signature", b"arc-message-signature")
_ENCRYPTED: Final = frozenset(
    {"multipart/encrypted", "application/pgp-encrypted", "application/pkcs7-mime", "application/x-pkcs7-mime"}
)
#: Character sets in which a byte below 128 is that character of ASCII, whatever stands before it.
_LIKE_ASCII: Final = re.compile(r"(us-)?ascii|utf-?8|iso-8859-\d{1,2}(-[ie])?|windows-125\d|koi8-[a-z]{1,2}")
_PLAIN_ENCODINGS: Final = frozenset({"7bit", "8bit", "quoted-printable"})
#: Bytes in which the body of a page has to begin, well within MimePart.head.
_BEGINNING_OF_PAGE: Final = 8192
_BODY_TAG: Final = re.compile(rb"<body(?:[ \t\r\n][^<>]*)?>", re.IGNORECASE)
#: 76 characters of base64 (RFC 2045 6.8).
_BYTES_OF_LINE: Final = 57


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    our_domains: Annotated[tuple[str, ...], Meta(description="Domains whose own mail is not marked.", min_length=1)]
    header: Annotated[str, Meta(description="The field that is added.")] = "X-External-Sender"
    note: Annotated[
        str, Meta(description="What readers shall see above the text: a few short lines of ASCII; empty: nothing.")
    ] = ""
    over_signatures: Annotated[
        bool, Meta(description="Put the note also where it breaks DKIM and ARC signatures; never S/MIME and PGP.")
    ] = False


class ExternalSenderNote(Processor[Config]):
    """Mark mail that neither came from an authenticated client nor passed DMARC for a domain of ours."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._name = config.header.encode()
        self._ours = frozenset(domain.lower() for domain in config.our_domains)
        self._note = config.note.rstrip("\n").split("\n") if config.note else []
        if len(self._note) > _MOST_LINES or not all(map(_LINE_OF_NOTE.fullmatch, self._note)):
            raise ConfigError(
                f"at most {_MOST_LINES} lines, each 1 to 70 printable ASCII characters without = < > &, "
                'no blank at either end, and none that begins with "--" or "From "',
                key="config.note",
            )

    def process(self, message: Message, context: Context) -> Verdict:
        """Remove the field wherever it stands, and add it and the note where they belong."""
        forged = [RemoveHeader(index) for index, header in enumerate(message.headers) if header.is_named(self._name)]
        if self._is_ours(message, context):
            return proceed(*forged)
        # Whoever wrote the sender wrote the domain: only what a domain is made of gets into a header.
        domain = _NOT_OF_A_DOMAIN.sub(b"?", message.sender.rpartition(b"@")[2]).decode()
        words = f"yes; domain={domain or 'none'}"
        if not self._note:
            return proceed(*forged, add_header(self.config.header, words))
        insertions, what = self._annotate(message)
        return proceed(*forged, *insertions, add_header(self.config.header, f"{words}; note={what}"))

    def _is_ours(self, message: Message, context: Context) -> bool:
        """True for submission, and for a DMARC pass of one of our domains: the sender alone can be forged."""
        if message.envelope.host_address is None or message.envelope.host_auth is not None:
            return True
        return any(
            result.method == "dmarc" and result.result == "pass" and getattr(result, "author_domain", "") in self._ours
            for result in context.results
        )

    def _annotate(self, message: Message) -> tuple[list[InsertIntoBody], str]:
        """What puts the note into the message, and the word for it. All texts get it, or none."""
        if not self.config.over_signatures and any(
            header.name.lower() in _SIGNATURES for header in message.sent_headers
        ):
            return [], "signed"
        try:
            parts, obstacle = texts(message)
        except UnreadableMimeError:
            return [], "unreadable"
        if obstacle:
            return [], obstacle
        line_end = b"\r\n" if message.body.wireformat else b"\n"
        insertions: list[InsertIntoBody] = []
        for part in parts:
            content = decoded(part)
            if part.start is None or content is None or not all(map(is_like_ascii, part.parameter("charset"))):
                return [], "unreadable"
            if b"-----BEGIN PGP" in content:
                return [], "encrypted" if b"-----BEGIN PGP MESSAGE" in content else "signed"
            place, note = self._note_for(part, content, line_end)
            # What the field said of an earlier pass may be forged. What stands in the text may not.
            if not part.head.startswith(note, place):
                insertions.append(InsertIntoBody(part.start + place, note))
        return insertions, "added"

    def _note_for(self, part: MimePart, content: bytes, line_end: bytes) -> tuple[int, bytes]:
        """Where in a part the note goes, and the note as it has to stand there."""
        lines = [line.encode() for line in self._note] + [b""]
        if part.media_type == "text/html":
            lines = [b"<p><b>", *(line + b"<br>" for line in lines[:-1]), b"</b></p>"]
        if part.encoding == "base64":
            # At the start, where a group of base64 begins. Text in it has CRLF (RFC 2045 6.8), or what it came with.
            of_text = b"\r\n" if b"\r\n" in content or b"\n" not in content else b"\n"
            return 0, in_base64(lines, of_text, line_end)
        note = b"".join(line + line_end for line in lines)
        place = after_body_tag(part.head) if part.media_type == "text/html" else 0
        if not place:
            return 0, note
        # In the midst of a line, which the note would make too long.
        return place, (b"=" if part.encoding == "quoted-printable" else b"") + line_end + note


def texts(message: Message) -> tuple[list[MimePart], str]:
    """The text that is shown first, in each form that it has; or the reason to leave the message alone.

    Forwarded messages are not entered: they are somebody else's. Raises UnreadableMimeError.
    """
    found: list[MimePart] = []
    for part in mime_parts(message):
        if any(around.is_message for around in part.inside):
            continue
        kinds = {part.media_type, *(around.media_type for around in part.inside)}
        if "multipart/signed" in kinds or "signed-data" in part.parameter("smime-type"):
            return [], "signed"
        if not kinds.isdisjoint(_ENCRYPTED):
            return [], "encrypted"
        if is_text(part) and all(is_another_form(part, other) for other in found):
            found.append(part)
    return found, "" if found else "no-text"


def is_text(part: MimePart) -> bool:
    """Shown as text, and no attachment."""
    is_attached = part.disposition not in {"", "inline"} or part.file_names
    return part.media_type in {"text/plain", "text/html"} and not is_attached


def is_another_form(part: MimePart, other: MimePart) -> bool:
    """Whether a reader sees one or the other: what holds both, innermost, is a multipart/alternative."""
    shared = [around for around, beside in zip(part.inside, other.inside, strict=False) if around is beside]
    is_alternative = bool(shared) and shared[-1].media_type == "multipart/alternative"
    return is_alternative and part.media_type != other.media_type


def decoded(part: MimePart) -> bytes | None:
    """The beginning of a text, None if it is written in a way that the note can't be."""
    if part.encoding in _PLAIN_ENCODINGS:
        return part.head
    if part.encoding != "base64":
        return None
    letters = part.head.translate(None, b" \t\r\n")
    try:
        return a2b_base64(letters[: len(letters) // 4 * 4])
    except Error:
        return None


def in_base64(lines: list[bytes], of_text: bytes, line_end: bytes) -> bytes:
    """Lines in base64 that ends with a whole group of bytes, so that any other base64 may follow."""
    text = b"".join(line + of_text for line in lines)
    while len(text) % 3:
        text += of_text
    pieces = [text[start : start + _BYTES_OF_LINE] for start in range(0, len(text), _BYTES_OF_LINE)]
    return b"".join(b2a_base64(piece, newline=False) + line_end for piece in pieces)


def after_body_tag(html: bytes) -> int:
    """Where the body of a page begins, 0 if that isn't plain to see."""
    found = _BODY_TAG.search(html, 0, _BEGINNING_OF_PAGE)
    if found is None:
        return 0
    is_in_comment = html.rfind(b"<!--", 0, found.start()) > html.rfind(b"-->", 0, found.start())
    return 0 if is_in_comment else found.end()


def is_like_ascii(charset: str) -> bool:
    """Whether the note is the same bytes in this character set."""
    return _LIKE_ASCII.fullmatch(charset.strip().lower()) is not None
