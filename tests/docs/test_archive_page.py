"""The commands of docs/batch.md, as they stand, in a directory that looks like a checkout."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from ..conftest import CHECKOUT
from .pages import blocks

PAGE = "docs/batch.md"
HEADING = "Ten minutes, with an archive that everybody has"


def test_the_walk_through(tmp_path: Path) -> None:
    (tmp_path / "samples").symlink_to(CHECKOUT / "samples")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bin").symlink_to(Path(sys.executable).parent)
    printed = []
    for block in blocks(PAGE, HEADING):
        done = subprocess.run(
            ["bash", "-u", "-c", block], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
        )
        # 1: the one file that is broken on purpose.
        assert done.returncode in (0, 1), block + done.stdout + done.stderr
        printed.append(done.stdout)
    pairs = sorted(path.name for path in (tmp_path / "archive").glob("*-H"))
    written = sorted(path.name for path in (tmp_path / "done").glob("*-H"))
    report = [json.loads(line) for line in (tmp_path / "report.jsonl").read_text().splitlines()]
    assert len(pairs) == len(report) == len(written) + 1
    assert "1 wrong" in printed[0]
    assert printed[-2].splitlines()[0] == str(len(written))
    assert f"{len(written)} checked, 0 wrong" in printed[-2]
    for name in written:
        assert b"Authentication-Results: mx.example.org" in (tmp_path / "done" / name).read_bytes()
