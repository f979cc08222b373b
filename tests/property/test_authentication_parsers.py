"""Parsers of what strangers write: a value for any bytes, never a stray exception; what is written reads back."""

from __future__ import annotations

from hypothesis import example, given
from hypothesis import strategies as st

from respool.processors.authentication.author import find_author
from respool.processors.authentication.authres import render_authentication_results
from respool.processors.authentication.authres_parse import (
    Origin,
    judge_origin,
    parse_arc_authentication_results,
    parse_authentication_results,
)
from respool.processors.authentication.client import read_received
from respool.processors.authentication.dmarc import evaluate_dmarc
from respool.processors.authentication.dmarc_record import DmarcRecord, Policy, parse_record
from respool.processors.authentication.domain_names import a_label_domain
from respool.processors.authentication.spf import evaluate_spf
from respool.processors.authentication.spf_record import SpfRecord, SpfRecordError
from respool.processors.authentication.spf_record import parse_record as parse_spf_record
from respool.processors.results import AuthResult, Property, Result
from respool.spool.envelope import Header

from ..unit.processors.authentication.fake_dns import FakeResolver


def _likely(alphabet: list[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes joined from pieces that mean something to a parser, or any bytes."""
    return st.lists(st.sampled_from(alphabet), max_size=30).map(b"".join) | st.binary(max_size=60)


_SPF_TEXT = _likely(
    [b" ", b"a", b"mx", b"ptr", b"all", b"ip4", b"ip6", b"exists", b"include", b"redirect=", b"exp=", b":", b"/", b"//",
     b"%{", b"}", b"d", b"i", b"r", b"p", b"2", b"0", b"24", b".", b"-", b"~", b"?", b"+", b"%%", b"%_", b"example.com",
     b"1.2.3.4", b"::1", b"=", b"\xff"]
)  # fmt: skip
_DMARC_TEXT = _likely(
    [b";", b"=", b" ", b"\t", b"v", b"p", b"sp", b"np", b"psd", b"t", b"pct", b"rua", b"ruf", b"fo", b"adkim",
     b"aspf",
     b"none", b"reject", b"quarantine", b"y", b"n", b"mailto:a@b.example", b",", b"!10m", b"100", b"\xff", b"DMARC1"]
)  # fmt: skip
_AUTHRES_TEXT = _likely(
    [b";", b"=", b".", b"/", b"1", b" ",
     b"\n\t", b"(", b")", b"\\", b'"', b"spf", b"dkim", b"pass", b"tmperror",
     b"none", b"reason", b"header", b"d", b"@", b"mx.example.org", b"i", b"<>", b"\xff", b"\x00"]
)  # fmt: skip
_FROM_TEXT = _likely(
    [b"a", b"@", b"<", b">", b",", b";", b":", b"(", b")", b'"', b"\\", b"[", b"]", b".", b" ", b"example.org",
     b"\xc3\xbc", b"\n ", b"\x00", b"b@example.com"]
)  # fmt: skip


@given(_SPF_TEXT)
def test_spf_record(text: bytes) -> None:
    assert isinstance(parse_spf_record(b"v=spf1" + text), SpfRecord | SpfRecordError)


@given(_SPF_TEXT, st.binary(max_size=40), st.binary(max_size=40), st.sampled_from(["192.0.2.1", "2001:db8::1", "x"]))
def test_spf_of_anything(text: bytes, sender: bytes, helo: bytes, ip: str) -> None:
    resolver = FakeResolver({"example.com": {"TXT": (b"v=spf1 " + text,)}})
    result = evaluate_spf(client_ip=ip, helo=helo, mail_from=sender + b"@example.com", resolver=resolver)
    assert result.method == "spf"
    assert len(resolver.asked) <= 132


@given(_DMARC_TEXT)
@example(b"v=DMARC1")
def test_dmarc_record(text: bytes) -> None:
    for record in (parse_record(text), parse_record(b"v=DMARC1;" + text)):
        assert record is None or isinstance(record, DmarcRecord)
        if record is not None:
            assert record.policy_for(subdomain=True, exists=False) in Policy
            assert 0 <= record.percent <= 100


@given(_FROM_TEXT)
def test_from(value: bytes) -> None:
    author = find_author([value])
    assert all(a_label_domain(domain) == domain for domain in author.domains)
    assert evaluate_dmarc([value], identifiers=[], resolver=FakeResolver()).method == "dmarc"


@given(st.text(max_size=40))
def test_domain(name: str) -> None:
    domain = a_label_domain(name)
    if domain is not None:
        assert domain.isascii()
        assert a_label_domain(domain) == domain


@given(st.binary(max_size=80))
def test_received(value: bytes) -> None:
    found = read_received(b"from " + value)
    assert found is None or found.address


@given(_AUTHRES_TEXT)
def test_reading_authentication_results(value: bytes) -> None:
    parse_authentication_results(value)
    parse_arc_authentication_results(value)
    judge_origin(value, "mx.example.org")


@given(_AUTHRES_TEXT)
def test_whoever_reads_our_id_there_we_strip_it(value: bytes) -> None:
    field = parse_authentication_results(value)
    if field is not None and field.authserv_id.lower() == "mx.example.org":
        assert judge_origin(value, "mx.example.org") is Origin.OURS


_KEYWORD = st.from_regex(r"[A-Za-z0-9]([A-Za-z0-9_-]{0,10}[A-Za-z0-9])?", fullmatch=True).map(str.lower)
_VALUE = st.text(alphabet=st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=100)
_RESULTS = st.lists(
    st.builds(
        AuthResult,
        method=_KEYWORD.filter(lambda method: method != "none"),
        result=st.sampled_from(list(Result)),
        reason=_VALUE,
        properties=st.lists(st.builds(Property, _KEYWORD, _KEYWORD, _VALUE), max_size=4).map(tuple),
    ),
    max_size=5,
)


@given(_VALUE.filter(lambda value: value != ""), _RESULTS)
def test_what_is_written_reads_back(authserv_id: str, results: list[AuthResult]) -> None:
    value = render_authentication_results(authserv_id, results)
    header = Header.make(b"Authentication-Results", value.encode())
    field = parse_authentication_results(header.value)
    assert field is not None
    assert field.authserv_id == authserv_id
    assert list(field.results) == results
    assert judge_origin(header.value, authserv_id) is Origin.OURS


@given(st.text(max_size=500), st.text(max_size=500), st.text(max_size=30))
def test_no_value_breaks_out(reason: str, value: str, name: str) -> None:
    result = AuthResult(method="spf", result=Result.FAIL, reason=reason, properties=(Property("smtp", name, value),))
    text = render_authentication_results("mx.example.org", [result])
    header = Header.make(b"Authentication-Results", text.encode("ascii"))
    field = parse_authentication_results(header.value)
    assert field is not None
    assert [each.method for each in field.results] == ["spf"]
    assert len(field.results[0].properties) <= 1
