"""Conditions: every key, every kind of item, and what is refused at load."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from respool.errors import ConfigError
from respool.lookups.tables import TableError
from respool.processors.conditions import Condition, parse_condition
from respool.processors.results import AuthResult, Result

from .processor_kit import make_message
from .table_kit import make_table

A, B, C = b"a@one.example", b"B@Two.Example", b"c@sub.two.example"


def holds(condition: dict[str, Any], results: tuple[AuthResult, ...] = (), **message: Any) -> bool:
    message.setdefault("recipients", (A,))
    return parse_condition(condition).chosen(make_message(**message), results) is not None


@pytest.mark.parametrize(
    ("items", "sender", "expected"),
    [
        ("alice@example.org", b"Alice@Example.ORG", True),
        ("alice@example.org", b"bob@example.org", False),
        (["x@y.example", "alice@example.org"], b"alice@example.org", True),
        ("*@example.org", b"anybody@example.org", True),
        ("@example.org", b"anybody@example.org", True),
        ("example.org", b"anybody@example.org", True),
        ("example.org", b"anybody@sub.example.org", False),
        ("*.example.org", b"anybody@a.b.example.org", True),
        ("*.example.org", b"anybody@example.org", False),
        ("*.example.org", b"anybody@badexample.org", False),
        ("alice@*.example.org", b"alice@sub.example.org", True),
        ("alice@*.example.org", b"bob@sub.example.org", False),
        ("alice@*", b"alice@anything.example", True),
        ("*", b"alice@anything.example", True),
        ("*", b"", False),
        ("", b"", True),
        ("", b"alice@example.org", False),
        ('"a b"@example.org', b'"A b"@example.org', True),
        ("üser@example.org", "üser@example.org".encode(), True),
        ("alice@bücher.example", "alice@bücher.example".encode(), True),
        ("alice@bücher.example", b"alice@xn--bcher-kva.example", True),
        ("*@xn--bcher-kva.example", b"alice@xn--bcher-kva.example", True),
        ("alice@[192.0.2.1]", b"alice@[192.0.2.1]", True),
        ("example.org", b"example.org", False),  # a local part without a domain is no domain
    ],
)
def test_senders(items: Any, sender: bytes, expected: bool) -> None:
    assert holds({"senders": items}, sender=sender) is expected


@pytest.mark.parametrize(
    ("items", "sender", "expected"),
    [
        ("example.org", b"a@EXAMPLE.org", True),
        (["*.example.org", "example.org"], b"a@x.example.org", True),
        ("*", b"a@x.example.org", True),
        ("*", b"", False),
        ("", b"", True),
        ("", b"a@example.org", False),
        ("example.org.", b"a@example.org", True),
    ],
)
def test_sender_domains(items: Any, sender: bytes, expected: bool) -> None:
    assert holds({"sender_domains": items}, sender=sender) is expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ([b"A <a@news.example.org>"], True),
        ([b"a@other.example"], False),
        ([b"a@other.example, b@news.example.org"], True),
        ([b"a@news.example.org", b"b@news.example.org"], False),  # ambiguous
        ([b"a@news.example.org <x@y@z>"], False),
        ([], False),
    ],
)
def test_from_domains(fields: list[bytes], expected: bool) -> None:
    assert holds({"from_domains": "news.example.org"}, headers=[(b"From", value) for value in fields]) is expected


@pytest.mark.parametrize(
    ("items", "host", "expected"),
    [
        ("192.0.2.0/24", b"[192.0.2.77]:25", True),
        ("192.0.2.0/24", b"[192.0.3.77]:25", False),
        ("192.0.2.0/24", b"[::ffff:192.0.2.77]:25", True),
        (["10.0.0.1", "2001:db8::/32"], b"[2001:DB8::5]:25", True),
        ("", None, True),
        ("*", None, False),
        ("*", b"[2001:db8::5]:25", True),
        ("", b"[192.0.2.77]:25", False),
        ("192.0.2.0/24", b"[rubbish]:25", False),
    ],
)
def test_hosts(items: Any, host: bytes | None, expected: bool) -> None:
    assert holds({"hosts": items}, host=host) is expected


def test_authenticated() -> None:
    assert holds({"authenticated": True}, host_auth=b"login")
    assert not holds({"authenticated": True})
    assert holds({"authenticated": False})


def test_results() -> None:
    results = (
        AuthResult(method="dkim", result=Result.FAIL),
        AuthResult(method="dkim", result=Result.PASS),
        AuthResult(method="dmarc", result=Result.FAIL),
    )
    assert holds({"results": {"dmarc": ["fail"]}}, results)
    assert holds({"results": {"dkim": "pass", "dmarc": ["none", "fail"]}}, results)
    assert not holds({"results": {"dkim": "pass", "dmarc": "pass"}}, results)
    assert not holds({"results": {"spf": ["none", "pass", "fail"]}}, results)
    assert not holds({"results": {"dmarc": "fail"}})


def test_variables() -> None:
    variables = {"acl_m_class": b"bulk"}
    assert holds({"variables": {"acl_m_class": ["x", "bulk"]}}, variables=variables)
    assert not holds({"variables": {"acl_m_class": "bul"}}, variables=variables)
    assert holds({"variables": {"acl_m_other": ""}}, variables=variables)


def test_all_keys_must_hold_and_not_turns_round() -> None:
    assert holds({"sender_domains": "example.com", "hosts": "192.0.2.0/24"})
    assert not holds({"sender_domains": "example.com", "hosts": "198.51.100.0/24"})
    assert holds({"sender_domains": "example.com", "not": {"hosts": "198.51.100.0/24"}})
    assert not holds({"not": {"sender_domains": "example.com", "hosts": "192.0.2.0/24"}})
    assert holds({"not": {"not": {"sender_domains": "example.com"}}})


def chosen(condition: dict[str, Any], *recipients: bytes, **message: Any) -> set[bytes] | None:
    found = parse_condition(condition).chosen(make_message(recipients=recipients, **message))
    return None if found is None else set(found)


def test_recipients_one_by_one() -> None:
    assert chosen({"recipient_domains": ["*.two.example", "two.example"]}, A, B, C) == {B, C}
    assert chosen({"recipients": "b@two.example"}, A, B, C) == {B}
    assert chosen({"recipient_domains": "none.example"}, A, B, C) is None
    assert chosen({"not": {"recipient_domains": "one.example"}}, A, B, C) == {B, C}
    assert chosen({"not": {"recipient_domains": "one.example"}}, A) is None
    # Both keys speak of the same recipient.
    assert chosen({"recipients": "b@*", "recipient_domains": "one.example"}, A, B, C) is None
    nested = {"not": {"recipient_domains": "two.example", "sender_domains": "example.com"}}
    assert chosen(nested, A, B) == {A}
    assert chosen(nested, A, B, sender=b"x@other.example") == {A, B}


def test_only_the_undelivered_count() -> None:
    assert chosen({"recipient_domains": "one.example"}, A, B, delivered=(A,)) is None
    assert chosen({"recipient_domains": "two.example"}, A, B, delivered=(A,)) == {B}
    assert chosen({"authenticated": False}, A, B, delivered=(A,)) == {B}
    assert chosen({"authenticated": False}, A, delivered=(A,)) == set()
    assert chosen({"recipients": "*"}, A, delivered=(A,)) is None


def test_names_recipients() -> None:
    def names(condition: dict[str, Any]) -> bool:
        return parse_condition(condition).names_recipients

    assert names({"recipients": "a@b.example"})
    assert names({"not": {"not": {"recipient_domains": "b.example"}}})
    assert not names({"senders": "a@b.example", "not": {"hosts": "*"}})


def test_tables(tmp_path: Path) -> None:
    addresses = make_table(tmp_path / "addresses.mdb", {"alice@example.org": "", "*@all.example": "x"})
    domains = make_table(tmp_path / "domains.mdb", {"example.org": "", "*.below.example": ""})
    hosts = make_table(tmp_path / "hosts.mdb", {"192.0.2.1": "", "2001:db8::1": ""})
    assert holds({"senders": addresses}, sender=b"Alice@example.org")
    assert not holds({"senders": addresses}, sender=b"carol@all.example")
    assert holds({"senders": addresses.replace("lmdb", "lmdb*@")}, sender=b"carol@all.example")
    assert holds({"sender_domains": ["other.example", domains]}, sender=b"x@Example.org")
    assert holds({"sender_domains": domains.replace("lmdb", "partial-lmdb")}, sender=b"x@a.below.example")
    assert not holds({"sender_domains": domains}, sender=b"x@a.below.example")
    assert not holds({"sender_domains": domains}, sender=b"")
    assert holds({"hosts": hosts})
    assert holds({"hosts": hosts}, host=b"[::ffff:192.0.2.1]:25")
    assert holds({"hosts": hosts}, host=b"[2001:DB8:0::1]:25")
    assert not holds({"hosts": hosts}, host=None)
    assert chosen({"recipient_domains": domains}, A, b"x@example.org") == {b"x@example.org"}


def test_a_table_in_trouble_is_no_answer(tmp_path: Path) -> None:
    reference = make_table(tmp_path / "t.mdb", {"example.com": ""})
    condition = parse_condition({"not": {"sender_domains": reference}})
    (tmp_path / "t.mdb").write_bytes(b"rubbish" * 4096)
    (tmp_path / "t.mdb").rename(tmp_path / "u.mdb")
    time.sleep(0.15)
    with pytest.raises(TableError):
        condition.chosen(make_message(recipients=(A,)))


@pytest.mark.parametrize(
    ("condition", "key", "reason"),
    [
        ({"sender_domain": "x.example"}, "when", "did you mean `sender_domains`"),
        ({"not": {"recipient": "x.example"}}, "when.not", "did you mean `recipients`"),
        ({"senders": 5}, "when.senders", "Expected"),
        ({}, "when", "empty condition"),
        ({"not": {}}, "when.not", "empty condition"),
        ({"senders": []}, "when.senders", "never matches"),
        ({"results": {"dmarc": []}}, "when.results.dmarc", "never matches"),
        ({"variables": {"acl_m_x": []}}, "when.variables.acl_m_x", "never matches"),
        ({"results": {"dmrac": "fail"}}, "when.results", 'did you mean "dmarc"'),
        ({"results": {"dmarc": "reject"}}, "when.results.dmarc", "known are"),
        ({"results": {"dmarc": "fails"}}, "when.results.dmarc", 'did you mean "fail"'),
        ({"variables": {"m_x": "1"}}, "when.variables", "ACL variable"),
        ({"hosts": "mail.example.org"}, "when.hosts", "mail.example.org"),
        ({"hosts": "192.0.2.1/24"}, "when.hosts", "host bits"),
        ({"senders": "a*@example.org"}, "when.senders", "whole local part"),
        ({"senders": "@"}, "when.senders", "no address"),
        ({"sender_domains": "exa mple.org"}, "when.sender_domains", "no domain"),
        ({"sender_domains": "*example.org"}, "when.sender_domains", "no domain"),
        ({"sender_domains": "user@example.org"}, "when.sender_domains", "no domain"),
        ({"recipient_domains": "lmdb;relative"}, "when.recipient_domains", "is not a table"),
        ({"recipient_domains": "lsearch;/etc/aliases"}, "when.recipient_domains", "not supported"),
        ({"recipients": "lmdb;/nonexistent/table"}, "when.recipients", "No such file"),
    ],
)
def test_refused_at_load(condition: dict[str, Any], key: str, reason: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_condition(condition)
    assert reason in caught.value.reason
    assert caught.value.key == key


def test_depth_is_bounded() -> None:
    condition: dict[str, Any] = {"hosts": "*"}
    for _ in range(20):
        condition = {"not": condition}
    with pytest.raises(ConfigError, match="levels of not"):
        parse_condition(condition)


def test_hostile_names_cost_little() -> None:
    """Work grows with the name's length at most; what is longer than any domain is not taken apart."""
    condition = parse_condition({"recipient_domains": ["*.example.org", "*"], "not": {"recipients": "x@*.example.org"}})
    assert isinstance(condition, Condition)
    hostile = b"x@" + b"a." * 200_000 + b"example.org"
    assert chosen({"recipient_domains": "*.example.org"}, hostile) is None
    assert chosen({"recipients": "*.example.org"}, b"@" * 100_000, b"<>\xff@\xfe.example.org") == {
        b"<>\xff@\xfe.example.org"
    }
