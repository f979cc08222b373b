"""SECURITY.md names tests: each of them is there."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


def test_every_test_that_is_named_exists() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text()
    named = re.findall(r"`(tests/[^`]+)`", text)
    assert len(named) > 30
    assert [name for name in named if not (CHECKOUT / name).exists()] == []


def test_every_row_of_a_table_names_its_test() -> None:
    text = (CHECKOUT / "SECURITY.md").read_text()
    for title in ("## What comes in", "## Bounds"):
        section = text.split(title)[1].split("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("|")][2:]
        assert len(rows) > 10
        assert [row for row in rows if "`tests/" not in row] == []
