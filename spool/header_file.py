"""The ``-H`` file: read as Exim reads it (spool_in.c), written as Exim writes it (spool_out.c).

``render_header_file(parse_header_file(data)) == data`` for every data that is accepted.
An envelope as most messages have it is verified by one regular expression and made into
values when these are asked for; any other is read at once, step by step, following Exim's
scanf calls, and keeps its raw bytes. Nothing here recurses, and every count is checked against
the bytes that are there before anything is made of it.

Diagnostics: parse_header_file() returns a value or raises SpoolFormatError, nothing
else: the caller sets the file aside. render_header_file() raises nothing for an
Envelope that was parsed or made through the ``make`` constructors and editing.py.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from .directive import LONGEST_LINE, Directive
from .envelope import Envelope, Header, Recipient, TreeNode
from .expressions import each_number
from .header_records import read_headers, verify_headers
from .ids import MessageId
from .recipient_line import parse_recipient
from .spool_text import SpoolText

#: Longest of lines 1-4, of the count line and of a tree line, with LF (BIG_BUFFER_SIZE - 1). Exim takes a longer first
#: line of the tree, which it could not read in any other place of a tree that has grown.
LONGEST_FIXED_LINE: Final = 16383
#: Exim's reader refuses more (spool_in.c), although recipients_max may allow more.
MOST_RECIPIENTS: Final = 16384
#: Our own bound; Exim has none. header_maxsize is 1 MB by default.
LARGEST_HEADER_FILE: Final = 64 * 1024 * 1024
_MOST_OLD_VARIABLE_BYTES: Final = 16384

_NUMBER: Final = rb"(-?[1-9][0-9]{0,17}|0)"
_ID: Final = rb"([0-9A-Za-z]{6}-(?:[0-9A-Za-z]{11}-[0-9A-Za-z]{4}|[0-9A-Za-z]{6}-[0-9A-Za-z]{2}))"
_COUNTED_VALUE: Final = b"(?:%b|%b)" % tuple(
    each_number(digits, lambda length: rb"\n(?s:.{%d})\n" % length) for digits in (1, 2)
)
#: Everything before the headers as Exim writes it for most messages: no tree, plain recipients (to be counted), no
#: quoters, not frozen, ACL variables of up to 99 bytes.
_COMMON_ENVELOPE: Final = re.compile(
    rb"%b-H\n(.*) %b %b\n<(.*)>\n%b %b\n" % (_ID, _NUMBER, _NUMBER, _NUMBER, _NUMBER)
    # Most names begin with a letter that settles it; these are tried first.
    + rb"((?>(?:--?+(?:[^-(af\n].*+\n|acl[cm] [^ \n]*+ %b|(?!acl[cm]? |frozen)[af].*+\n))*))" % _COUNTED_VALUE
    + rb"XX\n(0|[1-9][0-9]{0,4})\n((?>(?:.*[^\n0-9, #]\n)*))\n"
)
_FIRST_LINE: Final = re.compile(_ID + rb"-H\n")
_UID_OR_GID: Final = re.compile(rb"-?[0-9]{1,18}")
_TIME_LINE: Final = re.compile(rb"\s*([+-]?[0-9]{1,18}+)(?![0-9])\s*([+-]?[0-9]{1,18}+)(?![0-9])")
_COUNT_LINE: Final = re.compile(rb"\s*(\+?[0-9]{1,9}+)(?![0-9])")
_FROZEN_TIME: Final = re.compile(rb"\s*[+-]?[0-9]")
_VARIABLE_LENGTH: Final = re.compile(rb" \s*\+?([0-9]{1,9}+)(?![0-9])")
_OLD_VARIABLE: Final = re.compile(rb"acl \s*\+?([0-9]{1,9}+)(?![0-9])\s*\+?([0-9]{1,9}+)(?![0-9])")
_SPLIT_AHEAD: Final = 1024

#: The single-line directives that respool gives a meaning to: those of spool_out.c at any time since 4.80.
KNOWN_DIRECTIVES: Final = frozenset((
    b"received_time_usec", b"received_time_complete", b"helo_name", b"host_address", b"host_name", b"host_auth",
    b"host_auth_pubname", b"interface_address", b"active_hostname", b"ident", b"received_protocol",
    b"debug_selector", b"debuglog_name", b"spool_file_wireformat", b"body_linecount", b"max_received_linelength",
    b"body_zerocount", b"auth_id", b"auth_sender", b"allow_unqualified_recipient", b"allow_unqualified_sender",
    b"deliver_firsttime", b"frozen", b"N", b"host_lookup_deferred", b"host_lookup_failed", b"local", b"localerror",
    b"local_scan", b"spam_bar", b"spam_score", b"spam_score_int", b"manual_thaw", b"sender_set_untrusted",
    b"tls_certificate_verified", b"tls_cipher", b"tls_peercert", b"tls_ourcert", b"tls_peerdn", b"tls_sni",
    b"tls_ocsp", b"tls_resumption", b"tls_ver", b"tls_requiretls", b"bmi_verdicts", b"smtputf8", b"utf8_downcvt",
    b"utf8_optdowncvt", b"dsn_envid", b"dsn_ret",
))  # fmt: skip
#: What stands before the first space or LF of a directive: (name, is tainted, what the names of its ACL variables
#: begin with). -frozen is not among them, since its value has to be a number.
_KNOWN: Final[dict[bytes, tuple[bytes, bool, str]]] = {
    mark + name: (name, mark == b"--", {b"aclc": "acl_c", b"aclm": "acl_m"}.get(name, ""))
    for mark in (b"-", b"--")
    for name in (KNOWN_DIRECTIVES | {b"aclc", b"aclm"}) - {b"frozen"}
}


def parse_header_file(data: bytes, *, file: str) -> Envelope:
    """The envelope and headers in data, the whole content of a ``-H`` file.

    file is the name that an error carries; whether it agrees with the first line is for
    the caller to check (envelope.id). Accepts what Exim's spool_read_header accepts,
    with exceptions where Exim would misread or die rather than refuse (an id of another
    shape, NUL anywhere, a negative count, recipient lengths that do not fit), and where
    the file could not be written again (a name in the tree of more than 16379 bytes, an
    old form of recipient of more than 65000). Raises SpoolFormatError.
    """
    text = SpoolText(data, file)
    if len(data) > LARGEST_HEADER_FILE:
        raise text.wrong(LARGEST_HEADER_FILE, f"at most {LARGEST_HEADER_FILE} bytes")
    if b"\0" in data:
        raise text.wrong(data.index(b"\0"), "no NUL")
    common = _COMMON_ENVELOPE.match(data)
    # No line is longer than all of them.
    if common is None or common.end() > LONGEST_FIXED_LINE or common[10].count(b"\n") != int(common[9]):
        return _read_envelope(text)
    position = common.end()
    return Envelope.unread(_CommonSections(text, position, verify_headers(text, position), common))


class _HeaderSection(Struct, frozen=True, gc=False):
    """The header records of a file, verified: see Envelope.unread()."""

    text: SpoolText
    headers_start: int
    uncommon_headers: list[int]

    def headers(self) -> tuple[Header, ...]:
        return read_headers(self.text, self.headers_start, self.uncommon_headers)


class _CommonSections(_HeaderSection, frozen=True, gc=False):
    """All sections of a file whose envelope is a common one."""

    common: re.Match[bytes]

    def id(self) -> MessageId:
        return str.__new__(MessageId, self.common[1], "ascii")  # the expression has checked its shape

    def login(self) -> bytes:
        return self.common[2]

    def uid(self) -> int:
        return int(self.common[3])

    def gid(self) -> int:
        return int(self.common[4])

    def sender(self) -> bytes:
        return self.common[5]

    def received_time(self) -> int:
        return int(self.common[6])

    def warning_count(self) -> int:
        return int(self.common[7])

    def directives(self) -> tuple[Directive, ...]:
        return _read_directives(self.text, self.common.start(8))[0]

    def recipients(self) -> tuple[Recipient, ...]:
        return tuple([Recipient(address=line, raw=line + b"\n") for line in self.common[10].split(b"\n")[:-1]])


def _read_envelope(text: SpoolText) -> Envelope:
    """An envelope of any shape, read at once, step by step as Exim reads it."""
    fixed, position = _read_fixed_lines(text)
    directives, position = _read_directives(text, position)
    tree, position = _read_tree(text, position)
    recipients, count_line, position = _read_recipients(text, position)
    if text.data[position : position + 1] != b"\n":
        raise text.wrong(position, "an empty line before the headers")
    position += 1
    identifier, login, uid, gid, sender, received_time, warning_count, identity_line, time_line = fixed
    return Envelope.unread(
        _HeaderSection(text, position, verify_headers(text, position)),
        id=identifier, login=login, uid=uid, gid=gid, sender=sender, received_time=received_time,
        warning_count=warning_count, directives=directives, tree=tree, recipients=recipients,
        identity_line=identity_line, time_line=time_line, count_line=count_line,
    )  # fmt: skip


_Fixed = tuple[MessageId, bytes, int, int, bytes, int, int, bytes, bytes]


def _read_fixed_lines(text: SpoolText) -> tuple[_Fixed, int]:
    """Lines 1-4 where any of them is not as Exim writes it."""
    first = text.line(0, LONGEST_FIXED_LINE, "a message id and -H")
    if _FIRST_LINE.fullmatch(first) is None:
        raise text.wrong(0, "a message id and -H")
    position = len(first)

    identity = text.line(position, LONGEST_FIXED_LINE, "login, uid and gid")
    owner = _identity_values(identity)
    if owner is None:
        raise text.wrong(position, "login, uid and gid")
    position += len(identity)

    sender = text.line(position, LONGEST_FIXED_LINE, "the sender in angle brackets")
    if len(sender) < 3 or sender[:1] != b"<" or sender[-2:] != b">\n":
        raise text.wrong(position, "the sender in angle brackets")
    position += len(sender)

    time_line = text.line(position, LONGEST_FIXED_LINE, "received time and warning count")
    times = _time_values(time_line)
    if times is None:
        raise text.wrong(position, "received time and warning count")
    fixed = (
        MessageId(first[:-3].decode()), *owner, sender[1:-2], *times,
        b"" if identity == b"%b %d %d\n" % owner else identity,
        b"" if time_line == b"%d %d\n" % times else time_line,
    )  # fmt: skip
    return fixed, position + len(time_line)


def _identity_values(line: bytes) -> tuple[bytes, int, int] | None:
    """(login, uid, gid) of line 2, taken from its right end."""
    parts = line.rstrip(b" \t\n\v\f\r").rsplit(b" ", 2)
    if len(parts) != 3 or _UID_OR_GID.fullmatch(parts[1]) is None or _UID_OR_GID.fullmatch(parts[2]) is None:
        return None
    return parts[0], int(parts[1]), int(parts[2])


def _time_values(line: bytes) -> tuple[int, int] | None:
    """(received time, warning count) of line 4; what follows them is not looked at."""
    numbers = _TIME_LINE.match(line)
    return (int(numbers[1]), int(numbers[2])) if numbers is not None else None


def _count_value(line: bytes) -> int | None:
    """The number of recipients in the count line; what follows it is not looked at."""
    number = _COUNT_LINE.match(line)
    return int(number[1]) if number is not None else None


def _read_directives(text: SpoolText, position: int) -> tuple[tuple[Directive, ...], int]:
    """The lines that start with a hyphen, ACL variables with their values among them."""
    data, known = text.data, _KNOWN
    directives: list[Directive] = []
    while data.startswith(b"-", position):
        # Nearly all are short lines that Exim's writer knows: split ahead, look up what stands before the space.
        lines = iter(data[position : position + _SPLIT_AHEAD].split(b"\n")[:-1])
        for line in lines:
            head, space, value = line.partition(b" ")
            meaning = known.get(head)
            if meaning is None:
                break
            name, tainted, variables = meaning
            raw = line + b"\n"
            if variables:
                rest, _, length = value.partition(b" ")
                value = next(lines, b"\n")
                if length != b"%d" % len(value) or value == b"\n":
                    break
                raw += value + b"\n"
                directives.append(Directive(raw, name, value, tainted, None, variables + rest.decode("latin-1")))
            else:
                directives.append(Directive(raw, name, value if space else None, tainted))
            position += len(raw)
        # What stopped the loop, if it is a directive at all: an odd, a long or a multi-line one.
        if data.startswith(b"-", position):
            directive, position = _read_other_directive(text, position)
            directives.append(directive)
    return tuple(directives), position


def _read_other_directive(text: SpoolText, position: int) -> tuple[Directive, int]:
    """Any one directive: with a quoter, an ACL variable, -frozen, a long line, one that Exim ignores."""
    line = text.line(position, LONGEST_LINE, "a directive")
    tainted = line.startswith(b"--")
    name_at = 2 if tainted else 1
    quoter = None
    if line.startswith(b"(", name_at):
        close = line.find(b")", name_at)
        if close < 0:
            # Exim's reader runs past its buffer here.
            raise text.wrong(position + name_at, "a lookup type in parentheses")
        quoter, tainted, name_at = line[name_at + 1 : close], True, close + 1
    body = line[name_at:-1]
    if body.startswith((b"aclc ", b"aclm ")):
        rest_end = body.find(b" ", 5)
        length = _VARIABLE_LENGTH.match(body, rest_end) if rest_end >= 0 else None
        if length is None:
            raise text.wrong(position + name_at, "an ACL variable with the length of its value")
        variable = f"acl_{chr(body[3])}{body[5:rest_end].decode('latin-1')}"
        return _read_variable(text, position, line, int(length[1]), (body[:4], tainted, quoter, variable))
    if body.startswith(b"acl "):
        old = _OLD_VARIABLE.match(body)
        if old is None or int(old[1]) >= 20 or int(old[2]) > _MOST_OLD_VARIABLE_BYTES:
            raise text.wrong(position + name_at, f"an index below 20 and at most {_MOST_OLD_VARIABLE_BYTES} bytes")
        index = int(old[1])
        variable = f"acl_c{index}" if index < 10 else f"acl_m{index - 10}"
        return _read_variable(text, position, line, int(old[2]), (b"acl", tainted, quoter, variable))
    if body.startswith(b"frozen") and _FROZEN_TIME.match(body, 6) is None:
        raise text.wrong(position + name_at + 6, "the time of freezing")
    name, space, value = body.partition(b" ")
    return Directive(line, name, value if space else None, tainted, quoter), position + len(line)


def _read_variable(
    text: SpoolText, position: int, line: bytes, length: int, named: tuple[bytes, bool, bytes | None, str]
) -> tuple[Directive, int]:
    """The counted value after line, and the one byte after it, which Exim skips unseen."""
    start = position + len(line)
    end = start + length
    if end >= len(text.data):
        raise text.wrong(position, f"an ACL variable with {length} bytes and LF after this line")
    name, tainted, quoter, variable = named
    raw = text.data[position : end + 1]
    return Directive(raw, name, text.data[start:end], tainted, quoter, variable), end + 1


def _read_tree(text: SpoolText, position: int) -> tuple[tuple[TreeNode, ...], int]:
    """The non-recipients tree in pre-order: ``XX``, or as many lines as the flags announce."""
    if text.data.startswith(b"XX\n", position):
        return (), position + 3
    nodes: list[TreeNode] = []
    announced = 1
    while announced:
        line = text.line(position, LONGEST_FIXED_LINE, "a line of the non-recipients tree")
        if len(line) < 5:
            raise text.wrong(position, "XX or a line of the non-recipients tree")
        has_left, has_right = line[0] == 0x59, line[1] == 0x59
        node = TreeNode(has_left=has_left, has_right=has_right, name=line[3:-1])
        if line[:3] != _TREE_FLAGS[has_left, has_right]:
            node = TreeNode(has_left=has_left, has_right=has_right, name=line[3:-1], raw=line)
        nodes.append(node)
        position += len(line)
        announced += has_left + has_right - 1
    return tuple(nodes), position


_TREE_FLAGS: Final = {(False, False): b"NN ", (True, False): b"YN ", (False, True): b"NY ", (True, True): b"YY "}


def _read_recipients(text: SpoolText, position: int) -> tuple[tuple[Recipient, ...], bytes, int]:
    """The count line and that many recipients: (recipients, odd count line, where they end)."""
    count_line = text.line(position, LONGEST_FIXED_LINE, "the number of recipients")
    count = _count_value(count_line)
    if count is None or count > MOST_RECIPIENTS:
        raise text.wrong(position, f"a number of recipients, at most {MOST_RECIPIENTS}")
    position += len(count_line)
    recipients: list[Recipient] = []
    for _ in range(count):
        raw = text.line(position, LONGEST_LINE, "a recipient")
        recipients.append(parse_recipient(text, position, raw))
        position += len(raw)
    return tuple(recipients), b"" if count_line == b"%d\n" % count else count_line, position


def render_header_file(envelope: Envelope) -> bytes:
    """The content of ``-H`` for envelope: raw bytes where it has them, else as Exim would write them."""
    owner = (envelope.login, envelope.uid, envelope.gid)
    times = (envelope.received_time, envelope.warning_count)
    identity_line, time_line, count_line = envelope.identity_line, envelope.time_line, envelope.count_line
    if not identity_line or _identity_values(identity_line) != owner:
        identity_line = b"%b %d %d\n" % owner
    if not time_line or _time_values(time_line) != times:
        time_line = b"%d %d\n" % times
    if not count_line or _count_value(count_line) != len(envelope.recipients):
        count_line = b"%d\n" % len(envelope.recipients)
    pieces = [envelope.id.encode(), b"-H\n", identity_line, b"<", envelope.sender, b">\n", time_line]
    pieces += [directive.raw for directive in envelope.directives]
    if envelope.tree:
        pieces += [node.raw or _TREE_FLAGS[node.has_left, node.has_right] + node.name + b"\n" for node in envelope.tree]
    else:
        pieces.append(b"XX\n")
    pieces.append(count_line)
    pieces += [recipient.raw for recipient in envelope.recipients]
    pieces.append(b"\n")
    for header in envelope.headers:
        pieces.append(header.lead or b"%03d%c " % (len(header.raw), ord(header.flag)))
        pieces.append(header.raw)
    return b"".join(pieces)
