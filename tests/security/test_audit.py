"""``make audit``: a known vulnerability fails it, silence is said aloud, and an empty answer is no clean one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
CLEAN = {"name": "a", "version": "1", "vulns": []}
BAD = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


def audit(tmp_path: Path, stdout: str, *, code: int = 0, require: str = "") -> subprocess.CompletedProcess[str]:
    auditor = tmp_path / "pip-audit"
    (tmp_path / "answer").write_text(stdout)
    auditor.write_text(f"#!/bin/sh\ncat {tmp_path}/answer\nexit {code}\n")
    auditor.chmod(0o755)
    return subprocess.run(
        [sys.executable, CHECKOUT / ".ci/audit", auditor, "locked.txt"], capture_output=True, text=True, check=False,
        env={"RESPOOL_REQUIRE": require},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("dependencies", "code", "said"),
    [
        ([CLEAN], 0, "1 distributions, no known vulnerability"),
        ([CLEAN, BAD], 1, "b 2: PYSEC-1"),
        ([UNKNOWN, BAD], 1, "NOT AUDITED"),
        ([CLEAN, UNKNOWN], 0, "NOT AUDITED: locked.txt: nothing is known of c"),
        ([], 0, "NOT AUDITED"),
    ],
)
def test_answers(tmp_path: Path, dependencies: list[object], code: int, said: str) -> None:
    done = audit(tmp_path, json.dumps({"dependencies": dependencies, "fixes": []}), code=int(BAD in dependencies))
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


@pytest.mark.parametrize("stdout", ["", "Traceback", "[]", "null", '{"dependencies": 1}'])
def test_no_answer_passes_aloud_and_fails_where_it_is_required(tmp_path: Path, stdout: str) -> None:
    done = audit(tmp_path, stdout, code=1)
    assert (done.returncode, "NOT AUDITED" in done.stderr) == (0, True)
    assert audit(tmp_path, stdout, code=1, require="exim,audit").returncode == 1


def test_it_is_part_of_what_must_pass_and_covers_all_that_is_locked() -> None:
    lines = (CHECKOUT / "Makefile").read_text().splitlines()
    assert "test: lint audit docs unit" in lines
    (command,) = [line for line in lines if line.startswith("\t") and ".ci/audit" in line]
    assert {word for word in command.split() if word.startswith("requirements/")} == {
        str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "requirements").glob("*.txt")
    }


def test_every_locked_distribution_has_a_hash() -> None:
    for path in (CHECKOUT / "requirements").rglob("*.txt"):
        entries = path.read_text().replace("\\\n", " ").splitlines()
        pinned = [entry for entry in entries if entry.strip() and not entry.lstrip().startswith("#")]
        assert pinned
        assert all("==" in entry and "--hash=sha256:" in entry for entry in pinned)
