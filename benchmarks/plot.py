"""A picture of one run of all benchmarks, as SVG without a library: bars of rates, lines of growth.

Diagnostics: KeyError for a document that benchmarks/__main__.py did not make.
"""

from __future__ import annotations

from typing import Any, Final

_WIDTH: Final = 860
_BAR: Final = 22
_LEFT: Final = 210
_RIGHT: Final = 130
_INK: Final = "#222"
_COLOURS: Final = {"respool": "#2a6fb0", "bare": "#8a8f98"}


def draw(results: dict[str, Any]) -> str:
    """The SVG text."""
    parts: list[str] = []
    top = 30
    for title, unit, rows in _panels(results):
        parts.append(_text(16, top, title, weight="bold"))
        largest = max(value for _, value in rows)
        for number, (name, value) in enumerate(rows):
            y = top + 12 + number * (_BAR + 4)
            width = (_WIDTH - _LEFT - _RIGHT) * value / largest
            colour = _COLOURS["respool" if name.startswith("respool") else "bare"]
            parts.append(_text(16, y + 15, name))
            parts.append(f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" fill="{colour}"/>')
            parts.append(_text(_LEFT + width + 8, y + 15, f"{value:.3g} {unit}"))
        top += 12 + len(rows) * (_BAR + 4) + 34
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {top}" font-family="sans-serif" font-size="13">'
    )
    ground = f'<rect width="{_WIDTH}" height="{top}" fill="#fff"/>'
    return "\n".join([head, ground, *parts, "</svg>"]) + "\n"


def _panels(results: dict[str, Any]) -> list[tuple[str, str, list[tuple[str, float]]]]:
    whole = results["sidecar"]["processes"]["1"]
    latency = results["latency"]["latency_ms"]
    growth = results["growth"]
    return [
        ("CPU for a 10 KB message, claim to settled", "ms", [(name, row["cpu_ms"]) for name, row in whole.items()]),
        (
            "From the name in the export to the datagram, p50 and p99",
            "ms",
            [
                (f"{name} {state} {part}", row[part])
                for state in latency["respool"]
                for name, row in ((name, latency[name][state]) for name in latency)
                for part in ("p50", "p99")
            ],
        ),
        *[
            (f"CPU a message with more {name}", "ms", [(f"respool {size}", ms) for size, ms in rows["ms"].items()])
            for name, rows in growth["growth"].items()
        ],
        (
            "Anonymous memory of a worker",
            "MiB",
            [(f"respool {size}", mebibytes) for size, mebibytes in growth["memory"].items()],
        ),
    ]


def _text(x: float, y: float, text: str, *, weight: str = "normal") -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="{_INK}" font-weight="{weight}">{text}</text>'
