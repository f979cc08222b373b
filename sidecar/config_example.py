"""A commented configuration, generated from the structs that decode it.

Every setting of respool and of every installed processor is in it, with its description;
what is commented out is the default, or an example of what has none.

Diagnostics: raises nothing; an installed processor that can't be imported is a comment.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import textwrap
from collections.abc import Iterator
from typing import Any, Final, Literal, cast

import msgspec
from msgspec import NODEFAULT, Struct
from msgspec.inspect import DictType, Field, ListType, Metadata, StructType, Type, UnionType, VarTupleType

from ..errors import ConfigError
from ..processors import registry
from ..processors.api import Phase, Processor
from .config import Config, ProcessorEntry

_WIDTH: Final = 98
_TIMEOUT_SECONDS: Final = 5.0

#: What most sites need, in this order, once the keys are there. The others are commented out.
_USUAL: Final = ("auth", "authentication-results", "arc-seal")

#: For settings without a default: what a reader recognises as his own to replace.
_EXAMPLES: Final[dict[str, Any]] = {
    "hostname": "mx.example.org",
    "authserv_id": "mx.example.org",
    "domain": "example.org",
    "selector": "s1",
    "key_file": "/etc/respool/s1.pem",
    "from_domains": ["example.org"],
    "recipient_domains": ["forwarded.example.org"],
    "nameservers": ["127.0.0.1"],
    "zone_file": "/etc/respool/dns.zone",
    "queue": "scan",
    "split": False,
    "localhost_number": 1,
    "workers": 2,
    "name": "X-Example",
    "value": "text",
    "table": "lmdb;/etc/respool/routes.mdb",
    "by": "domain",
    "max_age_days": 10,
    "when": {"hosts": ["192.0.2.0/24"]},
    "reason": "our gateway",
    "conditions": {"hosts": ["192.0.2.0/24"]},
    "retry_after_seconds": 3600,
    "file": "/var/lib/respool/dmarc.dat",
    "limit_file": "/var/lib/respool/dmarc-reports.mdb",
}


class EximPlaces(Struct, frozen=True, kw_only=True):
    """What the example says of the Exim beside it; by default as Debian has it."""

    command: str = "/usr/sbin/exim4"
    spool_directory: str = "/var/spool/exim4"
    source: Literal["queue", "export"] = "queue"


def detect() -> EximPlaces:
    """Ask the Exim of this machine where its spool is and whether it has queuefile; Debian's places without one."""
    command = next((path for name in ("exim4", "exim") if (path := shutil.which(name, path=_path()))), None)
    if command is None:
        return EximPlaces()
    spool = _ask(command, "-bP", "spool_directory").partition("=")[2].strip()
    words = _ask(command, "-bV").lower().replace("/", " ").split()
    return EximPlaces(
        command=command,
        spool_directory=spool or EximPlaces().spool_directory,
        source="export" if "queuefile" in words or "experimental_queuefile" in words else "queue",
    )


def _path() -> str:
    return os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin", "/usr/exim/bin"))


def _ask(*command: str) -> str:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout if done.returncode == 0 else ""


def example(places: EximPlaces) -> str:
    """The whole file."""
    given: dict[str, Any] = {
        "state_directory": f"{places.spool_directory}/respool",
        "spool_directory": places.spool_directory,
        "command": places.command,
    }
    lines = [*_comment(_PREAMBLE), ""]
    tables: list[Field] = []
    for field in _fields(Config):
        if isinstance(_bare(field.type), StructType | UnionType) and field.name != "processor":
            tables.append(field)
        elif field.name != "processor":
            lines += [*_setting(field, given), ""]
    for field in tables:
        lines += _table(field, given, places.source if field.name == "source" else "spool")
    lines += _processors(given)
    return "\n".join(lines).rstrip() + "\n"


_PREAMBLE: Final = (
    "respool: the configuration of one sidecar, for `respool run -c`. What is commented out is the "
    "default, or an example of what has none. After every change: respool config check -c FILE"
)


def _comment(text: str, prefix: str = "# ") -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=prefix, subsequent_indent=prefix, break_long_words=False)


def _fields(struct: type[Struct]) -> tuple[Field, ...]:
    info = msgspec.inspect.type_info(struct)
    if not isinstance(info, StructType):
        raise TypeError(f"{struct} is not a Struct")
    return info.fields


def _bare(kind: Type) -> Type:
    """The type itself, without its description; of ``X | None`` it is X."""
    while isinstance(kind, Metadata):
        kind = kind.type
    if isinstance(kind, UnionType):
        others = [_bare(other) for other in kind.types if not isinstance(other, msgspec.inspect.NoneType)]
        return others[0] if len(others) == 1 else kind
    return kind


def _description(field: Field) -> str:
    kind, text = field.type, ""
    while isinstance(kind, Metadata):
        schema = cast("dict[str, Any] | None", kind.extra_json_schema) or {}
        text = text or str(schema.get("description", ""))
        kind = kind.type
    choices = _bare(kind)
    if isinstance(choices, msgspec.inspect.LiteralType):
        text += f"{'' if text.endswith('.') else '.'} One of {', '.join(sorted(map(_toml, choices.values)))}."
    return text


def _setting(field: Field, given: dict[str, Any], *, off: bool = False) -> Iterator[str]:
    """The description and the setting; commented out where it is the default, or where off."""
    value = _value(field, given)
    own = field.required or (field.encode_name in given and value != field.default)
    mark = "" if own and not off else "#"
    yield from _comment(_description(field))
    line = f"{field.encode_name} = {_toml(value)}"
    yield from (
        textwrap.wrap(
            line,
            _WIDTH,
            initial_indent=mark,
            subsequent_indent=f"{mark}    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        if isinstance(value, tuple)
        else [mark + line]
    )


def _value(field: Field, given: dict[str, Any]) -> Any:
    """The default; else what an administrator would recognise as his own to replace."""
    name = field.encode_name
    if name in given:
        return given[name]
    if field.default is not NODEFAULT and field.default is not None:
        return field.default
    if name in _EXAMPLES:
        return _EXAMPLES[name]
    kind = _bare(field.type)
    if isinstance(kind, msgspec.inspect.LiteralType):
        return kind.values[0]
    if isinstance(kind, DictType):
        return {}
    return [] if isinstance(kind, VarTupleType | ListType) else "…"


def _toml(value: Any) -> str:
    """A string, number, truth value, or an array of them, as JSON has it; an inline table of such."""
    if isinstance(value, dict) and value:
        return (
            "{ " + ", ".join(f"{key} = {_toml(inner)}" for key, inner in cast("dict[str, Any]", value).items()) + " }"
        )
    return json.dumps(value, ensure_ascii=False)


def _table(field: Field, given: dict[str, Any], chosen: str) -> Iterator[str]:
    """``[name]``: of several kinds the chosen one, the others commented out."""
    kind = _bare(field.type)
    kinds = [other for other in kind.types if isinstance(other, StructType)] if isinstance(kind, UnionType) else []
    if isinstance(kind, StructType):
        yield from _section(kind, f"[{field.encode_name}]", given, off=False)
    for one in sorted(kinds, key=lambda one: one.tag != chosen):
        yield from _section(one, f"[{field.encode_name}]", given, off=one.tag != chosen)


def _section(kind: StructType, head: str, given: dict[str, Any], *, off: bool) -> Iterator[str]:
    mark = "#" if off else ""
    yield from _comment(_first_line(kind.cls))
    yield f"{mark}{head}"
    if kind.tag is not None:
        yield f"{mark}{kind.tag_field} = {_toml(kind.tag)}"
    for field in kind.fields:
        yield from _setting(field, {**given, **_directory(head, kind.tag, given)}, off=off)
    yield ""


def _directory(head: str, tag: object, given: dict[str, Any]) -> dict[str, str]:
    """What stands for the directory of a plain source or target."""
    if tag == "export":
        return {"directory": f"{given['state_directory']}/export"}
    return {"directory": "/srv/mail/archive" if head == "[source]" else "/srv/mail/reprocessed"}


def _first_line(cls: type) -> str:
    return (cls.__doc__ or "").strip().partition("\n")[0]


def _processors(given: dict[str, Any]) -> Iterator[str]:
    """Every installed processor, in an order that the phases allow; the usual ones in use."""
    found: dict[str, type[Processor[Any]]] = {}
    for name in sorted(registry.known()):
        try:
            found[name] = registry.find(name)
        except ConfigError as error:
            yield from _comment(error.reason)
    rank = {name: place for place, name in enumerate(_USUAL)}
    names = sorted(found, key=lambda name: (Phase(found[name].phase).rank, rank.get(name, len(rank)), name))
    yield from _comment(
        "The processors, in this order: verify before modify before sign before seal. One that "
        "is commented out is not used."
    )
    entry = [field for field in _fields(ProcessorEntry) if field.encode_name not in {"use", "config"}]
    for field in entry:
        yield from _comment(f"{field.encode_name}, with any of them: {_description(field)}")
    yield ""
    for name in names:
        off = name not in _USUAL
        mark = "#" if off else ""
        yield from _comment(f"{name}: {_first_line(found[name])}")
        yield f"{mark}[[processor]]"
        yield f"{mark}use = {_toml(name)}"
        for field in entry:
            if field.encode_name == "on_error":
                yield f"#on_error = {_toml(field.default)}"
        yield f"{mark}[processor.config]"
        later: list[Field] = []
        for field in _fields(found[name].config_type):
            if _rows(field) is not None:
                later.append(field)
            else:
                yield from _setting(field, given, off=off)
        for field in later:
            yield from _array(field, f"processor.config.{field.encode_name}", given, off=off)
        yield ""


def _rows(field: Field) -> StructType | None:
    """The struct of which this setting is a list."""
    kind = _bare(field.type)
    item = _bare(kind.item_type) if isinstance(kind, VarTupleType | ListType) else None
    return item if isinstance(item, StructType) else None


def _array(field: Field, name: str, given: dict[str, Any], *, off: bool) -> Iterator[str]:
    row = _rows(field)
    if row is None:
        return
    mark = "#" if off or not field.required else ""
    yield from _comment(_description(field))
    yield f"{mark}[[{name}]]"
    for inner in row.fields:
        yield from _setting(inner, given, off=bool(mark))
