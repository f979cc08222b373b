"""``respool dmarc history`` and the warnings of ``respool dmarc check``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from respool.sidecar.cli.dmarc import dmarc

RECORD = """\
job 1abcde-000000-00
reporter mx.example.org
received 1700000000
ipaddr 203.0.113.9
from example.com
mfrom example.com
spf 7
pdomain example.com
policy 16
rua -
pct 100
adkim 114
aspf 114
p 114
sp 0
align_dkim 5
align_spf 4
action 4
arc 11
arc_policy 1 json:[]
"""


def respool(*arguments: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "respool", "dmarc", *arguments], capture_output=True, text=True, check=False, timeout=60
    )
    return done.returncode, done.stdout, done.stderr


def test_show(tmp_path: Path) -> None:
    file = tmp_path / "dmarc.dat"
    file.write_text(RECORD * 2)
    line = "2023-11-14 22:13:20Z 1abcde-000000-00 example.com from 203.0.113.9: reject, quarantined, aligned: spf\n"
    assert respool("history", "show", str(file)) == (0, line * 2, "")
    status, output, _ = respool("history", "show", "--json", str(file))
    assert status == 0
    assert [json.loads(text)["action"] for text in output.splitlines()] == [4, 4]


@pytest.mark.parametrize("content", [None, "job x\nno such key\n"])
def test_a_file_that_can_not_be_shown(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "dmarc.dat"
    if content is not None:
        file.write_text(content)
    status, output, error = respool("history", "show", str(file))
    assert (status, output) == (1, "")
    assert error.startswith("respool: ")
    assert error.count("\n") == 1


def test_rotate(tmp_path: Path) -> None:
    file, target = tmp_path / "dmarc.dat", tmp_path / "old"
    assert respool("history", "rotate", str(file))[0] == 1
    file.write_text(RECORD)
    assert respool("history", "rotate", str(file), str(target)) == (0, f"{target}\n", "")
    assert (file.exists(), target.read_text()) == (False, RECORD)
    file.write_text(RECORD)
    assert respool("history", "rotate", str(file), str(target))[0] == 1
    status, name, _ = respool("history", "rotate", str(file))
    assert status == 0
    assert Path(name.strip()).read_text() == RECORD


ZONE = """
good.example. TXT "v=spf1 -all"
_dmarc.good.example. TXT "v=DMARC1; p=reject; np=reject; rua=mailto:a@good.example"
_dmarc.silent.example. TXT "v=DMARC1; p=none; fo=1; rf=afrf; pct=5"
_dmarc.weak.example. TXT "v=DMARC1; p=reject; sp=none"
sub.weak.example. TXT "v=spf1 -all"
sub.weak.example. TXT "v=spf1 +all"
_dmarc.sub.weak.example. TXT "v=DMARC1; p=none; sp=none; rua=https://x.example/,mailto:a@other.example; ruf=mailto:a@other.example"
_dmarc.typo.example. TXT "v=dmarc1; p=reject"
wrong.example. TXT "v=DMARC1; p=reject"
_dmarc.two.example. TXT "v=DMARC1; p=none"
_dmarc.two.example. TXT "v=DMARC1; p=reject"
_dmarc.suffix.example. TXT "v=DMARC1; p=none; psd=y; rua=mailto:a@suffix.example; ruf=mailto:a@suffix.example"
"""


@pytest.mark.parametrize(
    ("domain", "warnings"),
    [
        ("good.example", []),
        (
            "silent.example",
            ["p=none without rua", "pct=5 is ignored", "rf is historic", "fo has no effect without ruf", "no SPF record"],
        ),
        ("weak.example", ["there is no rua", "sp=none is weaker", "np=reject would protect", "no SPF record"]),
        (
            "sub.weak.example",
            [
                "sp and np have no effect here", "rua: 1 that are no mailto:",
                "rua: other.example does not ask for reports about sub.weak.example",
                "ruf: other.example does not ask", "has 2 SPF records",
            ],
        ),
        ("typo.example", ["_dmarc.typo.example has a record that does not begin with v=DMARC1"]),
        ("wrong.example", ["its place is _dmarc.wrong.example"]),
        ("two.example", ["has 2 records: all but one must go"]),
        ("suffix.example", ["ruf of a public suffix", "no SPF record"]),
    ],
)  # fmt: skip
def test_warnings(tmp_path: Path, domain: str, warnings: list[str]) -> None:
    file = tmp_path / "zone"
    file.write_text(ZONE)
    runner = CliRunner()
    result = runner.invoke(dmarc, ["check", domain, "--zone", str(file), "--json"], catch_exceptions=False)
    found = json.loads(result.stdout)["warnings"]
    assert len(found) == len(warnings)
    for wanted, sentence in zip(warnings, found, strict=True):
        assert wanted in sentence
    said = runner.invoke(dmarc, ["check", domain, "--zone", str(file)], catch_exceptions=False).stdout
    assert ("To look at:" in said) is bool(warnings)
