"""What a look at one thing found.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Level = Literal["ok", "warning", "problem"]


class Finding(Struct, frozen=True):
    """About one topic: how it stands, what was found, and, unless all is well, what to do."""

    topic: str
    level: Level
    found: str
    advice: str = ""


Findings = Iterator[Finding]


def ok(topic: str, found: str) -> Finding:
    """It is as it should be."""
    return Finding(topic, "ok", found)


def warning(topic: str, found: str, advice: str) -> Finding:
    """It works, but not as well as it could, or not in every case."""
    return Finding(topic, "warning", found, advice)


def problem(topic: str, found: str, advice: str) -> Finding:
    """A sidecar does not start with it, or does not do what it is there for."""
    return Finding(topic, "problem", found, advice)
