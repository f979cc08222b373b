"""Drawings of numbers, as what an SVG needs.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from msgspec import Struct

WIDTH, HEIGHT = 720, 120


class Bar(Struct, frozen=True):
    """A bar of a chart in its units, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    label: str


def minutes(counts: tuple[int, ...]) -> list[Bar]:
    """A bar for each minute, the present one at the right; whatever is not 0 can be seen."""
    most = max(counts, default=0) or 1
    step = WIDTH / max(1, len(counts))
    bars: list[Bar] = []
    for index, count in enumerate(counts):
        height = max(2.0, HEIGHT * count / most) if count else 0.0
        ago = len(counts) - 1 - index
        when = "this minute" if ago == 0 else f"{ago} min ago"
        bars.append(Bar(round(index * step, 1), round(HEIGHT - height, 1), round(step - 2, 1), round(height, 1),
                        f"{when}: {count}"))  # fmt: skip
    return bars
