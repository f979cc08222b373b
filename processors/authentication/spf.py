"""SPF: check_host() of RFC 7208 in full, from what the spool says of the client.

Every limit of section 4.6.4 holds: 10 terms that ask DNS, 2 void lookups, 10 names of
an ``mx`` or ``ptr``. So one evaluation asks at most about 120 questions, whatever a
record says, and the deadline of the message ends it earlier.

Diagnostics: raises nothing. DNS trouble is the result temperror, a broken record
permerror; reason says why in words.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import Final, Literal, TypeVar

from ...lookups.dns import Answer, DnsTemporaryError, Resolver
from ..results import AuthResult, Property, Result
from .domain_names import a_label_domain, is_at_or_below
from .spf_macros import SpfSyntaxError, expand_domain, expand_explanation, parse_macro_string
from .spf_record import Kind, Mechanism, SpfRecord, is_spf_record, masked, parse_record

MAX_DNS_TERMS: Final = 10
MAX_VOID_LOOKUPS: Final = 2
MAX_NAMES: Final = 10

# What most records consist of, as names: to ask an Enum for a member is a call of a function.
_ALL, _IP4, _IP6 = Kind.ALL, Kind.IP4, Kind.IP6

_R = TypeVar("_R")


class SpfResult(AuthResult, frozen=True, kw_only=True):
    """SPF's outcome for one identity.

    domain is what was checked, scope which identity it came from, mechanism the term
    that matched (``-all``), explanation the domain's own words for a fail (from a
    stranger: printable ASCII, bounded).
    """

    domain: str = ""
    scope: Literal["mailfrom", "helo"] = "mailfrom"
    mechanism: str = ""
    explanation: str = ""


def spf_result(
    result: Result,
    *,
    domain: str,
    scope: Literal["mailfrom", "helo"],
    reason: str = "",
    mechanism: str = "",
    explanation: str = "",
) -> SpfResult:
    """An SpfResult with the property that RFC 8601 2.7.2 asks for."""
    name = "mailfrom" if scope == "mailfrom" else "helo"
    return SpfResult(
        method="spf",
        result=result,
        reason=reason,
        properties=(Property("smtp", name, domain),) if domain else (),
        domain=domain,
        scope=scope,
        mechanism=mechanism,
        explanation=explanation,
    )


def evaluate_spf(
    *,
    client_ip: str,
    helo: bytes,
    mail_from: bytes,
    resolver: Resolver,
    deadline: float | None = None,
    now: float = 0.0,
    receiver: str = "unknown",
) -> SpfResult:
    """SPF of a message: MAIL FROM, or for the null sender ``postmaster@`` HELO (RFC 7208 2.4).

    client_ip is an address without port; receiver our host name, for the ``r`` macro;
    now Unix time, for ``t``; deadline a time.monotonic() value.
    """
    if mail_from:
        local, _, domain = mail_from.rpartition(b"@")
        local = local or b"postmaster"  # RFC 7208 4.3
    else:
        local, domain = b"postmaster", helo
    return _evaluate(
        domain,
        "mailfrom" if mail_from else "helo",
        local=local,
        client_ip=client_ip,
        helo=helo,
        resolver=resolver,
        deadline=deadline,
        now=now,
        receiver=receiver,
    )


def evaluate_spf_helo(
    *,
    client_ip: str,
    helo: bytes,
    resolver: Resolver,
    deadline: float | None = None,
    now: float = 0.0,
    receiver: str = "unknown",
) -> SpfResult:
    """SPF of the HELO identity alone (RFC 7208 2.3)."""
    return evaluate_spf(
        client_ip=client_ip, helo=helo, mail_from=b"", resolver=resolver, deadline=deadline, now=now, receiver=receiver
    )


def _evaluate(
    raw_domain: bytes,
    scope: Literal["mailfrom", "helo"],
    *,
    local: bytes,
    client_ip: str,
    helo: bytes,
    resolver: Resolver,
    deadline: float | None,
    now: float,
    receiver: str,
) -> SpfResult:
    domain = a_label_domain(raw_domain)
    shown = raw_domain.decode("utf-8", "replace")[:255] if domain is None else domain
    address = _client_address(client_ip)
    if address is None:
        return spf_result(Result.NONE, domain=shown, scope=scope, reason="no client address")
    if domain is None or "." not in domain:
        return spf_result(Result.NONE, domain=shown, scope=scope, reason="not a domain name")  # RFC 7208 4.3
    evaluation = _Evaluation(
        address, domain, local=local, helo=helo, resolver=resolver, deadline=deadline, now=now, receiver=receiver
    )
    try:
        record = evaluation.record_of(domain)
        if record is None:
            return spf_result(Result.NONE, domain=domain, scope=scope, reason="no SPF record")
        result = evaluation.check(domain, record)
    except DnsTemporaryError as error:
        return spf_result(Result.TEMPERROR, domain=domain, scope=scope, reason=str(error))
    except _PermanentError as error:
        return spf_result(Result.PERMERROR, domain=domain, scope=scope, reason=error.reason)
    return spf_result(
        result,
        domain=domain,
        scope=scope,
        mechanism=evaluation.matched,
        explanation=evaluation.explanation() if result is Result.FAIL else "",
    )


@lru_cache(maxsize=1024)
def _client_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address as SPF sees it, None for text that is none; most hosts send more than one message."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return address
    # RFC 7208 5: an IPv4-mapped address is IPv4; a zone (%eth0) means nothing to DNS.
    return address.ipv4_mapped or ipaddress.IPv6Address(int(address))


class _PermanentError(Exception):
    """Ends an evaluation with permerror; never leaves _evaluate()."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class _Evaluation:
    """One check_host() with all its recursions, and the counters that bound it."""

    def __init__(
        self,
        address: ipaddress.IPv4Address | ipaddress.IPv6Address,
        sender_domain: str,
        *,
        local: bytes,
        helo: bytes,
        resolver: Resolver,
        deadline: float | None,
        now: float,
        receiver: str,
    ) -> None:
        self._address = address
        self._bits = address.max_prefixlen
        self._number = int(address)
        self._sender_domain = sender_domain
        self._local = local.decode("utf-8", "replace")
        self._helo = helo.decode("utf-8", "replace")
        self._resolver = resolver
        self._deadline = deadline
        self._now = now
        self._receiver = receiver
        self._domain = sender_domain
        self._terms = 0
        self._voids = 0
        self._validated: tuple[str, ...] | None = None
        self._explanation: tuple[str, SpfRecord] | None = None
        self.matched = ""

    # The walk over records -------------------------------------------------------

    def record_of(self, domain: str) -> SpfRecord | None:
        """The one SPF record of domain; None if there is none (RFC 7208 4.4, 4.5)."""
        texts = [text for text in self._resolver.txt(domain, deadline=self._deadline).records if is_spf_record(text)]
        if not texts:
            return None
        if len(texts) > 1:
            raise _PermanentError(f"{domain} has {len(texts)} SPF records")
        record = parse_record(texts[0])
        if not isinstance(record, SpfRecord):
            raise _PermanentError(f"SPF record of {domain}: {record}")
        return record

    def check(self, domain: str, record: SpfRecord, *, included: bool = False) -> Result:
        """The result of record as published at domain (RFC 7208 4.6, 4.7)."""
        while True:
            self._domain = domain
            for mechanism in record.mechanisms:
                if self._matches(mechanism, domain):
                    if not included:
                        self.matched = mechanism.text
                        self._explanation = (domain, record)
                    return mechanism.qualifier
                self._domain = domain  # an include has moved it
            if record.redirect is None:
                return Result.NEUTRAL
            self._count_term()
            domain = expand_domain(record.redirect, self).lower()
            target = self.record_of(domain) if domain else None
            if target is None:
                raise _PermanentError(f"redirect={record.redirect.text[:80]} leads to no SPF record")  # RFC 7208 6.1
            record = target

    def _matches(self, mechanism: Mechanism, domain: str) -> bool:
        kind = mechanism.kind
        if kind is _ALL:
            return True
        if kind is _IP4:
            return self._bits == 32 and masked(self._number, mechanism.prefix4, 32) == mechanism.network
        if kind is _IP6:
            return self._bits == 128 and masked(self._number, mechanism.prefix6, 128) == mechanism.network
        self._count_term()
        target = domain if mechanism.domain is None else expand_domain(mechanism.domain, self).lower()
        if kind is Kind.INCLUDE:
            return self._include(target)
        if kind is Kind.A:
            return self._has_address(self._counted(self._addresses(target)), mechanism)
        if kind is Kind.MX:
            return self._mail_exchangers(target, mechanism)
        if kind is Kind.EXISTS:
            # RFC 7208 5.7: always A, also for an IPv6 client.
            return bool(self._counted(self._resolver.addresses(target, 4, deadline=self._deadline)).records)
        return any(is_at_or_below(name, target) for name in self._validated_names(counted=True))

    def _include(self, target: str) -> bool:
        record = self.record_of(target) if target else None
        if record is None:
            raise _PermanentError(f"include:{target[:80]} has no SPF record")  # RFC 7208 5.2
        return self.check(target, record, included=True) is Result.PASS

    def _mail_exchangers(self, target: str, mechanism: Mechanism) -> bool:
        answer = self._counted(self._resolver.mail_exchangers(target, deadline=self._deadline))
        hosts = [exchanger.host for exchanger in answer.records if exchanger.host]
        if len(hosts) > MAX_NAMES:
            raise _PermanentError(f"{target} has more than {MAX_NAMES} MX hosts")  # RFC 7208 4.6.4
        return any(self._has_address(self._counted(self._addresses(host)), mechanism) for host in hosts)

    def _addresses(self, name: str) -> Answer[str]:
        return self._resolver.addresses(name, 4 if self._bits == 32 else 6, deadline=self._deadline)

    def _has_address(self, answer: Answer[str], mechanism: Mechanism) -> bool:
        prefix = mechanism.prefix4 if self._bits == 32 else mechanism.prefix6
        wanted = masked(self._number, prefix, self._bits)
        return any(masked(self._integer(text), prefix, self._bits) == wanted for text in answer.records)

    def _integer(self, text: str) -> int:
        return int(ipaddress.IPv4Address(text) if self._bits == 32 else ipaddress.IPv6Address(text))

    # Limits (RFC 7208 4.6.4) -----------------------------------------------------

    def _count_term(self) -> None:
        self._terms += 1
        if self._terms > MAX_DNS_TERMS:
            raise _PermanentError(f"more than {MAX_DNS_TERMS} terms that ask DNS")

    def _counted(self, answer: Answer[_R]) -> Answer[_R]:
        if not answer.records:
            self._voids += 1
            if self._voids > MAX_VOID_LOOKUPS:
                raise _PermanentError(f"more than {MAX_VOID_LOOKUPS} void lookups")
        return answer

    # Macros (RFC 7208 7) ---------------------------------------------------------

    def macro_value(self, letter: str) -> str:
        """See spf_macros.MacroValues."""
        match letter:
            case "s":
                return f"{self._local}@{self._sender_domain}"
            case "l":
                return self._local
            case "o":
                return self._sender_domain
            case "d":
                return self._domain
            case "i":
                return str(self._address) if self._bits == 32 else ".".join(f"{self._number:032X}")
            case "p":
                return self._validated_name()
            case "v":
                return "in-addr" if self._bits == 32 else "ip6"
            case "h":
                return self._helo
            case "c":
                return str(self._address)
            case "r":
                return self._receiver
            case _:
                return str(int(self._now))  # t; the parser lets no other letter through

    def _validated_name(self) -> str:
        """The ``p`` macro (RFC 7208 7.3): the domain itself, else one below it, else any."""
        names = self._validated_names(counted=False)
        if self._domain in names:
            return self._domain
        below = [name for name in names if is_at_or_below(name, self._domain)]
        return (below or list(names) or ["unknown"])[0]

    def _validated_names(self, *, counted: bool) -> tuple[str, ...]:
        """Names of the client that lead back to it (RFC 7208 5.5); DNS trouble makes them fewer.

        They are the client's, not the publisher's: only the PTR lookup of a ptr
        mechanism counts as void, and 10 names bound the rest.
        """
        if self._validated is None:
            self._validated = ()
            try:
                answer = self._resolver.pointers(str(self._address), deadline=self._deadline)
            except DnsTemporaryError:
                return ()
            if counted:
                self._counted(answer)
            self._validated = tuple(name for name in answer.records[:MAX_NAMES] if self._leads_back(name))
        return self._validated

    def _leads_back(self, name: str) -> bool:
        try:
            records = self._addresses(name).records
        except DnsTemporaryError:
            return False
        return any(self._integer(text) == self._number for text in records)

    # Explanations (RFC 7208 6.2) -------------------------------------------------

    def explanation(self) -> str:
        """The publisher's words for a fail; empty where there are none or they can't be had."""
        if self._explanation is None:
            return ""
        domain, record = self._explanation
        if record.explanation is None:
            return ""
        self._domain = domain
        name = expand_domain(record.explanation, self)
        try:
            records = self._resolver.txt(name, deadline=self._deadline).records
        except DnsTemporaryError:
            return ""
        if len(records) != 1 or not records[0].isascii():
            return ""
        try:
            return expand_explanation(parse_macro_string(records[0].decode("ascii"), explanation=True), self)
        except SpfSyntaxError:
            return ""
