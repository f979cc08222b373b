"""The benchmark's steady lookups beside a rebuilding process, for a short while and judged."""

from __future__ import annotations

from pathlib import Path

from benchmarks.rebuilt_table import run, total


def test_ten_thousand_lookups_a_second_while_the_table_is_rebuilt(tmp_path: Path) -> None:
    """3 seconds' worth of lookups by three processes, and as many more as it takes to see five tables."""
    counts = run(str(tmp_path), seconds=3.0, per_second=10_000, readers=3, generations=5)
    found = total(counts)
    assert found.wrong == 0, counts
    assert found.lookups >= 30_000
    assert found.generations_seen >= 5
    assert found.keys >= 3_500, "the map grows"
