"""The auth processor: where it takes its facts from, and what it tells Exim."""

from __future__ import annotations

from typing import Any

import pytest

from respool.errors import ConfigError
from respool.processors.api import Defer, Proceed
from respool.processors.auth import Auth, Config, arc_variables
from respool.processors.authentication.arc_verify import ArcResult
from respool.processors.authentication.dmarc import DmarcResult
from respool.processors.authentication.spf import SpfResult
from respool.processors.edits import apply
from respool.processors.results import Result
from respool.spool.message import Message

from .authentication.fake_dns import TROUBLE, FakeResolver
from .processor_kit import make_context, make_message

_ZONE: dict[str, dict[str, Any]] = {
    "example.com": {"TXT": (b"v=spf1 ip4:192.0.2.1 -all",)},
    "_dmarc.example.com": {"TXT": (b"v=DMARC1; p=reject",)},
}


def _run(message: Message, zone: dict[str, dict[str, Any]] | None = None, **config: Any) -> Proceed:
    verdict = Auth(Config(**config)).process(message, make_context(FakeResolver(_ZONE if zone is None else zone)))
    assert isinstance(verdict, Proceed)
    return verdict


def _spf(verdict: Proceed) -> SpfResult | None:
    return next((result for result in verdict.results if isinstance(result, SpfResult)), None)


def _variables(message: Message, verdict: Proceed) -> dict[str, str]:
    after = apply(message, verdict.edits).message.envelope.variables
    return {name.removeprefix("acl_m_"): value.decode() for name, value in after.items()}


def test_a_pass_is_told_to_exim() -> None:
    message = make_message()
    verdict = _run(message)
    assert [result.method for result in verdict.results] == ["spf", "dkim", "dmarc", "arc"]
    assert _variables(message, verdict) == {
        "arc_state": "none",
        "arc_state_reason": "",
        "arc_domains": "",
        "arc_oldest_pass": "0",
        "dmarc_status": "accept",
        "dmarc_status_text": "Accept",
        "dmarc_used_domain": "example.com",
        "dmarc_domain_policy": "reject",
        "dmarc_alignment_spf": "yes",
        "dmarc_alignment_dkim": "no",
    }


def test_a_fail_is_told_to_exim() -> None:
    message = make_message(host=b"[203.0.113.9]:25")
    variables = _variables(message, _run(message))
    assert (variables["dmarc_status"], variables["dmarc_alignment_spf"]) == ("reject", "no")


@pytest.mark.parametrize("space", [b" ", b"\n ", b"\v"])
def test_a_second_from_that_exim_sees_is_seen(space: bytes) -> None:
    message = make_message([(b"From", b"a@example.com"), b"From" + space + b": ceo@bank.example\n"])
    variables = _variables(message, _run(message))
    assert (variables["dmarc_status"], variables["dmarc_alignment_spf"]) == ("nofrom", "no")


@pytest.mark.parametrize("entry", ["", "two words.example", "*.example.org"])
def test_a_trusted_sealer_is_a_domain(entry: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Auth(Config(trusted_sealers=("example.org", ".Bücher.example", entry)))
    assert caught.value.key == "$.trusted_sealers"


def test_a_line_that_is_no_field_is_no_second_from() -> None:
    message = make_message([(b"From", b"a@example.com"), b"From\n"])
    assert _variables(message, _run(message))["dmarc_status"] == "accept"


def test_no_record_names_the_author_as_exim_does() -> None:
    message = make_message([(b"From", b"x@other.example")])
    variables = _variables(message, _run(message))
    assert (variables["dmarc_status"], variables["dmarc_used_domain"]) == ("norecord", "other.example")


@pytest.mark.parametrize(
    ("domains", "told"),
    [((), ""), (("",), ":"), (("", "a.org"), "::a.org"), (("a.org", "b.org"), "a.org:b.org"), (("a\nb",), "a?b")],
)
def test_arc_domains_are_an_exim_list(domains: tuple[str, ...], told: str) -> None:
    arc = ArcResult(result=Result.FAIL, reason="i=2 (cv)\n\u202e", instance=len(domains), domains=domains)
    message = make_message()
    variables = apply(message, tuple(arc_variables(arc))).message.envelope.variables
    assert variables["acl_m_arc_domains"] == told.encode()
    assert variables["acl_m_arc_state"] == b"fail"
    assert variables["acl_m_arc_state_reason"] == b"i=2 (cv)??"


def test_variables_can_be_left_out() -> None:
    assert _run(make_message(), variables=False).edits == ()


@pytest.mark.parametrize("submission", [{"host_auth": b"plain"}, {"host": None}])
def test_submission_is_not_judged(submission: dict[str, Any]) -> None:
    message = make_message(**submission)
    verdict = _run(message)
    assert [result.method for result in verdict.results] == ["dkim", "arc"]
    variables = _variables(message, verdict)
    assert (variables["dmarc_status"], variables["dmarc_status_text"]) == ("none", "")
    told = _run(message, dmarc_for_submission=True)
    assert [result.method for result in told.results] == ["spf", "dkim", "dmarc", "arc"]


def test_dmarc_can_be_off() -> None:
    assert not any(isinstance(result, DmarcResult) for result in _run(make_message(), dmarc="off").results)


def test_spf_of_a_variable_is_preferred() -> None:
    resolver = FakeResolver(_ZONE)
    message = make_message(variables={"acl_m_sc_spf": b"softfail", "acl_m_sc_spfdom": b"Example.NET"})
    verdict = Auth(Config()).process(message, make_context(resolver))
    assert isinstance(verdict, Proceed)
    spf = _spf(verdict)
    assert spf is not None
    assert (spf.result, spf.domain) == (Result.SOFTFAIL, "example.net")
    assert ("example.com", "TXT") not in resolver.asked


def test_spf_of_a_variable_without_a_domain() -> None:
    message = make_message(sender=b"", variables={"acl_m_spf": b"pass"})
    spf = _spf(_run(message, spf_variable="acl_m_spf"))
    assert spf is not None
    assert (spf.result, spf.domain, spf.scope) == (Result.PASS, "mail.example.com", "helo")


@pytest.mark.parametrize("value", [b"", b"(invalid)", b"pass; dkim=pass"])
def test_a_variable_that_says_nothing_is_passed_over(value: bytes) -> None:
    spf = _spf(_run(make_message(variables={"acl_m_sc_spf": value})))
    assert spf is not None
    assert spf.mechanism == "ip4:192.0.2.1"


_HEADERS = [
    (b"Authentication-Results", b"evil.example; spf=pass smtp.mailfrom=example.com"),
    (b"Authentication-Results", b"mx.example.org;\n\tspf=neutral smtp.mailfrom=u@example.com"),
    (b"From", b"a@example.com"),
]


def test_a_field_is_trusted_only_when_told() -> None:
    message = make_message(_HEADERS)
    asked, trusted = _spf(_run(message)), _spf(_run(message, trust_header=True))
    assert asked is not None
    assert trusted is not None
    assert asked.result is Result.PASS
    assert (trusted.result, trusted.domain, trusted.scope) == (Result.NEUTRAL, "example.com", "mailfrom")


def test_a_trusted_field_without_a_domain_or_without_spf() -> None:
    for value, result, domain in (
        (b"mx.example.org; spf=pass smtp.mailfrom=<>", Result.PASS, "example.com"),
        (b"mx.example.org; spf=fail smtp.helo=h.example", Result.FAIL, "h.example"),
        (b"mx.example.org; dkim=fail", Result.PASS, "example.com"),
        (b"mx.example.org; spf=(", Result.PASS, "example.com"),
    ):
        headers = [(b"Authentication-Results", value), (b"From", b"a@example.com")]
        spf = _spf(_run(make_message(headers), trust_header=True))
        assert spf is not None
        assert (spf.result, spf.domain) == (result, domain)


def test_a_variable_comes_before_a_field() -> None:
    spf = _spf(_run(make_message(_HEADERS, variables={"acl_m_sc_spf": b"fail"}), trust_header=True))
    assert spf is not None
    assert spf.result is Result.FAIL


def test_trusted_relays_are_looked_through() -> None:
    headers = [
        (b"Received", b"from relay ([10.0.0.1] helo=relay) by us"),
        (b"Received", b"from mail.example.com ([192.0.2.1]) by relay"),
        (b"From", b"a@example.com"),
    ]
    message = make_message(headers, host=b"[10.0.0.1]:25", variables={"acl_m_sc_spf": b"fail"})
    spf = _spf(_run(message, trusted_relays=("10.0.0.0/8",)))
    assert spf is not None
    assert spf.result is Result.PASS
    unknown = _spf(_run(make_message(host=b"[10.0.0.1]:25"), trusted_relays=("10.0.0.0/8",)))
    assert unknown is not None
    assert (unknown.result, unknown.reason) == (Result.NONE, "no client address")


def test_trouble_can_defer_for_a_while() -> None:
    zone: dict[str, dict[str, Any]] = {"example.com": {"TXT": TROUBLE}}
    processor = Auth(Config(defer_attempts=2))
    for attempt, kind in ((1, Defer), (2, Defer), (3, Proceed)):
        assert isinstance(processor.process(make_message(), make_context(FakeResolver(zone), attempt=attempt)), kind)
    assert isinstance(Auth(Config()).process(make_message(), make_context(FakeResolver(zone))), Proceed)


@pytest.mark.parametrize(
    "config",
    [
        {"spf_variable": "acl_x_y"},
        {"spf_domain_variable": "acl_m"},
        {"trusted_relays": ("10.0.0.1/8",)},
        {"dmarc": "public-suffix-list", "public_suffix_list": "/nonexistent"},
    ],
)
def test_bad_settings_are_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Auth(Config(**config))


def test_hostile_messages_are_judged() -> None:
    headers = [(b"From", b"x" * 5000), (b"DKIM-Signature", b"v=1;;;="), (b"ARC-Seal", b"i=9999")]
    verdict = _run(make_message(headers, sender=b"@" * 500, helo=b"\xff" * 200))
    arc = next(result for result in verdict.results if isinstance(result, ArcResult))
    assert arc.result is Result.FAIL


def test_the_suffix_list_is_read_from_a_file(tmp_path: Any) -> None:
    file = tmp_path / "list.dat"
    file.write_text("com\nco.uk\n")
    zone: dict[str, dict[str, Any]] = {"_dmarc.example.co.uk": {"TXT": (b"v=DMARC1; p=quarantine",)}}
    message = make_message([(b"From", b"a@x.example.co.uk")])
    verdict = _run(message, zone, dmarc="public-suffix-list", public_suffix_list=str(file))
    dmarc = next(result for result in verdict.results if isinstance(result, DmarcResult))
    assert (dmarc.status, dmarc.organizational_domain) == ("quarantine", "example.co.uk")


RECEIVED_SPF = (
    b"Received-SPF: softfail (mx.example.org: a comment)\n\tclient-ip=192.0.2.1; envelope-from=bounce@example.com;\n"
    b"\thelo=mail.example.com;\n"
)
FROM = b"From: A <a@example.com>\n"


def test_a_trusted_received_spf_is_taken_if_it_is_about_this_envelope() -> None:
    spf = _spf(_run(make_message([RECEIVED_SPF, FROM]), trust_received_spf=True))
    assert spf is not None
    assert (spf.result, spf.domain, spf.scope) == (Result.SOFTFAIL, "example.com", "mailfrom")
    untrusted = _spf(_run(make_message([RECEIVED_SPF, FROM])))
    assert untrusted is not None
    assert untrusted.result is Result.PASS


@pytest.mark.parametrize(
    "field",
    [
        RECEIVED_SPF.replace(b"192.0.2.1", b"192.0.2.2"),
        RECEIVED_SPF.replace(b"client-ip=192.0.2.1; ", b""),
        RECEIVED_SPF.replace(b"bounce@", b"other@"),
        RECEIVED_SPF.replace(b"softfail", b"superb"),
        RECEIVED_SPF.replace(b"comment)", b"comment"),
        b"Received-SPF: pass " + b"(" * 5000 + b"\n",
    ],
)
def test_a_received_spf_about_something_else_is_passed_over(field: bytes) -> None:
    spf = _spf(_run(make_message([field, RECEIVED_SPF, FROM]), trust_received_spf=True))
    assert spf is not None
    assert spf.result is Result.PASS  # asked anew; not the next field either


def test_a_received_spf_of_a_bounce_is_about_helo() -> None:
    field = b"Received-SPF: fail client-ip=192.0.2.1; envelope-from=<>; helo=mail.example.com\n"
    spf = _spf(_run(make_message([field, FROM], sender=b""), trust_received_spf=True))
    assert spf is not None
    assert (spf.result, spf.domain, spf.scope) == (Result.FAIL, "mail.example.com", "helo")


def test_helo_is_checked_beside_mail_from_and_dmarc_does_not_use_it() -> None:
    zone = {**_ZONE, "mail.example.com": {"TXT": (b"v=spf1 a:mail.example.com -all",), "A": ("192.0.2.1",)}}
    verdict = _run(make_message(sender=b"x@elsewhere.example"), zone, check_helo=True)
    found = [(result.scope, result.result) for result in verdict.results if isinstance(result, SpfResult)]
    assert found == [("mailfrom", Result.NONE), ("helo", Result.PASS)]
    dmarc = next(result for result in verdict.results if isinstance(result, DmarcResult))
    assert dmarc.result is Result.FAIL
    bounce = _run(make_message(sender=b""), zone, check_helo=True)
    assert len([result for result in bounce.results if result.method == "spf"]) == 1
