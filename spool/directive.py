"""One directive of ``-H``: a ``-name value`` line, or an ACL variable with its counted value.

Diagnostics: ``make`` and ``make_variable`` raise ValueError for what can't be written
(LF or NUL in a single-line value, a bad name); reading is header_file.py's.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Final

from msgspec import Struct

#: Longest directive, recipient or first tree line with its LF that Exim reads (fgets_big_buffer in spool_in.c).
LONGEST_LINE: Final = 65535

_DIRECTIVE_NAME: Final = re.compile(rb"[A-Za-z][A-Za-z0-9_]*")
_VARIABLE_REST: Final = re.compile(rb"(?:[0-9]|_)[A-Za-z0-9_]*")
_QUOTER: Final = re.compile(rb"[A-Za-z0-9_]+")


class Directive(Struct, frozen=True, gc=False):
    """One ``-name value`` line, or an ACL variable with its counted value.

    value is None for a bare ``-name``; for aclc, aclm and the old acl form, name is
    ``aclc``, ``aclm`` or ``acl``, variable is the full name (``acl_m_foo``, ``acl_c0``)
    and value the counted bytes. tainted is the ``--`` mark, quoter the lookup type in
    ``--(quoter)``. raw is the whole text including the final LF.
    """

    raw: bytes
    name: bytes
    value: bytes | None = None
    tainted: bool = False
    quoter: bytes | None = None
    variable: str | None = None

    @classmethod
    def make(
        cls, name: bytes, value: bytes | None = None, *, tainted: bool = False, quoter: bytes | None = None
    ) -> Directive:
        """A single-line directive as Exim writes it; ValueError for LF or NUL in value."""
        if _DIRECTIVE_NAME.fullmatch(name) is None or name in {b"acl", b"aclc", b"aclm"}:
            raise ValueError(f"not a directive name: {name!r}")
        if value is not None and (b"\n" in value or b"\0" in value):
            raise ValueError(f"LF or NUL in the value of -{name.decode()}")
        tainted = tainted or quoter is not None
        raw = _mark(tainted=tainted, quoter=quoter) + name + (b"" if value is None else b" " + value) + b"\n"
        if len(raw) > LONGEST_LINE:
            raise ValueError(f"-{name.decode()} takes {len(raw)} bytes; Exim reads no more than {LONGEST_LINE}")
        return cls(name=name, value=value, tainted=tainted, quoter=quoter, raw=raw)

    @classmethod
    def make_variable(
        cls, variable: str, value: bytes, *, tainted: bool = False, quoter: bytes | None = None
    ) -> Directive:
        """An ACL variable such as ``acl_m_foo`` or ``acl_c0``; value may hold LF, not NUL."""
        name, rest = _variable_name(variable)
        if b"\0" in value:
            raise ValueError(f"NUL in the value of {variable}")
        tainted = tainted or quoter is not None
        raw = b"%b%b %b %d\n%b\n" % (_mark(tainted=tainted, quoter=quoter), name, rest, len(value), value)
        return cls(name=name, value=value, tainted=tainted, quoter=quoter, variable=variable, raw=raw)


@lru_cache(maxsize=256)  # the same few in every message
def _variable_name(variable: str) -> tuple[bytes, bytes]:
    """``aclm`` or ``aclc``, and what follows the prefix; ValueError for no name of an ACL variable."""
    prefix, rest = variable[:5], variable[5:].encode()
    if prefix not in {"acl_m", "acl_c"} or _VARIABLE_REST.fullmatch(rest) is None:
        raise ValueError(f"not an ACL variable: {variable!r}")
    return b"acl" + prefix[4:].encode(), rest


def _mark(*, tainted: bool, quoter: bytes | None) -> bytes:
    if quoter is None:
        return b"--" if tainted else b"-"
    if _QUOTER.fullmatch(quoter) is None:
        raise ValueError(f"not a lookup type: {quoter!r}")
    return b"--(" + quoter + b")"
