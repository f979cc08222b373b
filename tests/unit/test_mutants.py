"""Mutation testing itself: the changes it makes, and the explanations of those that nothing can notice."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.campaign.mutants import mutants_of

CHECKOUT = Path(__file__).parents[2]
EXPLANATIONS = tomllib.loads((CHECKOUT / "tests/campaign/mutation_equivalents.toml").read_text())["equivalent"]


def changed(source: str) -> set[str]:
    """The source after each change."""
    return {mutant.apply(source.encode()).decode() for mutant in mutants_of(source.encode())}


@pytest.mark.parametrize(
    ("source", "mutants"),
    [
        ("x = a < b", {"x = (a <= b)", "x = (a >= b)"}),
        ("x = a is None", {"x = (a is not None)"}),
        ("x = a and b", {"x = (a or b)"}),
        ("x = not a", {"x = (a)"}),
        ("x = a + b", {"x = (a - b)"}),
        ("x = True", {"x = (False)"}),
        ("x = 7", {"x = (8)", "x = (6)"}),
        ("x = b'w'", {"x = (b'XXw')"}),
        ("x = 'a sentence'", set[str]()),
        ("x = a if b else c", {"x = (a if not b else c)"}),
        ("f(a)", {"pass"}),
        ("del a", {"pass"}),
        ("a[b] = c", {"pass"}),
        ("a += b", {"pass"}),
        ("def f():\n    return a", {"def f():\n    return None"}),
        ("def f():\n    return None", {"def f():\n    pass"}),
        ("if a:\n    raise b", {"if (not a):\n    raise b", "if a:\n    pass"}),
        ("for a in b:\n    continue", {"for a in b:\n    break"}),
        ("def f(a: int | None) -> 'x': ...", set[str]()),
        ("x = 'é'; y = b'w'", {"x = 'é'; y = (b'XXw')"}),
    ],
)
def test_what_is_changed(source: str, mutants: set[str]) -> None:
    assert changed(source) == mutants


def test_what_must_run_to_notice_a_change() -> None:
    first, last = mutants_of(b"if (a and\n    b):\n    f(\n        a)\n")[::2]
    assert (first.reach, last.reach) == ((1, 2), (3, 4))


@pytest.mark.parametrize("entry", EXPLANATIONS, ids=lambda entry: f"{entry['module']}: {entry['change']}"[:80])
def test_an_explanation_names_a_change_that_can_be_made(entry: dict[str, str]) -> None:
    source = (CHECKOUT / entry["module"]).read_bytes()
    lines = source.decode().splitlines()
    possible = {(lines[mutant.line - 1].strip(), mutant.text) for mutant in mutants_of(source)}
    assert (entry["statement"], entry["change"]) in possible
    assert entry["why"]
