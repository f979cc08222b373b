"""Small wrong changes to a Python source, one at a time: what a good test has to notice.

A mutant is a span of bytes and its replacement, so that all else, comments included,
stays as it is and the report can quote the change. Texts (``str``) are left alone: most
are sentences of errors, and no test should pin those. Byte strings are wire words: they
are changed.

Diagnostics: SyntaxError for a source that Python does not take.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import accumulate

from msgspec import Struct

_COMPARISONS: dict[type[ast.cmpop], tuple[type[ast.cmpop], ...]] = {
    ast.Eq: (ast.NotEq,),
    ast.NotEq: (ast.Eq,),
    ast.Lt: (ast.LtE, ast.GtE),
    ast.LtE: (ast.Lt, ast.Gt),
    ast.Gt: (ast.GtE, ast.LtE),
    ast.GtE: (ast.Gt, ast.Lt),
    ast.Is: (ast.IsNot,),
    ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Add,
    ast.FloorDiv: ast.Mult,
    ast.Div: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.LShift: ast.RShift,
    ast.RShift: ast.LShift,
}


class Mutant(Struct, frozen=True):
    """One change: the bytes from start to end of a source become new."""

    line: int
    start: int
    end: int
    old: str
    new: str
    #: The lines of the statement: what a test must run to have a chance.
    reach: tuple[int, ...]

    def apply(self, source: bytes) -> bytes:
        """The source with the change made."""
        return source[: self.start] + self.new.encode() + source[self.end :]

    @property
    def text(self) -> str:
        """``old -> new`` on one line."""
        return " ".join(f"{self.old} -> {self.new}".split())


def mutants_of(source: bytes) -> list[Mutant]:
    """All mutants of a source, in its order."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    return sorted(finder.found, key=lambda mutant: (mutant.start, mutant.end, mutant.new))


class _Finder(ast.NodeVisitor):
    def __init__(self, source: bytes) -> None:
        self._source = source
        self._lines = [0, *accumulate(len(line) for line in source.split(b"\n"))]
        self._statement: ast.stmt | None = None
        self.found: list[Mutant] = []

    def visit(self, node: ast.AST) -> None:
        outer = self._statement
        if isinstance(node, ast.stmt):
            self._statement = node
        for new in _instead_of(node):
            self._add(node, new)
        if isinstance(node, ast.If | ast.While) and not isinstance(node.test, ast.Compare | ast.UnaryOp):
            self._add(node.test, ast.UnaryOp(ast.Not(), node.test))
        for child in _changeable_children(node):
            self.visit(child)
        self._statement = outer

    def _place(self, line: int, column: int) -> int:
        return self._lines[line - 1] + (line - 1) + column

    def _add(self, node: ast.AST, new: ast.AST | str) -> None:
        assert isinstance(node, ast.expr | ast.stmt)
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        assert self._statement is not None
        start = self._place(node.lineno, node.col_offset)
        end = self._place(node.end_lineno, node.end_col_offset)
        text = new if isinstance(new, str) else ast.unparse(new)
        if isinstance(node, ast.expr):
            text = f"({text})"
        # Of a compound statement only the head is certain to have run.
        body = getattr(self._statement, "body", None)
        last = body[0].lineno - 1 if body else self._statement.end_lineno or node.lineno
        reach = tuple(range(self._statement.lineno, max(last, self._statement.lineno) + 1))
        self.found.append(Mutant(node.lineno, start, end, self._source[start:end].decode(), text, reach))


def _changeable_children(node: ast.AST) -> Iterator[ast.AST]:
    for name, value in ast.iter_fields(node):
        if name in {"annotation", "returns", "decorator_list"} or (
            name == "keywords" and isinstance(node, ast.ClassDef)
        ):
            continue
        children = value if isinstance(value, list) else [value]
        for child in children:
            # The places of what stands in an f-string are wrong in Python 3.11.
            if isinstance(child, ast.AST) and not isinstance(child, ast.JoinedStr | ast.Import | ast.ImportFrom):
                yield child


def _instead_of(node: ast.AST) -> Iterator[ast.AST | str]:
    match node:
        case ast.Compare(left, operators, comparators):
            for index, operator in enumerate(operators):
                for other in _COMPARISONS[type(operator)]:
                    changed = [*operators[:index], other(), *operators[index + 1 :]]
                    yield ast.Compare(left, changed, comparators)
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
        case ast.UnaryOp(ast.Not(), operand):
            yield operand
        case ast.BinOp(left, operator, right) if type(operator) in _ARITHMETIC and not _is_type(node):
            yield ast.BinOp(left, _ARITHMETIC[type(operator)](), right)
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value)):
            yield ast.Constant(value + 1)
            yield ast.Constant(value - 1)
        case ast.Constant(bytes(value)):
            yield ast.Constant(b"XX" + value)
        case ast.IfExp(test, body, orelse):
            yield ast.IfExp(ast.UnaryOp(ast.Not(), test), body, orelse)
        case _:
            yield from _instead_of_statement(node)


def _is_type(node: ast.BinOp) -> bool:
    """True for ``int | None`` and the like, outside an annotation too."""
    return isinstance(node.op, ast.BitOr) and any(
        isinstance(side, ast.Constant) and side.value is None for side in (node.left, node.right)
    )


def _instead_of_statement(node: ast.AST) -> Iterator[ast.AST | str]:
    match node:
        case ast.Return(ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "return None"
        case ast.Return() | ast.Raise() | ast.AugAssign() | ast.Delete() | ast.Expr(ast.Call() | ast.Yield()):
            yield "pass"
        case ast.Assign([ast.Attribute() | ast.Subscript(), *_]):
            yield "pass"
        case ast.Continue():
            yield "break"
        case ast.Break():
            yield "continue"
        case _:
            return
