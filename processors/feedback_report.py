"""A DMARC failure report in AFRF: the body and header fields of a message (RFC 6591, RFC 9991).

Three parts: words for a person, ``message/feedback-report`` for a program, and header
fields of the reported message. Everything here was somebody else's; each value becomes
one line of bounded length, so that nothing can add a field, a part or a recipient.

Diagnostics: raises nothing.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from email.utils import formatdate
from typing import Final, Literal

from msgspec import Struct

AuthFailure = Literal["dmarc", "spf", "signature", "bodyhash"]
Delivery = Literal["", "delivered", "spam", "policy", "reject", "other"]

_LONGEST_VALUE: Final = 900
_UNSHOWN: Final = re.compile(r"[^ -~]+")
_USER_AGENT: Final = "respool/1"


class FailedSignature(Struct, frozen=True):
    """A signature of the author's domain that did not verify."""

    domain: str
    identity: str
    selector: str


class FeedbackReport(Struct, frozen=True, kw_only=True):
    """What is reported of one message. Addresses and headers are already redacted.

    failed lists the mechanisms that gave no aligned pass; arrived is Unix time; results
    an Authentication-Results value; incidents how many failures this report stands for.
    """

    auth_failure: AuthFailure
    author_domain: str
    policy_domain: str
    policy: str
    results: str
    failed: tuple[Literal["dkim", "spf"], ...]
    mail_from: bytes
    recipients: tuple[bytes, ...] = ()
    source_ip: str
    arrived: float
    delivery: Delivery = ""
    reporting_host: str
    message_id: str
    incidents: int = 1
    signatures: tuple[FailedSignature, ...] = ()
    spf_domain: str = ""
    spf_record: str = ""
    headers: bytes = b""


class RenderedReport(Struct, frozen=True):
    """Header fields and body of the report, in LF lines."""

    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes


def render_report(report: FeedbackReport, *, sender: str, receiver: str) -> RenderedReport:
    """The report as a message from sender to receiver, both plain addresses."""
    boundary = f"respool-{secrets.token_hex(16)}"
    subject = f"DMARC failure report for {_line(report.author_domain)} from {_line(report.source_ip)}"
    headers = (
        (b"Auto-Submitted", b"auto-generated"),
        (b"From", b"DMARC failure reports <%b>" % _line(sender).encode()),
        (b"To", b"<%b>" % _line(receiver).encode()),
        (b"Subject", subject.encode()),
        (b"MIME-Version", b"1.0"),
        (
            b"Content-Type",
            b'multipart/report; report-type=feedback-report;\n\tboundary="%b"' % boundary.encode(),
        ),
    )
    parts = (
        ("text/plain; charset=us-ascii", _words(report)),
        ("message/feedback-report", b"".join(_fields(report))),
        ("text/rfc822-headers", report.headers or b"X-Nothing-Shown: yes\n"),
    )
    body = b"".join(_part(boundary, kind, content) for kind, content in parts)
    return RenderedReport(headers, body + f"--{boundary}--\n".encode())


def _part(boundary: str, kind: str, content: bytes) -> bytes:
    encoding = "" if content.isascii() else "Content-Transfer-Encoding: 8bit\n"
    return f"--{boundary}\nContent-Type: {kind}\n{encoding}\n".encode() + content + b"\n"


def _words(report: FeedbackReport) -> bytes:
    domain = _line(report.author_domain)
    text = (
        f"This is a report about mail with {domain} in its From field, received from\n"
        f"{_line(report.source_ip)} on {formatdate(report.arrived)}.\n"
        "\n"
        f"The DMARC record at {_line(report.policy_domain)} asks for it. "
        f"Its policy for this mail: {_line(report.policy)}.\n"
        f"Without an aligned pass: {', '.join(report.failed) or 'none'}.\n"
    )
    if report.incidents > 1:
        text += f"It stands for {report.incidents} failures: not each of them is reported.\n"
    return text.encode("ascii", "replace") + b"\nThe parts below are for programs. Nobody reads answers to this.\n"


def _fields(report: FeedbackReport) -> Iterator[bytes]:
    """RFC 5965 3.1, RFC 6591 3.1 and RFC 9991's Identity-Alignment."""
    yield _field("Feedback-Type", "auth-failure")
    yield _field("Version", "1")
    yield _field("User-Agent", _USER_AGENT)
    yield _field("Auth-Failure", report.auth_failure)
    yield _field("Authentication-Results", _whole_results(report.results))
    yield _field("Identity-Alignment", ", ".join(report.failed) or "none")
    yield _field("Original-Envelope-Id", report.message_id)
    yield _field("Original-Mail-From", f"<{report.mail_from.decode('ascii', 'replace')}>")
    for recipient in report.recipients:
        yield _field("Original-Rcpt-To", f"<{recipient.decode('ascii', 'replace')}>")
    yield _field("Arrival-Date", formatdate(report.arrived))
    yield _field("Reporting-MTA", f"dns; {report.reporting_host}")
    yield _field("Source-IP", report.source_ip)
    yield _field("Reported-Domain", report.author_domain)
    if report.delivery:
        yield _field("Delivery-Result", report.delivery)
    yield _field("Incidents", str(report.incidents))
    for signature in report.signatures[:1]:
        # RFC 6591 3.1: each of these at most once.
        yield _field("DKIM-Domain", signature.domain)
        yield _field("DKIM-Identity", signature.identity)
        yield _field("DKIM-Selector", signature.selector)
    if report.spf_record:
        quoted = report.spf_record.replace("\\", "\\\\").replace('"', '\\"')
        yield _field("SPF-DNS", f'txt : {report.spf_domain} : "{quoted}"')


def _field(name: str, value: str) -> bytes:
    """One field in one line of fewer than 998 bytes: known readers of reports take no folded ones."""
    return f"{name}: {_line(value)}\n".encode("ascii")


def _whole_results(value: str) -> str:
    """As many whole results as fit a field."""
    line = " ".join(value.split())
    return line if len(line) <= _LONGEST_VALUE else line[:_LONGEST_VALUE].rpartition(";")[0]


def _line(text: str) -> str:
    """Text in one line of printable ASCII, runs of anything else as one blank, bounded."""
    return " ".join(_UNSHOWN.sub(" ", text[:_LONGEST_VALUE]).split())
