"""The public RFC 7208 test suite, every case. No failure is known."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from respool.lookups.dns import MailExchanger
from respool.processors.authentication.spf import evaluate_spf

from .fake_dns import TROUBLE, FakeResolver

_CHECKOUT = Path(__file__).parents[4]
_SUITES = Path(os.environ.get("RESPOOL_SUITES", _CHECKOUT.parent / "shared" / "data"))
_FILE = _SUITES / "spf-test-suite" / "rfc7208-tests.yml"


def _octets(text: str) -> bytes:
    # The YAML escapes \xNN of the suite mean octets.
    return text.encode("latin-1")


def _zone(zonedata: dict[str, list[Any]]) -> dict[str, dict[str, Any]]:
    """The suite's records, its SPF-typed ones served as TXT where a name has no TXT of its own."""
    zone: dict[str, dict[str, Any]] = {}
    for name, entries in zonedata.items():
        types: dict[str, Any] = zone.setdefault(name.lower(), {})
        spf: list[bytes] = []
        for entry in entries:
            if entry == "TIMEOUT":
                types["*"] = TROUBLE
                continue
            ((rdtype, value),) = entry.items()
            if rdtype in {"SPF", "TXT"}:
                strings: list[str] = [value] if isinstance(value, str) else value
                text = b"".join(map(_octets, strings))
                if rdtype == "SPF":
                    spf.append(text)
                elif text == b"NONE":
                    types.setdefault("no TXT", ())
                else:
                    types.setdefault("TXT", []).append(text)
            elif rdtype == "MX":
                types.setdefault("MX", []).append(MailExchanger(value[0], value[1].lower()))
            elif rdtype == "AAAA":
                types.setdefault("AAAA", []).append(str(ipaddress.ip_address(value)))
            elif value == "TIMEOUT":
                types[rdtype] = TROUBLE
            else:
                types.setdefault(rdtype, []).append(value.lower() if rdtype == "PTR" else value)
        if spf and "TXT" not in types and "no TXT" not in types:
            types["TXT"] = spf
    return zone


def _cases() -> list[Any]:
    if not _FILE.exists():
        return [pytest.param(None, None, id="absent")]
    with _FILE.open("rb") as file:
        scenarios = list(yaml.load_all(file, Loader=yaml.CSafeLoader))
    return [
        pytest.param(case, scenario["zonedata"], id=f"{scenario['description']}: {name}")
        for scenario in scenarios
        for name, case in scenario["tests"].items()
    ]


@pytest.mark.suites
@pytest.mark.parametrize(("case", "zonedata"), _cases())
def test_rfc7208_suite(case: dict[str, Any] | None, zonedata: dict[str, Any]) -> None:
    if case is None:
        pytest.skip(f"the RFC 7208 suite is not at {_FILE}; set RESPOOL_SUITES")
    resolver = FakeResolver(_zone(zonedata))
    result = evaluate_spf(
        client_ip=case["host"],
        helo=_octets(case["helo"]),
        mail_from=_octets(case["mailfrom"]),
        resolver=resolver,
        receiver="receiver.example",
        now=1_700_000_000,
    )
    accepted: list[str] = [case["result"]] if isinstance(case["result"], str) else case["result"]
    assert result.result.value in accepted, result
    if "explanation" in case:
        expected = "" if case["explanation"] == "DEFAULT" else case["explanation"]
        assert result.explanation == expected
    # RFC 7208 4.6.4: ten terms, each of at most eleven questions, one PTR with ten names, exp, the record.
    assert len(resolver.asked) <= 10 * 12 + 12


@pytest.mark.suites
def test_suite_is_whole() -> None:
    if not _FILE.exists():
        pytest.skip(f"the RFC 7208 suite is not at {_FILE}; set RESPOOL_SUITES")
    assert len(_cases()) >= 200
