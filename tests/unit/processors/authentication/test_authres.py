"""Authentication-Results: written, read, and whose they are."""

from __future__ import annotations

import pytest

from respool.processors.authentication.authres import render_authentication_results
from respool.processors.authentication.authres_parse import (
    Origin,
    judge_origin,
    parse_arc_authentication_results,
    parse_authentication_results,
)
from respool.processors.authentication.authserv import results_of
from respool.processors.results import AuthResult, Property, Result
from respool.spool.envelope import Header


def _result(method: str, result: Result, *properties: tuple[str, str, str], reason: str = "") -> AuthResult:
    return AuthResult(
        method=method, result=result, reason=reason, properties=tuple(Property(*item) for item in properties)
    )


def test_nothing_to_say_is_none() -> None:
    assert render_authentication_results("example.org", []) == "example.org; none"


def test_one_result_a_line() -> None:
    value = render_authentication_results(
        "example.org",
        [
            _result("spf", Result.PASS, ("smtp", "mailfrom", "example.net")),
            _result("dkim", Result.FAIL, ("header", "d", "example.net"), reason="body hash mismatch"),
        ],
    )
    assert value.split("\n\t") == [
        "example.org;",
        "spf=pass smtp.mailfrom=example.net;",
        'dkim=fail reason="body hash mismatch" header.d=example.net',
    ]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("example.org", "example.org"),
        ("@example.org", "@example.org"),
        ("a+b@example.org", "a+b@example.org"),
        ("[192.0.2.1]", '"[192.0.2.1]"'),
        ("2001:db8::1", '"2001:db8::1"'),
        ("a b", '"a b"'),
        ("", '""'),
        ('x"; dkim=pass', '"x\\"; dkim=pass"'),
        ("x\n\ndkim=pass", '"x??dkim=pass"'),
        ("x\\", '"x\\\\"'),
        ("ü", '"?"'),
        ("a/b+c==", '"a/b+c=="'),
    ],
)
def test_values_are_quoted_where_they_must(value: str, written: str) -> None:
    rendered = render_authentication_results("id", [_result("dkim", Result.PASS, ("header", "s", value))])
    assert rendered == f"id;\n\tdkim=pass header.s={written}"
    field = parse_authentication_results(rendered.encode())
    assert field is not None
    assert len(field.results) == 1


def test_long_results_are_folded_and_make_one_header() -> None:
    result = _result("dkim", Result.PASS, *(("header", f"x{n}", "a" * 60) for n in range(8)), reason="r" * 5000)
    value = render_authentication_results("id", [result])
    assert all(len(line) <= 998 for line in value.split("\n"))
    header = Header.make(b"Authentication-Results", value.encode())
    assert header.raw.count(b"\n") == value.count("\n") + 1


@pytest.mark.parametrize("identity", ["", "a\nb", "bücher.example"])
def test_a_bad_id_is_refused(identity: str) -> None:
    with pytest.raises(ValueError, match="authserv-id"):
        render_authentication_results(identity, [])


def test_names_that_are_no_keywords_are_left_out() -> None:
    result = _result("dkim", Result.PASS, ("header", "d x=y; spf", "a"), ("he\nader", "d", "a"))
    assert render_authentication_results("id", [result]) == "id;\n\tdkim=pass"
    assert render_authentication_results("id", [_result("x; dkim", Result.PASS)]) == "id; none"


def test_reads_what_exim_writes() -> None:
    value = (
        b" mx.example.org;\n\tiprev=pass (client.example.net) smtp.remote-ip=2001:db8::1;\n"
        b"\tauth=pass (PLAIN) smtp.auth=fred@example.org;\n"
        b"\tlocal=pass (non-smtp, mx.example.org) u=fred;\n"
        b"\tspf=pass (best guess record for domain) smtp.mailfrom=<>;\n"
        b"\tdkim=tmperror (pubkey unavailable)\n\t\t header.d=example.net header.i=@example.net"
        b" header.s=s1 header.a=rsa-sha256;\n"
        b"\tdmarc=skipped header.from=example.net;\n"
        b"\tarc=pass (i=2) header.s=sel arc.oldest-pass=1 smtp.remote-ip=192.0.2.1"
    )
    field = parse_authentication_results(value)
    assert field is not None
    assert field.authserv_id == "mx.example.org"
    assert [(result.method, result.result.value) for result in field.results] == [
        ("iprev", "pass"), ("auth", "pass"), ("local", "pass"), ("spf", "pass"), ("dkim", "temperror"), ("arc", "pass"),
    ]  # fmt: skip
    assert field.unknown == ("dmarc=skipped",)
    assert Property("smtp", "mailfrom", "<>") in field.results[3].properties
    assert Property("header", "i", "@example.net") in field.results[4].properties
    assert Property("smtp", "remote-ip", "2001:db8::1") in field.results[0].properties


@pytest.mark.parametrize(
    ("value", "count", "version"),
    [
        (b"example.org; none", 0, 1),
        (b"example.org", 0, 1),
        (b"example.org 1; none", 0, 1),
        (b"(c) example.org (c) 2 (c) ; (c) spf (c) / (c) 1 (c) = (c) pass (c)", 1, 2),
        (b'"example.org"; dkim=pass reason="a \\"b\\"; spf=pass" header.d=example.org', 1, 1),
        (b"example.org; dkim=pass header.b=ab/c+d== header . d = x ; ; spf=pass smtp.mailfrom=\"a b\"@x.example", 2, 1),
    ],
)  # fmt: skip
def test_reads_the_grammar(value: bytes, count: int, version: int) -> None:
    field = parse_authentication_results(value)
    assert field is not None
    assert (len(field.results), field.version, field.authserv_id) == (count, version, "example.org")


@pytest.mark.parametrize(
    "value",
    [
        b"", b";", b"spf=pass", b"example.org; spf", b"example.org; spf=", b"example.org; spf=pass x",
        b"example.org spf=pass", b"example.org; spf=pass (unclosed", b'example.org; spf=pass reason="unclosed',
        b"example.org; =pass", b"(" * 70_000, b"example.org" + b"; spf=pass" * 101,
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_none(value: bytes) -> None:
    assert parse_authentication_results(value) is None


@pytest.mark.parametrize(
    ("value", "origin"),
    [
        (b" example.org; none", Origin.OURS),
        (b" EXAMPLE.org; none", Origin.OURS),
        (b" example.org.; none", Origin.OURS),
        (b" example.org", Origin.OURS),
        (b" example.org 1; spf=pass", Origin.OURS),
        (b" example.org 99 garbage(((", Origin.OURS),
        (b' "example.org"; none', Origin.OURS),
        (b' "exa\\mple.org"; none', Origin.OURS),
        (b"\n\t(comment) example.org(comment); none", Origin.OURS),
        (b" other.example; none", Origin.FOREIGN),
        (b" other.example; (((((", Origin.FOREIGN),
        (b" example.org.evil.example; none", Origin.FOREIGN),
        (b" other.example 1; none", Origin.FOREIGN),
        (b" other.example", Origin.FOREIGN),
        (b" other.example/example.org; none", Origin.DOUBTFUL),
        (b' "example.org "; none', Origin.DOUBTFUL),
        (b' "example.org other"; none', Origin.DOUBTFUL),
        (b' "other\texample.org."; none', Origin.DOUBTFUL),
        (b" example.org..; none", Origin.DOUBTFUL),
        (b" .example.org; none", Origin.DOUBTFUL),
        (b' "other example"; none', Origin.FOREIGN),
        (b" other.example example.org; none", Origin.DOUBTFUL),
        (b" spf=pass smtp.mailfrom=example.org", Origin.DOUBTFUL),
        (b"", Origin.DOUBTFUL),
        (b" ; spf=pass", Origin.DOUBTFUL),
        (b" (example.org; spf=pass", Origin.DOUBTFUL),
        (b' "example.org; spf=pass', Origin.DOUBTFUL),
        (b' ""; spf=pass', Origin.DOUBTFUL),
        (b" \xff\xfe; spf=pass", Origin.DOUBTFUL),
        (b" " + b"(" * 100_000, Origin.DOUBTFUL),
        (b" " + b"(a)" * 100_000 + b" other.example; none", Origin.DOUBTFUL),
    ],
)
def test_origin(value: bytes, origin: Origin) -> None:
    assert judge_origin(value, "example.org") is origin


def test_origin_of_an_internationalised_id() -> None:
    assert judge_origin("bücher.example; none".encode(), "xn--bcher-kva.example") is Origin.OURS
    assert judge_origin(b"xn--bcher-kva.example; none", "bücher.example") is Origin.OURS


def test_arc_authentication_results() -> None:
    read = parse_arc_authentication_results(b" (c) i = (c) 2 ; lists.example; dmarc=pass header.from=example.org")
    assert read is not None
    assert (read[0], read[1].authserv_id, read[1].results[0].method) == (2, "lists.example", "dmarc")


@pytest.mark.parametrize("value", [b"", b"lists.example; spf=pass", b"i=; x; none", b"i=1 x; none", b"i=1;"])
def test_no_arc_authentication_results(value: bytes) -> None:
    assert parse_arc_authentication_results(value) is None


@pytest.mark.parametrize(
    ("written", "configured", "same"),
    [
        (b"MX.Example.net", "mx.example.net", True),
        (b"mx.example.net.", "mx.example.net", True),
        ("mx.b\u00fccher.example".encode(), "mx.xn--bcher-kva.example", True),
        (b"mx.xn--bcher-kva.example", "mx.B\u00dcCHER.example", True),
        (b'"mx.example.net"', "mx.example.net", True),
        (b"(a comment) mx.example.net 1", "mx.example.net", True),
        (b"mx.example.network", "mx.example.net", False),
        (b"example.net", "mx.example.net", False),
    ],
)
def test_both_readers_compare_ids_in_one_way(written: bytes, configured: str, same: bool) -> None:
    value = b" " + written + b"; spf=pass smtp.mailfrom=example.org"
    assert judge_origin(value, configured) is (Origin.OURS if same else Origin.FOREIGN)
    assert (results_of(value, configured.encode()) is not None) is same


@pytest.mark.parametrize(
    "nothing", [b"", b"none", b"NONE", b"(checks are off)", b"none (checks are off)", b"(a) none (b)"]
)
def test_a_comment_is_no_result_to_seal(nothing: bytes) -> None:
    assert results_of(b"mx.example.net; " + nothing, b"mx.example.net") == []
    assert results_of(b"mx.example.net; spf=pass (x); " + nothing, b"mx.example.net") == [b"spf=pass (x)"]
