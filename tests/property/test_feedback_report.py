"""Whatever is reported about whatever message: three parts, each field once, nothing added."""

from __future__ import annotations

import email
import email.policy
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from respool.processors.authentication.dkim_verify import DkimResult
from respool.processors.authentication.dmarc import DmarcResult
from respool.processors.authentication.dmarc_record import parse_record
from respool.processors.authentication.spf import SpfResult
from respool.processors.dmarc_failure_report import Config, DmarcFailureReport
from respool.processors.results import Result
from respool.spool.message import Message
from tests.unit.processors.authentication.fake_dns import FakeResolver
from tests.unit.processors.processor_kit import make_context, make_message

NASTY = ["\n\n", "\r\n", "\nX-Injected: yes\n", "--respool-", "\x00", "\u2028", "a@b.example", "ü", '"', "\\", " " * 80]
texts = st.lists(st.one_of(st.text(max_size=15), st.sampled_from(NASTY)), max_size=4).map("".join)
data = texts.map(lambda text: text.encode("utf-8", "surrogateescape" if text.isascii() else "replace"))
names = st.sampled_from([b"From", b"To", b"Received", b"Date", b"DKIM-Signature", b"Cc", b"Subject", b"Content-Type"])
NEEDED = (
    "Feedback-Type",
    "Version",
    "User-Agent",
    "Auth-Failure",
    "Identity-Alignment",
    "Source-IP",
    "Reported-Domain",
)


@settings(max_examples=120, deadline=None)
@given(
    fields=st.lists(st.tuples(names, data), max_size=6),
    sender=data.map(lambda value: b"x" + value.translate(None, b"\n\r\0<>")),
    recipient=data.map(lambda value: b"r" + value.translate(None, b"\n\r\0 ")),
    reason=texts,
    selector=texts,
    identity=texts,
    spf=texts,
)
def test_generated_and_parsed(
    tmp_path_factory: Any,
    fields: list[tuple[bytes, bytes]],
    sender: bytes,
    recipient: bytes,
    reason: str,
    selector: str,
    identity: str,
    spf: str,
) -> None:
    raw = [name + b": " + value + b"\n" for name, value in fields if b"multipart" not in value]
    message = make_message([b"From: a@example.com\n", *raw], sender=sender, recipients=[recipient])
    limit = tmp_path_factory.getbasetemp() / "property.mdb"
    processor = DmarcFailureReport(
        Config(limit_file=str(limit), recipients=True, per_hour=100_000, per_domain_hour=100_000)
    )
    results = (
        SpfResult(method="spf", result=Result.FAIL, domain="spf.example", reason=reason),
        DkimResult(result=Result.FAIL, domain="example.com", selector=selector, identity=identity, reason=reason),
        DmarcResult(
            method="dmarc",
            result=Result.FAIL,
            author_domain="example.com",
            domain="example.com",
            organizational_domain="example.com",
            record=parse_record(b"v=DMARC1; p=reject; ruf=mailto:r@example.com"),
            reason=reason,
        ),
    )
    resolver = FakeResolver({"spf.example": {"TXT": (b"v=spf1 " + spf.encode("utf-8", "replace"),)}})
    context = make_context(resolver, results=results)
    processor.process(message, context)
    (report,) = context.notices.sent
    check(report)


def check(report: Message) -> None:
    assert [recipient.address for recipient in report.envelope.recipients] == [b"r@example.com"]
    content = b"".join(header.raw for header in report.sent_headers) + b"\n" + b"".join(report.body.chunks())
    assert b"\x00" not in content
    assert b"\r" not in content
    parsed = email.message_from_bytes(content, policy=email.policy.default)
    assert [name for name in parsed.keys() if "Injected" in name] == []  # noqa: SIM118
    parts: list[Any] = list(parsed.iter_parts())
    assert len(parts) == 3
    (inner,) = parts[1].get_payload()
    found = [name for name, _ in inner.items()]
    assert "X-Injected" not in found
    assert not inner.get_payload().strip()
    assert sorted(set(found)) == sorted(found)
    assert set(NEEDED) <= set(found)
    shown = email.message_from_bytes(parts[2].get_payload(decode=True))
    assert "X-Injected" not in shown
    assert not str(shown.get_payload()).strip()
