"""docs/settings.md and the tables in docs/processors, made from the structs: ``python -m tests.docs.settings`` writes them.

A processor's page that is not there is begun with what its module says of itself.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.inspect import Field

from respool.processors import registry
from respool.processors.conditions import When
from respool.sidecar import config_example as example
from respool.sidecar.config import Config, ProcessorEntry

PAGES = Path(__file__).resolve().parents[2] / "docs" / "processors"
BEGIN, END = "<!-- settings: made by python -m tests.docs.settings -->", "<!-- end of settings -->"
_SECTION = re.compile(re.escape(BEGIN) + r".*?" + re.escape(END), re.DOTALL)


def section(name: str) -> str:
    """What stands between the two marks on the page of that processor."""
    lines = ["| setting | default | |", "|---|---|---|"]
    lines += rows(registry.find(name).config_type, "")
    return "\n".join([BEGIN, "", *lines, "", END])


def rows(struct: type[Struct], prefix: str) -> Iterator[str]:
    info = msgspec.inspect.type_info(struct)
    assert isinstance(info, msgspec.inspect.StructType)
    for field in info.fields:
        inner = example._rows(field)
        yield row(field, prefix)
        if inner is not None:
            yield from rows(inner.cls, f"{prefix}{field.encode_name}[].")


def row(field: Field, prefix: str) -> str:
    return f"| `{prefix}{field.encode_name}` | {default(field)} | {cell(example._description(field))} |"


def default(field: Field) -> str:
    if field.required:
        return "required"
    if field.default is msgspec.NODEFAULT:
        return "of this machine" if inspect.isfunction(field.default_factory) else "none"
    value: Any = field.default
    if value is None:
        return "none"
    text = example._toml(value)
    return f"`{text}`" if len(text) < 40 else "see the sample configuration"


def cell(text: str) -> str:
    return text.replace("|", "\\|")


def page(name: str) -> str:
    """The page as it should be: its own text, with the section made anew."""
    path = PAGES / f"{name}.md"
    if path.exists():
        text = path.read_text()
        if BEGIN in text:
            return _SECTION.sub(lambda _: section(name), text)
        return f"{text.rstrip()}\n\n## All settings\n\n{section(name)}\n"
    module = inspect.getmodule(registry.find(name))
    about = inspect.getdoc(module) or ""
    about = about.partition("\n\nDiagnostics:")[0]
    first, _, rest = about.partition("\n\n")
    title = " ".join(first.replace(f"``{name}``: ", "").split()).rstrip(".")
    title, body = (re.sub(r"``(.*?)``", r"`\1`", text) for text in (title, rest))
    phase = registry.find(name).phase
    return f"""# `{name}`: {title}

{body}

Phase: *{phase}*.

## Settings

{section(name)}
"""


PREAMBLE = """\
# All settings

Made from the structs that decode the file, as is what `respool config example` prints. [Configuration](configuration.md) explains
how they belong together; the settings of each processor are on [its own page](processors.md).
"""


def document() -> str:
    """All of docs/settings.md."""
    parts = [PREAMBLE, *part("The top of the file", Config)]
    for field in example._fields(Config):
        kind = example._bare(field.type)
        kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
        for one in kinds:
            if isinstance(one, msgspec.inspect.StructType):
                tag = f" with `{one.tag_field} = {example._toml(one.tag)}`" if one.tag else ""
                parts += part(f"`[{field.encode_name}]`{tag}", one.cls)
    parts += part("`[[processor]]`", ProcessorEntry)
    parts += part("`when` of a processor", When)
    return "\n".join(parts)


def part(heading: str, struct: type[Struct]) -> Iterator[str]:
    """One table of the file, without the tables within it."""
    own = [field for field in example._fields(struct) if not is_table(field)]
    about = example._first_line(struct).replace("``", "`")
    yield f"## {heading}\n\n{about}\n"
    yield "\n".join(["| setting | default | |", "|---|---|---|", *(row(field, "") for field in own), ""])


def is_table(field: Field) -> bool:
    kind = example._bare(field.type)
    kinds = kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,)
    own_place = field.encode_name == "processor" or any(isinstance(one, msgspec.inspect.StructType) for one in kinds)
    return own_place and field.encode_name != "when"


if __name__ == "__main__":
    (PAGES.parent / "settings.md").write_text(document())
    for known in sys.argv[1:] or sorted(registry.known()):
        (PAGES / f"{known}.md").write_text(page(known))
