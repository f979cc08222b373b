"""The blocks of a page that a reader would type."""

from __future__ import annotations

import re

from ..conftest import CHECKOUT

_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: str, heading: str, language: str = "sh") -> list[str]:
    """The blocks of that language below a heading (its subheadings included), in their order; never none."""
    text = (CHECKOUT / page).read_text()
    start = re.search(rf"^(#+) {re.escape(heading)}$", text, re.MULTILINE)
    assert start is not None, f"{page} has no heading {heading!r}"
    end = re.compile(rf"^#{{1,{len(start[1])}}} ", re.MULTILINE).search(text, start.end())
    part = text[start.end() : end.start() if end else len(text)]
    found = [
        re.sub(rf"^{match[1]}", "", match[3], flags=re.MULTILINE)
        for match in _BLOCK.finditer(part)
        if match[2] == language
    ]
    assert found, f"{page}, {heading}: no block {language!r}"
    return found
