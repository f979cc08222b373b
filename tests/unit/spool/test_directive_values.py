"""What directive lines mean, where they are bare, odd or absent; the usual ones are in test_header_file.py."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from respool.spool.directive import Directive
from respool.spool.directive_values import address_and_port, leading_number, unprinted
from respool.spool.envelope import Envelope
from respool.spool.ids import MessageId


def envelope(*lines: bytes, received_time: int = 1795360228) -> Envelope:
    return Envelope(
        id=MessageId("1xV9D2-0007Yr-05"), login=b"root", uid=0, gid=0, sender=b"", received_time=received_time,
        warning_count=0, directives=tuple(Directive.make(*line.split(b" ", 1)) for line in lines),
    )  # fmt: skip


def test_the_class_says_which_line_holds_a_value() -> None:
    assert (Envelope.helo_name.directive, Envelope.host_port.directive) == (b"helo_name", b"host_address")


def test_what_is_absent() -> None:
    values = envelope()
    assert (values.helo_name, values.tls_sni, values.host_address, values.host_port) == (None, None, None, 0)
    assert (values.is_local, values.is_frozen, values.is_wireformat) == (False, False, False)
    assert (values.body_zerocount, values.dsn_ret, values.tls_ocsp, values.max_received_linelength) == (0, 0, 0, 0)
    assert (values.frozen_since, values.body_linecount, values.spam_score_int) == (None, None, None)
    assert (values.tls_resumption, values.received_usec, values.received_complete) == (0, 0, None)
    assert (values.values, values.variables) == ({}, {})


def test_what_is_there_without_a_value() -> None:
    values = envelope(
        b"helo_name", b"tls_sni", b"host_address", b"interface_address", b"local", b"body_zerocount",
        b"body_linecount", b"tls_resumption", b"received_time_usec", b"received_time_complete", b"dsn_ret",
    )  # fmt: skip
    assert (values.helo_name, values.tls_sni, values.host_address, values.host_port) == (b"", b"", b"", 0)
    assert (values.interface_address, values.interface_port) == (b"", 0)
    assert (values.is_local, values.body_zerocount, values.body_linecount, values.dsn_ret) == (True, 0, 0, 0)
    assert (values.tls_resumption, values.received_usec, values.received_complete) == (0, 0, None)


def test_the_last_line_of_a_name_counts() -> None:
    values = envelope(b"ident a", b"ident b", b"local", b"body_zerocount 1", b"body_zerocount 2x")
    assert (values.ident, values.body_zerocount) == (b"b", 2)
    assert values.values == {b"ident": b"b", b"local": None, b"body_zerocount": b"2x"}


@pytest.mark.parametrize(("letter", "bits"), [(b"A", 0), (b"B", 1), (b"C", 2), (b"CA", 2), (b"`", 31)])
def test_the_bits_of_a_resumed_session(letter: bytes, bits: int) -> None:
    assert envelope(b"tls_resumption " + letter).tls_resumption == bits


@pytest.mark.parametrize(
    ("value", "usec"), [(b".000042", 42), (b"42", 42), (b". +42", 42), (b".x", 0), (b"x5", 0), (b".5 6", 5)]
)
def test_microseconds_of_the_received_time(value: bytes, usec: int) -> None:
    values = envelope(b"received_time_usec " + value)
    assert values.received_usec == usec
    assert values.received_at == datetime(2026, 11, 22, 15, 10, 28, usec, tzinfo=UTC)


@pytest.mark.parametrize("seconds", [10**17, -(10**17), 253402300800])
def test_a_time_that_no_calendar_has_is_none(seconds: int) -> None:
    assert envelope(received_time=seconds).received_at is None


@pytest.mark.parametrize(
    ("value", "expected"), [(b"5.7", (5, 7)), (b" +5. +000007", (5, 7)), (b"5", None), (b".7", None), (b"x", None)]
)
def test_when_the_data_had_been_received(value: bytes, expected: tuple[int, int] | None) -> None:
    assert envelope(b"received_time_complete " + value).received_complete == expected


@pytest.mark.parametrize(
    ("text", "number"),
    [(b"", 0), (b"x", 0), (b"7", 7), (b"\t -7 8", -7), (b"+7x", 7), (b"- 7", 0), (b"9" * 18, 10**18 - 1)],
)
def test_numbers_as_atoi_reads_them(text: bytes, number: int) -> None:
    assert leading_number(text) == number


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"[1.2.3.4]:25", (b"1.2.3.4", 25)), (b"[1.2.3.4]", (b"1.2.3.4", 0)), (b"[]:1", (b"", 1)),
        (b"[1.2.3.4]:25x", (b"[1.2.3.4]:25x", 0)), (b"[1.2.3.4", (b"[1.2.3.4", 0)),
        (b"1.2.3.4.25", (b"1.2.3.4", 25)), (b"1.2.3.4.", (b"1.2.3.4", 0)), (b"1.2.3.4", (b"1.2.3.4", 0)),
        (b"1.2.3.4.5.6", (b"1.2.3.4.5.6", 0)), (b"1.2.3.4.25x", (b"1.2.3.4.25x", 0)), (b"1.2.3", (b"1.2.3", 0)),
        (b"::1.25", (b"::1", 25)), (b"::1.", (b"::1", 0)), (b"::1", (b"::1", 0)), (b"::1.2.3", (b"::1.2.3", 0)),
    ],
)  # fmt: skip
def test_addresses_with_and_without_a_port(value: bytes, expected: tuple[bytes, int]) -> None:
    assert address_and_port(value) == expected
    host = envelope(b"host_address " + value)
    assert (host.host_address, host.host_port) == expected


@pytest.mark.parametrize(
    ("printed", "text"),
    [
        (rb"\b\f\n\r\t\v", b"\b\f\n\r\t\v"), (rb"\\n", rb"\n"), (rb"\q", b"q"), (b"\\", b"\\"), (b"\\\n", b"\n"),
        (rb"\0", b"\0"), (rb"\101", b"A"), (rb"\1012", b"A2"), (rb"\18", b"\x018"), (rb"\777", b"\xff"),
        (rb"\400", b"\0"), (rb"\x41", b"A"), (rb"\x411", b"A1"), (rb"\xfF", b"\xff"), (rb"\x", b"\0"),
        (rb"\xg", b"\0g"), (b"plain", b"plain"),
    ],
)  # fmt: skip
def test_what_exim_escaped_is_what_it_was(printed: bytes, text: bytes) -> None:
    assert unprinted(printed) == text
    assert envelope(b"tls_peerdn " + printed.replace(b"\n", b"")).tls_peerdn == unprinted(printed.replace(b"\n", b""))
