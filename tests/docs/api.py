"""docs/api.md, made from the public names themselves: ``python -m tests.docs.api > docs/api.md``."""

from __future__ import annotations

import inspect
import re
import sys
from types import ModuleType, UnionType

import respool
import respool.testing

PREAMBLE = """\
# The plugin API

Made from the docstrings of what `respool` and `respool.testing` export. Nothing else is for plugins: other names may change
with any version. [Writing a processor](plugins.md) shows how these are used. The site of these pages has each name in full,
with its parameters and types.
"""

#: Where a name is made, and below which heading it stands; in this order.
SECTIONS = {
    "respool.processors.api": "Processors and verdicts",
    "respool.processors.edits": "Edits",
    "respool.spool": "Messages",
    "respool.processors.mime": "MIME parts",
    "respool.processors.results": "Authentication results",
    "respool.processors.dsn": "Delivery notices",
    "respool.errors": "Errors",
}

#: What these are, as a union has no docstring.
UNIONS = {
    "Edit": ("respool.processors.edits", "Any of the edits: what `proceed()` and the others take."),
    "Verdict": ("respool.processors.api", "What `process()` returns: any of the verdicts."),
}


def made_in(name: str) -> str:
    """The module that a name belongs to, by the sections above."""
    return UNIONS[name][0] if name in UNIONS else str(getattr(respool, name).__module__)


def first_sentence(module: ModuleType, name: str) -> str:
    """The docstring's first paragraph, as Markdown."""
    value = getattr(module, name)
    if isinstance(value, UnionType):
        return UNIONS[name][1]
    paragraph = (inspect.getdoc(value) or "").split("\n\n")[0]
    assert paragraph, name
    return re.sub(r"``(.+?)``", r"`\1`", " ".join(paragraph.split())).replace("|", "\\|")


def table(module: ModuleType, names: list[str]) -> str:
    rows = [f"| `{name}` | {first_sentence(module, name)} |" for name in names]
    return "\n".join(["| name | |", "|---|---|", *rows, ""])


def document() -> str:
    """The whole page."""
    parts = [PREAMBLE]
    for prefix, heading in SECTIONS.items():
        names = [name for name in respool.__all__ if made_in(name).startswith(prefix)]
        parts += [f"## {heading}\n", table(respool, names)]
    placed = sum(part.count("\n| `") for part in parts)
    assert placed == len(respool.__all__), "a public name has no section in tests/docs/api.py"
    parts += ["## `respool.testing`\n", table(respool.testing, respool.testing.__all__)]
    return "\n".join(parts)


if __name__ == "__main__":
    sys.stdout.write(document())
