"""What a ``-H`` file says, as immutable values.

Everything from the wire is bytes. Each element keeps the exact bytes it was read from
(``raw``), so that what nobody edits is written back unchanged; elements made here
compute their canonical bytes, as Exim itself would write them (spool_out.c).

Diagnostics: the ``make`` constructors raise ValueError for a value that can't be
written (LF or NUL in a single-line value, a bad name); reading is header_file.py's.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import Final

from msgspec import Struct

from .ids import MessageId

_DIRECTIVE_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_VARIABLE_REST: Final = re.compile(rb"(?:[0-9]|_)[A-Za-z0-9_]*")
_HEADER_NAME: Final = re.compile(rb"[!-9;-~]+")

#: RFC 3461 NOTIFY bits as Exim stores them (macros.h).
DSN_NEVER, DSN_SUCCESS, DSN_FAILURE, DSN_DELAY = 0x02, 0x04, 0x08, 0x10


class Directive(Struct, frozen=True, kw_only=True):
    """One ``-name value`` line, or an ACL variable with its counted value.

    value is None for a bare ``-name``; for aclc, aclm and the old acl form, name is
    ``aclc``, ``aclm`` or ``acl``, variable is the full name (``acl_m_foo``, ``acl_c0``)
    and value the counted bytes. tainted is the ``--`` mark, quoter the lookup type in
    ``--(quoter)``. raw is the whole text including the final LF.
    """

    name: bytes
    value: bytes | None = None
    tainted: bool = False
    quoter: bytes | None = None
    variable: str | None = None
    raw: bytes

    @classmethod
    def make(
        cls, name: bytes, value: bytes | None = None, *, tainted: bool = False, quoter: bytes | None = None
    ) -> Directive:
        """A single-line directive as Exim writes it; ValueError for LF or NUL in value."""
        if _DIRECTIVE_NAME.fullmatch(name) is None or name in {b"acl", b"aclc", b"aclm"}:
            raise ValueError(f"not a directive name: {name!r}")
        if value is not None and (b"\n" in value or b"\0" in value):
            raise ValueError(f"LF or NUL in the value of -{name.decode()}")
        raw = _mark(tainted=tainted, quoter=quoter) + name + (b"" if value is None else b" " + value) + b"\n"
        return cls(name=name, value=value, tainted=tainted, quoter=quoter, raw=raw)

    @classmethod
    def make_variable(
        cls, variable: str, value: bytes, *, tainted: bool = False, quoter: bytes | None = None
    ) -> Directive:
        """An ACL variable such as ``acl_m_foo`` or ``acl_c0``; value may hold LF, not NUL."""
        prefix, rest = variable[:5], variable[5:].encode()
        if prefix not in {"acl_m", "acl_c"} or _VARIABLE_REST.fullmatch(rest) is None:
            raise ValueError(f"not an ACL variable: {variable!r}")
        if b"\0" in value:
            raise ValueError(f"NUL in the value of {variable}")
        name = b"acl" + prefix[4:].encode()
        raw = b"%b%b %b %d\n%b\n" % (_mark(tainted=tainted, quoter=quoter), name, rest, len(value), value)
        return cls(name=name, value=value, tainted=tainted, quoter=quoter, variable=variable, raw=raw)


def _mark(*, tainted: bool, quoter: bytes | None) -> bytes:
    if quoter is not None:
        return b"--(" + quoter + b")"
    return b"--" if tainted else b"-"


class Recipient(Struct, frozen=True, kw_only=True):
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
        """A recipient in the plain or ``#3`` form, the only two that respool writes."""
        if not address or any(b"\n" in part or b"\0" in part for part in (address, orcpt, errors_to)):
            raise ValueError(f"not a recipient that a spool file can hold: {address!r}")
        if parent == -1 and not errors_to and not dsn_flags:
            # Exim drops an ORCPT without flags (spool_out.c).
            return cls(address=address, raw=address + b"\n")
        raw = b"%b %b %d,%d %b %d,%d#3\n" % (
            address, orcpt, len(orcpt), dsn_flags, errors_to, len(errors_to), parent,
        )  # fmt: skip
        return cls(
            address=address, orcpt=orcpt, dsn_flags=dsn_flags, errors_to=errors_to, parent=parent, raw=raw
        )


class Header(Struct, frozen=True, kw_only=True):
    """One header field: Exim's type letter and the raw text with every LF.

    flag is one of `` FTCBIPRS`` or ``*`` (deleted or replaced: kept for the record,
    never sent, never counted). raw is name, colon, value, continuation lines and the
    final LF, exactly as stored.
    """

    flag: str
    raw: bytes

    @property
    def name(self) -> bytes:
        """The field name as written; empty where there is no colon."""
        name, colon, _ = self.raw.partition(b":")
        return name.rstrip(b" \t") if colon else b""

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
        return self.flag != "*" and self.name.lower() == name.lower()

    @classmethod
    def make(cls, name: bytes, value: bytes) -> Header:
        """A field ``name: value`` with Exim's type letter for that name.

        value may be folded with LF + space or tab; anything else that would end the
        field (a bare LF, CR, NUL) is refused with ValueError: no header injection.
        """
        if _HEADER_NAME.fullmatch(name) is None:
            raise ValueError(f"not a header field name: {name!r}")
        value = value.strip(b" ")
        if b"\0" in value or b"\r" in value or re.search(rb"\n(?![ \t])|\n[ \t]*(?:\n|\Z)", value):
            raise ValueError(f"the value of {name.decode()} would break the header section")
        return cls(flag=flag_for(name), raw=name + b": " + value + b"\n")


_FLAGS: Final = {
    b"from": "F", b"to": "T", b"cc": "C", b"bcc": "B", b"message-id": "I", b"received": "P", b"reply-to": "R",
    b"sender": "S",
}  # fmt: skip


def flag_for(name: bytes) -> str:
    """The type letter Exim gives a field of this name in a message without Resent- fields (macros.h)."""
    return _FLAGS.get(name.lower(), " ")


class TreeNode(Struct, frozen=True, kw_only=True):
    """One line of the non-recipients tree, in the pre-order of the file."""

    has_left: bool
    has_right: bool
    name: bytes


class Envelope(Struct, frozen=True, kw_only=True, dict=True):
    """A whole ``-H`` file. The order of every tuple is the order in the file.

    identity_line, sender_line and time_line are lines 2-4 as read, with LF: they may
    hold more than the numbers parsed from them. tree is empty for ``XX``. count_line is
    the recipient count as read.
    """

    id: MessageId
    login: bytes
    uid: int
    gid: int
    sender: bytes
    received_time: int
    warning_count: int
    directives: tuple[Directive, ...] = ()
    tree: tuple[TreeNode, ...] = ()
    recipients: tuple[Recipient, ...] = ()
    headers: tuple[Header, ...] = ()

    @cached_property
    def values(self) -> dict[bytes, bytes | None]:
        """Single-line directives by name, the last of a name winning as in Exim."""
        return {directive.name: directive.value for directive in self.directives if directive.variable is None}

    @cached_property
    def variables(self) -> dict[str, bytes]:
        """ACL variables by full name (``acl_m_foo``), the last of a name winning."""
        return {d.variable: d.value or b"" for d in self.directives if d.variable is not None}

    @cached_property
    def non_recipients(self) -> frozenset[bytes]:
        """Addresses not to deliver to: delivered ones, and other names of the tree."""
        return frozenset(node.name for node in self.tree)

    @property
    def is_wireformat(self) -> bool:
        """True if the body has CRLF line ends, as received by BDAT with spool_wireformat."""
        return b"spool_file_wireformat" in self.values

    @property
    def is_frozen(self) -> bool:
        """True if Exim's queue runners leave the message alone."""
        return b"frozen" in self.values
