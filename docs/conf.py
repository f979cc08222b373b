"""How Sphinx makes the site of these pages: ``make docs``, then build/site/index.html.

The pages are plain Markdown with relative links, to be read on a forge as well, wherever they lie in the
checkout; so the whole checkout is the source, and nothing is copied. Two things are made on the way, from what the
pages say anyhow: the contents from the links of docs/README.md, and the reference of the plugin API from the
names in docs/api.md.

Diagnostics: whatever is wrong (a link or an anchor that leads nowhere, a page that none other names, a docstring that
is no reStructuredText) is a warning, and ``make docs`` takes warnings for errors.
"""

from __future__ import annotations

import inspect
import re
from importlib import import_module, metadata
from types import UnionType
from typing import Any

from pygments.lexers.configs import IniLexer
from sphinx.application import Sphinx

project = "respool"
author = "the authors of respool"
release = version = metadata.version("respool")
html_title = f"respool {release}"

extensions = ["myst_parser", "sphinx.ext.autodoc"]
root_doc = "docs/README"
include_patterns = [
    "*.md",
    "*/README.md",
    "samples/*/README.md",
    "tests/campaign/README.md",
    "docs/*.md",
    "docs/processors/*.md",
]
exclude_patterns = [".*", "build", "demo", "respool"]

# Quotation marks in tables of settings are TOML's.
smartquotes = False
# As a forge makes them, for three levels of headings.
myst_heading_anchors = 3

html_theme = "furo"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_sphinx = False
# The start page under the name that a web server looks for.
html_additional_pages = {"index": "index.html"}
templates_path = ["site"]
html_static_path = ["site/static"]
html_css_files = ["site.css"]
pygments_style = "default"
pygments_dark_style = "github-dark"

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
python_maximum_signature_line_length = 80

_PAGE = re.compile(r"^(?:- |\| )\[([^\]]+)\]\(([^)#]+)\.md\)")
_NAME = re.compile(r"^\| `(\w+)` \|")
_MODULE = re.compile(r"^## `([\w.]+)`$")


def contents(source: str) -> str:
    """For each section with a list (or table) of pages a hidden toctree of them, in their order."""
    made: list[str] = []
    caption, entries = "", []
    for line in [*source.splitlines(), "## "]:
        if line.startswith("## "):
            if entries:
                made += [
                    "```{toctree}",
                    ":hidden:",
                    *([f":caption: {caption}"] if caption else []),
                    *entries,
                    "```",
                    "",
                ]
            caption, entries = line.removeprefix("## "), []
        elif link := _PAGE.match(line):
            entries.append(f"{link[1]} <{link[2]}>".replace("`", ""))
    return "\n".join(made)


def reference(source: str) -> str:
    """The docstrings of all names in the tables of docs/api.md, in their order."""
    made = ["", "## Reference", "", "```{eval-rst}"]
    module = "respool"
    for line in source.splitlines():
        if match := _MODULE.match(line):
            module = match[1]
        elif match := _NAME.match(line):
            made += directive(module, match[1])
    return "\n".join([*made, "```"])


def directive(module: str, name: str) -> list[str]:
    """What autodoc is asked for."""
    value = getattr(import_module(module), name)
    if isinstance(value, UnionType):
        # One line is the value itself: a page wide, and no help.
        return [f".. autodata:: {module}.{name}", "   :no-value:", ""]
    if inspect.isfunction(value):
        return [f".. autofunction:: {module}.{name}", ""]
    kind = "autoexception" if issubclass(value, Exception) else "autoclass"
    return [f".. {kind}:: {module}.{name}", "   :members:", ""]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""

    def read(_: Sphinx, name: str, source: list[str]) -> None:
        if name in {root_doc, "docs/processors"}:
            source[0] += "\n" + contents(source[0])
        elif name == "docs/api":
            source[0] += reference(source[0])

    app.connect("source-read", read)
    app.add_lexer("exim", IniLexer)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
