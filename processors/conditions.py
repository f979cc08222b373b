"""``when``: on which messages, and for which recipients, a processor runs.

A condition is a TOML table; all of its keys must hold. The value of a key is a list (or
one text in its place) of which any item may match; an item that names a table
(``lmdb;/file``, with all of Exim's prefixes) matches what is in that table.
docs/processors/conditions.md is the grammar for administrators, patterns.py reads items.

A recipient is looked at by itself: ``recipient_domains`` beside ``recipients``, or within
``not``, all speak of the same one. A condition that names recipients holds for a message
if it holds for any recipient still to be delivered.

Diagnostics: compile_condition() raises ConfigError, whose key begins at ``when``;
Condition.chosen() raises TableError (a TemporaryError: the message is deferred) and
nothing else.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

from ..errors import ConfigError
from ..spool.message import Message
from .authentication.author import find_author
from .authentication.client import client_address
from .patterns import AddressPatterns, DomainPatterns, HostPatterns
from .results import AuthResult, Result

Items = str | tuple[str, ...]

METHODS: Final = frozenset({
    "arc", "auth", "dkim", "dkim-adsp", "dkim-atps", "dmarc", "dnswl", "domainkeys", "iprev", "rrvs", "sender-id",
    "smime", "spf", "vbr",
})  # fmt: skip
"""IANA's email authentication methods; others begin ``x-`` (RFC 8601 2.7.7)."""

MAXIMUM_DEPTH: Final = 8
"""Levels of ``not`` within ``not``."""

_VARIABLE: Final = re.compile(r"acl_[cm](?:[0-9]|_)[A-Za-z0-9_]*")


class When(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, rename={"not_": "not"}):
    """The table as it stands in the configuration."""

    senders: Annotated[
        Items | None, Meta(description='Envelope senders: "user@domain", "*@domain", "domain", "" for bounces; tables.')
    ] = None
    sender_domains: Annotated[
        Items | None, Meta(description='Domains of the envelope sender: "domain", "*.domain", "*"; tables.')
    ] = None
    recipients: Annotated[Items | None, Meta(description="Envelope recipients, written as senders are.")] = None
    recipient_domains: Annotated[Items | None, Meta(description="Domains of envelope recipients.")] = None
    from_domains: Annotated[
        Items | None, Meta(description="Domains that the From field names; none where From is ambiguous.")
    ] = None
    hosts: Annotated[
        Items | None,
        Meta(description='Address or network of the sending host, "" for local submission; tables keyed by address.'),
    ] = None
    authenticated: Annotated[
        bool | None, Meta(description="Whether the client authenticated (SMTP AUTH or a certificate).")
    ] = None
    results: Annotated[
        dict[str, Items] | None,
        Meta(description="Results of earlier processors by method, in the words of RFC 8601."),
    ] = None
    variables: Annotated[
        dict[str, Items] | None, Meta(description='Values of ACL variables; "" is met by one that is not set, too.')
    ] = None
    not_: Annotated[When | None, Meta(description="A table of conditions that must not all hold.")] = None


class Subject:
    """What conditions ask of one message; each fact is worked out when it is first needed."""

    def __init__(self, message: Message, results: Sequence[AuthResult] = ()) -> None:
        self.message, self.results = message, results
        self.answers: dict[int, bool] = {}

    @cached_property
    def sender_domain(self) -> bytes:
        """In lower case; empty for a bounce."""
        return domain_of(self.message.sender)

    @cached_property
    def from_domains(self) -> tuple[bytes, ...]:
        """The author domains; none where From is missing or can be read in more than one way."""
        author = find_author([field.value for field in self.message.sent_headers if field.is_named(b"From")])
        return () if author.problem else tuple(domain.encode() for domain in author.domains)

    @cached_property
    def host(self) -> str:
        """The client's IP address in canonical text; empty for local submission."""
        return client_address(self.message)


def domain_of(address: bytes) -> bytes:
    """What follows the last ``@``, in lower case; empty without one."""
    return address.rpartition(b"@")[2].lower() if b"@" in address else b""


_MessageTest = Callable[[Subject], bool]
_RecipientTest = Callable[[Subject, bytes], bool]


class Condition:
    """A compiled ``when``. Safe for threads."""

    def __init__(
        self, message_tests: Sequence[_MessageTest] = (), recipient_tests: Sequence[_RecipientTest] = ()
    ) -> None:
        self._message_tests, self._recipient_tests = tuple(message_tests), tuple(recipient_tests)

    @property
    def names_recipients(self) -> bool:
        """True if the condition depends on a recipient."""
        return bool(self._recipient_tests)

    def chosen(self, message: Message, results: Sequence[AuthResult] = ()) -> frozenset[bytes] | None:
        """The undelivered recipients (addresses) for which the condition holds; None: for none of the message.

        All of them where the condition names no recipients, the empty set then being a
        message that everybody has got. Raises TableError.
        """
        subject = Subject(message, results)
        if not self.holds_for_message(subject):
            return None
        addresses = {recipient.address for recipient in message.undelivered}
        if not self._recipient_tests:
            return frozenset(addresses)
        return frozenset(address for address in addresses if self._holds_for(subject, address)) or None

    def holds_for_message(self, subject: Subject) -> bool:
        """What can be said without a recipient; asked once a message."""
        answer = subject.answers.get(id(self))
        if answer is None:
            answer = subject.answers[id(self)] = all(test(subject) for test in self._message_tests)
        return answer

    def holds_for(self, subject: Subject, address: bytes) -> bool:
        """The whole condition for one recipient."""
        return self.holds_for_message(subject) and self._holds_for(subject, address)

    def _holds_for(self, subject: Subject, address: bytes) -> bool:
        return all(test(subject, address) for test in self._recipient_tests)


def compile_condition(when: When, *, key: str = "when", depth: int = 0) -> Condition:
    """The condition that a configuration's table means. Raises ConfigError; tables are looked at once."""
    if depth > MAXIMUM_DEPTH:
        raise ConfigError(f"more than {MAXIMUM_DEPTH} levels of not", key=key)
    given = [name for name in when.__struct_fields__ if getattr(when, name) is not None]
    if not given:
        raise ConfigError("an empty condition: name what has to hold", key=key)
    tests: list[_MessageTest] = []
    recipient_tests: list[_RecipientTest] = []
    if when.senders is not None:
        senders = AddressPatterns(_items(when.senders), key=f"{key}.senders")
        tests.append(lambda subject: senders.match(subject.message.sender))
    if when.sender_domains is not None:
        sender_domains = DomainPatterns(_items(when.sender_domains), key=f"{key}.sender_domains")
        tests.append(lambda subject: sender_domains.match(subject.sender_domain))
    if when.from_domains is not None:
        from_domains = DomainPatterns(_items(when.from_domains), key=f"{key}.from_domains")
        tests.append(lambda subject: any(map(from_domains.match, subject.from_domains)))
    if when.hosts is not None:
        hosts = HostPatterns(_items(when.hosts), key=f"{key}.hosts")
        tests.append(lambda subject: hosts.match(subject.host))
    if when.authenticated is not None:
        wanted = when.authenticated
        tests.append(lambda subject: (subject.message.envelope.host_auth is not None) is wanted)
    for method, words in (when.results or {}).items():
        tests.append(_result_test(method, _items(words), key=f"{key}.results"))
    for variable, values in (when.variables or {}).items():
        tests.append(_variable_test(variable, _items(values), key=f"{key}.variables"))
    if when.recipients is not None:
        recipients = AddressPatterns(_items(when.recipients), key=f"{key}.recipients")
        recipient_tests.append(lambda _subject, address: recipients.match(address))
    if when.recipient_domains is not None:
        recipient_domains = DomainPatterns(_items(when.recipient_domains), key=f"{key}.recipient_domains")
        recipient_tests.append(lambda _subject, address: recipient_domains.match(domain_of(address)))
    if when.not_ is not None:
        inner = compile_condition(when.not_, key=f"{key}.not", depth=depth + 1)
        if inner.names_recipients:
            recipient_tests.append(lambda subject, address: not inner.holds_for(subject, address))
        else:
            tests.append(lambda subject: not inner.holds_for_message(subject))
    return Condition(tests, recipient_tests)


def parse_condition(table: dict[str, object], *, key: str = "when") -> Condition:
    """Compile a table as it comes from TOML: for plugins that take conditions. Raises ConfigError."""
    try:
        when = msgspec.convert(table, When)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at ")
        known = [*When.__struct_encode_fields__]
        unknown = re.search(r"unknown field `([^`]*)`", reason)
        near = difflib.get_close_matches(unknown[1], known, n=1) if unknown else []
        hint = f"; did you mean `{near[0]}`?" if near else ""
        raise ConfigError(reason + hint, key=key + place.strip("`").removeprefix("$")) from error
    return compile_condition(when, key=key)


def _items(items: Items) -> tuple[str, ...]:
    return (items,) if isinstance(items, str) else items


def _result_test(method: str, words: tuple[str, ...], *, key: str) -> _MessageTest:
    name = method.lower()
    if name not in METHODS and not name.startswith("x-"):
        raise ConfigError(f'"{method}" is no authentication method{_did_you_mean(name, METHODS)}', key=key)
    known = [result.value for result in Result]
    for word in words:
        if word not in known:
            raise ConfigError(f'"{word}" is no result{_did_you_mean(word, known)}', key=f"{key}.{method}")
    if not words:
        raise ConfigError("an empty list never matches", key=f"{key}.{method}")
    wanted = frozenset(Result(word) for word in words)
    return lambda subject: any(result.method == name and result.result in wanted for result in subject.results)


def _variable_test(variable: str, values: tuple[str, ...], *, key: str) -> _MessageTest:
    if _VARIABLE.fullmatch(variable) is None:
        raise ConfigError(f'"{variable}" is not an ACL variable such as acl_m_name', key=key)
    if not values:
        raise ConfigError("an empty list never matches", key=f"{key}.{variable}")
    wanted = frozenset(value.encode() for value in values)
    return lambda subject: subject.message.envelope.variables.get(variable, b"") in wanted


def _did_you_mean(word: str, known: Sequence[str] | frozenset[str]) -> str:
    near = difflib.get_close_matches(word, sorted(known), n=1)
    return f'; did you mean "{near[0]}"?' if near else f"; known are {', '.join(sorted(known))}"
