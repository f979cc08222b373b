"""Trusted sealers, and the whole evaluation in one piece."""

from __future__ import annotations

from typing import Any

import pytest

from respool.processors.authentication.arc_seal import ArcSetFields, Sealer, seal
from respool.processors.authentication.arc_verify import ArcResult
from respool.processors.authentication.dkim_verify import DkimResult
from respool.processors.authentication.evaluation import (
    DmarcSettings,
    Evaluation,
    evaluate_message,
    identifiers,
    is_trusted,
)
from respool.processors.authentication.keys import SigningKey, public_record
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.results import Result
from respool.spool.body import BytesBody

from .fake_dns import TROUBLE, FakeResolver
from .signed_mail import NOW, rsa_private_key

_KEY = SigningKey(rsa_private_key())
_ZONE: dict[str, dict[str, Any]] = {
    "_dmarc.example.com": {"TXT": (b"v=DMARC1; p=reject",)},
    "s._domainkey.lists.example": {"TXT": (public_record(rsa_private_key()),)},
    "s._domainkey.relay.example": {"TXT": (public_record(rsa_private_key()),)},
}


def _evaluate(
    message: AuthenticatedMessage, *trusted: str, zone: dict[str, dict[str, Any]] | None = None
) -> Evaluation:
    return evaluate_message(
        message,
        spf=None,
        resolver=FakeResolver(_ZONE if zone is None else zone),
        now=NOW,
        dmarc=DmarcSettings(trusted_sealers=trusted),
    )


def _sealed(message: AuthenticatedMessage, domain: str, results: bytes) -> AuthenticatedMessage:
    """The message after domain's mail server has put its results and its seal on it."""
    message = AuthenticatedMessage(
        (b"Authentication-Results: %b; %b\n" % (domain.encode(), results), *message.fields), message.body
    )
    before = _evaluate(message).arc
    sealer = Sealer(authserv_id=domain, domain=domain, selector="s", key=_KEY)
    fields = seal(message, before, sealer, now=NOW)
    assert isinstance(fields, ArcSetFields)
    return AuthenticatedMessage((*(header.raw for header in fields.headers), *message.fields[1:]), message.body)


def _plain() -> AuthenticatedMessage:
    return AuthenticatedMessage(
        (b"From: a@example.com\n", b"Date: Tue, 14 Nov 2023 22:13:20 +0000\n"), BytesBody(b"Hello\n")
    )


_PASSED = b"spf=pass smtp.mailfrom=example.com; dmarc=pass header.from=Example.com"


@pytest.mark.parametrize("entry", ["lists.example", "LISTS.example", ".example"])
def test_a_trusted_sealer_overrides_a_fail(entry: str) -> None:
    dmarc = _evaluate(_sealed(_plain(), "lists.example", _PASSED), entry).dmarc
    assert dmarc is not None
    assert (dmarc.result, dmarc.status, dmarc.disposition) == (Result.FAIL, "accept", "none")
    assert dmarc.override == "trusted_forwarder"
    assert dmarc.override_reason == "sealed by lists.example (i=1), which saw dmarc=pass"


@pytest.mark.parametrize(
    ("results", "trusted"),
    [
        (_PASSED, ()),
        (_PASSED, ("other.example", "ists.example", "")),
        (b"dmarc=fail header.from=example.com", ("lists.example",)),
        (b"dmarc=pass header.from=example.net", ("lists.example",)),
        (b"dmarc=pass", ("lists.example",)),
        (b"spf=pass (dmarc=pass header.from=example.com) smtp.mailfrom=x.example", ("lists.example",)),
    ],
)
def test_no_override(results: bytes, trusted: tuple[str, ...]) -> None:
    dmarc = _evaluate(_sealed(_plain(), "lists.example", results), *trusted).dmarc
    assert dmarc is not None
    assert (dmarc.status, dmarc.override) == ("reject", "")


def test_every_sealer_after_the_one_believed_must_be_trusted() -> None:
    message = _sealed(
        _sealed(_plain(), "lists.example", _PASSED), "relay.example", b"dmarc=fail header.from=example.com"
    )
    only_one, both = (
        _evaluate(message, "lists.example").dmarc,
        _evaluate(message, "lists.example", "relay.example").dmarc,
    )
    assert only_one is not None
    assert both is not None
    assert (only_one.status, both.status) == ("reject", "accept")


def test_a_broken_chain_convinces_nobody() -> None:
    sealed = _sealed(_plain(), "lists.example", _PASSED)
    changed = AuthenticatedMessage(sealed.fields, BytesBody(b"Changed\n"))
    evaluation = _evaluate(changed, "lists.example")
    assert evaluation.arc.result is Result.FAIL
    assert evaluation.dmarc is not None
    assert evaluation.dmarc.status == "reject"


def test_trouble_names_what_another_attempt_may_tell() -> None:
    assert _evaluate(_plain()).trouble == ""
    zone = {**_ZONE, "_dmarc.example.com": {"TXT": TROUBLE}}
    assert _evaluate(_plain(), zone=zone).trouble.startswith("dmarc: DNS: _dmarc.example.com TXT")
    zone = {**_ZONE, "s._domainkey.lists.example": {"TXT": TROUBLE}}
    evaluation = _evaluate(_sealed(_plain(), "lists.example", _PASSED), zone=zone)
    assert evaluation.arc.temporary
    assert evaluation.trouble.startswith("arc: ")


def test_without_sets_nobody_is_asked() -> None:
    assert not is_trusted("", ["", "."])
    assert _evaluate(_plain(), "lists.example").arc == ArcResult(result=Result.NONE)


def test_a_key_in_test_mode_counts_for_dmarc_unless_told_otherwise() -> None:
    tested = DkimResult(result=Result.PASS, domain="example.org", testing=True)
    assert [each.domain for each in identifiers(None, [tested])] == ["example.org"]
    assert identifiers(None, [tested], count_test_keys=False) == []
