"""DMARC records: RFC 9989 section 4.7 as a value.

A record counts if ``v=DMARC1`` is its first tag. After that nothing can spoil it:
unknown tags are ignored, a bad value means the default. Which bad values decide the
fate of the message (p, sp, np) is remembered for section 4.10.1.

Diagnostics: parse_record() raises nothing; None means "no DMARC record".
"""

from __future__ import annotations

import re
from enum import Enum
from functools import lru_cache
from typing import Final

from msgspec import Struct

_VERSION: Final = re.compile(rb"[ \t]*[vV][ \t]*=[ \t]*DMARC1[ \t]*(?:;|\Z)")
_URI: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-+\--:<-~]+")
_MAILTO: Final = re.compile(r"mailto:[!-+\--:<-?A-~]+@[!-+\--:<-?A-~]+", re.IGNORECASE)
#: The obsolete size limit behind a URI (RFC 7489 6.2).
_SIZE: Final = re.compile(r"![0-9]+[kmgt]?\Z", re.IGNORECASE)
_MAX_URIS: Final = 16
_MAX_LENGTH: Final = 8192
_CACHED_LENGTH: Final = 1024
_CACHED_RECORDS: Final = 2048
_FAILURE_OPTIONS: Final = frozenset({"0", "1", "d", "s"})


class Policy(Enum):
    """What a domain owner asks for; severity orders them."""

    NONE = "none"
    QUARANTINE = "quarantine"
    REJECT = "reject"

    @property
    def severity(self) -> int:
        """0 for none, 2 for reject."""
        return ("none", "quarantine", "reject").index(self.value)

    def one_lower(self) -> Policy:
        """What test mode applies instead (RFC 9989 4.7, ``t``)."""
        return {Policy.REJECT: Policy.QUARANTINE}.get(self, Policy.NONE)


class DmarcRecord(Struct, frozen=True, kw_only=True):
    """One record. policy is None where ``p`` is missing or bad; the others None where absent or bad.

    psd is ``y``, ``n`` or ``u``; strict_dkim and strict_spf are adkim=s and aspf=s;
    aggregate_uris and failure_uris keep what was published, size limits included;
    percent is the historic ``pct``, for the history file only. problems names tags with
    a bad value.
    """

    text: str
    policy: Policy | None = None
    subdomain_policy: Policy | None = None
    nonexistent_policy: Policy | None = None
    psd: str = "u"
    testing: bool = False
    strict_dkim: bool = False
    strict_spf: bool = False
    aggregate_uris: tuple[str, ...] = ()
    failure_uris: tuple[str, ...] = ()
    failure_options: tuple[str, ...] = ("0",)
    percent: int = 100
    tags: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    @property
    def is_usable(self) -> bool:
        """False where p, sp or np is bad and no report URI makes up for it (RFC 9989 4.10.1)."""
        return not self.has_bad_policy or bool(usable_uris(self.aggregate_uris))

    @property
    def has_bad_policy(self) -> bool:
        """True if p is missing, or p, sp or np can't be read: acted on as p=none, or not at all."""
        return self.policy is None or "sp" in self.problems or "np" in self.problems

    def policy_for(self, *, subdomain: bool, exists: bool = True) -> Policy:
        """The published policy: np, sp or p, the next where one is absent (RFC 9989 4.10.1).

        subdomain says that the record stands above the author domain; exists whether
        the author domain is in DNS.
        """
        if self.has_bad_policy or self.policy is None:
            return Policy.NONE
        if not subdomain:
            return self.policy
        if not exists and self.nonexistent_policy is not None:
            return self.nonexistent_policy
        return self.subdomain_policy or self.policy


def parse_record(text: bytes) -> DmarcRecord | None:
    """Read one TXT record; None unless ``v=DMARC1`` comes first."""
    return _parse_cached(text) if len(text) <= _CACHED_LENGTH else _parse(text)


def _parse(text: bytes) -> DmarcRecord | None:
    if _VERSION.match(text) is None:
        return None
    decoded = text[:_MAX_LENGTH].decode("ascii", "replace")
    tags: dict[str, str] = {}
    problems: list[str] = []
    for field in decoded.split(";")[1:]:
        name, equals, value = field.partition("=")
        name, value = name.strip(" \t").lower(), value.strip(" \t")
        if not name and not equals:
            continue
        if not equals or not name.isalpha() or name in tags:
            # A tag given twice is a syntax error: the first one stays.
            problems.append(name[:20])
            continue
        tags[name] = value
    reader = _TagReader(tags, problems)
    return DmarcRecord(
        text=decoded,
        policy=reader.policy("p"),
        subdomain_policy=reader.policy("sp"),
        nonexistent_policy=reader.policy("np"),
        psd=reader.word("psd", ("y", "n", "u"), "u"),
        testing=reader.word("t", ("y", "n"), "n") == "y",
        strict_dkim=reader.word("adkim", ("r", "s"), "r") == "s",
        strict_spf=reader.word("aspf", ("r", "s"), "r") == "s",
        aggregate_uris=reader.uris("rua"),
        failure_uris=reader.uris("ruf"),
        failure_options=reader.failure_options(),
        percent=reader.percent(),
        tags=tuple(tags),
        problems=tuple(problems),
    )


#: Records are read once while they are in use, as those of SPF and DKIM.
_parse_cached: Final = lru_cache(maxsize=_CACHED_RECORDS)(_parse)


class _TagReader:
    """Reads values of known tags; a bad one is noted and gives the default."""

    def __init__(self, tags: dict[str, str], problems: list[str]) -> None:
        self._tags, self._problems = tags, problems

    def policy(self, name: str) -> Policy | None:
        value = self._tags.get(name)
        if value is None:
            return None
        try:
            return Policy(value.lower())
        except ValueError:
            self._problems.append(name)
            return None

    def word(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        value = self._tags.get(name, default).lower()
        if value in allowed:
            return value
        self._problems.append(name)
        return default

    def uris(self, name: str) -> tuple[str, ...]:
        value = self._tags.get(name)
        if value is None:
            return ()
        parts = tuple(part.strip(" \t") for part in value.split(",", _MAX_URIS)[:_MAX_URIS])
        found = tuple(part for part in parts if _URI.fullmatch(part))
        if found != parts:
            self._problems.append(name)
        return found

    def failure_options(self) -> tuple[str, ...]:
        parts = tuple(part.strip(" \t").lower() for part in self._tags.get("fo", "0").split(":")[:8])
        found = tuple(dict.fromkeys(part for part in parts if part in _FAILURE_OPTIONS))
        if len(found) != len(parts):
            self._problems.append("fo")
        return found or ("0",)

    def percent(self) -> int:
        value = self._tags.get("pct", "100")
        if value.isascii() and value.isdigit() and len(value) <= 3 and int(value) <= 100:
            return int(value)
        self._problems.append("pct")
        return 100


def usable_uris(uris: tuple[str, ...]) -> tuple[str, ...]:
    """The mailto: URIs among uris, without the obsolete size limit."""
    stripped = (_SIZE.sub("", uri) for uri in uris)
    return tuple(uri for uri in stripped if _MAILTO.fullmatch(uri))
