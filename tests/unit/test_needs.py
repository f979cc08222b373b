"""tests/conftest.py: what is skipped, what fails, and what the last lines of a run say."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

CONFTEST: Final = Path(__file__).resolve().parents[1] / "conftest.py"
TESTS: Final = """
import pytest

@pytest.mark.suites
def test_suite(): pass

@pytest.mark.system("no-such-program", "perl:No::Such::Module")
def test_program(): pass

@pytest.mark.exim
def test_exim(): pass

def test_plain(): pass
"""
OTHER_SKIP: Final = "import pytest\ndef test_other(): pytest.skip('for a reason of its own')\n"
PRESENT: Final = 'import pytest\n@pytest.mark.system("sh")\ndef test_present(): pass\n'


FEATURE: Final = 'import pytest\n@pytest.mark.exim("{}", "sqlite")\ndef test_feature(): pass\n'


def run(directory: Path, content: str, require: str = "", *, exim: str = "/none") -> tuple[int, str]:
    (directory / "tests").mkdir()
    shutil.copy(CONFTEST, directory / "tests" / "conftest.py")
    (directory / "tests" / "test_it.py").write_text(content)
    (directory / "pytest.ini").write_text(
        "[pytest]\nmarkers =\n    exim(*features): x\n    suites: x\n    system(*names): x\n"
    )
    environment = {**os.environ, "RESPOOL_REQUIRE": require, "RESPOOL_SUITES": str(directory), "RESPOOL_EXIM": exim}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(
        command, check=False, cwd=directory, env=environment, capture_output=True, text=True, timeout=120
    )
    return done.returncode, done.stdout


def test_what_is_absent_is_skipped_loudly(tmp_path: Path) -> None:
    status, output = run(tmp_path, TESTS)
    assert status == 0
    assert "1 passed, 3 skipped" in output
    assert "NOT TESTED" in output
    assert "the program no-such-program (as root: make system)" in output
    assert "Exim (/none) (as root: make system)" in output
    assert "point RESPOOL_SUITES at" in output


@pytest.mark.parametrize(
    ("require", "counts"), [("exim", "1 passed, 1 skipped, 2 errors"), ("suites", "1 passed, 2 skipped, 1 error")]
)
def test_what_is_required_and_absent_fails(tmp_path: Path, require: str, counts: str) -> None:
    status, output = run(tmp_path, TESTS, require)
    assert status == 1
    assert counts in output
    assert f"RESPOOL_REQUIRE asks for {require}" in output


def test_with_everything_required_no_skip_passes(tmp_path: Path) -> None:
    status, output = run(tmp_path, OTHER_SKIP, "exim,suites")
    assert status == 1
    assert "nothing may be skipped" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="root alone may start a private Exim")
def test_an_exim_without_a_feature(tmp_path: Path) -> None:
    exim = tmp_path / "exim"
    exim.write_text("#!/bin/sh\necho 'Support for: DANE DKIM'\necho 'Lookups (built-in): lsearch sqlite'\n")
    exim.chmod(0o755)
    for feature, said in (("DANE", "1 passed"), ("SRS", f"an Exim ({exim}) with SRS")):
        (tmp_path / feature).mkdir()
        status, output = run(tmp_path / feature, FEATURE.format(feature), exim=str(exim))
        assert status == 0
        assert said in output


def test_what_is_there_runs(tmp_path: Path) -> None:
    status, output = run(tmp_path, PRESENT, "exim,suites")
    assert status == 0
    assert "NOT TESTED" not in output
