"""What is said of an unknown setting: where it belongs if there is one of that name elsewhere, else the nearest.

Diagnostics: raises nothing; an empty hint where nothing comes to mind.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from typing import Any, Final

from msgspec import Struct, inspect

from ..errors import ConfigError
from ..processors import registry

_Path = tuple[str, ...]

_INDEX: Final = re.compile(r"\[\d+\]")
_PROCESSOR: Final = re.compile(r"\$\.processor\[(\d+)\]")
#: How sure one has to be to name a setting of another table.
_ALIKE: Final = 0.8


class _Table(Struct, frozen=True):
    """A table of the file: where it is, as people write it, and what it may hold."""

    path: _Path
    label: str
    names: tuple[str, ...]


def hint(schema: type[Struct], document: dict[str, Any], place: str, name: str) -> str:
    """To follow "unknown field": ``; `listen` belongs below [metrics] or [web]``, or what was meant perhaps."""
    belongs = where_it_belongs(schema, document, place, name)
    if belongs:
        return belongs
    own, others = _split(schema, document, place)
    near = difflib.get_close_matches(name, [one for table in own for one in table.names], n=1)
    if near:
        return f"; did you mean `{near[0]}`?"
    elsewhere = {one for table in others for one in table.names}
    near = difflib.get_close_matches(name, sorted(elsewhere), n=1, cutoff=_ALIKE)
    return f"; did you mean `{near[0]}` {_places(others, near[0], place)}?" if near else ""


def where_it_belongs(schema: type[Struct], document: dict[str, Any], place: str, name: str) -> str:
    """The part of hint() that is certain: a table that has a setting of exactly this name. Else empty.

    schema is the struct of the whole file, document what the file says, place that of the table in which name was
    found (``$.processor[0]``).
    """
    _, others = _split(schema, document, place)
    places = _places(others, name, place)
    return f"; `{name}` belongs {places}" if places else ""


def _places(tables: list[_Table], name: str, place: str) -> str:
    """Where name would be right: in the same section of the file if it can be, else wherever it can be."""
    having = [table for table in tables if name in table.names]
    section = _path(place)[:1]
    near = [table for table in having if section and table.path[:1] == section]
    return " or ".join(table.label for table in near or having).replace(" or below ", " or ")


def _path(place: str) -> _Path:
    return tuple(_INDEX.sub("", place).split(".")[1:])


def _split(schema: type[Struct], document: dict[str, Any], place: str) -> tuple[list[_Table], list[_Table]]:
    """The tables that may be the one at place, and the others."""
    here = _path(place)
    processor = _PROCESSOR.match(place)
    use = _value(document.get("processor"), int(processor[1]), "use") if processor else None
    tables = list(_tables(schema, use))
    # Conditions within conditions are of one kind.
    own = [table for table in tables if table.path == here or (here[:2] == table.path == ("processor", "when"))]
    kind = _value(document, here[0], "kind") if len(here) == 1 else None
    chosen = [table for table in own if f'kind = "{kind}"' in table.label] or own
    return chosen, [table for table in tables if table not in chosen]


def _value(holder: Any, key: str | int, name: str) -> Any:
    """``holder[key][name]``; None where there is no such thing."""
    try:
        return holder[key][name]
    except (KeyError, IndexError, TypeError):
        return None


def _tables(schema: type[Struct], use: object) -> Iterator[_Table]:
    """Every table that a file may have; of processors' own settings those of the one that use names."""
    kind = inspect.type_info(schema)
    assert isinstance(kind, inspect.StructType)
    yield _Table((), "at the top, above the first table", _names(kind))
    for field in kind.fields:
        for struct in _structs(field.type):
            if field.encode_name == "processor":
                yield _Table(("processor",), "below [[processor]]", _names(struct))
                for inner in struct.fields:
                    for deeper in _structs(inner.type):
                        path = ("processor", inner.encode_name)
                        yield _Table(path, f"below [{'.'.join(path)}]", _names(deeper))
            else:
                tag = f' with kind = "{struct.tag}"' if struct.tag is not None else ""
                yield _Table((field.encode_name,), f"below [{field.encode_name}]{tag}", _names(struct))
    if isinstance(use, str) and use in registry.known():
        try:
            settings = inspect.type_info(registry.find(use).config_type)
        except (ConfigError, TypeError, NameError):
            return  # of a processor that can't be loaded nothing is known
        for struct in _structs(settings):
            yield _Table(("processor", "config"), "below [processor.config]", _names(struct))


def _structs(kind: Any) -> Iterator[inspect.StructType]:
    """The structs that a value of this type may be, or hold as items."""
    if isinstance(kind, inspect.StructType):
        yield kind
        return
    for name in ("type", "item_type"):
        if (inner := getattr(kind, name, None)) is not None:
            yield from _structs(inner)
    for inner in getattr(kind, "types", ()):
        yield from _structs(inner)


def _names(struct: inspect.StructType) -> tuple[str, ...]:
    return tuple(field.encode_name for field in struct.fields)
