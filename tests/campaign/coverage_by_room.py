"""Branch coverage as a table with a row for each room: ``make coverage``.

``coverage json -o - | python -m tests.campaign.coverage_by_room``

Diagnostics: ValueError where the input is no report of coverage with branches.
"""

from __future__ import annotations

import sys
from collections import defaultdict

import msgspec
from msgspec import Struct


class Summary(Struct):
    """What coverage counts in one file."""

    num_statements: int = 0
    covered_lines: int = 0
    num_branches: int = 0
    covered_branches: int = 0


class _File(Struct):
    summary: Summary


class _Report(Struct):
    files: dict[str, _File]


def by_room(report: bytes) -> dict[str, Summary]:
    """The sums of the files below each top folder, from a JSON report."""
    rooms: defaultdict[str, Summary] = defaultdict(Summary)
    for path, file in msgspec.json.decode(report, type=_Report).files.items():
        room = rooms[path.partition("/")[0]]
        room.num_statements += file.summary.num_statements
        room.covered_lines += file.summary.covered_lines
        room.num_branches += file.summary.num_branches
        room.covered_branches += file.summary.covered_branches
    return dict(sorted(rooms.items()))


def table(rooms: dict[str, Summary]) -> str:
    """A Markdown table."""
    rows = ["| room | statements | run | branches | taken |", "|---|---:|---:|---:|---:|"]
    for room, sums in rooms.items():
        rows.append(
            f"| `{room}/` | {sums.num_statements} | {_percent(sums.covered_lines, sums.num_statements)}"
            f" | {sums.num_branches} | {_percent(sums.covered_branches, sums.num_branches)} |"
        )
    return "\n".join(rows)


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "–"


if __name__ == "__main__":
    print(table(by_room(sys.stdin.buffer.read())))
