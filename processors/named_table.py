"""A table as a configuration names it: ``partial-lmdb;/etc/respool/routes.mdb``.

Diagnostics: parse() raises ConfigError for a text that names no table, or a table that
can't be read now; find() and find_all() raise TableError (a TemporaryError: the message is deferred).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from ..errors import ConfigError
from ..lookups.table_reference import TableReference
from ..lookups.tables import LmdbTable, Match, TableError


def is_table(text: str) -> bool:
    """True for what can only be meant as a table: no domain, address or network has a semicolon."""
    return ";" in text


class NamedTable:
    """One table with the wildcards its reference asks for. Safe for threads and across forks."""

    def __init__(self, reference: TableReference) -> None:
        self.reference = reference
        self._table = LmdbTable(reference.path)

    @classmethod
    def parse(cls, text: str, *, key: str = "") -> NamedTable:
        """The table that text names, looked at once so that a wrong path is found at load.

        key is the place in the configuration. Raises ConfigError.
        """
        try:
            table = cls(TableReference.parse(text))
            table.find(b"respool")
        except ConfigError as error:
            raise ConfigError(error.reason, key=key) from error
        except TableError as error:
            raise ConfigError(str(error), key=key) from error
        return table

    def find(self, key: bytes) -> Match | None:
        """Look key up with the reference's wildcards, in Exim's order. Raises TableError."""
        return self._table.find(self.reference, key)

    def find_all(self, key: bytes) -> Iterator[Match]:
        """Yield what find() finds, then what it would find without that, and so on. Raises TableError."""
        return self._table.find_all(self.reference, key)

    def __repr__(self) -> str:
        return f"NamedTable({str(self.reference)!r})"


@lru_cache(maxsize=256)
def table_named(text: str) -> NamedTable:
    """The table that text names, without a look at it. Raises ConfigError."""
    return NamedTable(TableReference.parse(text))
