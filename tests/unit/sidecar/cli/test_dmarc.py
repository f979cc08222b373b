"""``respool dmarc check``: a record explained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from respool.sidecar.cli.dmarc import dmarc

_ZONE = """
_dmarc.example.com. TXT "v=DMARC1; p=reject; sp=quarantine; np=reject; t=y; pct=50; aspf=s; ruf=mailto:f@b.de; fo=1"
a.example.com. A 192.0.2.7
_dmarc.two.example. TXT "v=DMARC1; p=none"
_dmarc.two.example. TXT "v=DMARC1; p=reject"
_dmarc.bad.example. TXT "v=DMARC1; p=rejekt"
_dmarc.reports.example. TXT "v=DMARC1; rua=mailto:r@reports.example; colour"
_dmarc.bank.example. TXT "v=DMARC1; p=reject; psd=y"
;! fail TXT _dmarc.slow.example
"""


def _check(tmp_path: Path, *arguments: str) -> str:
    file = tmp_path / "zone"
    file.write_text(_ZONE)
    result = CliRunner().invoke(dmarc, ["check", *arguments, "--zone", str(file)], catch_exceptions=False)
    assert result.exit_code == 0
    return " ".join(result.stdout.split())


@pytest.mark.parametrize(
    ("domain", "sentences"),
    [
        (
            "A.example.com.",
            [
                "_dmarc.a.example.com: no DMARC record", "Organizational domain: example.com",
                "The record at example.com applies, which is above a.example.com",
                "Mail that fails: nothing is done (sp=quarantine)", "one level lower",
                "DKIM counts for example.com and all",
                "SPF counts only for exactly a.example.com", "Aggregate reports: to nobody",
                "Failure reports: mailto:f@b.de, when anything failed", "pct is historic",
            ],
        ),
        ("nobody.example.com", ["nobody.example.com does not exist", "(np=reject)"]),
        ("example.com", ["The record at example.com applies: Mail that fails: treated with suspicion (p=reject)"]),
        ("two.example", ["2 records, which cancel each other", "No record applies"]),
        ("bad.example", ["It can't be used: p can't be read", "DMARC says nothing"]),
        ("reports.example", ["p is missing: it acts as p=none", "Not understood and ignored: colour"]),
        ("bank.example", ["psd=y: bank.example is a public suffix", "Organizational domain: bank.example"]),
        ("x.bank.example", ["Organizational domain: x.bank.example", "The record at bank.example applies"]),
    ],
)  # fmt: skip
def test_in_words(tmp_path: Path, domain: str, sentences: list[str]) -> None:
    said = _check(tmp_path, domain)
    for sentence in sentences:
        assert sentence in said


def test_as_json(tmp_path: Path) -> None:
    document = json.loads(_check(tmp_path, "nobody.example.com", "--json"))
    assert document["policy"] == "quarantine"
    assert (document["exists"], document["record_domain"]) == (False, "example.com")
    assert [step["domain"] for step in document["walk"]] == ["nobody.example.com", "example.com", "com"]


def test_no_domain_is_usage() -> None:
    assert CliRunner().invoke(dmarc, ["check", "a..b"]).exit_code == 2
