"""Exim's way of saying how to seal: ``domain : selector : key file [: options]`` (arc_sign, arc.c).

A table of such lines chooses a key by recipient; the option words alone stand in the
configuration, too. Where Exim ignores what it does not understand, it is refused here:
a seal that expires when nobody meant it to is worse than a message.

Diagnostics: ConfigError for text that is no specification, with what is wrong; nothing else.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from ...errors import ConfigError
from .signing import KeySpecification, parse_key_specification

#: What a bare ``expire`` means in Exim (arc.c).
DEFAULT_EXPIRY_SECONDS: Final = 30 * 24 * 3600
_RELATIVE: Final = re.compile(r"\+([0-9]{1,10})")
_ABSOLUTE: Final = re.compile(r"[0-9]{1,12}")


class SealOptions(Struct, frozen=True, kw_only=True):
    """timestamps is ``t=``; ``x=`` is so many seconds after sealing or a Unix time, at most one of the two."""

    timestamps: bool = False
    expire_seconds: int | None = None
    expires_at: int | None = None


class SealSpecification(Struct, frozen=True, kw_only=True):
    """Which key seals, and how."""

    key: KeySpecification
    options: SealOptions = SealOptions()


def parse_options(text: str) -> SealOptions:
    """Read ``timestamps, expire[=[+]N]``: N seconds from now with the sign, Unix time without, 30 days without N."""
    timestamps, expire_seconds, expires_at = False, None, None
    for word in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = word.partition("=")
        if word == "timestamps":
            timestamps = True
        elif name != "expire":
            raise ConfigError(f"{word!r} is not a sealing option: timestamps, expire, expire=+N, expire=N")
        elif not equals:
            expire_seconds, expires_at = DEFAULT_EXPIRY_SECONDS, None
        elif relative := _RELATIVE.fullmatch(value):
            expire_seconds, expires_at = int(relative[1]) or DEFAULT_EXPIRY_SECONDS, None
        elif _ABSOLUTE.fullmatch(value) and int(value):
            expire_seconds, expires_at = None, int(value)
        else:
            raise ConfigError(f"{word!r}: neither +seconds nor a Unix time")
    return SealOptions(timestamps=timestamps, expire_seconds=expire_seconds, expires_at=expires_at)


def parse_specification(text: str) -> SealSpecification:
    """Read one specification; white space around its parts does not count."""
    parts = text.split(":", 3)
    options = parse_options(parts[3]) if len(parts) == 4 else SealOptions()
    return SealSpecification(key=parse_key_specification(":".join(parts[:3])), options=options)
