"""The Exim recipe of samples/exim for one configuration: the tested files, with the names filled in.

Diagnostics: ConfigError for a configuration that takes nothing from an Exim, or whose
names can't be written into Exim's configuration.
"""

from __future__ import annotations

import re
from importlib.resources import files
from typing import Final

from msgspec import Struct

from ..errors import ConfigError
from .config import Config, DirectorySource, ExportSource, QueueSource

#: What stands in Exim's configuration as it is: no macro, no quoting, no end of line could begin in it.
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._/+@=-]*")
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_VARIABLE: Final = re.compile(r"acl_[cm][0-9_][A-Za-z0-9_]*")

#: Processors whose variable can be called otherwise, and the macro for its name.
_VARIABLES: Final = {"route": "RESPOOL_ROUTE_VARIABLE", "dane": "RESPOOL_DANE_VARIABLE"}

#: What Exim needs to act on a processor's results, if the configuration has that processor.
_FOR_PROCESSORS: Final = (
    ("route", "route-routers.conf", "routers, before all but those of queuefile"),
    ("dane", "dane-options.conf", "within the smtp transport that carries mail to other hosts"),
    ("dcc", "dcc-routers.conf", "routers, before the one that delivers to local users"),
    ("dcc", "dcc-transports.conf", "transports"),
)

_WIDTH: Final = 78


class RecipePart(Struct, frozen=True):
    """One file of the recipe: its name, where in Exim's configuration its text belongs, and the text."""

    name: str
    place: str
    text: str


def recipe(config: Config) -> tuple[RecipePart, ...]:
    """All parts, in the order in which they stand in Exim's configuration. Raises ConfigError."""
    source = config.source
    authserv_id = config.our_authserv_id
    if _PLAIN_NAME.fullmatch(authserv_id) is None:
        raise ConfigError(
            f"{authserv_id!r} can't be written into an Exim pattern: expected letters, digits, dots, hyphens",
            key="$.authserv_id",
        )
    macros = {"RESPOOL_AUTHSERV_PATTERN": authserv_id.replace(".", "\\.")}
    match source:
        case ExportSource():
            macros["RESPOOL_EXPORT"] = _checked(source.directory, _PLAIN_PATH, "$.source.directory")
        case QueueSource():
            macros["RESPOOL_QUEUE"] = _checked(source.queue, _PLAIN_NAME, "$.source.queue")
        case DirectorySource():
            raise ConfigError('there is nothing to tell Exim about kind = "directory"', key="$.source.kind")
    used = {entry.use: entry for entry in reversed(config.processor)}
    macros |= {
        macro: _checked(used[name].config["variable"], _VARIABLE, "$.processor")
        for name, macro in _VARIABLES.items()
        if name in used and "variable" in used[name].config
    }
    names = "".join(f"{name} = {value}\n" for name, value in macros.items())
    parts = [RecipePart("macros.conf", "main section, before all else", names + "\n" + _sample("macros.conf"))]
    if isinstance(source, QueueSource):
        parts.append(_part("named-queue-mail.acl", "ACL of MAIL (acl_smtp_mail), before its accept"))
    parts += [
        _part("strip-authentication-results.acl", "ACL of DATA (acl_smtp_data), before its accept"),
        _part("record-data.acl", "ACL of DATA, before its accept; optional"),
        _part("record-dkim.acl", "ACL of DKIM (acl_smtp_dkim), before its accept; optional"),
    ]
    if isinstance(source, ExportSource):
        parts += [
            _part("queuefile-routers.conf", "routers, first of all"),
            _part("queuefile-transports.conf", "transports"),
            _part("queuefile-retry.conf", "retry rules, first of all"),
        ]
    parts += [_part(name, place) for use, name, place in _FOR_PROCESSORS if use in used]
    return tuple(parts)


def text(parts: tuple[RecipePart, ...]) -> str:
    """The parts one after the other, each under a line that says where it belongs."""
    pieces: list[str] = []
    for part in parts:
        head = f"##  {part.name}: {part.place}  "
        pieces.append(f"{head}{'#' * max(_WIDTH - len(head), 2)}\n\n{part.text.strip()}\n")
    return "\n".join(pieces)


def _checked(value: object, pattern: re.Pattern[str], key: str) -> str:
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise ConfigError(f"{value!r} can't be written into Exim's configuration as it is", key=key)
    return value


def _part(name: str, place: str) -> RecipePart:
    return RecipePart(name, place, _sample(name))


def _sample(name: str) -> str:
    return (files("respool.samples") / "exim" / name).read_text("utf-8")
