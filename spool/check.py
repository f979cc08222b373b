"""Is this pair of files as Exim would have written it? Stricter than Exim's own reader.

Exim reads files that it then loses mail by: a tree in the wrong order, a wrong
body_linecount, a recipient list that is already delivered. What respool writes passes
this; what it takes in need only be readable (header_file.py).

Diagnostics: raises nothing but OSError from the body; everything that is wrong is a
Finding. A finding of severity ``note`` is worth a look and no fault of the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, Literal

from msgspec import Struct

from ..errors import SpoolFormatError
from .body import Body, count_body
from .directive import Directive
from .envelope import Envelope, Header, Recipient, flag_for
from .header_file import KNOWN_DIRECTIVES, parse_header_file
from .ids import MessageId
from .non_recipients import unbalanced

#: Lookup types of Debian's exim4-daemon-heavy that may quote a value.
USUAL_QUOTERS: Final = frozenset(
    (b"cdb", b"dbm", b"dbmnz", b"dnsdb", b"dsearch", b"iplsearch", b"ldap", b"lmdb", b"lsearch", b"mysql", b"nis",
     b"nisplus", b"nwildlsearch", b"passwd", b"pgsql", b"redis", b"sqlite", b"testdb", b"wildlsearch")
)  # fmt: skip
MOST_RECEIVED: Final = 30  #: received_headers_max, by default
_DEEPEST_TREE: Final = 40
_LARGEST_VARIABLE: Final = 1024 * 1024
_FLAGS: Final = frozenset(" FTCBIPRS*")
_ALL_DSN_FLAGS: Final = 0x1F
_VARIABLE_NAME: Final = re.compile(r"acl_[cm](?:[0-9]|_)[A-Za-z0-9_]*")
_HEADER_START: Final = re.compile(rb"[!-9;-~\x80-\xff]+[ \t]*:")
_BROKEN_FOLD: Final = re.compile(rb"\n(?=[^ \t])")
_FORCED: Final = {
    b"N": "-N: every delivery will only be said to have worked",
    b"debug_selector": "-debug_selector: Exim writes a debug log",
    b"debuglog_name": "-debuglog_name: Exim opens this path",
    b"frozen": "-frozen: queue runners leave the message alone",
}

Severity = Literal["error", "note"]


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that is not as it should be.

    file is a file name, line counts from 1 (0: the file as a whole), rule a short name
    that stays the same, expected and found are for people.
    """

    file: str
    line: int
    rule: str
    expected: str
    found: str
    severity: Severity = "error"

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: expected {self.expected}, found {self.found} [{self.rule}]"


def check_pair(
    *,
    header_name: str,
    header_data: bytes,
    data_name: str,
    first_line: bytes,
    body: Body,
    now: int,
    quoters: frozenset[bytes] = USUAL_QUOTERS,
) -> list[Finding]:
    """Everything wrong with ``-H`` (its whole content) and ``-D`` (its first line as stored, and the body behind it).

    now is Unix seconds; the names are the files' own, without directory.
    """
    try:
        envelope = parse_header_file(header_data, file=header_name)
    except SpoolFormatError as error:
        return [
            Finding(file=header_name, line=error.line, rule="format", expected=error.expected, found=error.found)
        ]  # fmt: skip
    findings = check_envelope(envelope, file=header_name, now=now, quoters=quoters)
    findings += _check_names(envelope.id, header_name, data_name, first_line)
    if not body.wireformat or not envelope.is_wireformat:
        findings += _check_local_body(envelope, header_name, data_name, body)
    return findings


def check_envelope(
    envelope: Envelope, *, file: str, now: int, quoters: frozenset[bytes] = USUAL_QUOTERS
) -> list[Finding]:
    """Everything wrong with an envelope, as far as it can be said without the body."""
    return list(_check_envelope(_Place(envelope, file), now, quoters))


class _Place:
    """An envelope and where in its file everything stands."""

    def __init__(self, envelope: Envelope, file: str) -> None:
        self.envelope = envelope
        self.file = file
        line = 5
        self.directive_lines: list[int] = []
        for directive in envelope.directives:
            self.directive_lines.append(line)
            line += directive.raw.count(b"\n")
        self.tree_line = line
        self.count_line = line + max(1, len(envelope.tree))
        line = self.count_line + len(envelope.recipients) + 2
        self.header_lines: list[int] = []
        for header in envelope.headers:
            self.header_lines.append(line)
            line += header.raw.count(b"\n") + header.lead.count(b"\n")

    def error(self, line: int, rule: str, expected: str, found: str) -> Finding:
        return Finding(file=self.file, line=line, rule=rule, expected=expected, found=found)

    def note(self, line: int, rule: str, expected: str, found: str) -> Finding:
        return Finding(file=self.file, line=line, rule=rule, expected=expected, found=found, severity="note")


def _check_envelope(place: _Place, now: int, quoters: frozenset[bytes]) -> Iterator[Finding]:
    yield from _check_fixed_lines(place, now)
    for line, directive in zip(place.directive_lines, place.envelope.directives, strict=True):
        yield from _check_directive(place, line, directive, quoters)
    yield from _check_body_directives(place)
    yield from _check_tree(place)
    yield from _check_recipients(place)
    yield from _check_headers(place)


def _check_fixed_lines(place: _Place, now: int) -> Iterator[Finding]:
    envelope = place.envelope
    for line, text in ((2, envelope.login), (3, envelope.sender)):
        if b"\r" in text:
            yield place.error(line, "carriage-return", "no CR", _shown(text))
    if envelope.identity_line:
        yield place.error(2, "identity-line", "login, uid and gid alone", _shown(envelope.identity_line))
    if envelope.time_line:
        yield place.error(4, "time-line", "time and warning count alone", _shown(envelope.time_line))
    if envelope.received_time > now:
        yield place.error(4, "received-time", f"a time not after {now}", str(envelope.received_time))
    if envelope.warning_count < 0:
        yield place.error(4, "warning-count", "no negative number", str(envelope.warning_count))


def _check_directive(
    place: _Place, line: int, directive: Directive, quoters: frozenset[bytes]
) -> Iterator[Finding]:  # fmt: skip
    name = directive.name.decode("latin-1")
    if directive.quoter is not None and directive.quoter not in quoters:
        yield place.error(line, "quoter", "a lookup type that the Exim here knows", _shown(directive.quoter))
    if directive.variable is not None:
        if directive.name == b"acl":
            yield place.error(line, "old-variable", "-aclc or -aclm", f"-{name}")
        elif _VARIABLE_NAME.fullmatch(directive.variable) is None:
            yield place.error(line, "variable-name", "letters, digits and _", ascii(directive.variable))
        if not directive.raw.endswith(b"\n"):
            yield place.error(line, "variable-end", "LF after the value", _shown(directive.raw[-1:]))
        if len(directive.value or b"") > _LARGEST_VARIABLE:
            size = f"{len(directive.value or b'')} bytes"
            yield place.error(line, "variable-size", f"at most {_LARGEST_VARIABLE} bytes", size)
        return
    if directive.name in _FORCED:
        yield place.note(line, "forced", "no such line in ordinary mail", _FORCED[directive.name])
    elif directive.name not in KNOWN_DIRECTIVES:
        # Exim ignores it, and loses it when it writes the file again.
        yield place.note(line, "unknown-directive", "a directive known to respool", _shown(directive.raw))
    microseconds = {
        b"received_time_usec": place.envelope.received_usec,
        b"received_time_complete": (place.envelope.received_complete or (0, 0))[1],
    }
    if microseconds.get(directive.name, 0) >= 1_000_000:
        yield place.error(line, "microseconds", "less than 1000000", _shown(directive.raw))


def _check_body_directives(place: _Place) -> Iterator[Finding]:
    values = place.envelope.values
    given = [name for name in (b"spool_file_wireformat", b"body_linecount") if name in values]
    if len(given) != 1:
        found = "both" if given else "neither"
        yield place.error(0, "body-format", "one of -spool_file_wireformat and -body_linecount", found)


def _check_tree(place: _Place) -> Iterator[Finding]:
    """Strict order by bounds that go down the tree, without recursion; and the balance that Exim gives it."""
    bounds: list[tuple[bytes, bytes | None, int]] = [(b"", None, 1)]
    for line, node in enumerate(place.envelope.tree, place.tree_line):
        low, high, depth = bounds.pop()
        if b"\r" in node.name:
            yield place.error(line, "carriage-return", "no CR", _shown(node.name))
        if node.raw:
            yield place.error(line, "tree-flags", "two of Y and N, and a space", _shown(node.raw))
        if not low < node.name or (high is not None and not node.name < high):
            # Exim would not find the name, and deliver again.
            yield place.error(line, "tree-order", "names in strcmp order, each once", _shown(node.name))
        if depth == _DEEPEST_TREE + 1:
            yield place.error(line, "tree-depth", f"at most {_DEEPEST_TREE} levels", f"{depth}")
        if node.has_right:
            bounds.append((node.name, high, depth + 1))
        if node.has_left:
            bounds.append((low, node.name, depth + 1))
    lopsided = unbalanced(place.envelope.tree)
    if lopsided is not None:
        name = place.envelope.tree[lopsided].name
        yield place.error(place.tree_line + lopsided, "tree-balance", "subtrees of like depth", _shown(name))


def _check_recipients(place: _Place) -> Iterator[Finding]:
    envelope = place.envelope
    if envelope.count_line:
        yield place.error(place.count_line, "count-line", "the number alone", _shown(envelope.count_line))
    if not envelope.recipients:
        yield place.error(place.count_line, "no-recipients", "at least one recipient", "0")
    elif all(envelope.is_delivered(recipient) for recipient in envelope.recipients):
        yield place.error(
            place.count_line, "all-delivered", "a recipient that is not in the tree", "none: Exim would delete it"
        )
    for line, recipient in enumerate(envelope.recipients, place.count_line + 1):
        yield from _check_recipient(place, line, recipient)


def _check_recipient(place: _Place, line: int, recipient: Recipient) -> Iterator[Finding]:
    full = b"%b %b %d,%d %b %d,%d#3\n" % (
        recipient.address, recipient.orcpt, len(recipient.orcpt), recipient.dsn_flags,
        recipient.errors_to, len(recipient.errors_to), recipient.parent,
    )  # fmt: skip
    if recipient.raw not in {recipient.address + b"\n", full}:
        yield place.error(line, "recipient-form", "a plain address or the #3 form", _shown(recipient.raw))
    if b"\r" in recipient.raw:
        yield place.error(line, "carriage-return", "no CR", _shown(recipient.raw))
    if not -1 <= recipient.parent < len(place.envelope.recipients):
        yield place.error(line, "recipient-parent", "an index in this list, or -1", str(recipient.parent))
    if not 0 <= recipient.dsn_flags <= _ALL_DSN_FLAGS:
        yield place.error(line, "dsn-flags", "flags within 0x1f", hex(recipient.dsn_flags))
    if b"@" not in recipient.address[1:-1]:
        yield place.error(line, "recipient-domain", "an address with a domain", _shown(recipient.address))


def _check_headers(place: _Place) -> Iterator[Finding]:
    headers = place.envelope.headers
    has_resent = any(header.is_sent and header.name.lower().startswith(b"resent-") for header in headers)
    received = 0
    for line, header in zip(place.header_lines, headers, strict=True):
        received += header.flag == "P"
        yield from _check_header(place, line, header, has_resent=has_resent)
    if received > MOST_RECEIVED:
        yield place.error(0, "received-count", f"at most {MOST_RECEIVED} Received fields", str(received))
    if not received:
        yield place.note(0, "no-received", "a Received field", "none")


def _check_header(place: _Place, line: int, header: Header, *, has_resent: bool) -> Iterator[Finding]:
    if header.lead:
        yield place.error(line, "record-start", "length with 3 digits, type, one space", _shown(header.lead))
    if header.flag not in _FLAGS:
        yield place.error(line, "header-type", "one of ' FTCBIPRS*'", ascii(header.flag))
    raw = header.raw
    if not raw.endswith(b"\n"):
        yield place.error(line, "header-end", "LF at the end of the field", _shown(raw[-20:]))
    if b"\r" in raw:
        yield place.note(line, "carriage-return", "no CR in a header field", _shown(raw[raw.index(b"\r") :]))
    if _HEADER_START.match(raw) is None:
        yield place.error(line, "header-name", "a name and a colon", _shown(raw))
    elif _BROKEN_FOLD.search(raw):
        yield place.error(line, "header-fold", "space or tab after LF", _shown(raw))
    elif header.is_sent and header.flag not in _possible_flags(header.name, has_resent=has_resent):
        yield place.note(line, "header-type", f"type {flag_for(header.name)!r}", f"{header.flag!r} {_shown(raw)}")


def _possible_flags(name: bytes, *, has_resent: bool) -> Iterable[str]:
    """With Resent- fields it is these that carry the letters (receive.c)."""
    if not has_resent:
        return (flag_for(name),)
    return (flag_for(name.lower().removeprefix(b"resent-")), " ")


def _check_names(
    message_id: MessageId, header_name: str, data_name: str, first_line: bytes
) -> Iterator[Finding]:  # fmt: skip
    if header_name != message_id.header_name:
        yield Finding(
            file=header_name, line=1, rule="header-file-name", expected=header_name, found=message_id.header_name
        )
    if data_name != message_id.data_name:
        yield Finding(file=data_name, line=0, rule="data-file-name", expected=message_id.data_name, found=data_name)
    if first_line != message_id.data_name.encode() + b"\n":
        # Exim takes the body to start behind 19 or 26 bytes, whatever they say.
        yield Finding(
            file=data_name, line=1, rule="data-first-line", expected=f"{message_id.data_name} and LF",
            found=_shown(first_line),
        )  # fmt: skip


def _check_local_body(envelope: Envelope, header_name: str, data_name: str, body: Body) -> Iterator[Finding]:
    counts = count_body(body)
    expected = envelope.body_linecount
    if expected is not None and expected != counts.lines:
        # Exim announces a size that it works out with this number (transport.c).
        yield Finding(
            file=header_name, line=0, rule="body-linecount", expected=f"-body_linecount {counts.lines}",
            found=str(expected),
        )  # fmt: skip
    if envelope.body_zerocount != counts.zeros:
        yield Finding(
            file=header_name, line=0, rule="body-zerocount", expected=f"-body_zerocount {counts.zeros}",
            found=str(envelope.body_zerocount), severity="note",
        )  # fmt: skip
    if not counts.ends_with_line_end:
        yield Finding(
            file=data_name, line=counts.lines + 2, rule="body-end", expected="LF at the end of the body",
            found="the end of the file",
        )  # fmt: skip


def _shown(text: bytes) -> str:
    shown = ascii(text[:60].decode("latin-1"))
    return shown if len(text) <= 60 else f"{shown}..."
