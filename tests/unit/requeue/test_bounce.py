"""Notices: who gets one, what it says, and that nothing hostile gets through."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from respool.requeue.bounce import LONGEST_RETURNED, Failure, bounce_notices, refused, with_own_id
from respool.requeue.delivery_status import FailedRecipient, RemoteServer
from respool.spool.body import BytesBody
from respool.spool.directive import Directive
from respool.spool.editing import set_directive
from respool.spool.envelope import DSN_DELAY, DSN_FAILURE, DSN_NEVER, DSN_SUCCESS, Recipient
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import MessageId
from respool.spool.message import Message

from ..processors.processor_kit import make_message
from .read_notice import ReadNotice, read_notice

NOW = 1_795_361_392.5
HEADERS = ((b"Message-ID", b"<one@sender.example>"), (b"Subject", b"hello"))


def failing(
    *recipients: Recipient | bytes,
    directives: Sequence[tuple[bytes, bytes | None]] = (),
    body: bytes = b"Hello\n",
    **others: object,
) -> Message:
    message = make_message(headers=HEADERS, sender=b"alice@sender.example", body=body)
    envelope = message.envelope
    for name, value in directives:
        envelope = set_directive(envelope, Directive.make(name, value))
    made = tuple(r if isinstance(r, Recipient) else Recipient.make(r) for r in recipients or (b"bob@example.org",))
    return Message(envelope.replace(recipients=made, **others), message.body)  # type: ignore[arg-type]


def notices(message: Message, failure: Failure | None = None) -> tuple[Message, ...]:
    return bounce_notices(message, failure or Failure(reason="not wanted here"), hostname="mx.example.org", now=NOW)


def read_one(message: Message, failure: Failure | None = None) -> ReadNotice:
    (notice,) = notices(message, failure)
    return read_notice(notice)


def test_a_notice_is_a_local_message_as_exim_makes_one() -> None:
    (notice,) = notices(failing())
    envelope = with_own_id(notice.envelope, MessageId("1abcdf-000000-00"))
    written = render_header_file(envelope)
    read = parse_header_file(written, file="x-H")
    assert render_header_file(read) == written
    assert (read.sender, read.is_local_error, read.is_first_delivery) == (b"", True, True)
    assert read.received_protocol == b"local"
    assert read.host_address is None
    assert [r.address for r in read.recipients] == [b"alice@sender.example"]
    received, *_ = read.headers
    assert received.flag == "P"
    assert b"\n\tid 1abcdf-000000-00\n\tfor alice@sender.example;\n\t" in received.raw
    by_name = {header.name: header.value.strip() for header in read.headers}
    assert by_name[b"Message-Id"] == b"<E1abcdf-000000-00@mx.example.org>"
    assert by_name[b"Auto-Submitted"] == b"auto-replied"
    assert by_name[b"X-Failed-Recipients"] == b"bob@example.org"
    assert by_name[b"From"] == b"Mail Delivery System <Mailer-Daemon@mx.example.org>"
    assert by_name[b"References"] == b"<one@sender.example>"
    body = b"".join(notice.body.chunks())
    assert read.body_linecount == body.count(b"\n")
    assert body.endswith(b"\n")


def test_the_status_of_a_verdict() -> None:
    notice = read_one(failing(directives=[(b"dsn_envid", b"my+20id+3D1")]))
    assert notice.per_message == [
        ("Reporting-MTA", "dns; mx.example.org"),
        ("Original-Envelope-Id", "my id=1"),
        ("Arrival-Date", "Tue, 14 Nov 2023 22:13:20 +0000"),
    ]
    assert notice.per_recipient == [
        [
            ("Action", "failed"),
            ("Final-Recipient", "rfc822;bob@example.org"),
            ("Status", "5.7.1"),
            ("X-Exim-Diagnostic", "X-str; not wanted here"),
        ]
    ]
    assert "  bob@example.org\n    not wanted here\n" in notice.text


def test_the_status_of_a_refusal_has_one_remote_mta() -> None:
    remote = RemoteServer(
        name="mail.example.net", address="192.0.2.7", port=26, greeting="220 mail ESMTP", ehlo_response="250-mail",
        reply="550 5.1.1 no such user\nreally",
    )  # fmt: skip
    failed = FailedRecipient(address=b"b@example.org", status="5.1.1", diagnostic="RCPT refused", remote=remote)
    message = failing(
        Recipient.make(b"b@example.org", orcpt=b"rfc822;b+2Bx@example.org", dsn_flags=DSN_FAILURE), b"c@example.org"
    )
    notice = read_one(message, refused([failed], "refused"))
    assert notice.per_recipient == [
        [
            ("Original-Recipient", "rfc822;b+x@example.org"),
            ("Action", "failed"),
            ("Final-Recipient", "rfc822;b@example.org"),
            ("Status", "5.1.1"),
            ("Remote-MTA", "dns; mail.example.net"),
            ("X-Remote-MTA-ip", "X-ip; [192.0.2.7]:26"),
            ("X-Remote-MTA-smtp-greeting", "X-str; 220 mail ESMTP"),
            ("X-Remote-MTA-helo-response", "X-str; 250-mail"),
            ("X-Exim-Diagnostic", "X-str; RCPT refused"),
            ("Diagnostic-Code", "smtp; 550 5.1.1 no such user really"),
        ]
    ]


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (0, True), (DSN_FAILURE, True), (DSN_FAILURE | DSN_DELAY | 1, True), (DSN_NEVER, False), (DSN_SUCCESS, False),
        (DSN_DELAY, False), (1, True), (DSN_NEVER | DSN_FAILURE, False),
    ],
)  # fmt: skip
def test_notify(flags: int, *, told: bool) -> None:
    assert bool(notices(failing(Recipient.make(b"bob@example.org", dsn_flags=flags)))) is told


def test_only_those_who_want_it_are_listed_and_nobody_delivered() -> None:
    message = failing(Recipient.make(b"n@example.org", dsn_flags=DSN_NEVER), b"a@example.org", b"b@example.org")
    assert [block[1][1] for block in read_one(message).per_recipient] == [
        "rfc822;a@example.org", "rfc822;b@example.org",
    ]  # fmt: skip


def test_never_to_a_null_sender() -> None:
    message = failing(Recipient.make(b"a@example.org", errors_to=b"owner@example.org"))
    assert notices(Message(message.envelope.replace(sender=b""), message.body)) == ()


def test_errors_to_gets_its_own_notice() -> None:
    made = notices(failing(b"a@example.org", Recipient.make(b"b@example.org", errors_to=b"owner@example.org")))
    assert [n.envelope.recipients[0].address for n in made] == [b"alice@sender.example", b"owner@example.org"]
    assert [read_notice(n).per_recipient[0][1][1] for n in made] == ["rfc822;a@example.org", "rfc822;b@example.org"]


def test_the_whole_message_is_returned() -> None:
    notice = read_one(failing())
    assert notice.returned_type == "message/rfc822"
    assert notice.returned == (
        b"Return-path: <alice@sender.example>\nMessage-ID: <one@sender.example>\nSubject: hello\n\nHello\n"
    )


def test_ret_hdrs() -> None:
    notice = read_one(failing(directives=[(b"dsn_ret", b"2")]))
    assert notice.returned_type == "text/rfc822-headers"
    assert notice.returned.endswith(b"\nSubject: hello\n")


@pytest.mark.parametrize("body", [b"x" * 70 + b"\n", b"x" * 999 + b"\n"])
def test_too_much_is_not_returned(body: bytes) -> None:
    count = LONGEST_RETURNED // 71 + 1 if len(body) == 71 else 1
    notice = read_one(failing(body=body * count))
    assert notice.returned_type == "text/rfc822-headers"
    assert notice.returned.startswith(b"X-Exim-DSN-Information: ")
    assert "Only the headers" in notice.text


def test_wire_format_is_returned_with_our_line_ends() -> None:
    message = failing()
    notice = read_one(Message(message.envelope, BytesBody(b"one\r\n.two", wireformat=True)))
    assert notice.returned.endswith(b"\n\none\n.two\n")


def test_returned_headers_are_bounded() -> None:
    message = failing()
    big = tuple(message.headers[1:]) + make_message(headers=[(b"X-Big", b"y " * 300)] * 200).headers
    notice = read_one(Message(message.envelope.replace(headers=big), message.body))
    assert len(notice.returned) < 65 * 1024
    assert notice.returned_type == "text/rfc822-headers"


def test_smtputf8_gives_a_global_notice() -> None:
    message = failing("bücher@exämple.org".encode(), directives=[(b"smtputf8", None)])
    (made,) = notices(message)
    assert made.envelope.is_smtputf8
    assert made.envelope.received_protocol == b"utf8local"
    assert b"Content-Type: message/global-delivery-status\n" in b"".join(made.body.chunks())
    notice = read_notice(made)
    assert notice.per_recipient[0][1] == ("Final-Recipient", "utf-8;bücher@exämple.org")
    assert notice.returned_type == "message/global"


def test_other_bytes_without_smtputf8() -> None:
    notice = read_one(failing("bü@example.org".encode(), b"\xff@example.org"))
    assert [block[1][1] for block in notice.per_recipient] == [
        "utf-8;b\\x{FC}@example.org", "utf-8;\\x{FFFD}@example.org",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "hostile",
    [b"a@b\rBcc: x@y", b'"a\x1b[2J"@b.example', b"a@" + b"b" * 5000, b" ", b"\xe2\x80\xa8@b", b"--\rx", b"a,b@c;d"],
)
def test_hostile_addresses_make_no_field(hostile: bytes) -> None:
    message = failing(hostile, directives=[(b"dsn_envid", b"x\ry"), (b"smtputf8", None)])
    message = Message(message.envelope.replace(sender=b"s\r@h.example\x0b"), message.body)
    notice = read_one(message, Failure(reason="\r\nBcc: victim@example.org\n\n--x\n"))
    assert [name for name, _ in notice.per_recipient[0]] == [
        "Action", "Final-Recipient", "Status", "X-Exim-Diagnostic",
    ]  # fmt: skip
    assert notice.email.get_all("Bcc") is None
    assert len(notice.email.keys()) == len(set(notice.email.keys()))


def test_the_boundary_is_new_each_time() -> None:
    one, two = (read_one(failing()).email.get_boundary() for _ in range(2))
    assert one != two
