"""Failure reports: when, to whom, what is in them, and that a stranger can do nothing with them."""

from __future__ import annotations

import email
import email.policy
import json
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import msgspec
import pytest

from respool.errors import ConfigError, TemporaryError
from respool.processors.api import Proceed
from respool.processors.authentication.dkim_verify import DkimResult
from respool.processors.authentication.dmarc import DmarcResult, override_dmarc
from respool.processors.authentication.dmarc_record import parse_record
from respool.processors.dmarc_failure_report import Config, DmarcFailureReport
from respool.processors.report_destination import find_destinations, parse_mailto
from respool.processors.report_limit import ReportLimit
from respool.processors.report_redaction import DEFAULT_FIELDS, Redaction
from respool.processors.results import AuthResult, Result
from respool.spool.editing import with_id
from respool.spool.envelope import Header
from respool.spool.header_file import parse_header_file, render_header_file
from respool.spool.ids import MessageId
from respool.spool.message import Message
from tests.conftest import PEERS

from .authentication.fake_dns import TROUBLE, FakeResolver
from .dmarc_results import Zone, results_for
from .processor_kit import make_context, make_message

FORGED = b"[203.0.113.9]:25"
SPF: dict[str, Any] = {"TXT": (b'v=spf1 ip4:192.0.2.1 exp=a"b.example -all',)}


def zone(record: bytes = b"v=DMARC1; p=reject; ruf=mailto:fail@example.com", **more: dict[str, Any]) -> Zone:
    return {"example.com": SPF, "_dmarc.example.com": {"TXT": (record,)}, **more}


def send(
    tmp_path: Path, message: Message, names: Zone, *more: AuthResult, results: Any = None, **config: Any
) -> list[Message]:
    config = {"limit_file": str(tmp_path / "limit.mdb"), **config}
    processor = DmarcFailureReport(msgspec.convert(config, Config))
    found = results_for(message, names) if results is None else results
    context = msgspec.structs.replace(
        make_context(FakeResolver(names), results=(*found, *more)),
    )
    verdict = processor.process(message, context)
    assert isinstance(verdict, Proceed)
    assert verdict.edits == ()
    return context.notices.sent


def as_email(message: Message) -> EmailMessage:
    raw = b"".join(header.raw for header in message.sent_headers) + b"\n" + b"".join(message.body.chunks())
    parsed = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(parsed, EmailMessage)
    return parsed


def feedback(message: Message) -> dict[str, str]:
    parsed = as_email(message)
    assert parsed.get_content_type() == "multipart/report"
    assert parsed.get_param("report-type") == "feedback-report"
    parts = list(parsed.iter_parts())
    assert [part.get_content_type() for part in parts] == [
        "text/plain", "message/feedback-report", "text/rfc822-headers",
    ]  # fmt: skip
    inner: Any = parts[1].get_payload()
    fields = inner[0] if isinstance(inner, list) else email.message_from_string(str(inner))
    assert not fields.defects
    names = [name for name in fields.keys() if name != "Original-Rcpt-To"]  # noqa: SIM118
    assert len(set(names)) == len(names)
    return {name: " ".join(str(value).split()) for name, value in fields.items()}


def shown(message: Message) -> str:
    part = list(as_email(message).iter_parts())[2]
    return str(part.get_payload(decode=True).decode("utf-8", "replace"))  # type: ignore[union-attr]


HEADERS = [
    (b"Received", b"from x ([203.0.113.9]) by mx for <victim@local.example>; now"),
    (b"From", b'"Bank" <boss@example.com>'),
    (b"To", b"Vic Tim <victim@local.example>, boss@example.com"),
    (b"Subject", b"private"),
    (b"Message-ID", b"<1@example.com>"),
]


def test_a_report(tmp_path: Path) -> None:
    message = make_message(HEADERS, host=FORGED, recipients=[b"victim@local.example"])
    dkim = DkimResult(result=Result.FAIL, domain="mail.example.com", selector="s1", identity="u@mail.example.com")
    (report,) = send(tmp_path, message, zone(), dkim, recipients=True, sender="dmarc@reports.example")
    assert report.sender == b"dmarc@reports.example"
    assert [recipient.address for recipient in report.envelope.recipients] == [b"fail@example.com"]
    parsed = as_email(report)
    assert parsed["Auto-Submitted"] == "auto-generated"
    assert parsed["From"] == "DMARC failure reports <dmarc@reports.example>"
    assert parsed["To"] == "fail@example.com"
    assert parsed["Subject"] == "DMARC failure report for example.com from 203.0.113.9"
    fields = feedback(report)
    results = fields.pop("Authentication-Results")
    assert "dmarc=fail" in results
    assert "spf=fail" in results
    assert fields == {
        "Feedback-Type": "auth-failure",
        "Version": "1",
        "User-Agent": "respool/1",
        "Auth-Failure": "dmarc",
        "Identity-Alignment": "dkim, spf",
        "Original-Envelope-Id": "1abcde-000000-00",
        "Original-Mail-From": "<bounce@example.com>",
        "Original-Rcpt-To": "<redacted@local.example>",
        "Arrival-Date": "Tue, 14 Nov 2023 22:13:20 -0000",
        "Reporting-MTA": "dns; mx.example.org",
        "Source-IP": "203.0.113.9",
        "Reported-Domain": "example.com",
        "Incidents": "1",
        "DKIM-Domain": "mail.example.com",
        "DKIM-Identity": "u@mail.example.com",
        "DKIM-Selector": "s1",
        "SPF-DNS": 'txt : example.com : "v=spf1 ip4:192.0.2.1 exp=a\\"b.example -all"',
    }
    headers = shown(report)
    assert "victim" not in headers
    assert "Vic Tim" not in headers
    assert "private" not in headers
    assert 'From: "Bank" <boss@example.com>' in headers
    assert "To: <redacted@local.example>,\n <boss@example.com>" in headers
    assert "for <redacted@local.example>" in headers


def test_a_report_is_a_message_that_exim_takes(tmp_path: Path) -> None:
    (report,) = send(tmp_path, make_message(HEADERS, host=FORGED), zone())
    assert report.sender == b""
    content = render_header_file(report.envelope)
    assert parse_header_file(content, file="x-H").recipients == report.envelope.recipients
    assert b"-localerror\n" in content
    assert as_email(report)["From"] == "DMARC failure reports <postmaster@mx.example.org>"


@pytest.mark.parametrize(
    ("tags", "host", "dkim", "kind"),
    [
        ("", FORGED, None, "dmarc"),
        ("; fo=0", b"[192.0.2.1]:25", None, None),
        ("; fo=1", b"[192.0.2.1]:25", None, "dmarc"),
        ("; fo=1", FORGED, None, "dmarc"),
        ("; fo=d", FORGED, None, None),
        (
            "; fo=d",
            b"[192.0.2.1]:25",
            DkimResult(result=Result.FAIL, domain="x.example", reason="bodyhash"),
            "bodyhash",
        ),
        ("; fo=d:s", b"[192.0.2.1]:25", DkimResult(result=Result.FAIL, domain="x.example"), "signature"),
        ("; fo=d", b"[192.0.2.1]:25", DkimResult(result=Result.TEMPERROR, domain="x.example"), None),
        ("; fo=s", FORGED, None, "spf"),
        ("; fo=s", b"[192.0.2.1]:25", None, None),
    ],
)
def test_fo(tmp_path: Path, tags: str, host: bytes, dkim: DkimResult | None, kind: str | None) -> None:
    names = zone(f"v=DMARC1; p=none; ruf=mailto:fail@example.com{tags}".encode())
    sent = send(tmp_path, make_message(HEADERS, host=host), names, *([dkim] if dkim else []))
    assert [feedback(report)["Auth-Failure"] for report in sent] == ([kind] if kind else [])


def test_mail_that_passed_can_be_left_out(tmp_path: Path) -> None:
    names = zone(b"v=DMARC1; p=none; ruf=mailto:fail@example.com; fo=1")
    assert not send(tmp_path, make_message(HEADERS), names, passing_mail=False)


@pytest.mark.parametrize(
    "message",
    [
        make_message(HEADERS, host=FORGED, sender=b""),
        make_message([*HEADERS, (b"Auto-Submitted", b"auto-replied")], host=FORGED),
        make_message([*HEADERS, (b"Content-Type", b"Multipart/Report; report-type=feedback-report")], host=FORGED),
        make_message(HEADERS, host=FORGED, host_auth=b"plain"),
    ],
)
def test_never_about_reports_or_submission(tmp_path: Path, message: Message) -> None:
    assert not send(tmp_path, message, zone())


def test_what_is_no_report_may_say_so(tmp_path: Path) -> None:
    message = make_message([*HEADERS, (b"Auto-Submitted", b"No"), (b"Content-Type", b"text/plain")], host=FORGED)
    assert send(tmp_path, message, zone())


def test_not_after_an_override(tmp_path: Path) -> None:
    message = make_message(HEADERS, host=FORGED)
    results = [
        override_dmarc(result, kind="trusted_forwarder", reason="x") if isinstance(result, DmarcResult) else result
        for result in results_for(message, zone())
    ]
    assert not send(tmp_path, message, zone(), results=results)


@pytest.mark.parametrize("record", [b"v=DMARC1; p=reject", b"v=DMARC1; p=reject; ruf=https://example.com/"])
def test_only_where_asked_for(tmp_path: Path, record: bytes) -> None:
    assert not send(tmp_path, make_message(HEADERS, host=FORGED), zone(record))


# Destinations


def destinations(record: bytes, names: Zone, policy_domain: str = "example.com") -> tuple[list[str], int]:
    parsed = parse_record(record)
    assert parsed is not None
    found = find_destinations(parsed, policy_domain, resolver=FakeResolver(names))
    return [each.address for each in found.accepted], len(found.refused)


CONSENT: dict[str, Any] = {"TXT": (b"v=DMARC1",)}


@pytest.mark.parametrize(
    ("uris", "names", "expected", "refused"),
    [
        (b"mailto:a@example.com", {}, ["a@example.com"], 0),
        (b"mailto:a@sub.example.com", {"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=none",)}}, ["a@sub.example.com"], 0),
        (b"mailto:a@sub.example.com", {}, [], 1),
        (b"mailto:a@other.example", {}, [], 1),
        (b"mailto:a@other.example", {"example.com._report._dmarc.other.example": CONSENT}, ["a@other.example"], 0),
        (b"mailto:a@other.example", {"*._report._dmarc.other.example": CONSENT}, [], 1),
        (b"mailto:a@other.example", {"example.com._report._dmarc.other.example": {"TXT": (b"v=spf1",)}}, [], 1),
        (b"mailto:a@other.example", {"example.com._report._dmarc.other.example": {"TXT": TROUBLE}}, [], 1),
        (
            b"mailto:a@other.example",
            {"example.com._report._dmarc.other.example": {"TXT": (b"v=DMARC1; ruf=mailto:b@other.example",)}},
            ["b@other.example"], 0,
        ),
        (
            b"mailto:a@other.example",
            {"example.com._report._dmarc.other.example": {"TXT": (b"v=DMARC1; ruf=mailto:b@victim.example",)}},
            [], 1,
        ),
        (b"mailto:A@Example.COM!10m,https://x/,mailto:a@example.com", {}, ["A@example.com", "a@example.com"], 0),
        (b"mailto:%61@example.com?subject=x", {}, ["a@example.com"], 0),
        (b"mailto:a%0d%0aBcc:x@example.com", {}, [], 1),
        (b"mailto:a%20b@example.com,mailto:%22q%22@example.com,mailto:a..b@example.com", {}, [], 3),
        (b"mailto:a@localhost,mailto:a@[192.0.2.1]", {}, [], 2),
        (b"mailto:" + b"a" * 65 + b"@example.com", {}, [], 1),
        (b",".join(b"mailto:%d@example.com" % number for number in range(9)), {}, ["0@example.com", "1@example.com"], 0),
    ],
)  # fmt: skip
def test_destinations(uris: bytes, names: Zone, expected: list[str], refused: int) -> None:
    assert destinations(b"v=DMARC1; p=none; ruf=" + uris, names) == (expected, refused)


THIRD_PARTY = b"v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com; ruf=mailto:auth-reports@thirdparty.example.net"
AGREEMENT = "example.com._report._dmarc.thirdparty.example.net"


def test_rfc_9989_b_2_2_reports_within_the_organization() -> None:
    record = b"v=DMARC1; p=none; rua=mailto:dmarc-feedback@example.com; ruf=mailto:auth-reports@example.com"
    assert destinations(record, {}) == (["auth-reports@example.com"], 0)


def test_rfc_9989_b_2_3_a_third_party_has_to_agree() -> None:
    names: Zone = {AGREEMENT: {"TXT": (b"v=DMARC1;",)}}
    assert destinations(THIRD_PARTY, names) == (["auth-reports@thirdparty.example.net"], 0)
    assert destinations(THIRD_PARTY, {}) == ([], 1)


def test_rfc_9989_b_2_4_a_third_party_names_another_mailbox() -> None:
    override = (
        b"v=DMARC1; rua=mailto:aggregate-reports@thirdparty.example.net; "
        b"ruf=mailto:failure-reports@thirdparty.example.net"
    )
    names: Zone = {AGREEMENT: {"TXT": (override,)}}
    assert destinations(THIRD_PARTY, names) == (["failure-reports@thirdparty.example.net"], 0)


def test_rfc_9990_4_a_name_too_long_to_ask_for_is_no_agreement() -> None:
    longest = ".".join(["a" * 60] * 4)
    names: Zone = {f"{longest}._report._dmarc.other.example": CONSENT}
    assert destinations(b"v=DMARC1; p=none; ruf=mailto:a@other.example", names, longest) == ([], 1)


def test_a_public_suffix_gets_none() -> None:
    assert destinations(b"v=DMARC1; p=none; psd=y; ruf=mailto:a@example", {}, "example") == ([], 1)


def test_other_uris_are_no_address() -> None:
    for uri in ("https://a@example.com", "mailto:", "mailto:@example.com", "a@example.com", "mailto:a@exa mple.com"):
        assert parse_mailto(uri) is None


# Limits


def test_limits_and_incidents(tmp_path: Path) -> None:
    limit = ReportLimit(str(tmp_path / "limit.mdb"), per_hour=5, per_domain_hour=2)
    now = 1_700_000_000.0
    assert [limit.take("a.example", now) for _ in range(4)] == [1, 1, 0, 0]
    assert limit.take("a.example", now + 3600) == 3
    assert limit.take("a.example", now + 3600) == 1
    assert [limit.take(f"{name}.example", now + 3600) for name in "bcde"] == [1, 1, 1, 0]
    assert limit.take("e.example", now + 7200) == 1
    assert limit.take("b.example", now + 90 * 3600) == 1


def test_what_was_held_back_is_forgotten_after_a_day(tmp_path: Path) -> None:
    limit = ReportLimit(str(tmp_path / "limit.mdb"), per_hour=50, per_domain_hour=1)
    assert [limit.take("a.example", 0.0) for _ in range(3)] == [1, 0, 0]
    assert limit.take("b.example", 26 * 3600.0) == 1
    assert limit.take("a.example", 26 * 3600.0) == 1


TAKER = """
import sys
from respool.processors.report_limit import ReportLimit
limit = ReportLimit(sys.argv[1], per_hour=40, per_domain_hour=40)
print(sum(limit.take("a.example", 5.0) > 0 for _ in range(30)))
"""


def test_workers_share_the_limit(tmp_path: Path) -> None:
    path = str(tmp_path / "limit.mdb")
    takers = [
        subprocess.Popen([sys.executable, "-c", TAKER, path], stdout=subprocess.PIPE) for _ in range(3)
    ]  # fmt: skip
    assert sum(int(taker.communicate()[0]) for taker in takers) == 40


def test_an_unusable_limit_file_sends_nothing(tmp_path: Path) -> None:
    path = tmp_path / "limit.mdb"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(TemporaryError):
        ReportLimit(str(path), per_hour=1, per_domain_hour=1).take("a.example", 0.0)
    assert not send(tmp_path, make_message(HEADERS, host=FORGED), zone())


def test_the_processor_holds_back(tmp_path: Path) -> None:
    message = make_message(HEADERS, host=FORGED)
    assert [len(send(tmp_path, message, zone(), per_domain_hour=1)) for _ in range(3)] == [1, 0, 0]


# Redaction and hostile mail


def test_redaction_by_key() -> None:
    one, again, other = (Redaction("example.com", key) for key in (b"k" * 16, b"k" * 16, b"o" * 16))
    words = {each.address(b"Victim@local.example") for each in (one, again)}
    assert len(words) == 1
    assert b"ictim" not in min(words)
    assert other.address(b"victim@local.example") not in words
    assert one.address(b"x@mail.example.com") == b"x@mail.example.com"
    assert one.address(b"x\ny@example.com") != b"x\ny@example.com"
    assert one.address(b"nobody") == one.address(b"a@b c") == b"redacted"
    assert Redaction("", redacts=False).address(b"v@local.example") == b"v@local.example"


@pytest.mark.parametrize(
    "text",
    [
        b"for <victim@local.example>;", b"<" + b"victim" * 40 + b"@local.example>", b'for <"victim x"@local.example>',
        b"smtp.mailfrom=victim@local.example", b"(victim@[192.0.2.1])", b"victim@b\xc3\xbccher.example",
        b"victim+tag@local.example", b"a,victim@local.example",
    ],
)  # fmt: skip
def test_no_address_stays(text: bytes) -> None:
    assert b"victim" not in Redaction("example.com").text(text)


def test_redaction_is_linear() -> None:
    for text in (b"a" * 300_000, b'"' * 300_000, b"a@" * 150_000, b"<" * 300_000, b'"a' * 150_000):
        Redaction("example.com").text(text)


@pytest.mark.parametrize(
    "raw",
    [
        b"Received: a\nInjected: yes\n",
        b"Received: a\n\n b\n",
        b"Received: " + b"x" * 2000 + b"\n",
        b"Received: " + b"x \n" * 20000 + b"\n",
    ],
)
def test_fields_that_would_break_out_are_left_out(raw: bytes) -> None:
    fields = frozenset({b"received", b"date"})
    shown = Redaction("example.com").headers([Header(flag=" ", raw=raw), Header(" ", b"Date: now\n")], fields)
    assert b"\nInjected" not in shown
    assert b"\n\n" not in shown
    assert shown.endswith(b"Date: now\n")


def test_hostile_mail_makes_an_orderly_report(tmp_path: Path) -> None:
    fields = [
        b"From: a@example.com\n",
        b"To: \x00\x1b[2J\xff <a@b.example>\r\n",
        b"Date: --respool-0\n\t--\n",
        *(b"Received: " + b"x" * 900 + b"\n" for _ in range(300)),
    ]
    message = make_message(fields, host=FORGED, sender=b'"a\tb"@evil\xff.example', helo=b"a\x01b")
    hostile = DkimResult(result=Result.FAIL, domain="example.com", selector="s\nX: y", identity="\n\n--x@example.com")
    (report,) = send(tmp_path, message, zone(), hostile)
    got = feedback(report)
    assert got["DKIM-Selector"] == "s X: y"
    assert got["Original-Mail-From"] == "<redacted>"
    assert len(shown(report)) <= 33_000
    assert "\x1b" not in shown(report)
    assert "\x00" not in shown(report)
    assert all(len(line) <= 998 for line in b"".join(report.body.chunks()).split(b"\n"))


def test_a_top_level_record_does_not_unmask_everybody(tmp_path: Path) -> None:
    names: Zone = {
        "_dmarc.com": {"TXT": (b"v=DMARC1; p=none; ruf=mailto:f@example.com",)},
        "com._report._dmarc.example.com": CONSENT,
    }
    message = make_message([(b"From", b"a@example.com"), (b"To", b"victim@other.com")], host=FORGED)
    (report,) = send(tmp_path, message, names)
    assert "victim" not in shown(report)


def test_ids_are_told_apart(tmp_path: Path) -> None:
    message = make_message(HEADERS, host=FORGED)
    message = Message(with_id(message.envelope, MessageId("1zzzzz-0000000zzzz-0000")), message.body)
    (report,) = send(tmp_path, message, zone())
    assert feedback(report)["Original-Envelope-Id"] == "1zzzzz-0000000zzzz-0000"


@pytest.mark.parametrize(
    "config",
    [
        {"sender": "a b@c.example"},
        {"sender": "a@b\n.example"},
        {"limit_file": "relative"},
        {"limit_file": "/nonexistent/x/y"},
        {"fields": ["Sub ject"]},
        {"redaction_key_file": "/nonexistent"},
        {"redaction_key_file": "short"},
    ],
)
def test_bad_settings_are_refused(tmp_path: Path, config: dict[str, Any]) -> None:
    key = tmp_path / "short"
    key.write_bytes(b"short")
    config = {"limit_file": str(tmp_path / "l"), **config}
    if config.get("redaction_key_file") == "short":
        config["redaction_key_file"] = str(key)
    with pytest.raises(ConfigError):
        DmarcFailureReport(msgspec.convert(config, Config))


def test_a_key_is_read(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_bytes(b"0123456789abcdef\n")
    (report,) = send(tmp_path, make_message(HEADERS, host=FORGED), zone(), redaction_key_file=str(key))
    assert "redacted@" not in shown(report)
    assert "victim" not in shown(report)


def test_the_subject_is_private_by_default() -> None:
    assert not {"subject", "references"} & {name.lower() for name in DEFAULT_FIELDS}


PARSE = """
import json, sys, parsedmarc
print(json.dumps(parsedmarc.parse_report_email(sys.stdin.buffer.read(), offline=True), default=str))
"""


@pytest.mark.peer("parsedmarc")
def test_parsedmarc_reads_it(tmp_path: Path) -> None:
    message = make_message(HEADERS, host=FORGED, recipients=[b"victim@local.example"])
    dkim = DkimResult(result=Result.FAIL, domain="mail.example.com", selector="s1", identity="u@mail.example.com")
    (report,) = send(tmp_path, message, zone(), dkim, sender="dmarc@reports.example", recipients=True)
    raw = b"".join(header.raw for header in report.sent_headers) + b"\n" + b"".join(report.body.chunks())
    done = subprocess.run([PEERS / "python", "-c", PARSE], input=raw, capture_output=True, check=True, timeout=120)
    document = json.loads(done.stdout)
    assert document["report_type"] == "failure"
    read = document["report"]
    assert {name: read[name] for name in ("feedback_type", "auth_failure", "reported_domain", "dkim_selector")} == {
        "feedback_type": "auth-failure", "auth_failure": ["dmarc"], "reported_domain": "example.com",
        "dkim_selector": "s1",
    }  # fmt: skip
    assert read["source"]["ip_address"] == "203.0.113.9"
    assert read["arrival_date_utc"] == "2023-11-14 22:13:20"
    assert read["authentication_mechanisms"] == ["dkim", "spf"]
    assert "dmarc=fail header.from=example.com" in read["authentication_results"]
    assert read["original_rcpt_to"] == "<redacted@local.example>"
    assert read["parsed_sample"]["from"]["address"] == "boss@example.com"
    assert read["sample_headers_only"] is True
