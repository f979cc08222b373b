"""The public ARC test suite: 171 validation cases and 17 signing cases."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from respool.processors.authentication.arc_seal import NotSealed, Sealer, seal
from respool.processors.authentication.keys import parse_signing_key
from respool.processors.authentication.message import AuthenticatedMessage
from respool.processors.authentication.verification import verify_signatures

from .signed_mail import NOW, KeyZone

SUITES = Path(os.environ.get("RESPOOL_SUITES", Path(__file__).resolve().parents[5] / "shared" / "data"))
Case = tuple[dict[str, Any], dict[str, Any]]

pytestmark = pytest.mark.suites


def cases(name: str) -> list[Any]:
    """Every case of a suite file with its scenario; one empty case where the suite is absent, to be skipped."""
    file = SUITES / "arc-test-suite" / name
    if not file.exists():
        return [pytest.param(({}, {}), id="absent")]
    with file.open() as stream:
        scenarios = list(yaml.safe_load_all(stream))
    return [pytest.param((scenario, case), id=key) for scenario in scenarios for key, case in scenario["tests"].items()]


def key_zone(scenario: dict[str, Any]) -> KeyZone:
    return KeyZone({name: text.encode() for name, text in scenario["txt-records"].items()})


def test_the_suite_is_whole() -> None:
    assert len(cases("validation.yml")) == 171
    assert len(cases("signing.yml")) == 17


@pytest.mark.parametrize("case", cases("validation.yml"))
def test_validation(case: Case) -> None:
    scenario, expected = case
    message = AuthenticatedMessage.from_bytes((expected["message"] or "").encode())
    _, arc = verify_signatures(message, key_zone(scenario), now=NOW)
    # The three cases without an expectation carry cv=fail already: RFC 8617 5.2 step 2 says fail.
    assert arc.result.value == (expected["cv"] or "fail").lower(), arc.reason
    assert bool(arc.reason) == (arc.result.value == "fail")


@pytest.mark.parametrize("case", cases("signing.yml"))
def test_signing(case: Case) -> None:
    scenario, expected = case
    message = AuthenticatedMessage.from_bytes(expected["message"].encode())
    _, arc = verify_signatures(message, key_zone(scenario), now=NOW)
    sealer = Sealer(
        authserv_id=expected["srv-id"],
        domain=scenario["domain"],
        selector=scenario["sel"],
        key=parse_signing_key(scenario["privatekey"].encode()),
        headers=tuple(expected["sig-headers"].split(":")),
        fold_base64=False,
    )
    sealed = seal(message, arc, sealer, now=expected["t"])
    made = ["", "", ""] if isinstance(sealed, NotSealed) else [header.value.decode() for header in sealed.headers]
    for text, name in zip(made, ("AS", "AMS", "AAR"), strict=True):
        assert elements(text) == elements(expected[name])


def elements(text: str) -> set[str]:
    """What the suite's own harness compares: the text without white space, split at semicolons."""
    return set(re.sub(r"\s", "", text).split(";")) - {""}
