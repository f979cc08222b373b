"""The format, construct by construct, and the documentation's warnings W1-W16 as far as they touch it."""

import pytest

from respool.errors import SpoolFormatError
from respool.spool.body import BytesBody, local_chunks, wire_chunks
from respool.spool.directive_values import DirectiveValues, address_and_port, leading_number, unprinted
from respool.spool.envelope import Envelope, Header, Recipient
from respool.spool.header_file import KNOWN_DIRECTIVES, parse_header_file, render_header_file
from respool.spool.header_records import verify_headers
from respool.spool.message import Message
from respool.spool.spool_text import SpoolText
from tests.fuzz.header_file_law import parse_step_by_step

START = b"1xV9D2-0007Yr-05-H\nroot 0 0\n<a@b.ex>\n1795360228 0\n"
REST = b"XX\n1\nr@test.ex\n\n015  Subject: hello\n"


def parsed(data: bytes) -> Envelope:
    """Parse, and hold the law."""
    envelope = parse_header_file(data, file="f")
    assert render_header_file(envelope) == data
    assert render_header_file(envelope.replace(warning_count=envelope.warning_count)) == data
    return envelope


def refused(data: bytes) -> SpoolFormatError:
    with pytest.raises(SpoolFormatError) as caught:
        parse_header_file(data, file="f")
    return caught.value


def one_recipient(line: bytes) -> Recipient:
    return parsed(START + b"XX\n1\n" + line + b"\n\n").recipients[0]


def test_the_smallest_file() -> None:
    envelope = parsed(START + b"XX\n0\n\n")
    assert (envelope.id, envelope.login, envelope.uid, envelope.gid) == ("1xV9D2-0007Yr-05", b"root", 0, 0)
    assert (envelope.sender, envelope.received_time, envelope.warning_count) == (b"a@b.ex", 1795360228, 0)
    assert (envelope.directives, envelope.tree, envelope.recipients, envelope.headers) == ((), (), (), ())


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"root 0 0", (b"root", 0, 0)),
        (b"a b 1 2 3 4", (b"a b 1 2", 3, 4)),
        (b" 1 2", (b"", 1, 2)),
        (b"x -2 -3", (b"x", -2, -3)),
        (b"x 007 4294967294 \t", (b"x", 7, 4294967294)),
    ],
)
def test_line_2_is_read_from_the_right(line: bytes, expected: tuple[bytes, int, int]) -> None:
    envelope = parsed(START.replace(b"root 0 0", line) + REST)
    assert (envelope.login, envelope.uid, envelope.gid) == expected


@pytest.mark.parametrize(
    "line", [b"", b"root", b"root 0", b"0 0", b"root 0 x", b"root x1 0", b"root 0  0x", b"root 1 " + b"9" * 30]
)
def test_line_2_without_two_numbers_is_refused(line: bytes) -> None:
    error = refused(START.replace(b"root 0 0", line) + REST)
    assert (error.line, error.expected) == (2, "login, uid and gid")


@pytest.mark.parametrize("line", [b"a@b.ex", b"<a@b.ex", b"a@b.ex>", b"<", b"", b"<a@b.ex> ", b"<a@b.ex>\r"])
def test_line_3_without_brackets_is_refused(line: bytes) -> None:
    assert refused(START.replace(b"<a@b.ex>", line) + REST).line == 3


@pytest.mark.parametrize("sender", [b"", b"<x>", b"\xc3\xa4@b.ex", b"a b@c"])
def test_a_sender_may_hold_anything_but_lf(sender: bytes) -> None:
    assert parsed(START.replace(b"a@b.ex", sender) + REST).sender == sender


@pytest.mark.parametrize(
    ("line", "expected"),
    [(b"5 1", (5, 1)), (b"  5\t1 trailing", (5, 1)), (b"+5 -1", (5, -1)), (b"5-1", (5, -1)), (b"05 01", (5, 1))],
)
def test_line_4_is_two_integers_and_whatever(line: bytes, expected: tuple[int, int]) -> None:
    envelope = parsed(START.replace(b"1795360228 0", line) + REST)
    assert (envelope.received_time, envelope.warning_count) == expected
    # An edit that changes a number writes the line anew.
    edited = render_header_file(envelope.replace(warning_count=7))
    assert edited.split(b"\n")[3] == b"%d 7" % expected[0]


@pytest.mark.parametrize("line", [b"", b"5", b"x 1", b"5 x", b"9" * 40 + b" 1"])
def test_line_4_without_two_integers_is_refused(line: bytes) -> None:
    assert refused(START.replace(b"1795360228 0", line) + REST).line == 4


@pytest.mark.parametrize(
    "name", [b"1xV9D2-0007Yr-05", b"1xV9D2-0007Yr-05-D", b"1xV9D2_0007Yr-05-H", b"../../../etc/pass-H", b""]
)
def test_line_1_that_is_no_id_is_refused(name: bytes) -> None:
    assert refused(START.replace(b"1xV9D2-0007Yr-05-H", name) + REST).line == 1


def test_both_id_formats() -> None:
    assert not parsed(START + REST).id.is_long
    long = parsed(START.replace(b"1xV9D2-0007Yr-05", b"1xV9DW-000000007cS-1lp7") + REST).id
    assert (long.is_long, long.body_offset, long.split_directory) == (True, 26, "W")


# Directives


@pytest.mark.parametrize(
    ("line", "name", "value", "tainted", "quoter"),
    [
        (b"-local", b"local", None, False, None),
        (b"-ident root", b"ident", b"root", False, None),
        (b"--ident  x ", b"ident", b" x ", True, None),
        (b"--(pgsql)auth_id o''x", b"auth_id", b"o''x", True, b"pgsql"),
        (b"-(pgsql)auth_id x", b"auth_id", b"x", True, b"pgsql"),
        (b"-", b"", None, False, None),
        (b"---x y", b"-x", b"y", True, None),
        (b"-aclm", b"aclm", None, False, None),
    ],
)
def test_directive_forms(line: bytes, name: bytes, value: bytes | None, tainted: bool, quoter: bytes | None) -> None:
    directive = parsed(START + line + b"\n" + REST).directives[0]
    assert (directive.name, directive.value, directive.tainted, directive.quoter) == (name, value, tainted, quoter)
    assert directive.variable is None


@pytest.mark.parametrize(
    ("text", "variable", "value"),
    [
        (b"-aclc 0 4\nconn\n", "acl_c0", b"conn"),
        (b"-aclm _foo 13\nline1\nline2 e\n", "acl_m_foo", b"line1\nline2 e"),
        (b"-aclm 1 0\n\n", "acl_m1", b""),
        (b"--aclm _trap 9\n-frozen 1\n", "acl_m_trap", b"-frozen 1"),
        (b"--(sqlite)aclm _q 6\nabc''c\n", "acl_m_q", b"abc''c"),
        (b"-aclm _x  +3 junk\nabc\n", "acl_m_x", b"abc"),
        (b"-acl 3 2\nab\n", "acl_c3", b"ab"),
        (b"-acl 9 1\nx\n", "acl_c9", b"x"),
        (b"-acl 10 1\nx\n", "acl_m0", b"x"),
        (b"-acl 19 3\na\nb\n", "acl_m9", b"a\nb"),
        (b"-aclm _x 3\nabcX", "acl_m_x", b"abc"),
        (b"-aclm _x 6\nXX\n1\nr\n", "acl_m_x", b"XX\n1\nr"),
    ],
)
def test_acl_variables(text: bytes, variable: str, value: bytes) -> None:
    envelope = parsed(START + text + REST)
    assert envelope.variables == {variable: value}
    assert envelope.directives[0].raw == text
    assert envelope.values == {}


def test_a_repeated_variable_has_its_last_value() -> None:
    assert parsed(START + b"-aclm 0 1\na\n-aclm 0 1\nb\n" + REST).variables == {"acl_m0": b"b"}


@pytest.mark.parametrize(
    "text",
    [
        b"-aclm _x\n", b"-aclm _x y\n", b"-aclm _x -1\n", b"-aclm _x 99999\nab\n", b"-aclm _x 99999999999\nab\n",
        b"-acl 20 1\na\n", b"-acl 0 16385\n", b"-acl 0\n", b"-acl x 1\n", b"-frozen\n", b"-frozen x\n",
        b"--(pgsql aclm 0 1\na\n", b"--frozen \n",
    ],
)  # fmt: skip
def test_directives_that_exim_refuses_or_dies_of(text: bytes) -> None:
    assert refused(START + text + REST).line == 5


def test_w01_an_unknown_directive_is_passed_through_in_place() -> None:
    envelope = parsed(START + b"-local\n-future_thing a  b\n--other\n-ident x\n" + REST)
    assert [directive.name for directive in envelope.directives] == [b"local", b"future_thing", b"other", b"ident"]
    assert envelope.values[b"future_thing"] == b"a  b"


def test_w11_directives_in_any_order_mean_the_same() -> None:
    lines = [b"-local\n", b"-aclm 0 1\na\n", b"-ident x\n", b"-dsn_ret 1\n", b"-frozen 7\n"]
    forwards, backwards = (parsed(START + b"".join(order) + REST) for order in (lines, lines[::-1]))
    assert forwards.values == backwards.values
    assert forwards.variables == backwards.variables
    assert (backwards.is_local, backwards.dsn_ret, backwards.frozen_since) == (True, 1, 7)


def test_typed_values() -> None:
    envelope = parsed(
        START + b"-received_time_usec .000042\n-received_time_complete 5.7\n--host_address [2001:db8::1]:4567\n"
        b"-host_name h.ex\n-interface_address 10.0.0.1.25\n-tls_ocsp 4\n-tls_resumption C\n"
        b"--tls_peerdn CN=a\\nb\\\\\n-spam_score_int -12\n-body_linecount 3\n-smtputf8\n-utf8_optdowncvt\n"
        b"-debug_selector 0x1f\n-debuglog_name /tmp/x\n-N\n-localerror\n-dsn_envid e+2B\n" + REST
    )
    assert envelope.received_usec == 42
    assert str(envelope.received_at) == "2026-11-22 15:10:28.000042+00:00"
    assert envelope.received_complete == (5, 7)
    assert (envelope.host_address, envelope.host_port) == (b"2001:db8::1", 4567)
    assert (envelope.interface_address, envelope.interface_port) == (b"10.0.0.1", 25)
    assert (envelope.tls_ocsp, envelope.tls_resumption, envelope.tls_peerdn) == (4, 2, b"CN=a\nb\\")
    assert (envelope.spam_score_int, envelope.body_linecount) == (-12, 3)
    assert (envelope.is_smtputf8, envelope.is_utf8_optdowncvt, envelope.is_utf8_downcvt) == (True, True, False)
    assert (envelope.is_delivery_faked, envelope.is_local_error, envelope.is_local) == (True, True, False)
    assert (envelope.debug_selector, envelope.debuglog_name, envelope.dsn_envid) == (b"0x1f", b"/tmp/x", b"e+2B")
    assert envelope.helo_name is None
    assert envelope.frozen_since is None


def test_a_time_that_no_calendar_has() -> None:
    assert parsed(START.replace(b"1795360228", b"999999999999999999") + REST).received_at is None


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"[1.2.3.4]:25", (b"1.2.3.4", 25)), (b"[::1]", (b"::1", 0)), (b"[::1]:", (b"::1", 0)),
        (b"1.2.3.4.25", (b"1.2.3.4", 25)), (b"::1.25", (b"::1", 25)), (b"1.2.3.4", (b"1.2.3.4", 0)),
        (b"[::1", (b"[::1", 0)), (b"[::1]x", (b"[::1]x", 0)), (b"1.2.3.4.x", (b"1.2.3.4.x", 0)), (b"", (b"", 0)),
    ],
)  # fmt: skip
def test_address_and_port(value: bytes, expected: tuple[bytes, int]) -> None:
    assert address_and_port(value) == expected


def test_small_readers() -> None:
    assert unprinted(rb"\t\101\x41\\\q\x") == b"\tAA\\q\0"
    assert [leading_number(text) for text in (b" 12x", b"-3", b"x", b"")] == [12, -3, 0, 0]


# Tree


def test_w12_the_tree_is_kept() -> None:
    envelope = parsed(START + b"YY m@x\nNY a@x\nNN b@x\nNN z@x\n1\nr@test.ex\n\n")
    assert [(node.has_left, node.has_right, node.name) for node in envelope.tree] == [
        (True, True, b"m@x"), (False, True, b"a@x"), (False, False, b"b@x"), (False, False, b"z@x"),
    ]  # fmt: skip


def test_tree_flags_other_than_y_count_as_no() -> None:
    envelope = parsed(START + b"Xy-a@x\n1\nr@test.ex\n\n")
    assert [(node.has_left, node.has_right, node.name) for node in envelope.tree] == [(False, False, b"a@x")]


@pytest.mark.parametrize("tree", [b"XX \n", b"\n", b"NN \n", b"YN a@x\n", b"X\n"])
def test_a_tree_that_is_not_all_there_is_refused(tree: bytes) -> None:
    refused(START + tree + b"1\nr@test.ex\n\n")


def test_a_very_deep_tree_needs_no_recursion() -> None:
    names = [b"YN n%06d\n" % number for number in range(50_000, 0, -1)]
    assert len(parsed(START + b"".join(names) + b"NN a@x\n1\nr@test.ex\n\n").tree) == 50_001


def test_w13_the_recipient_list_includes_the_delivered() -> None:
    data = START + b"YN b@TEST.ex\nNN a@test.ex\n4\na@test.ex\na@TEST.ex\nb@TEST.ex\nc@test.ex\n\n"
    message = Message(parsed(data), BytesBody(b""))
    assert [recipient.address for recipient in message.undelivered] == [b"c@test.ex"]


# Recipients


@pytest.mark.parametrize(
    ("line", "address", "orcpt", "flags", "errors_to", "parent"),
    [
        (b"a@b.ex", b"a@b.ex", b"", 0, b"", -1),
        (b'"a b"@b.ex', b'"a b"@b.ex', b"", 0, b"", -1),
        (b"a@b.ex 5", b"a@b.ex", b"", 0, b"", 5),
        (b"a b@b.ex 5", b"a b@b.ex", b"", 0, b"", 5),
        (b"a@b.ex 0,3,0", b"a@b.ex", b"", 0, b"", 3),
        (b"a@b.ex1", b"a@b.ex1", b"", 0, b"", -1),
        (b"a@b,1,2", b"a@b,1,2", b"", 0, b"", -1),
        (b"a@b.ex e@x 3,-1#1", b"a@b.ex", b"", 0, b"e@x", -1),
        (b"a@b.ex  0,4#1", b"a@b.ex", b"", 0, b"", 4),
        (b"a@b.ex rfc822;x 8,12#2", b"a@b.ex", b"rfc822;x", 12, b"", -1),
        (b"a@b.ex  0,2  0,-1#3", b"a@b.ex", b"", 2, b"", -1),
        (b"a b@b.ex rfc822;o 8,22 e e@x 5,7#3", b"a b@b.ex", b"rfc822;o", 22, b"e e@x", 7),
    ],
)
def test_recipient_forms(line: bytes, address: bytes, orcpt: bytes, flags: int, errors_to: bytes, parent: int) -> None:
    recipient = one_recipient(line)
    assert (recipient.address, recipient.orcpt, recipient.dsn_flags) == (address, orcpt, flags)
    assert (recipient.errors_to, recipient.parent, recipient.raw) == (errors_to, parent, line + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"", b"12345", b"1,2,3", b" 5", b"#3", b"a@b.ex#3", b"a@b.ex 0,0 0,-1#3", b"a@b.ex  0,0  9,-1#3",
        b"a@b.ex  0,0#4", b"a@b.ex  0,0#0", b"a@b.ex#", b" o 1,2  0,-1#3", b"a@b.ex xx 3,2  0,-1#3",
        b"a@b.ex  99999999999999,0#1", b"a@b.ex  0,0  0#3", b"a@b.ex " + b"9" * 5000,
    ],
)  # fmt: skip
def test_recipients_whose_lengths_do_not_fit_are_refused(line: bytes) -> None:
    assert refused(START + b"XX\n1\n" + line + b"\n\n").line == 7


@pytest.mark.parametrize("count", [b"", b"x", b"-1", b"16385", b"99999999999999999999"])
def test_counts_that_exim_refuses_or_dies_of(count: bytes) -> None:
    assert refused(START + b"XX\n" + count + b"\nr@test.ex\n\n").line == 6


def test_the_count_line_may_say_more() -> None:
    envelope = parsed(START + b"XX\n 01 x\nr@test.ex\n\n")
    assert envelope.count_line == b" 01 x\n"
    more = envelope.replace(recipients=(*envelope.recipients, Recipient.make(b"s@test.ex")))
    assert b"XX\n2\nr@test.ex\ns@test.ex\n\n" in render_header_file(more)


@pytest.mark.parametrize("count", [b"0", b"2"])
def test_a_count_that_is_not_that_of_the_lines_is_refused(count: bytes) -> None:
    refused(START + b"XX\n" + count + b"\nr@test.ex\n\n")


# Headers


def test_w14_deleted_headers_are_kept_never_sent_never_counted() -> None:
    envelope = parsed(START + b"XX\n1\nr@test.ex\n\n025* Return-Path: <zz@foo.ex>\n015  Subject: hello\n")
    message = Message(envelope, BytesBody(b"xy\n"))
    assert [header.flag for header in envelope.headers] == ["*", " "]
    assert [header.name for header in message.sent_headers] == [b"Subject"]
    assert message.size == 15 + 3 + 1
    assert not envelope.headers[0].is_named(b"return-path")


@pytest.mark.parametrize(
    "record",
    [
        b"015  Subject: hello\n", b"15  Subject: hello\n", b"00015  Subject: hello\n", b"015 \t \nSubject: hello\n",
        b"015PSubject: hello\n", b"015\nSubject: hello\n", b"015\xffSubject: hello\n", b"000P ", b"003  X:y",
        b"1003  X: " + b"y" * 999 + b"\n",
    ],
)  # fmt: skip
def test_header_records_as_scanf_takes_them(record: bytes) -> None:
    assert len(parsed(START + b"XX\n1\nr@test.ex\n\n" + record).headers) == 1


@pytest.mark.parametrize(
    "record",
    [
        b"015  Subject: hell",
        b"\n",
        b"x",
        b"015",
        b"015 ",
        b" 15  x",
        b"-1  x",
        b"99999999999  x",
        b"004  X:y\n\n",
        b"016  Subject: hello\n",
    ],
)
def test_header_records_that_do_not_fill_the_file_are_refused(record: bytes) -> None:
    refused(START + b"XX\n1\nr@test.ex\n\n" + record)


def test_white_space_before_a_text_is_not_part_of_it() -> None:
    # Exim skips all of it, then takes 15 bytes.
    envelope = parsed(START + b"XX\n1\nr@test.ex\n\n015    Subject: hello\n")
    assert envelope.headers[0].raw == b"Subject: hello\n"


def test_nul_is_refused_anywhere() -> None:
    assert "NUL" in refused(START + REST + b"\0\0\0").expected


@pytest.mark.parametrize(
    ("before", "after", "rest", "limit", "line"),
    [
        (b"1xV9D2-0007Yr-05-H\nroot", b" 0 0\n", b"<a@b.ex>\n1795360228 0\n" + REST, 16383, 2),
        (b"1xV9D2-0007Yr-05-H\nroot 0 0\n<a", b"@b.ex>\n", b"1795360228 0\n" + REST, 16383, 3),
        (b"1xV9D2-0007Yr-05-H\nroot 0 0\n<>\n1795360228 0 ", b"\n", REST, 16383, 4),
        (START + b"-ident x", b"\n", REST, 65535, 5),
        (START + b"--(pgsql)ident x", b"\n", REST, 65535, 5),
        (START + b"YN m", b"\n", b"NN a\n1\nr@test.ex\n\n", 16383, 5),
        (START + b"YN m\nNN a", b"\n", b"1\nr@test.ex\n\n", 16383, 6),
        (START + b"XX\n1 ", b"\n", b"r@test.ex\n\n", 16383, 6),
        (START + b"XX\n1\nr", b"@test.ex\n", b"\n", 65535, 7),
        (START + b"XX\n1\nr", b"@test.ex  0,2  0,-1#3\n", b"\n", 65535, 7),
    ],
)
def test_lines_have_exims_limits(before: bytes, after: bytes, rest: bytes, limit: int, line: int) -> None:
    used = len(before) + len(after) - (before.rfind(b"\n") + 1)
    read_alike(before + b"x" * (limit - used) + after + rest)
    assert refused_alike(before + b"x" * (limit - used + 1) + after + rest).line == line


def test_every_name_of_exims_writer_has_a_typed_value() -> None:
    typed = {value.directive for value in vars(DirectiveValues).values() if hasattr(value, "directive")}
    times = {b"received_time_usec", b"received_time_complete"}
    assert typed | times == KNOWN_DIRECTIVES
    envelope = parsed(START + b"-received_time_usec .5\n-received_time_complete 6.7\n" + REST)
    assert (envelope.received_usec, envelope.received_complete) == (5, (6, 7))


def test_an_error_says_where_and_what() -> None:
    error = refused(START + b"-local\n-aclm _x \x1b[31m\n" + REST)
    assert str(error) == (
        r"f:6:2: expected an ACL variable with the length of its value, found 'aclm _x \x1b[31m'"
    )  # fmt: skip


# Bodies


@pytest.mark.parametrize(
    ("local", "wire"),
    [(b"a\nb\n", b"a\r\nb\r\n"), (b"a\r\nb\n", b"a\r\r\nb\r\n"), (b"\r", b"\r"), (b"", b""), (b"\n.\n", b"\r\n.\r\n")],
)
def test_w15_line_ends_on_the_wire(local: bytes, wire: bytes) -> None:
    assert b"".join(wire_chunks(BytesBody(local))) == wire
    assert b"".join(local_chunks(BytesBody(wire, wireformat=True))) == local
    assert b"".join(wire_chunks(BytesBody(wire, wireformat=True))) == wire
    assert b"".join(local_chunks(BytesBody(local))) == local


# What the expressions count, against the readers that follow Exim step by step


def read_alike(data: bytes) -> Envelope:
    """Parse, hold the law, and hold the common way against the other."""
    envelope = parsed(data)
    assert envelope == parse_step_by_step(data, file="f")
    return envelope


def refused_alike(data: bytes) -> SpoolFormatError:
    error = refused(data)
    with pytest.raises(SpoolFormatError) as caught:
        parse_step_by_step(data, file="f")
    assert str(caught.value) == str(error)
    return error


def test_headers_as_exim_writes_them_are_read_in_one_step() -> None:
    """What keeps the cost of a common message from growing with a step of the interpreter for each header."""
    texts = [b"x" * (length - 1) + b"\n" for length in range(2, 1000)]
    common = b"".join(b"%03d  %b" % (len(text), text) for text in texts)
    assert verify_headers(SpoolText(common, "f"), 0) == []
    odd = b"1000  %b\n" % (b"x" * 999)
    assert verify_headers(SpoolText(common + odd + common, "f"), 0) == [len(common)]


def test_any_byte_may_be_the_type_of_a_header() -> None:
    flags = [bytes((byte,)) for byte in range(1, 256) if byte not in b"0123456789"]
    records = b"".join(b"015%b Subject: hello\n" % flag for flag in flags)
    headers = read_alike(START + b"XX\n1\nr@test.ex\n\n" + records).headers
    assert [header.flag.encode("latin-1") for header in headers] == flags


def test_headers_of_every_length() -> None:
    texts = [b"x" * (length - 1) + b"\n" for length in range(2, 1030)]
    records = b"".join(b"%03d  %b" % (len(text), text) for text in texts)
    headers = read_alike(START + b"XX\n1\nr@test.ex\n\n" + records).headers
    assert [header.raw for header in headers] == texts
    assert {header.lead for header in headers} == {b""}


@pytest.mark.parametrize("length", [2, 9, 10, 99, 100, 101, 255, 500, 999, 1000, 1001])
@pytest.mark.parametrize("off", [-1, 1])
def test_a_header_of_another_length_than_it_says_is_refused(length: int, off: int) -> None:
    text = b"x" * (length - 1) + b"\n"
    # One byte less leaves a line feed in front of the next length, one more takes the first digit of 120.
    error = refused_alike(START + REST + b"%03d  %b" % (length + off, text) + (b"120  %b\n" % (b"x" * 119)) * 2)
    assert error.line >= 9


@pytest.mark.parametrize("length", range(130))
@pytest.mark.parametrize("filler", [b"v", b"\n"])
def test_variables_of_every_length(length: int, filler: bytes) -> None:
    text = b"--aclm _x %d\n%b\n" % (length, filler * length)
    envelope = read_alike(START + b"-local\n" + text + b"-ident x\n" + REST)
    assert envelope.variables == {"acl_m_x": filler * length}
    assert [directive.name for directive in envelope.directives] == [b"local", b"aclm", b"ident"]


@pytest.mark.parametrize("length", [1, 9, 10, 50, 99, 100])
@pytest.mark.parametrize("off", [-1, 1])
def test_a_variable_of_another_length_than_it_says_is_read_as_exim_does(length: int, off: int) -> None:
    text = b"-aclm _x %d\n%b\n" % (length + off, b"v" * length)
    # Exim skips one byte after the value, whatever it is. Here it is the last of the value, or the X of XX.
    assert refused_alike(START + text + REST).line >= 6


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
@pytest.mark.parametrize("lines", [0, 1, 2, 3, 10])
def test_as_many_recipients_as_are_counted(count: int, lines: int) -> None:
    data = START + b"XX\n%d\n" % count + b"r@test.ex\n" * lines + b"\n015  Subject: hello\n"
    if count == lines:
        assert len(read_alike(data).recipients) == count
    else:
        refused_alike(data)


@pytest.mark.parametrize("name", [b"Subject", b"SUBJECT", b"subject", b"X-Subject", b"Subj", b"Subject:", b"S", b""])
@pytest.mark.parametrize(
    "raw", [b"Subject: x\n", b"subject \t: x\n", b"Subject:x\n", b"Subjects: x\n", b"S: x\n", b"x\n"]
)
def test_a_field_is_named_by_what_stands_before_its_colon(name: bytes, raw: bytes) -> None:
    header = Header(" ", raw)
    assert header.is_named(name) == (header.name.lower() == name.lower())
    assert not Header("*", raw).is_named(name)
