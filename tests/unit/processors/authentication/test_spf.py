"""SPF beyond the public suite: identities, limits, hostile records, what a fail explains."""

from __future__ import annotations

from typing import Any

import pytest

from respool.lookups.dns import MailExchanger
from respool.processors.authentication.spf import SpfResult, evaluate_spf, evaluate_spf_helo
from respool.processors.authentication.spf_macros import MAX_EXPLANATION
from respool.processors.authentication.spf_record import SpfRecord, SpfRecordError, is_spf_record, parse_record
from respool.processors.results import Property, Result

from .fake_dns import TROUBLE, FakeResolver


def _spf(
    record: str | bytes,
    zone: dict[str, dict[str, Any]] | None = None,
    *,
    ip: str = "192.0.2.1",
    sender: bytes = b"user@example.com",
) -> tuple[SpfResult, FakeResolver]:
    text = record.encode() if isinstance(record, str) else record
    resolver = FakeResolver({"example.com": {"TXT": (text,)}, **(zone or {})})
    return evaluate_spf(client_ip=ip, helo=b"helo.example.com", mail_from=sender, resolver=resolver), resolver


def test_mail_from_is_the_identity() -> None:
    result, _ = _spf("v=spf1 ip4:192.0.2.0/24 -all")
    assert result.result is Result.PASS
    assert (result.domain, result.scope, result.mechanism) == ("example.com", "mailfrom", "ip4:192.0.2.0/24")
    assert result.properties == (Property("smtp", "mailfrom", "example.com"),)


def test_the_null_sender_is_postmaster_at_helo() -> None:
    resolver = FakeResolver(
        {
            "helo.example.com": {"TXT": (b"v=spf1 exists:%{l}.%{o}.x.example -all",)},
            "postmaster.helo.example.com.x.example": {"A": ("127.0.0.2",)},
        }
    )
    for result in (
        evaluate_spf(client_ip="192.0.2.1", helo=b"HELO.example.com", mail_from=b"", resolver=resolver),
        evaluate_spf_helo(client_ip="192.0.2.1", helo=b"helo.example.com", resolver=resolver),
    ):
        assert (result.result, result.scope, result.domain) == (Result.PASS, "helo", "helo.example.com")
        assert result.properties == (Property("smtp", "helo", "helo.example.com"),)


@pytest.mark.parametrize("ip", ["::ffff:192.0.2.1", "::FFFF:c000:201"])
def test_a_mapped_address_is_ipv4(ip: str) -> None:
    result, _ = _spf("v=spf1 ip4:192.0.2.1 -all", ip=ip)
    assert result.result is Result.PASS


@pytest.mark.parametrize("ip", ["", "unix", "192.0.2.1:25", "[192.0.2.1]", "1.2.3", "fe80::1%eth0%x"])
def test_without_an_address_there_is_nothing_to_check(ip: str) -> None:
    result, resolver = _spf("v=spf1 -all", ip=ip)
    assert (result.result, result.reason) == (Result.NONE, "no client address")
    assert not resolver.asked


def test_a_zone_of_an_address_means_nothing() -> None:
    result, _ = _spf("v=spf1 ip6:fe80::/10 -all", ip="fe80::1%eth0")
    assert result.result is Result.PASS


@pytest.mark.parametrize(
    "sender", [b"user@", b"user@localhost", b"user@[192.0.2.1]", b"user@\xff.example", b"u@a..b", b"u@" + b"a" * 5000]
)
def test_what_is_no_domain_is_none(sender: bytes) -> None:
    result, resolver = _spf("v=spf1 -all", sender=sender)
    assert result.result is Result.NONE
    assert not resolver.asked


def test_a_domain_in_u_labels_is_asked_for_in_a_labels() -> None:
    resolver = FakeResolver({"xn--bcher-kva.example": {"TXT": (b"v=spf1 +all",)}})
    result = evaluate_spf(client_ip="192.0.2.1", helo=b"h", mail_from="ü@bücher.example".encode(), resolver=resolver)
    assert (result.result, result.domain) == (Result.PASS, "xn--bcher-kva.example")


def test_a_local_part_outside_ascii_matches_nothing() -> None:
    for macro in (b"%{l}", b"%{L}", b"%{S}"):
        result, _ = _spf(b"v=spf1 exists:" + macro + b".x.example -all", sender="ü@example.com".encode())
        assert result.result is Result.FAIL


@pytest.mark.parametrize("record", ["a", "mx", "include:x.example", "exists:x.example", "redirect=x.example"])
def test_dns_trouble_is_temperror(record: str) -> None:
    trouble = {"TXT": TROUBLE, "A": TROUBLE, "MX": TROUBLE}
    term = record if ":" in record or "=" in record else f"{record}:x.example"
    result, _ = _spf(f"v=spf1 {term}", {"x.example": trouble})
    assert result.result is Result.TEMPERROR
    assert "x.example" in result.reason


def test_dns_trouble_of_the_client_is_not_the_publishers() -> None:
    result, _ = _spf("v=spf1 ptr -all", {"1.2.0.192.in-addr.arpa": {"PTR": TROUBLE}})
    assert result.result is Result.FAIL


def test_ten_terms_and_not_eleven() -> None:
    zone: dict[str, dict[str, Any]] = {f"n{n}.example": {"TXT": (b"v=spf1 ?all",)} for n in range(11)}
    ten = " ".join(f"include:n{n}.example" for n in range(10))
    assert _spf(f"v=spf1 {ten} -all", zone)[0].result is Result.FAIL
    result, _ = _spf(f"v=spf1 {ten} include:n10.example -all", zone)
    assert (result.result, result.reason) == (Result.PERMERROR, "more than 10 terms that ask DNS")


def test_two_void_lookups_and_not_three() -> None:
    assert _spf("v=spf1 a:v1.example a:v2.example -all")[0].result is Result.FAIL
    result, _ = _spf("v=spf1 a:v1.example exists:v2.example mx:v3.example -all")
    assert (result.result, result.reason) == (Result.PERMERROR, "more than 2 void lookups")


def test_the_worst_record_asks_a_bounded_number_of_questions() -> None:
    hosts = tuple(MailExchanger(10, f"h{n}.example") for n in range(10))
    zone: dict[str, dict[str, Any]] = {f"h{n}.example": {"A": ("203.0.113.1",)} for n in range(10)}
    zone["m.example"] = {"MX": hosts}
    zone["1.2.0.192.in-addr.arpa"] = {"PTR": tuple(f"h{n}.example" for n in range(40))}
    zone["exp.example"] = {"TXT": (b"no",)}
    zone["example.com"] = {"TXT": (b"v=spf1 ptr " + b"mx:m.example " * 9 + b"-all exp=exp.example",)}
    resolver = FakeResolver(zone)
    result = evaluate_spf(client_ip="192.0.2.1", helo=b"h", mail_from=b"u@example.com", resolver=resolver)
    assert (result.result, result.explanation) == (Result.FAIL, "no")
    assert len(resolver.asked) == 1 + 11 + 9 * 11 + 1


def test_eleven_mx_hosts_are_too_many() -> None:
    hosts = tuple(MailExchanger(10, f"h{n}.example") for n in range(11))
    assert _spf("v=spf1 mx:m.example", {"m.example": {"MX": hosts}})[0].result is Result.PERMERROR


def test_a_null_mx_matches_nothing() -> None:
    hosts = (MailExchanger(0, ""),)
    assert _spf("v=spf1 mx:m.example -all", {"m.example": {"MX": hosts}})[0].result is Result.FAIL


def test_include_loop_ends() -> None:
    assert _spf("v=spf1 include:example.com")[0].result is Result.PERMERROR
    assert _spf("v=spf1 redirect=example.com")[0].result is Result.PERMERROR


@pytest.mark.parametrize("name", ["a" * 64 + ".example", "%{l}%{l}%{l}.example", "x..example"])
def test_names_that_dns_cannot_hold_match_nothing(name: str) -> None:
    result, _ = _spf(f"v=spf1 a:{name} -all", sender=b"a" * 60 + b"@example.com")
    assert result.result is Result.FAIL


def test_a_long_expansion_loses_labels_on_the_left() -> None:
    _, resolver = _spf("v=spf1 exists:%{l}.%{l}.%{l}.%{l}.%{l}.example -all", sender=b"a" * 60 + b"@example.com")
    name, _ = resolver.asked[-1]
    assert len(name) <= 253
    assert name == ".".join(["a" * 60] * 4 + ["example"])


def test_an_explanation_is_for_terminals_and_logs() -> None:
    zone: dict[str, dict[str, Any]] = {"exp.example": {"TXT": (b"%{s} from %{c}\x1b[2J" + b"z" * 2000,)}}
    result, _ = _spf("v=spf1 -all exp=exp.example", zone, sender="ü@example.com".encode())
    assert result.explanation == ""  # a control character is outside the grammar
    zone = {"exp.example": {"TXT": (b"%{s} from %{c} at %{t}: " + b"z" * 2000,)}}
    result, _ = _spf("v=spf1 -all exp=exp.example", zone, sender="ü@example.com".encode())
    assert result.explanation.startswith("?@example.com from 192.0.2.1 at 0: z")
    assert len(result.explanation) == MAX_EXPLANATION


@pytest.mark.parametrize(
    "record",
    [
        b"v=spf1 " + b"a" * 60_000,
        b"v=spf1 a:" + b"a" * 60_000,
        b"v=spf1 a:" + b"a." * 30_000 + b"-",
        b"v=spf1 a:" + b"%{" * 30_000,
        b"v=spf1 a:x%{d" + b"9" * 60_000 + b"}x",
        b"v=spf1 a" + b"/" * 60_000,
        b"v=spf1 x=" + b"%%" * 30_000 + b"%",
        b"v=spf1 ip6:" + b":" * 60_000,
        b"v=spf1" + b" all:" * 12_000,
        b"v=spf1 a:example.com/" + b"9" * 5000,
        b"v=spf1 a:%{d}/33",
        b"v=spf1 a//129",
        b"v=spf1 ip4:1.2.3.4/33",
        b"v=spf1 ip4:1.2.3.04",
        b"v=spf1 ip6:fe80::1%25eth0",
        b"v=spf1 exists:%{c}.example",
        b"v=spf1 exists:%{d0}.example",
        b"v=spf1 a:%%{d}",
        b"v=spf1 redirect=a.example redirect=a.example",
    ],
)
def test_records_that_break_the_grammar(record: bytes) -> None:
    assert is_spf_record(record)
    assert isinstance(parse_record(record), SpfRecordError)


@pytest.mark.parametrize(
    "record",
    [
        b"v=spf1",
        b"V=SPF1   ",
        b"v=spf1 " + b"ip4:192.0.2.1 " * 4000,
        b"v=spf1 exists:%{i}._spf.%{d2r.-+,/_=}.example",
        b"v=spf1 a:%{d00009}",
        b"v=spf1 a:%{d99999999999999999999}",
        b"v=spf1 a:foo.example.com.",
        b"v=spf1 a:a-b.x--y",
        b"v=spf1 MX/24//64 A/0//0 x-y_z.1=%{d}%%%_",
    ],
)
def test_records_that_keep_the_grammar(record: bytes) -> None:
    assert isinstance(parse_record(record), SpfRecord)


def test_a_macro_value_as_long_as_it_gets_costs_no_memory() -> None:
    result, resolver = _spf(
        b"v=spf1 exists:" + b"%{s}" * 15_000 + b".example -all", sender=b"a" * 3000 + b"@example.com"
    )
    assert result.result is Result.FAIL
    assert all(len(name) <= 253 for name, _ in resolver.asked)
