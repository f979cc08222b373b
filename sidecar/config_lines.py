"""Where in a TOML file a setting stands, for people who have to mend it.

Only lines are looked at, not values: a setting within an inline table is on the line of
what holds it, one that is missing on the line of its table.

Diagnostics: raises nothing; 0 where a line can't be told.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

_Place = tuple[str | int, ...]

_HEAD: Final = re.compile(r"\s*(\[\[?)([^\[\]#]+)\]\]?\s*(?:#.*)?$")
_SETTING: Final = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")
_STEP: Final = re.compile(r"\.?([A-Za-z0-9_-]+)|\[(\d+)\]")


def line_of(content: bytes, key: str) -> int:
    """The line, from 1, of a key such as ``$.processor[2].config.selector``, or of the nearest table around it."""
    places = _places(content.decode("utf-8", "replace"))
    place: _Place = tuple(int(index) if index else name for name, index in _STEP.findall(key.removeprefix("$")))
    while place:
        if place in places:
            return places[place]
        place = place[:-1]
    return 0


def _places(text: str) -> dict[_Place, int]:
    found: dict[_Place, int] = {}
    lengths: Counter[_Place] = Counter()
    table: _Place = ()
    inside = ""
    for number, line in enumerate(text.splitlines(), 1):
        if not inside:
            if head := _HEAD.match(line):
                table = _table(_names(head[2]), lengths, is_array=head[1] == "[[")
                found.setdefault(table, number)
            elif setting := _SETTING.match(line):
                found.setdefault((*table, *_names(setting[1])), number)
        inside = _string_open_after(line, inside)
    return found


def _names(dotted: str) -> _Place:
    return tuple(name.strip().strip("\"'") for name in dotted.split("."))


def _table(names: _Place, lengths: Counter[_Place], *, is_array: bool) -> _Place:
    """The place of a table; one below an array of tables is in its last."""
    place: _Place = ()
    for position, name in enumerate(names):
        place = (*place, name)
        is_last = position == len(names) - 1
        if is_last and is_array:
            lengths[place] += 1
        if lengths[place]:
            place = (*place, lengths[place] - 1)
    return place


def _string_open_after(line: str, inside: str) -> str:
    for mark in re.findall(r"\"\"\"|'''", line):
        if not inside:
            inside = mark
        elif mark == inside:
            inside = ""
    return inside
