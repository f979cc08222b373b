"""A notice as somebody who gets it reads it: by Python's email package, from what Exim would send."""

from __future__ import annotations

from email import message_from_bytes, policy
from email.message import Message as Email

from msgspec import Struct

from respool.spool.message import Message


class ReadNotice(Struct, frozen=True, kw_only=True):
    """The three parts; the fields of the second as lists of (name, unfolded value)."""

    email: Email
    text: str
    per_message: list[tuple[str, str]]
    per_recipient: list[list[tuple[str, str]]]
    returned_type: str
    returned: bytes


def wire(message: Message) -> bytes:
    return b"".join(h.raw for h in message.sent_headers) + b"\n" + b"".join(message.body.chunks())


def fields(block: bytes) -> list[tuple[str, str]]:
    """The fields of a block, unfolded as RFC 5322 2.2.3 says."""
    lines = block.decode("utf-8").replace("\n ", " ").splitlines()
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def split_parts(message: Message) -> list[tuple[bytes, bytes]]:
    """(headers, content) of each part, cut at the boundary to the byte."""
    boundary = message_from_bytes(wire(message)).get_boundary()
    assert boundary is not None
    body = b"".join(message.body.chunks())
    assert body.endswith(b"--%b--\n" % boundary.encode())
    pieces = (b"\n" + body).split(b"\n--" + boundary.encode())[1:-1]
    parts = [piece.removeprefix(b"\n").partition(b"\n\n") for piece in pieces]
    return [(head, content) for head, _, content in parts]


def read_notice(message: Message) -> ReadNotice:
    email = message_from_bytes(wire(message), policy=policy.compat32)
    assert not email.defects
    assert email.get_content_type() == "multipart/report"
    assert email.get_param("report-type") == "delivery-status"
    (text_head, text), (status_head, status), (returned_head, returned) = split_parts(message)
    assert text_head.startswith(b"Content-Type: text/plain")
    assert b"delivery-status" in status_head
    first, *others = status.rstrip(b"\n").split(b"\n\n")
    assert len(email.get_payload()) == 3
    return ReadNotice(
        email=email, text=text.decode(), per_message=fields(first), per_recipient=[fields(block) for block in others],
        returned_type=returned_head.partition(b"\n")[0].removeprefix(b"Content-Type: ").decode(), returned=returned,
    )  # fmt: skip
