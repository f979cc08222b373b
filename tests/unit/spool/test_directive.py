"""Directives made here: what can be written, and what is refused. Reading is in test_header_file.py."""

from __future__ import annotations

import pytest

from respool.spool.directive import LONGEST_LINE, Directive


@pytest.mark.parametrize(
    ("directive", "raw"),
    [
        (Directive.make(b"local"), b"-local\n"),
        (Directive.make(b"ident", b""), b"-ident \n"),
        (Directive.make(b"ident", b"a  b"), b"-ident a  b\n"),
        (Directive.make(b"ident", b"x", tainted=True), b"--ident x\n"),
        (Directive.make(b"ident", b"x", quoter=b"pgsql"), b"--(pgsql)ident x\n"),
        (Directive.make_variable("acl_m_foo", b"a\nb"), b"-aclm _foo 3\na\nb\n"),
        (Directive.make_variable("acl_c0", b"", tainted=True), b"--aclc 0 0\n\n"),
        (Directive.make_variable("acl_m9", b"x", quoter=b"sqlite"), b"--(sqlite)aclm 9 1\nx\n"),
    ],
)
def test_directives_as_exim_writes_them(directive: Directive, raw: bytes) -> None:
    assert directive.raw == raw
    # What a lookup quoted came from outside: Exim marks it as tainted, too.
    assert directive.tainted == raw.startswith(b"--")


def test_nothing_is_tainted_that_is_not_said_to_be() -> None:
    assert not Directive(raw=b"-local\n", name=b"local").tainted


@pytest.mark.parametrize("name", [b"", b"9x", b"_x", b"a-b", b"a b", b"a\n", b"(x)", b"acl", b"aclc", b"aclm", b"\xff"])
def test_a_name_that_would_be_read_as_something_else_is_refused(name: bytes) -> None:
    with pytest.raises(ValueError, match="not a directive name"):
        Directive.make(name, b"x")


@pytest.mark.parametrize("value", [b"\n", b"a\n-local", b"\0", b"a\0b"])
def test_a_value_that_would_not_stay_on_its_line_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="LF or NUL in the value of -ident"):
        Directive.make(b"ident", value)


def test_a_line_is_as_long_as_exim_reads_it() -> None:
    assert LONGEST_LINE == 65535  # with its LF: fgets_big_buffer in spool_in.c
    longest = b"x" * (LONGEST_LINE - len(b"-ident \n"))
    assert len(Directive.make(b"ident", longest).raw) == LONGEST_LINE
    with pytest.raises(ValueError, match="Exim reads no more than 65535"):
        Directive.make(b"ident", longest + b"x")


@pytest.mark.parametrize("value", [b"\0", b"a\0b"])
def test_nul_in_a_variable_is_refused(value: bytes) -> None:
    with pytest.raises(ValueError, match="NUL in the value of acl_m_x"):
        Directive.make_variable("acl_m_x", value)


@pytest.mark.parametrize(
    "variable", ["", "acl_m", "acl_x_y", "acl_mx", "acl_m-", "acl_m_a b", "acl_m_a\n", "ACL_M_x", "acl_m_é", "m_x"]
)
def test_what_is_no_acl_variable_is_refused(variable: str) -> None:
    with pytest.raises(ValueError, match="not an ACL variable"):
        Directive.make_variable(variable, b"x")


@pytest.mark.parametrize("quoter", [b"", b"pg sql", b"a)b", b"x\n", b"(", b"\xff"])
def test_what_is_no_lookup_type_is_refused(quoter: bytes) -> None:
    with pytest.raises(ValueError, match="not a lookup type"):
        Directive.make(b"ident", b"x", quoter=quoter)
    with pytest.raises(ValueError, match="not a lookup type"):
        Directive.make_variable("acl_m_x", b"x", quoter=quoter)
