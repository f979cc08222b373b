"""LMDB tables for tests, built as an administrator builds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from respool.lookups.table_build import build


def make_table(path: Path, entries: Mapping[str, str]) -> str:
    """The table at path, as a reference without wildcards."""
    source = path.with_suffix(".jsonl")
    source.write_text("".join(json.dumps({"key": key, "value": value}) + "\n" for key, value in entries.items()))
    build(str(source), str(path))
    return f"lmdb;{path}"
