"""What is written into a delivery status is read back: parse(generate(x)) == x."""

from __future__ import annotations

from email import message_from_bytes

from hypothesis import given
from hypothesis import strategies as st

from respool.requeue.bounce import Failure, bounce_notices
from respool.requeue.delivery_status import (
    LONGEST_VALUE,
    DeliveryStatus,
    FailedRecipient,
    RemoteServer,
    field,
    one_line,
    render_delivery_status,
)
from respool.requeue.xtext import decode_xtext, encode_xtext
from respool.spool.body import BytesBody
from respool.spool.envelope import Recipient
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.message import Message

from ..unit.processors.processor_kit import make_message
from ..unit.requeue.read_notice import fields, read_notice

words = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=60)
plain = st.lists(words, min_size=1, max_size=12).map(" ".join)
addresses = st.text("abcXYZ019.-_+=@!#", min_size=1, max_size=60).map(str.encode)
statuses = st.from_regex(r"5\.[0-9]{1,3}\.[0-9]{1,3}", fullmatch=True)
servers = st.builds(
    RemoteServer, name=words, address=st.just("192.0.2.1"), port=st.sampled_from([25, 587]), greeting=plain,
    ehlo_response=plain, reply=plain,
)  # fmt: skip
recipients = st.builds(
    FailedRecipient,
    address=addresses,
    original=addresses.map(lambda a: b"rfc822;" + encode_xtext(a)),
    status=statuses,
    diagnostic=plain,
    remote=st.none() | servers,
)


def parse(block: list[tuple[str, str]]) -> FailedRecipient:
    """The recipient that a block tells of."""
    found = dict(block)
    assert len(found) == len(block)
    remote = None
    if "Remote-MTA" in found:
        ip, _, port = found["X-Remote-MTA-ip"].removeprefix("X-ip; [").partition("]")
        remote = RemoteServer(
            name=found["Remote-MTA"].removeprefix("dns; "),
            address=ip,
            port=int(port[1:] or "25"),
            greeting=found["X-Remote-MTA-smtp-greeting"].removeprefix("X-str; "),
            ehlo_response=found["X-Remote-MTA-helo-response"].removeprefix("X-str; "),
            reply=found["Diagnostic-Code"].removeprefix("smtp; "),
        )
    return FailedRecipient(
        address=found["Final-Recipient"].removeprefix("rfc822;").encode(),
        original=b"rfc822;" + encode_xtext(found["Original-Recipient"].removeprefix("rfc822;").encode()),
        status=found["Status"],
        diagnostic=found["X-Exim-Diagnostic"].removeprefix("X-str; "),
        remote=remote,
    )


@given(st.lists(recipients, min_size=1, max_size=4), st.binary(max_size=40), st.integers(0, 2**31 - 1))
def test_read_back(failed: list[FailedRecipient], envelope_id: bytes, arrived: int) -> None:
    status = DeliveryStatus(
        reporting_host="mx.example", recipients=tuple(failed), envelope_id=encode_xtext(envelope_id), arrived=arrived
    )
    written = render_delivery_status(status, utf8=False)
    assert written.isascii()
    assert max(map(len, written.split(b"\n"))) < 998
    first, *blocks = written.rstrip(b"\n").split(b"\n\n")
    assert [parse(fields(block)) for block in blocks] == failed
    email = message_from_bytes(b"Content-Type: message/delivery-status\n\n" + written)
    assert len(email.get_payload()) == 1 + len(failed)
    assert fields(first)[0] == ("Reporting-MTA", "dns; mx.example")


@given(st.text(max_size=3000))
def test_a_field_is_one_field_of_bounded_lines(text: str) -> None:
    value = one_line(text)
    written = field("X-Any", value, utf8=True)
    assert len(value.encode()) <= LONGEST_VALUE
    assert max(map(len, written.split(b"\n"))) < 998
    assert all(line.startswith(b" ") and line.strip() for line in written.split(b"\n")[1:])
    assert fields(written) == [("X-Any", value)]


@given(st.binary(max_size=300))
def test_xtext(value: bytes) -> None:
    text = encode_xtext(value)
    assert text.isascii()
    assert all(33 <= byte <= 126 and byte != 0x3D for byte in text)
    assert decode_xtext(text) == value


hostile = st.binary(min_size=1, max_size=80).map(lambda b: b.replace(b"\n", b"").replace(b"\0", b"") or b"x")


@given(hostile, hostile, hostile, st.text(max_size=200), st.binary(max_size=400), st.booleans())
def test_no_bytes_break_a_notice(
    sender: bytes, address: bytes, orcpt: bytes, reason: str, body: bytes, wireformat: bool
) -> None:
    message = make_message(sender=sender)
    recipient = Recipient.make(address, orcpt=orcpt, dsn_flags=8)
    message = Message(message.envelope.replace(recipients=(recipient,)), BytesBody(body, wireformat=wireformat))
    (notice,) = bounce_notices(message, Failure(reason=reason), hostname="mx.example", now=1.0)
    written = render_header_file(notice.envelope)
    assert render_header_file(parse_header_file(written, file="x-H")) == written
    read = read_notice(notice)
    assert len(read.per_recipient) == 1
    assert list(read.email.keys()) == [
        "Received", "X-Failed-Recipients", "Auto-Submitted", "From", "To", "Content-Type", "MIME-Version", "Subject",
        "Message-Id", "Date",
    ]  # fmt: skip
