"""Notices of Exim with and without its extra fields, of others, and what is none."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from respool.processors.dsn import MAXIMUM_BODY, DeliveryNotice, parse_dsn
from respool.spool.body import BytesBody
from respool.spool.message import Message

from .processor_kit import make_message

# The form that deliver.c of Exim writes with EXPERIMENTAL_DSN_INFO.
STATUS = b"""Reporting-MTA: dns; mx.example.org
Original-Envelope-ID: abc+2B

Original-Recipient: rfc822;alias@example.org
Action: failed
Final-Recipient: rfc822;bob@remote.example
Status: 5.0.0
Remote-MTA: dns; mx.remote.example
Remote-MTA: X-ip; [192.0.2.9]:2525
X-Remote-MTA-smtp-greeting: X-str; 220 mx.remote.example ESMTP
 ready
X-Remote-MTA-helo-response: X-str; 250-mx.remote.example Hello
X-Exim-Diagnostic: X-str; SMTP error from remote mail server after RCPT TO:<bob@remote.example>:
 550 no such user
Diagnostic-Code: smtp; 550 no such user

Action: failed
Final-Recipient: rfc822;carol@remote.example
Status: 5.0.0
"""
TYPE = b'multipart/report; report-type=delivery-status; boundary="123-eximdsn-456"'
REPORT = b"""This is a MIME message.

--123-eximdsn-456
Content-type: text/plain; charset=us-ascii

A message could not be delivered.

--123-eximdsn-456
Content-type: message/delivery-status

%b
--123-eximdsn-456
Content-type: message/rfc822

Subject: the original

--123-eximdsn-456--
"""


def notice(body: bytes = REPORT % STATUS, content_type: bytes = TYPE, **keywords: bytes) -> Message:
    headers = [(b"From", b"Mail Delivery System <Mailer-Daemon@mx.example.org>"), (b"Content-Type", content_type)]
    headers += [(b"X-Failed-Recipients", b"bob@remote.example,\n  carol@remote.example")]
    return make_message(headers, sender=b"", body=body)


def parse(*arguments: bytes) -> DeliveryNotice:
    found = parse_dsn(notice(*arguments))
    assert found is not None
    return found


def test_exim_with_extra_information() -> None:
    found = parse()
    assert (found.reporting_mta, found.original_envelope_id) == (b"mx.example.org", b"abc+2B")
    assert found.failed_recipients == (b"bob@remote.example", b"carol@remote.example")
    bob, carol = found.recipients
    assert (bob.final_recipient, bob.original_recipient) == (b"bob@remote.example", b"alias@example.org")
    assert (bob.action, bob.status) == ("failed", "5.0.0")
    assert (bob.remote_mta, bob.remote_address, bob.remote_port) == (b"mx.remote.example", "192.0.2.9", 2525)
    assert bob.smtp_greeting == b"220 mx.remote.example ESMTP ready"
    assert bob.helo_response == b"250-mx.remote.example Hello"
    assert bob.exim_diagnostic.endswith(b"<bob@remote.example>: 550 no such user")
    assert bob.diagnostic == b"550 no such user"
    assert (b"Remote-MTA", b"X-ip; [192.0.2.9]:2525") in bob.fields
    assert (carol.final_recipient, carol.remote_mta, carol.remote_port) == (b"carol@remote.example", b"", 0)


def test_port_25_and_ipv6() -> None:
    (recipient,) = parse(REPORT % b"Reporting-MTA: dns; x\n\nRemote-MTA: X-ip; [2001:db8::9]\n").recipients
    assert (recipient.remote_address, recipient.remote_port) == ("2001:db8::9", 25)


@pytest.mark.parametrize(
    "content_type",
    [
        b"Multipart/Report; boundary=123-eximdsn-456",
        b'multipart/report; boundary="123-eximdsn-456"; report-type="delivery-status"',
        b'multipart/report;\n\treport-type=global-delivery-status;\n\tboundary="123-exim\\dsn-456"',
        b'multipart/report (a notice); report-type=delivery-status; boundary="123-eximdsn-456  "',
    ],
)
def test_other_ways_to_write_the_type(content_type: bytes) -> None:
    assert len(parse(REPORT % STATUS, content_type).recipients) == 2


@pytest.mark.parametrize(
    "content_type",
    [
        b"multipart/mixed; boundary=123-eximdsn-456",
        b"multipart/report; report-type=feedback-report; boundary=123-eximdsn-456",
        b"multipart/report",
        b"multipart/report; boundary=other",
        b"multipart/report; boundary=" + b"x" * 71,
        b"",
    ],
)
def test_what_is_no_notice(content_type: bytes) -> None:
    assert parse_dsn(notice(REPORT % STATUS, content_type)) is None


def test_without_a_status_part() -> None:
    assert parse_dsn(notice((REPORT % STATUS).replace(b"delivery-status", b"disposition-notification"))) is None
    assert parse_dsn(notice(b"")) is None
    assert parse_dsn(notice(b"--123-eximdsn-456")) is None
    assert parse_dsn(notice(b"--123-eximdsn-456--\n" + REPORT % STATUS)) is None


def test_encodings() -> None:
    part = b"Content-Type: message/delivery-status\nContent-Transfer-Encoding: %b\n\n%b"
    body = b"--123-eximdsn-456\n%b\n--123-eximdsn-456--\n"
    encoded = base64.encodebytes(STATUS.replace(b"\n", b"\r\n"))
    assert parse(body % (part % (b"Base64", encoded))).recipients == parse().recipients
    quoted = STATUS.replace(b"=", b"=3D").replace(b"550 no", b"550=20no")
    assert parse(body % (part % (b"quoted-printable", quoted))).recipients == parse().recipients
    assert parse_dsn(notice(body % (part % (b"base64", b"A")))) is None


def test_global_status_and_wire_format() -> None:
    status = b"Reporting-MTA: dns; x\n\nFinal-Recipient: utf-8; \xc3\xbc@b\xc3\xbccher.example\nAction: Failed (x)\n"
    body = (REPORT % status).replace(b"message/delivery-status", b"message/global-delivery-status")
    message = notice(body)
    wire = Message(message.envelope, BytesBody(body.replace(b"\n", b"\r\n"), wireformat=True))
    for found in (parse_dsn(message), parse_dsn(wire)):
        assert found is not None
        (recipient,) = found.recipients
        assert recipient.final_recipient == "ü@bücher.example".encode()
        assert recipient.action == "failed"


def test_without_fields_of_the_message() -> None:
    found = parse(REPORT % b"Final-Recipient: rfc822; a@b.example\nAction: delayed\nStatus: 4.4.1 (no answer)\n")
    assert found.reporting_mta == b""
    assert [(r.final_recipient, r.action, r.status) for r in found.recipients] == [(b"a@b.example", "delayed", "4.4.1")]


def test_a_status_part_behind_the_limit_is_not_found() -> None:
    assert parse_dsn(notice(b"x\n" * (MAXIMUM_BODY // 2) + REPORT % STATUS)) is None


def test_hostile_size() -> None:
    many = b"Reporting-MTA: dns; x\n\n" + b"Action: failed\n\n" * 30_000
    assert len(parse(REPORT % many).recipients) == 10_000
    folded = b"Reporting-MTA: dns; x\n\nAction: failed\n" + b" x\n" * 200_000
    assert len(parse(REPORT % folded).recipients) == 1
    assert parse_dsn(notice(b"--123-eximdsn-456\n" * 50_000)) is None
    assert parse_dsn(notice(b"", TYPE[:17] + b';a="' * 2000)) is None


@given(st.binary(max_size=300), st.binary(max_size=500))
def test_nothing_raises(parameters: bytes, status: bytes) -> None:
    from respool.spool.envelope import Header

    raw = b"Content-Type: multipart/report; boundary=B" + parameters.replace(b"\n", b"\n ") + b"\n"
    body = b"--B\nContent-Type: message/delivery-status\n\n" + status + b"\n--B--\n"
    message = make_message([raw], body=body)
    assert isinstance(message.headers[0], Header)
    parse_dsn(message)
