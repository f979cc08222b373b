"""DNS and tables: what the processors rely on.

Diagnostics: the checks raise nothing.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any, Final, cast

import msgspec

from ...errors import ConfigError
from ...lookups.dns import DnssecStatus, DnsTemporaryError, Resolver
from ...lookups.nameservers import read_resolv_conf
from ...lookups.table_reference import TableReference
from ...lookups.tables import LmdbTable, TableError
from ..config import Config, ProcessorEntry
from ..pipeline_setup import make_resolver
from .finding import Findings, ok, problem, warning

_PATIENCE_SECONDS: Final = 10.0
#: A name of a zone that has long been signed, by people who will not let that lapse.
_SIGNED_NAME: Final = "iana.org"
_DEEPEST: Final = 8


def check_dns(config: Config, resolver: Resolver | None = None) -> Findings:
    """Whether the resolver answers, how fast, and whether it validates. Asks the network."""
    if config.dns.zone_file is not None:
        yield warning("dns", f"answers come from {config.dns.zone_file} alone", "take dns.zone_file out in production")
        return
    servers = ", ".join(config.dns.nameservers or map(str, read_resolv_conf().servers)) or "none"
    try:
        resolver = resolver or make_resolver(config.dns)
        started = time.monotonic()
        answer = resolver.mail_exchangers(_SIGNED_NAME, deadline=started + _PATIENCE_SECONDS)
        seconds = time.monotonic() - started
    except (DnsTemporaryError, ConfigError) as error:
        advice = (
            "run a resolver on this machine (unbound), name it in dns.nameservers; SPF, DKIM, DMARC, ARC all ask it"
        )
        yield problem("dns", f"{servers}: {error}", advice)
        return
    if not answer.records:
        yield problem(
            "dns", f"{servers}: {_SIGNED_NAME} has no MX, it is said", "ask a resolver that sees the whole DNS"
        )
        return
    yield ok("dns", f"{servers}: answered in {seconds * 1000:.0f} ms")
    if answer.dnssec is DnssecStatus.SECURE:
        yield ok("dnssec", "the resolver validates, and is believed")
    else:
        yield warning(
            "dnssec", f"answers are {answer.dnssec.value}: DANE finds nothing to rely on",
            "run a validating resolver on this machine; one elsewhere is believed only with 'options trust-ad'",
        )  # fmt: skip


def check_tables(config: Config) -> Findings:
    """Each LMDB table that a setting names: it opens, and a key can be looked up."""
    for text in dict.fromkeys(text for entry in config.processor for text in _tables(entry)):
        path = TableReference.parse(text).path
        try:
            LmdbTable(path).get(b"respool doctor")
        except TableError as error:
            yield problem("table", str(error), f"respool table build SOURCE {path}, readable by the sidecar's user")
        else:
            yield ok("table", f"{path} opens")


def _tables(entry: ProcessorEntry) -> Iterator[str]:
    yield from _references(entry.config)
    if entry.when is not None:
        yield from _references(msgspec.to_builtins(entry.when))


def _references(value: Any, depth: int = 0) -> Iterator[str]:
    if isinstance(value, str):
        try:
            TableReference.parse(value)
        except ConfigError:
            return
        yield value
    elif depth <= _DEEPEST and isinstance(value, dict | list | tuple):
        inner = cast("dict[str, Any]", value).values() if isinstance(value, dict) else cast("list[Any]", value)
        for one in inner:
            yield from _references(one, depth + 1)
