"""``headers``: add, remove and replace header fields.

Diagnostics: ConfigError for a field that no message could carry.
"""

from __future__ import annotations

import fnmatch
import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

from ..errors import ConfigError
from ..spool.envelope import Header
from ..spool.message import Message
from .api import Context, Phase, Processor, ProcessorConfig, Verdict, proceed
from .edits import AddHeader, Edit, RemoveHeader, ReplaceHeader


class Addition(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One field to add."""

    name: Annotated[str, Meta(description="Name of the field.")]
    value: Annotated[str, Meta(description="Its value; may be folded with a line feed and a space.")]
    at: Annotated[Literal["top", "end"], Meta(description="Above all other fields, or below them.")] = "top"


class Replacement(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A new value for every field of a name."""

    name: Annotated[str, Meta(description="Name of the fields whose value is replaced, in any case.")]
    value: Annotated[str, Meta(description="The new value.")]


class HeadersConfig(ProcessorConfig, frozen=True):
    """What ``headers`` changes; removal comes first, then replacement, then addition."""

    add: Annotated[tuple[Addition, ...], Meta(description="Fields to add.")] = ()
    remove: Annotated[
        tuple[str, ...], Meta(description='Names of fields to remove; "*" and "?" match as in file names.')
    ] = ()
    replace: Annotated[tuple[Replacement, ...], Meta(description="Fields whose value is replaced.")] = ()


def _addition(item: Addition) -> AddHeader:
    return AddHeader(Header.make(item.name.encode(), item.value.encode()), item.at)


class Headers(Processor[HeadersConfig]):
    """Add, remove and replace header fields."""

    phase = Phase.MODIFY

    def __init__(self, config: HeadersConfig) -> None:
        super().__init__(config)
        try:
            # Reversed, so that fields for the top are read there in the order of the configuration.
            self._added = tuple(_addition(item) for item in reversed(config.add) if item.at == "top") + tuple(
                _addition(item) for item in config.add if item.at == "end"
            )
            self._replaced = {
                item.name.lower().encode(): Header.make(item.name.encode(), item.value.encode())
                for item in config.replace
            }
        except ValueError as error:
            raise ConfigError(str(error), key="config") from error
        self._removed = [re.compile(fnmatch.translate(name.lower()).encode()) for name in config.remove]

    def process(self, message: Message, context: Context) -> Verdict:
        """See Processor."""
        del context
        edits: list[Edit] = []
        for index, header in enumerate(message.headers):
            if not header.is_sent:
                continue
            name = header.name.lower()
            if any(pattern.fullmatch(name) for pattern in self._removed):
                edits.append(RemoveHeader(index))
            elif name in self._replaced:
                edits.append(ReplaceHeader(index, self._replaced[name]))
        return proceed(*edits, *self._added)
