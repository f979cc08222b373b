"""What a ``-H`` file says, as immutable values.

Everything from the wire is bytes. Each element keeps the exact bytes it was read from
(``raw``), so that what nobody edits is written back unchanged; elements made here
compute their canonical bytes, as Exim itself would write them (spool_out.c).

Diagnostics: the ``make`` constructors raise ValueError for a value that can't be
written (LF or NUL in a single-line value, a bad name); reading is header_file.py's.
"""

from __future__ import annotations

import re
from functools import cached_property, lru_cache
from typing import Final, TypedDict, Unpack

from msgspec import Struct

from .directive import LONGEST_LINE, Directive
from .directive_values import DirectiveValues
from .ids import MessageId
from .unread import Unread

__all__ = [
    "DSN_DELAY",
    "DSN_FAILURE",
    "DSN_NEVER",
    "DSN_SUCCESS",
    "Directive",
    "Envelope",
    "Header",
    "Recipient",
    "TreeNode",
    "flag_for",
    "unique_form",
]

_NUL, _CR = b"\0\r"
_HEADER_NAME: Final = re.compile(rb"[!-9;-~]+")
#: An LF that begins no continuation line, or one of white space alone.
_NO_FOLD: Final = re.compile(rb"\n(?![ \t]++[^\n])")

#: RFC 3461 NOTIFY bits as Exim stores them (macros.h).
DSN_NEVER, DSN_SUCCESS, DSN_FAILURE, DSN_DELAY = 0x02, 0x04, 0x08, 0x10


class Recipient(Struct, frozen=True, kw_only=True, gc=False):
    """One envelope recipient.

    orcpt is the ORCPT as received (``rfc822;xtext``), dsn_flags the NOTIFY bits above,
    errors_to the bounce address where a router set one, parent the index of the
    one_time parent in this list or -1. raw is the whole line with its LF.
    """

    address: bytes
    orcpt: bytes = b""
    dsn_flags: int = 0
    errors_to: bytes = b""
    parent: int = -1
    raw: bytes

    @classmethod
    def make(
        cls, address: bytes, *, orcpt: bytes = b"", dsn_flags: int = 0, errors_to: bytes = b"", parent: int = -1
    ) -> Recipient:
        """A recipient in the plain or ``#3`` form, the only two that respool writes.

        An address that ends like one of the other forms (``x 5``) is never written plain.
        """
        if not address or any(b"\n" in part or b"\0" in part for part in (address, orcpt, errors_to)):
            raise ValueError(f"not a recipient that a spool file can hold: {address!r}")
        is_ambiguous = address.rstrip(b"0123456789")[-1:] in {b"", b" ", b",", b"#"}
        if parent == -1 and not errors_to and not dsn_flags and not is_ambiguous:
            # Exim drops an ORCPT without flags (spool_out.c).
            return cls(address=address, raw=address + b"\n")
        raw = b"%b %b %d,%d %b %d,%d#3\n" % (
            address, orcpt, len(orcpt), dsn_flags, errors_to, len(errors_to), parent,
        )  # fmt: skip
        if len(raw) > LONGEST_LINE:
            raise ValueError(f"a recipient of {len(raw)} bytes; Exim reads no more than {LONGEST_LINE}")
        return cls(address=address, orcpt=orcpt, dsn_flags=dsn_flags, errors_to=errors_to, parent=parent, raw=raw)


class Header(Struct, frozen=True, gc=False):
    """One header field: Exim's type letter and the raw text with every LF.

    flag is a blank, one of ``FTCBIPRS``, or ``*`` (deleted or replaced: kept for the
    record, never sent, never counted). raw is name, colon, value, continuation lines and
    the final LF, exactly as stored. lead is what stood before raw where that was not the
    usual ``%03d%c`` and a blank, with its length (spool_out.c), else empty.
    """

    flag: str
    raw: bytes
    lead: bytes = b""

    @property
    def name(self) -> bytes:
        """The field name as written; empty where there is no colon.

        Of white space before the colon none belongs to it, as in Exim (header_checkname() in
        receive.c): a fold there would hide the field from those who ask for its name.
        """
        name, colon, _ = self.raw.partition(b":")
        return name.rstrip() if colon else b""

    @property
    def value(self) -> bytes:
        """What follows the colon, folds kept, without the final LF."""
        return self.raw.partition(b":")[2].removesuffix(b"\n")

    @property
    def is_sent(self) -> bool:
        """False for ``*`` records."""
        return self.flag != "*"

    def is_named(self, name: bytes) -> bool:
        """True if this field is transmitted and its name is name, in any case."""
        wanted = name.lower()
        # Most fields begin with something else.
        return self.raw[: len(name)].lower() == wanted and self.flag != "*" and self.name.lower() == wanted

    @classmethod
    def make(cls, name: bytes, value: bytes) -> Header:
        """A field ``name: value`` with Exim's type letter for that name.

        value may be folded with LF + space or tab; anything else that would end the
        field (a bare LF, CR, NUL) is refused with ValueError: no header injection.
        """
        flag = _flag_of_new(name)
        value = value.strip(b" ")
        # By number: for a bytes object ``in`` raises and drops an exception first.
        if _NUL in value or _CR in value or _NO_FOLD.search(value):
            raise ValueError(f"the value of {name.decode()} would break the header section")
        return cls(flag, b"%b: %b\n" % (name, value))


_FLAGS: Final = {
    b"from": "F", b"to": "T", b"cc": "C", b"bcc": "B", b"message-id": "I", b"received": "P", b"reply-to": "R",
    b"sender": "S",
}  # fmt: skip


def flag_for(name: bytes) -> str:
    """The type letter Exim gives a field of this name in a message without Resent- fields (macros.h)."""
    return _FLAGS.get(name.lower(), " ")


@lru_cache(maxsize=256)
def _flag_of_new(name: bytes) -> str:
    """As flag_for(), for a name that has to be one; the names of fields that are made are few."""
    if _HEADER_NAME.fullmatch(name) is None:
        raise ValueError(f"not a header field name: {name!r}")
    return flag_for(name)


class TreeNode(Struct, frozen=True, kw_only=True, gc=False):
    """One line of the non-recipients tree, in the pre-order of the file.

    raw is the line as read where it is not what Exim would write (odd flags), else empty.
    """

    has_left: bool
    has_right: bool
    name: bytes
    raw: bytes = b""


class Envelope(DirectiveValues):
    """A whole ``-H`` file. The order of every tuple is the order in the file.

    tree is empty for ``XX``. identity_line, time_line and count_line are those lines as
    read, with LF, where they say more than the values parsed from them (a trailing
    blank, leading zeros, text after the numbers), else empty; they are written back as
    long as they still say the same. The typed values of directives are in
    DirectiveValues.

    Immutable; replace() makes a changed one. No msgspec.Struct, since what a parsed
    envelope says becomes values only when asked for: most messages need little of it, and
    a parse has to be quick.
    """

    id = Unread[MessageId]("The message id in the first line.")
    login = Unread[bytes]("The login of the user whose process received the message.")
    uid = Unread[int]("That user's uid.")
    gid = Unread[int]("And gid.")
    sender = Unread[bytes]("The envelope sender; empty for a bounce.")
    warning_count = Unread[int]("How many delay warnings the sender has been sent.")
    recipients = Unread[tuple[Recipient, ...]]("All recipients of the message, delivered ones included.")
    headers = Unread[tuple[Header, ...]]("All header records, ``*`` ones included.")
    tree: tuple[TreeNode, ...] = ()
    identity_line: bytes = b""
    time_line: bytes = b""
    count_line: bytes = b""
    _unread: object = None

    def __init__(
        self,
        *,
        id: MessageId,
        login: bytes,
        uid: int,
        gid: int,
        sender: bytes,
        received_time: int,
        warning_count: int,
        directives: tuple[Directive, ...] = (),
        tree: tuple[TreeNode, ...] = (),
        recipients: tuple[Recipient, ...] = (),
        headers: tuple[Header, ...] = (),
        identity_line: bytes = b"",
        time_line: bytes = b"",
        count_line: bytes = b"",
    ) -> None:
        self.__dict__.update(
            id=id, login=login, uid=uid, gid=gid, sender=sender, received_time=received_time,
            warning_count=warning_count, directives=directives, tree=tree, recipients=recipients, headers=headers,
            identity_line=identity_line, time_line=time_line, count_line=count_line,
        )  # fmt: skip

    @classmethod
    def unread(cls, sections: object, **known: Unpack[EnvelopeFields]) -> Envelope:
        """An envelope whose other fields are made when asked for, each by the method of sections of that name."""
        envelope = cls.__new__(cls)
        envelope.__dict__["_unread"] = sections
        if known:
            envelope.__dict__.update(known)
        return envelope

    @cached_property
    def non_recipients(self) -> frozenset[bytes]:
        """Addresses not to deliver to: delivered ones, and other names of the tree."""
        return frozenset(node.name for node in self.tree)

    def is_delivered(self, recipient: Recipient) -> bool:
        """True if Exim would not deliver to recipient any more: the tree names it.

        The tree may hold the address as given or with its domain in lower case (deliver.c).
        """
        done = self.non_recipients
        return recipient.address in done or unique_form(recipient.address) in done

    def message_size(self, body_size: int) -> int:
        """$message_size: bytes of the sent fields and the stored body, and one for the line between (deliver.c)."""
        return sum(len(header.raw) for header in self.headers if header.is_sent) + body_size + 1

    def replace(self, **changes: Unpack[EnvelopeFields]) -> Envelope:
        """The same envelope with other values for the fields named."""
        envelope = Envelope.__new__(Envelope)
        known = self.__dict__
        values = {name: known[name] for name in _FIELDS if name in known}
        values["_unread"] = self._unread
        values.update(changes)
        envelope.__dict__.update(values)
        return envelope

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"an Envelope is immutable: replace() makes one with another {name}")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Envelope):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in _FIELDS)

    def __hash__(self) -> int:
        return hash(tuple(getattr(self, name) for name in _FIELDS))

    def __repr__(self) -> str:
        return f"Envelope({', '.join(f'{name}={getattr(self, name)!r}' for name in _FIELDS)})"


class EnvelopeFields(TypedDict, total=False):
    """What Envelope.replace() takes."""

    id: MessageId
    login: bytes
    uid: int
    gid: int
    sender: bytes
    received_time: int
    warning_count: int
    directives: tuple[Directive, ...]
    tree: tuple[TreeNode, ...]
    recipients: tuple[Recipient, ...]
    headers: tuple[Header, ...]
    identity_line: bytes
    time_line: bytes
    count_line: bytes


_FIELDS: Final = tuple(EnvelopeFields.__annotations__)


def unique_form(address: bytes) -> bytes:
    """The address with its domain in lower case: how Exim's tree and journal name it (deliver.c)."""
    local, at, domain = address.rpartition(b"@")
    return local + at + domain.lower() if at else address
