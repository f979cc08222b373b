"""Every regular expression of the product, run against what would make a backtracking one slow.

The limit is processor time of this process, not the clock: 20,000 repeats take a linear
expression about a millisecond, a quadratic one some seconds, an exponential one for ever.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
import signal
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

import respool

from .attack_strings import attacks

REPEATS: Final = 20_000
LIMIT_SECONDS: Final = 0.25
#: What a match fails at, if anything does.
ENDS: Final = ("", "\0", "\n", "!", "\xff")

METHODS: Final = frozenset({"match", "fullmatch", "search", "sub", "subn", "split", "findall", "finditer", "scanner"})


def modules() -> Iterator[ModuleType]:
    for found in pkgutil.walk_packages(respool.__path__, "respool."):
        if ".samples" not in found.name and not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def named_patterns() -> dict[str, tuple[re.Pattern[Any], frozenset[str]]]:
    """Each compiled expression that a module defines, and the methods that anybody uses it by."""
    everywhere: dict[str, set[str]] = {}
    for module in modules():
        for name, methods in uses(module).items():
            everywhere.setdefault(name, set()).update(methods)
    return {
        f"{module.__name__}.{name}": (value, frozenset(uses(module).get(name) or everywhere.get(name) or {"match"}))
        for module in modules()
        for name, value in vars(module).items()
        if isinstance(value, re.Pattern) and name in assigned_names(module)
    }


def assigned_names(module: ModuleType) -> dict[str, str]:
    """What a module's top level assigns by ``re.compile(…)``: names, and how the calls read."""
    found: dict[str, str] = {}
    for statement in tree_of(module).body:
        if isinstance(statement, ast.Assign | ast.AnnAssign) and is_compilation(statement.value):
            for target in statement.targets if isinstance(statement, ast.Assign) else [statement.target]:
                found[ast.unparse(target)] = ast.unparse(statement.value) if statement.value else ""
    return found


def is_compilation(node: ast.AST | None) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) == "re.compile"


def tree_of(module: ModuleType) -> ast.Module:
    # Read once: each of these tests looks at all of them.
    return _parsed(module.__file__ or "")


@cache
def _parsed(path: str) -> ast.Module:
    return ast.parse(Path(path).read_text("utf-8"))


def uses(module: ModuleType) -> dict[str, frozenset[str]]:
    """By name, the methods that are taken from it; a name that is only handed on counts as matched."""
    methods: dict[str, set[str]] = {}
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.attr in METHODS:
            methods.setdefault(node.value.id, set()).add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            methods.setdefault(node.id, set())
    return {name: frozenset(found or {"match"}) for name, found in methods.items()}


def calls_of_re() -> Iterator[tuple[str, str, ast.expr]]:
    """(module, function of re, expression) of every call such as ``re.sub(…)``."""
    for module in modules():
        for node in ast.walk(tree_of(module)):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "re"
                and node.func.attr in {*METHODS, "compile"}
            ):
                yield module.__name__, node.func.attr, node.args[0]


@contextmanager
def processor_time(seconds: float) -> Generator[None]:
    """TimeoutError once the body has used so much of the processor."""

    def out_of_time(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGVTALRM, out_of_time)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def runner(pattern: re.Pattern[Any], method: str) -> Callable[[Any], object]:
    if method in {"sub", "subn"}:
        empty = b"" if isinstance(pattern.pattern, bytes) else ""
        return lambda text: pattern.sub(empty, text)
    if method == "finditer":
        return lambda text: list(pattern.finditer(text))
    if method == "scanner":
        method = "search"
    run: Callable[[Any], object] = getattr(pattern, method)
    return run


def slow_attack(pattern: re.Pattern[Any], methods: frozenset[str]) -> str | None:
    """The first attack that costs more than the limit, None if there is none."""
    for lead, pump in attacks(pattern):
        for end in ENDS:
            text = lead + pump * REPEATS + end
            subject = text.encode("latin-1") if isinstance(pattern.pattern, bytes) else text
            for method in methods:
                try:
                    with processor_time(LIMIT_SECONDS):
                        runner(pattern, method)(subject)
                except TimeoutError:
                    return f"{method}({lead!r} + {pump!r} * {REPEATS} + {end!r})"
    return None


@pytest.mark.parametrize(
    "pattern",
    [r"(a+)+b", r"a*a*b", r'"((?:[^"]|\\.)*)"', r"\s+$", rb"(?:\w+\.?)+@", r"(x|xx)*y", r"[a-c]{0,9000}[b-d]{0,9000}e"],
)
def test_the_attacks_find_what_is_not_linear(pattern: str | bytes) -> None:
    assert slow_attack(re.compile(pattern), frozenset({"search"})) is not None


@pytest.mark.parametrize("pattern", [r"a*+b", r"[a-c]+d", rb"\s*(?:x\s*)*y", r'"((?:[^"\\]|\\.)*)"'])
def test_the_attacks_let_linear_ones_pass(pattern: str | bytes) -> None:
    assert slow_attack(re.compile(pattern), frozenset({"match"})) is None


NAMED: Final = named_patterns()


@pytest.mark.parametrize("name", sorted(NAMED))
def test_a_named_expression_is_linear(name: str) -> None:
    pattern, methods = NAMED[name]
    found = slow_attack(pattern, methods)
    assert found is None, f"{name} is slow at {found}"


def test_expressions_in_calls_are_linear() -> None:
    seen = 0
    for module, function, expression in calls_of_re():
        if function == "compile":
            continue
        if not isinstance(expression, ast.Constant) or not isinstance(expression.value, str | bytes):
            assert module == "respool.sidecar.doctor.exim", f"{module}: an expression made at run time"
            continue
        seen += 1
        pattern: re.Pattern[Any] = re.compile(expression.value, re.DOTALL)
        found = slow_attack(pattern, frozenset({function}))
        assert found is None, f"{module}: {expression.value!r} is slow at {found}"
    assert seen > 5


def test_every_compiled_expression_has_a_name_that_is_looked_at() -> None:
    """One that no module keeps under a name would escape the test above."""
    assert all(f"{module.__name__}.{name}" in NAMED for module in modules() for name in assigned_names(module))
    others = [
        module.__name__
        for module in modules()
        for node in ast.walk(tree_of(module))
        if is_compilation(node) and ast.unparse(node) not in assigned_names(module).values()
    ]
    # One for each name that the administrator wants removed, a file-name pattern of fnmatch; and the boundaries of a
    # message, escaped, between what is as long as it is.
    assert others == ["respool.processors.headers", "respool.processors.mime"]
