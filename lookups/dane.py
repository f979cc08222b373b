"""DANE before delivery: what TLSA records say of the hosts that a domain's mail goes to.

Nothing here connects to a host. The result tells, host by host, whether RFC 7672 binds a
sending server to authenticate it, so that Exim can be told before it tries.

Diagnostics: preflight raises nothing but what a broken resolver would; DNS trouble is the
status TEMPERROR, which has to delay delivery and never to weaken it.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from .dns import Answer, DnssecStatus, DnsTemporaryError, Resolver, TlsaRecord

_MAXIMUM_HOSTS = 20
"""MX hosts looked at, by preference; as many as a sending server would try."""

_DIGEST_SIZES = {1: 32, 2: 64}
"""RFC 6698 section 2.1.3: SHA-256, SHA-512."""


class DaneStatus(Enum):
    """What a host's TLSA records bind a sender to."""

    USABLE = "usable"
    """Secure records that can be used: TLS with DANE authentication, or no delivery."""
    UNUSABLE = "unusable"
    """Secure records, none of them usable: TLS, but nothing to authenticate by (RFC 7672 2.2)."""
    NONE = "none"
    """Securely none: DANE does not apply."""
    INSECURE = "insecure"
    """The MX records, the host or its TLSA records are not signed: DANE does not apply."""
    BOGUS = "bogus"
    """Validation fails: the host must not be used (RFC 7672 2.1.1)."""
    TEMPERROR = "temperror"
    """DNS trouble: try again later, never without DANE (RFC 7672 2.1.2)."""


class HostDane(Struct, frozen=True, kw_only=True):
    """One host. base is the name that its TLSA records hang on; usable are the records to use.

    unusable says of every other record why not.
    """

    host: str
    preference: int
    status: DaneStatus
    base: str = ""
    usable: tuple[TlsaRecord, ...] = ()
    unusable: tuple[str, ...] = ()
    reason: str = ""


class DomainDane(Struct, frozen=True, kw_only=True):
    """One domain. mx_secure: whether the MX records, or that there are none, are signed.

    null_mx: the domain takes no mail (RFC 7505). status is that of the domain as a whole:
    what a transport that treats all hosts alike has to assume.
    """

    domain: str
    status: DaneStatus
    mx_secure: bool = False
    null_mx: bool = False
    hosts: tuple[HostDane, ...] = ()
    reason: str = ""


def preflight(resolver: Resolver, domain: str, *, port: int = 25, deadline: float | None = None) -> DomainDane:
    """Look at MX, addresses and TLSA records of a domain.

    deadline is a time.monotonic() value for all questions together. Sources: RFC 7672
    sections 2.1 and 2.2, RFC 7671 section 7.
    """
    domain = domain.removesuffix(".").lower()
    try:
        exchangers = resolver.mail_exchangers(domain, deadline=deadline)
    except DnsTemporaryError as error:
        return DomainDane(domain=domain, status=DaneStatus.TEMPERROR, reason=str(error))
    if exchangers.dnssec is DnssecStatus.BOGUS:
        return DomainDane(domain=domain, status=DaneStatus.BOGUS, reason="the MX records do not validate")
    secure = exchangers.dnssec is DnssecStatus.SECURE
    records = exchangers.records
    if any(record.host == "" for record in records):
        return DomainDane(domain=domain, status=DaneStatus.NONE, mx_secure=secure, null_mx=True, reason="null MX")
    # Without MX records the domain is its own host (RFC 5321 5.1).
    targets = [(record.preference, record.host) for record in records] or [(0, domain)]
    hosts = tuple(
        _look_at_host(resolver, host, preference, port, deadline)
        if secure
        # RFC 7672 2.2.1: whoever forges the MX records names the hosts.
        else HostDane(host=host, preference=preference, status=DaneStatus.INSECURE, reason="MX records not signed")
        for preference, host in targets[:_MAXIMUM_HOSTS]
    )
    return DomainDane(domain=domain, status=_of_all(hosts), mx_secure=secure, hosts=hosts)


def host_preflight(resolver: Resolver, host: str, *, port: int = 25, deadline: float | None = None) -> HostDane:
    """Look at addresses and TLSA records of one host that is configured as next hop (RFC 7672 2.2.2)."""
    return _look_at_host(resolver, host.removesuffix(".").lower(), 0, port, deadline)


def _of_all(hosts: tuple[HostDane, ...]) -> DaneStatus:
    # The first in this order that any host has; but usable only if all that could take
    # the mail are, else a transport that requires DANE would fail on the others.
    statuses = {host.status for host in hosts}
    if statuses == {DaneStatus.USABLE}:
        return DaneStatus.USABLE
    for status in (DaneStatus.TEMPERROR, DaneStatus.BOGUS, DaneStatus.INSECURE, DaneStatus.NONE):
        if status in statuses:
            return status
    return DaneStatus.UNUSABLE


def _look_at_host(resolver: Resolver, host: str, preference: int, port: int, deadline: float | None) -> HostDane:
    def result(status: DaneStatus, reason: str, base: str = "") -> HostDane:
        return HostDane(host=host, preference=preference, status=status, base=base, reason=reason)

    try:
        addresses = [resolver.addresses(host, version, deadline=deadline) for version in (4, 6)]
        worst = _weakest(addresses)
        if worst is DnssecStatus.BOGUS:
            return result(DaneStatus.BOGUS, "its addresses do not validate")
        # RFC 7672 2.2.2: an insecure address ends it, as a question for TLSA could then fail
        # with servers that know no such type.
        if worst is not DnssecStatus.SECURE:
            return result(DaneStatus.INSECURE, "its addresses are not signed")
        if not any(answer.records for answer in addresses):
            return result(DaneStatus.NONE, "no address")
        # RFC 7671 section 7: first below the name at the end of a signed alias, then below the host's own.
        canonical = next((answer.canonical for answer in addresses if answer.canonical), "")
        for base in filter(None, (canonical, host)):
            found = resolver.tlsa(f"_{port}._tcp.{base}", deadline=deadline)
            if found.dnssec is DnssecStatus.BOGUS:
                return result(DaneStatus.BOGUS, "its TLSA records do not validate", base)
            if found.records and found.dnssec is DnssecStatus.SECURE:
                return _judge(host, preference, base, found)
            if found.dnssec is not DnssecStatus.SECURE:
                return result(DaneStatus.INSECURE, "its TLSA records are not signed", base)
    except DnsTemporaryError as error:
        return result(DaneStatus.TEMPERROR, str(error))
    return result(DaneStatus.NONE, "no TLSA record")


def _weakest(answers: list[Answer[str]]) -> DnssecStatus:
    statuses = {answer.dnssec for answer in answers}
    for status in (DnssecStatus.BOGUS, DnssecStatus.INDETERMINATE, DnssecStatus.INSECURE):
        if status in statuses:
            return status
    return DnssecStatus.SECURE


def _judge(host: str, preference: int, base: str, found: Answer[TlsaRecord]) -> HostDane:
    usable: list[TlsaRecord] = []
    unusable: list[str] = []
    for record in found.records:
        complaint = why_unusable(record)
        if complaint:
            unusable.append(f"{record.usage} {record.selector} {record.matching}: {complaint}")
        else:
            usable.append(record)
    return HostDane(
        host=host,
        preference=preference,
        status=DaneStatus.USABLE if usable else DaneStatus.UNUSABLE,
        base=base,
        usable=tuple(usable),
        unusable=tuple(unusable),
        reason="" if usable else "no usable TLSA record",
    )


def why_unusable(record: TlsaRecord) -> str:
    """Return why SMTP can't use a TLSA record, or the empty string (RFC 7672 3.1, RFC 6698 2.1)."""
    if record.usage in {0, 1}:
        return "PKIX usages do not apply to SMTP"
    if record.usage not in {2, 3}:
        return "unknown usage"
    if record.selector not in {0, 1}:
        return "unknown selector"
    if record.matching not in {0, 1, 2}:
        return "unknown matching type"
    size = _DIGEST_SIZES.get(record.matching)
    if size is not None and len(record.data) != size:
        return f"a digest of {len(record.data)} bytes instead of {size}"
    if record.matching == 0:
        return _why_no_der(record.data)
    return ""


def _why_no_der(data: bytes) -> str:
    """Complain unless the data are one whole DER SEQUENCE: a certificate, or its public key."""
    if len(data) < 2 or data[0] != 0x30:
        return "not DER"
    if data[1] < 0x80:
        start, size = 2, data[1]
    else:
        count = data[1] & 0x7F
        if not 1 <= count <= 4 or len(data) < 2 + count:
            return "not DER"
        start, size = 2 + count, int.from_bytes(data[2 : 2 + count], "big")
    return "" if start + size == len(data) else "DER cut off, or something behind it"
