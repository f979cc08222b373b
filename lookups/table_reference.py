"""What ``partial-lmdb*@;/etc/mail/routes.mdb`` means: Exim's single-key matching, as values.

A TableReference is one such string, taken apart; candidate_keys() says which keys Exim
would try for it, and in which order. Neither touches a file.

Diagnostics: TableReference.parse raises ConfigError for a string that Exim would refuse,
or that names another lookup type; candidate_keys raises nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from msgspec import Struct

from ..errors import ConfigError

MAXIMUM_KEY_SIZE = 511
"""Bytes of the longest key that LMDB stores (MDB_MAXKEYSIZE as everybody compiles it)."""

# Exim src/search.c search_findtype_partial(): the affix is punctuation of C's ispunct().
_REFERENCE = re.compile(
    r"""
    (?: partial (?P<components>[0-9]{0,9}) (?: - | \( (?P<affix>[!-'*-/:-@\[-`{-~]{0,64}) \) ) )?
    (?P<type>[a-z]+)
    (?P<default> \*@ | \* )?
    (?: , (?P<options>[a-z_=,]*) )?
    \s* ; \s* (?P<path>/.*)
    """,
    re.VERBOSE,
)


class TableReference(Struct, frozen=True, kw_only=True):
    """Where to look a key up, and which wildcard keys stand in for it.

    path is absolute. partial is None for no partial matching, else the least number of
    components that stay fixed; affix is what stands for those cut off. default is ``""``,
    ``"*"`` or ``"*@"``. returns_key is Exim's option ``ret=key``: the key that was looked
    up is the result.
    """

    path: str
    partial: int | None = None
    affix: bytes = b"*."
    default: str = ""
    returns_key: bool = False

    @classmethod
    def parse(cls, text: str) -> TableReference:
        """Read ``[partial[N]-|partial[N](affix)]lmdb[*|*@][,ret=key];/absolute/path``.

        Exim's ``cache=...`` options are accepted and mean nothing here: nothing is cached
        but the open file. Raises ConfigError. Source: Exim src/search.c,
        search_findtype_partial().
        """
        match = _REFERENCE.fullmatch(text.strip())
        if match is None:
            raise ConfigError(f"{text!r} is not a table: expected [partial-]lmdb[*|*@];/absolute/path")
        if match["type"] != "lmdb":
            raise ConfigError(f"{text!r}: lookup type {match['type']!r} is not supported, only lmdb is")
        returns_key = False
        for option in filter(None, (match["options"] or "").split(",")):
            if option == "ret=key":
                returns_key = True
            elif option not in {"cache=no", "cache=no_rd", "cache=no_wr"}:
                raise ConfigError(f"{text!r}: unknown option {option!r}")
        partial = None
        if match["components"] is not None:
            partial = int(match["components"] or 2)
        affix = b"*." if match["affix"] is None else match["affix"].encode("ascii")
        return cls(
            path=match["path"], partial=partial, affix=affix, default=match["default"] or "", returns_key=returns_key
        )

    def __str__(self) -> str:
        prefix = ""
        if self.partial is not None:
            affix = "-" if self.affix == b"*." else f"({self.affix.decode('ascii')})"
            prefix = f"partial{self.partial}{affix}"
        return f"{prefix}lmdb{self.default}{',ret=key' if self.returns_key else ''};{self.path}"


class Candidate(Struct, frozen=True):
    """One key that is tried; wild and fixed are Exim's ``$1`` and ``$2`` if it is found."""

    key: bytes
    wild: bytes
    fixed: bytes


def candidate_keys(reference: TableReference, key: bytes) -> Iterator[Candidate]:
    """Yield the keys that Exim tries, in its order: exact, partial, ``*@``, ``*``.

    At most MAXIMUM_KEY_SIZE + 4 of them, however long the key is: longer ones can't be in
    a table and are left out. Where a partial match ends at the bare ``*``, Exim's ``$1``
    lacks the last byte of the key (4.96, seen); here it is the whole key.
    Source: Exim src/search.c, search_find().
    """
    yield Candidate(key, b"", key)
    if reference.partial is not None:
        yield from _partial_keys(reference.partial, reference.affix, key)
    if reference.default == "*@":
        local_part, at, domain = key.rpartition(b"@")
        if at and local_part:
            yield Candidate(b"*@" + domain, local_part, b"")
    if reference.default:
        yield Candidate(b"*", key, b"")


def _partial_keys(least: int, affix: bytes, key: bytes) -> Iterator[Candidate]:
    if affix:
        yield Candidate(affix + key, b"", key)
    dots = key.count(b".")
    # Every step cuts one component. Those whose rest is too long for a table are passed
    # over in one go, so that a hostile key of a thousand dots costs no more than a short one.
    steps_left = dots - least + 1
    cut = 0
    floor = len(key) - MAXIMUM_KEY_SIZE
    if floor > 0:
        skipped = key.count(b".", 0, floor)
        steps_left -= skipped
        cut = floor if skipped else 0
    while steps_left > 0:
        steps_left -= 1
        dot = key.find(b".", cut)
        if dot < 0:
            if affix:  # the affix by itself, without its dot: partial0- ends at "*"
                yield Candidate(affix[:-1] if len(affix) > 1 and affix.endswith(b".") else affix, key, b"")
            return
        cut = dot + 1
        yield Candidate(affix + key[cut:], key[:dot], key[cut:])
