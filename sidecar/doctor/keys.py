"""Private keys, in the settings of processors and in the tables that these name.

Diagnostics: the checks raise nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from ...errors import ConfigError
from ...lookups.dns import DnsTemporaryError, Resolver
from ...lookups.table_reference import TableReference
from ...lookups.tables import LmdbTable, TableError
from ...processors.authentication.keys import KeyRecord, load_signing_key, parse_key_record
from ...processors.authentication.seal_specification import parse_specification
from ...processors.authentication.signing import KeySpecification, parse_key_specifications
from ..config import Config
from .finding import Finding, Findings, ok, problem, warning

_PATIENCE_SECONDS: Final = 10.0
_DEEPEST: Final = 8
#: A table may name a key for each of many thousand customers; DNS is asked about each.
_MOST_LINES: Final = 1000
_TABLE_SECONDS: Final = 60.0

#: How processors read a line of their key_table.
_KEYS_OF_LINE: Final[Mapping[str, Callable[[str], list[KeySpecification]]]] = {
    "arc-seal": lambda line: [parse_specification(line).key],
    "dkim-sign": parse_key_specifications,
}


def check_keys(config: Config, resolver: Resolver | None = None) -> Findings:
    """Each private key: readable by us, by no others, and the public half published. None: DNS is not asked."""
    named = [key for entry in config.processor for key in _keys(entry.config)]
    for key in dict.fromkeys(named):
        yield _key(key, resolver)
    for entry in config.processor:
        table = entry.config.get("key_table")
        if isinstance(table, str) and table and entry.use in _KEYS_OF_LINE:
            yield from _key_table(table, _KEYS_OF_LINE[entry.use], resolver)


def _keys(value: Any, depth: int = 0) -> Iterator[KeySpecification]:
    """key_file with the domain and selector beside it, wherever in a processor's settings."""
    if depth > _DEEPEST:
        return
    if isinstance(value, dict):
        table = cast("dict[str, Any]", value)
        if isinstance(table.get("key_file"), str):
            yield KeySpecification(
                domain=str(table.get("domain", "")), selector=str(table.get("selector", "")), key_file=table["key_file"]
            )
        for inner in table.values():
            yield from _keys(inner, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in cast("list[Any]", value):
            yield from _keys(inner, depth + 1)


def _key_table(text: str, keys_of: Callable[[str], list[KeySpecification]], resolver: Resolver | None) -> Findings:
    """What can't be used, each by itself; of all that can, how many there are."""
    try:
        path = TableReference.parse(text).path
    except ConfigError:
        return  # the configuration's own check says it
    end = time.monotonic() + _TABLE_SECONDS
    good: set[KeySpecification] = set()
    bad: set[KeySpecification] = set()
    rest = ""
    try:
        for number, (name, stored) in enumerate(LmdbTable(path).items()):
            if number >= _MOST_LINES or time.monotonic() > end:
                rest = ", as far as was looked"
                break
            line = stored.partition(b"\0")[0].decode("utf-8", "replace")
            try:
                keys = keys_of(line)
            except ConfigError as error:
                shown = name.rstrip(b"\0").decode("utf-8", "replace")
                yield problem(
                    "key table",
                    f"{path}, line of {shown!r}: {error.reason}",
                    "mend it: mail that meets this line is deferred",
                )
                continue
            for key in keys:
                if key in good or key in bad:
                    continue
                found = _key(key, resolver)
                if found.level == "ok":
                    good.add(key)
                else:
                    bad.add(key)
                    yield found
    except TableError:
        return  # check_tables() says it
    compared = "belong to what DNS has" if resolver is not None else "can be used; not compared with DNS"
    yield ok("key table", f"{path}: {len(good)} of {len(good) + len(bad)} keys {compared}{rest}")


def _key(specification: KeySpecification, resolver: Resolver | None) -> Finding:
    path, domain, selector = specification.key_file, specification.domain, specification.selector
    try:
        key = load_signing_key(path)
    except ConfigError as error:
        advice = f"make it (openssl genrsa), the sidecar's user own it (uid {os.geteuid()} looked), chmod 600"
        return problem("key", error.reason, advice)
    shown = f"{path} ({key.key_type.value.decode()})"
    if not domain or not selector or resolver is None:
        return ok("key", f"{shown} can be used; not compared with DNS")
    name = f"{selector}._domainkey.{domain}"
    wanted = key.public_record
    publish = f'publish: {name}. TXT "{wanted.decode()}"'
    try:
        answer = resolver.txt(name, deadline=time.monotonic() + _PATIENCE_SECONDS)
    except DnsTemporaryError as error:
        return warning("key", f"{shown}: {error}", "ask again when DNS answers")
    if not answer.records:
        return problem("key", f"{shown}: {name} has no record, so nobody can verify what it signs", publish)
    digest = hashlib.sha256(name.encode()).digest()
    signature = key.sign(digest)
    published = [parse_key_record(record) for record in answer.records[:4]]
    if any(isinstance(one, KeyRecord) and one.verify(signature, digest) for one in published):
        return ok("key", f"{shown} belongs to {name}")
    return problem("key", f"{shown}: the record of {name} is another key's, or none", publish)
