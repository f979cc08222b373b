"""A notice that the real Exim made, as a processor reads it."""

from __future__ import annotations

import pytest

from respool.processors.dsn import parse_dsn
from respool.spool.body import BytesBody
from respool.spool.envelope import Header
from respool.spool.message import Message

from ..unit.processors.processor_kit import make_message
from .exim import Exim

pytestmark = pytest.mark.exim


def message_of(content: bytes) -> Message:
    """A delivered message, in LF lines, as a value."""
    head, _, body = content.partition(b"\n\n")
    fields: list[bytes] = []
    for line in head.split(b"\n"):
        if line[:1] in {b" ", b"\t"}:
            fields[-1] += line + b"\n"
        else:
            fields.append(line + b"\n")
    message = make_message(fields, sender=b"")
    assert all(isinstance(field, Header) for field in message.headers)
    return Message(message.envelope, BytesBody(body))


def test_a_bounce_of_exim(exim: Exim) -> None:
    message_id = exim.receive(
        b"From: a@sender.example\r\nSubject: x\r\n\r\nHello\r\n", recipients=("nobody@fail.example", "b@file.example")
    )
    exim.deliver(message_id)
    (bounce,) = [delivery for delivery in exim.deliveries() if delivery.sender == ""]
    found = parse_dsn(message_of(bounce.content))
    assert found is not None
    assert found.reporting_mta
    assert found.failed_recipients == (b"nobody@fail.example",)
    (recipient,) = found.recipients
    assert (recipient.final_recipient, recipient.action, recipient.status) == (
        b"nobody@fail.example", "failed", "5.0.0",
    )  # fmt: skip
    (ordinary,) = [delivery for delivery in exim.deliveries() if delivery.sender != ""]
    assert parse_dsn(message_of(ordinary.content)) is None
