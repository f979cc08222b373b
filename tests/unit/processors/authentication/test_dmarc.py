"""DMARC: a table of zones and expected statuses, and what no table says."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from respool.processors.authentication.dmarc import (
    STATUS_TEXTS,
    DmarcResult,
    Identifier,
    evaluate_dmarc,
    override_dmarc,
    skipped_dmarc,
)
from respool.processors.results import Property, Result

from .fake_dns import TROUBLE, FakeResolver

_CASES: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "dmarc_cases.toml").read_text())["case"]


def _resolver(case: dict[str, Any]) -> FakeResolver:
    zone: dict[str, dict[str, Any]] = {}
    records: dict[str, str | list[str]] = case.get("records", {})
    for name, texts in records.items():
        zone[name] = {"TXT": tuple(text.encode() for text in ([texts] if isinstance(texts, str) else texts))}
    for name in case.get("exists", ()):
        zone[name] = {"MX": ()}
    for name in case.get("trouble", ()):
        zone[name] = {"TXT": TROUBLE}
    for name in case.get("trouble_of_addresses", ()):
        zone[name] = {"TXT": (), "A": TROUBLE}
    return FakeResolver(zone)


def _organizational_domain(case: dict[str, Any], name: str) -> str:
    suffixes: list[str] = case["suffixes"]
    for suffix in sorted(suffixes, key=len, reverse=True):
        if name.endswith("." + suffix):
            return name.removesuffix("." + suffix).rpartition(".")[2] + "." + suffix
    return name


def _evaluate(case: dict[str, Any], resolver: FakeResolver) -> DmarcResult:
    identifiers = [Identifier("spf", case["spf"][0], Result(case["spf"][1]))] if "spf" in case else []
    identifiers += [Identifier("dkim", domain, Result(result)) for domain, result in case.get("dkim", ())]
    return evaluate_dmarc(
        [case["from"].encode()],
        identifiers=identifiers,
        resolver=resolver,
        discovery=case.get("discovery", "tree-walk"),
        organizational_domain=lambda name: _organizational_domain(case, name),
        several_authors=case.get("several_authors", "permerror"),
    )


@pytest.mark.parametrize("case", _CASES, ids=[case["name"] for case in _CASES])
def test_table(case: dict[str, Any]) -> None:
    resolver = _resolver(case)
    result = _evaluate(case, resolver)
    if "asked" in case:
        assert [name for name, rdtype in resolver.asked if rdtype == "TXT"] == case["asked"]
    expected: dict[str, Any] = dict(case["expect"])
    alignment = expected.pop("alignment", None)
    if alignment is not None:
        found = [name for name in ("spf", "dkim") if getattr(result.alignment, name)]
        assert found == alignment.split()
    if "result" in expected:
        expected["result"] = Result(expected["result"])
    assert {name: getattr(result, name) for name in expected} == expected
    assert result.status_text == STATUS_TEXTS[result.status]
    assert (result.result in {Result.TEMPERROR, Result.PERMERROR}) <= bool(result.reason)


def test_table_asks_at_most_eight_questions_per_walk() -> None:
    name = ".".join("abcdefghijklmnopqrstuvwxyz")
    resolver = FakeResolver()
    evaluate_dmarc([f"x@{name}".encode()], identifiers=[], resolver=resolver)
    assert [question for question, _ in resolver.asked] == [
        f"_dmarc.{name}",
        *(f"_dmarc.{'.'.join('tuvwxyz'[start:])}" for start in range(7)),
    ]


def test_each_name_is_asked_once_however_many_identifiers() -> None:
    resolver = FakeResolver({"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=reject",)}})
    identifiers = [Identifier("dkim", f"m{n}.example.com", Result.TEMPERROR) for n in range(100)]
    result = evaluate_dmarc([b"x@example.com"], identifiers=identifiers, resolver=resolver)
    assert result.result is Result.TEMPERROR
    assert len(resolver.asked) == len(set(resolver.asked)) <= 2 + 16


def test_identifiers_under_another_top_level_need_no_walk() -> None:
    resolver = FakeResolver({"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=reject",)}})
    evaluate_dmarc([b"x@example.com"], identifiers=[Identifier("spf", "a.example.net", Result.PASS)], resolver=resolver)
    assert not any(name.endswith("net") for name, _ in resolver.asked)


def test_properties_are_those_of_rfc_9989() -> None:
    resolver = FakeResolver({"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=none; sp=reject",)}})
    result = evaluate_dmarc([b"x@a.example.com"], identifiers=[], resolver=resolver)
    assert result.properties == (Property("header", "from", "a.example.com"), Property("policy", "dmarc", "reject"))


@pytest.mark.parametrize("values", [[], [b"a@example.com", b"a@example.com"]], ids=["no From", "two From fields"])
def test_one_from_field_it_must_be(values: list[bytes]) -> None:
    resolver = FakeResolver({"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=reject",)}})
    result = evaluate_dmarc(values, identifiers=[], resolver=resolver)
    assert (result.result, result.status) == (Result.PERMERROR, "nofrom")
    assert not resolver.asked


def test_several_from_fields_under_strictest() -> None:
    resolver = FakeResolver({"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=quarantine",)}})
    result = evaluate_dmarc(
        [b"a@friend.example", b"b@example.com"],
        identifiers=[Identifier("dkim", "friend.example", Result.PASS)],
        resolver=resolver,
        several_authors="strictest",
    )
    assert (result.result, result.status, result.author_domain) == (Result.FAIL, "quarantine", "example.com")


def test_a_malformed_from_is_never_evaluated() -> None:
    resolver = FakeResolver()
    result = evaluate_dmarc(
        [b"a@example.com, b@evil@example.org"], identifiers=[], resolver=resolver, several_authors="strictest"
    )
    assert result.result is Result.PERMERROR
    assert not resolver.asked


def test_suffix_list_mode_needs_the_list() -> None:
    with pytest.raises(ValueError, match="organizational_domain"):
        evaluate_dmarc([], identifiers=[], resolver=FakeResolver(), discovery="public-suffix-list")


def test_override_keeps_the_result_and_lets_the_message_through() -> None:
    resolver = FakeResolver({"_dmarc.example.com": {"TXT": (b"v=DMARC1; p=reject",)}})
    failed = evaluate_dmarc([b"x@example.com"], identifiers=[], resolver=resolver)
    overridden = override_dmarc(failed, kind="trusted_forwarder", reason="sealed by lists.example (i=1)")
    assert (overridden.result, overridden.policy, overridden.status) == (Result.FAIL, "reject", "accept")
    assert (overridden.disposition, overridden.override) == ("none", "trusted_forwarder")
    assert "lists.example" in overridden.reason


def test_skipped_is_what_exim_says_of_a_check_that_did_not_run() -> None:
    assert (skipped_dmarc().status, skipped_dmarc().status_text) == ("none", "")
