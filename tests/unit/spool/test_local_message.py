"""Messages that respool itself writes."""

from __future__ import annotations

from typing import Any

import pytest

from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import MessageId
from respool.spool.local_message import new_local_message
from respool.spool.message import Message


def make(**changes: Any) -> Message:
    arguments: dict[str, Any] = {
        "sender": b"dmarc@example.org",
        "recipients": [b"a@example.com"],
        "headers": [(b"Subject", b"x")],
        "body": b"Hello\n",
        "hostname": "mx.example.org",
        "now": 1_700_000_000.25,
    }
    return new_local_message(MessageId("1abcde-000000-00"), **{**arguments, **changes})


def test_it_reads_back_as_what_was_written() -> None:
    message = make()
    written = render_header_file(message.envelope)
    read = parse_header_file(written, file="x-H")
    assert render_header_file(read) == written
    assert (read.sender, read.is_local_error, read.host_address) == (b"dmarc@example.org", False, None)
    assert read.received_protocol == b"local"
    assert b"-body_linecount 1\n" in written
    assert b"\tid 1abcde-000000-00\n\tfor a@example.com;\n" in read.headers[0].raw
    assert [header.name for header in read.headers] == [b"Received", b"Subject", b"Message-Id", b"Date"]


def test_the_null_sender_is_an_error_message() -> None:
    assert make(sender=b"").envelope.is_local_error


def test_several_recipients_are_not_named() -> None:
    assert b"for" not in make(recipients=[b"a@example.com", b"b@example.com"]).headers[0].raw


def test_utf8() -> None:
    message = make(utf8=True, recipients=["ü@example.com".encode()])
    assert message.envelope.is_smtputf8
    assert "for ü@example.com;".encode() in message.headers[0].raw
    assert b"for ?@example.com;" in make(recipients=["ü@example.com".encode()]).headers[0].raw


@pytest.mark.parametrize(
    "changes",
    [
        {"sender": b"a\nb"}, {"recipients": [b"a@b\nc"]}, {"recipients": []},
        {"headers": [(b"Subject", b"x\nBcc: y@example.com")]}, {"headers": [(b"Sub ject", b"x")]},
        {"body": b"no end"}, {"hostname": "a\nb"},
    ],
)  # fmt: skip
def test_nothing_can_be_injected(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        make(**changes)
