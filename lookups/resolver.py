"""Asks DNS over the network: the Resolver that production uses.

One deadline per call, however many servers and aliases it takes. Over UDP with EDNS, over
TCP where a reply is cut off. A reply counts only from the address that was asked, to the
port it was asked from, with the random id and the question; anything else is passed over.
There is no search list.

Diagnostics: the methods raise DnsTemporaryError and nothing else; the constructor raises
ConfigError for an unusable list of servers.
"""

from __future__ import annotations

import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from . import dns_wire
from .cache import AnswerCache, CacheStatistics, Fresh
from .dns import Answer, DnssecStatus, DnsTemporaryError, TlsaRecord
from .dns_wire import MalformedReply, RecordType, Reply, ReplyCode
from .nameservers import Nameserver, parse_nameserver, read_resolv_conf
from .questions import Questions

_ALIAS_QUESTIONS = 8
_NEGATIVE_MAXIMUM = 10800.0
"""Seconds; RFC 2308 section 5 advises one to three hours."""


_FIRST_WAIT = 2.0
"""Seconds for a server in the first round; by the second it may have the answer cached."""


class _ServerTrouble(Exception):
    """One server gave nothing usable; final says that asking it again is no use."""

    def __init__(self, reason: str, *, final: bool = False, servfail: bool = False) -> None:
        self.final, self.servfail = final, servfail
        super().__init__(reason)


class _ServerFailureError(DnsTemporaryError):
    """All servers failed, and this one said SERVFAIL: perhaps its validation fails."""

    def __init__(self, question: str, reason: str, server: Nameserver) -> None:
        self.server = server
        super().__init__(question, reason)


class _Exchange(Struct, frozen=True):
    reply: Reply
    server: Nameserver


class DnsResolver(Questions):
    """A stub resolver with a cache, safe for threads. To be made after a fork, not before.

    nameservers: numeric addresses, perhaps with ports; empty: those of resolv.conf.
    timeout: seconds for one call at most, a deadline given to the call may be nearer.
    cache_size: answers kept; minimum_ttl and maximum_ttl clamp their seconds, failure_ttl
    is how long trouble is remembered (RFC 9520 asks for a second at least).
    trust_ad: whether AD means *validated*: None trusts servers on this machine, and those
    of resolv.conf where that has ``options trust-ad``. A trusted server has to validate:
    what comes from it without AD is called insecure.
    detect_bogus: ask again with checking disabled after SERVFAIL from a trusted server, for
    all types; for TLSA that is always done.
    """

    def __init__(
        self,
        nameservers: Sequence[str] = (),
        *,
        timeout: float = 10.0,
        cache_size: int = 10_000,
        minimum_ttl: float = 5.0,
        maximum_ttl: float = 86_400.0,
        failure_ttl: float = 5.0,
        trust_ad: bool | None = None,
        detect_bogus: bool = False,
    ) -> None:
        if nameservers:
            self._servers = tuple(map(parse_nameserver, nameservers))
        else:
            system = read_resolv_conf()
            self._servers = system.servers
            if trust_ad is None and system.trust_ad:
                trust_ad = True
        self._trusted = frozenset(s for s in self._servers if (s.loopback if trust_ad is None else trust_ad))
        self._timeout = timeout
        self._minimum_ttl, self._maximum_ttl, self._failure_ttl = minimum_ttl, maximum_ttl, failure_ttl
        self._detect_bogus = detect_bogus
        self._first = 0
        self._cache: AnswerCache[Answer[Any]] = AnswerCache(cache_size)

    def tlsa(self, name: str, *, deadline: float | None = None) -> Answer[TlsaRecord]:
        """TLSA records of ``_port._tcp.host``; without any and status BOGUS where validation fails."""
        return self._ask(name, RecordType.TLSA, deadline, detect_bogus=True)

    def statistics(self) -> CacheStatistics:
        """Return the counts of the cache."""
        return self._cache.statistics()

    def forget(self) -> None:
        """Empty the cache."""
        self._cache.clear()

    def _ask(
        self, name: str, record_type: RecordType, deadline: float | None, *, detect_bogus: bool = False
    ) -> Answer[Any]:
        wire = dns_wire.name_to_wire(name)
        if wire is None:
            return Answer(exists=False)
        latest = time.monotonic() + self._timeout
        # A failure that only the caller's short deadline explains says nothing about the name.
        shortened = deadline is not None and deadline < latest - self._timeout / 2
        until = latest if deadline is None else min(latest, deadline)
        question = f"{name} {record_type.name}"
        return self._cache.get_or_ask(
            (wire, record_type),
            question,
            until,
            lambda: self._resolve(wire, record_type, question, until, detect_bogus=detect_bogus or self._detect_bogus),
            failure_ttl=0.0 if shortened else self._failure_ttl,
        )

    def _resolve(
        self, name: bytes, record_type: RecordType, question: str, deadline: float, *, detect_bogus: bool
    ) -> Fresh[Answer[Any]]:
        """Ask, and ask on where a reply ends in an alias without saying what is behind it."""
        canonical = name
        ttl: float = self._maximum_ttl
        status = DnssecStatus.SECURE
        for _ in range(_ALIAS_QUESTIONS):
            try:
                exchange = self._exchange(canonical, record_type, question, deadline)
            except _ServerFailureError as failure:
                if detect_bogus and self._validation_fails(failure.server, canonical, record_type, deadline):
                    return Fresh(Answer(dnssec=DnssecStatus.BOGUS), self._failure_ttl)
                raise
            reply = exchange.reply
            status = dns_wire.weaker(status, self._status(exchange))
            if reply.ttl is not None:
                ttl = min(ttl, reply.ttl)
            canonical = reply.canonical
            if reply.complete:
                break
        else:
            raise DnsTemporaryError(question, "an alias that leads in a circle, or too far")
        records = reply.records
        if record_type == RecordType.MX:
            records = tuple(sorted(records, key=dns_wire.mail_exchanger_order))
        if not records:
            # Without SOA nobody said how long that may be believed (RFC 2308 section 5).
            ttl = 0.0 if reply.ttl is None else min(ttl, _NEGATIVE_MAXIMUM)
        answer: Answer[Any] = Answer(
            records,
            exists=reply.code != ReplyCode.NXDOMAIN,
            dnssec=status,
            canonical="" if canonical == name else dns_wire.name_to_text(canonical),
        )
        return Fresh(answer, max(ttl, self._minimum_ttl))

    def _status(self, exchange: _Exchange) -> DnssecStatus:
        if exchange.server not in self._trusted:
            return DnssecStatus.INDETERMINATE
        return DnssecStatus.SECURE if exchange.reply.authentic else DnssecStatus.INSECURE

    def _validation_fails(self, server: Nameserver, name: bytes, record_type: RecordType, deadline: float) -> bool:
        # RFC 4035 3.2.2: with CD a server answers what it would not vouch for.
        if server not in self._trusted:
            return False
        try:
            _ask_server(server, name, record_type, deadline, checking_disabled=True)
        except _ServerTrouble:
            return False
        return True

    def _exchange(self, name: bytes, record_type: RecordType, question: str, deadline: float) -> _Exchange:
        """Ask the servers in turn, beginning with the one that answered last, twice round at most."""
        count = len(self._servers)
        order = [self._servers[(self._first + step) % count] for step in range(count)]
        troubles: list[str] = []
        failing: Nameserver | None = None
        for last_round in (False, True):
            for position, server in enumerate(list(order)):
                now = time.monotonic()
                if now >= deadline:
                    raise DnsTemporaryError(question, "; ".join([*troubles, "the deadline passed"]))
                # A lost packet or a dead server costs a part of the time, never all of it.
                share = (deadline - now) / (len(order) - position if last_round else 2 * len(order))
                until = now + (share if last_round else min(share, _FIRST_WAIT))
                try:
                    reply = _ask_server(server, name, record_type, until, checking_disabled=False)
                except _ServerTrouble as trouble:
                    troubles.append(f"{server}: {trouble}")
                    if trouble.final:
                        order.remove(server)
                    if trouble.servfail:
                        failing = server
                    continue
                self._first = self._servers.index(server)
                return _Exchange(reply, server)
        if failing is not None:
            raise _ServerFailureError(question, "; ".join(troubles), failing)
        raise DnsTemporaryError(question, "; ".join(troubles))


def _ask_server(
    server: Nameserver, name: bytes, record_type: RecordType, until: float, *, checking_disabled: bool
) -> Reply:
    """Return the usable reply of one server. Raises _ServerTrouble."""
    try:
        reply = _ask_once(server, name, record_type, until, checking_disabled=checking_disabled, edns=True)
        # RFC 6891 section 7: a server that knows no EDNS says so with one of these.
        if reply.code in {ReplyCode.FORMERR, ReplyCode.NOTIMP}:
            reply = _ask_once(server, name, record_type, until, checking_disabled=checking_disabled, edns=False)
    except TimeoutError as error:
        raise _ServerTrouble("timeout") from error
    except OSError as error:
        raise _ServerTrouble(error.strerror or type(error).__name__) from error
    except MalformedReply as error:
        raise _ServerTrouble(f"malformed reply: {error}") from error
    if reply.code not in {ReplyCode.NOERROR, ReplyCode.NXDOMAIN}:
        code = ReplyCode(reply.code).name if reply.code <= ReplyCode.REFUSED else f"code {reply.code}"
        raise _ServerTrouble(code, final=True, servfail=reply.code == ReplyCode.SERVFAIL)
    return reply


def _ask_once(
    server: Nameserver, name: bytes, record_type: RecordType, until: float, *, checking_disabled: bool, edns: bool
) -> Reply:
    identifier = secrets.randbits(16)
    query = dns_wire.build_query(identifier, name, record_type, checking_disabled=checking_disabled, edns=edns)
    reply = _over_udp(server, query, name, record_type, until)
    return _over_tcp(server, query, name, record_type, until) if reply.truncated else reply


def _over_udp(server: Nameserver, query: bytes, name: bytes, record_type: RecordType, until: float) -> Reply:
    # A socket of its own for each question: the kernel gives it a random port, and connected
    # it takes nothing but what comes from the server (RFC 5452 section 4.5 and 9.1).
    with socket.socket(server.family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as udp:
        udp.connect(_socket_address(server))
        udp.settimeout(_seconds_left(until))
        udp.send(query)
        while True:
            wire = udp.recv(4096)  # more than we said we take
            if dns_wire.is_reply_to(wire, query, name):
                return dns_wire.parse_reply(wire, name, record_type)
            udp.settimeout(_seconds_left(until))


def _over_tcp(server: Nameserver, query: bytes, name: bytes, record_type: RecordType, until: float) -> Reply:
    with socket.socket(server.family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as tcp:
        tcp.settimeout(_seconds_left(until))
        tcp.connect(_socket_address(server))
        tcp.sendall(len(query).to_bytes(2, "big") + query)
        wire = _receive(tcp, int.from_bytes(_receive(tcp, 2, until), "big"), until)
        if not dns_wire.is_reply_to(wire, query, name):
            raise MalformedReply("not to our question, over TCP")
        reply = dns_wire.parse_reply(wire, name, record_type)
        if reply.truncated:
            raise MalformedReply("cut off, over TCP")
        return reply


def _receive(tcp: socket.socket, size: int, until: float) -> bytes:
    data = bytearray()
    while len(data) < size:
        tcp.settimeout(_seconds_left(until))
        block = tcp.recv(size - len(data))
        if not block:
            raise MalformedReply("the connection ended early")
        data += block
    return bytes(data)


def _seconds_left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _socket_address(server: Nameserver) -> Any:
    address, _, zone = server.address.partition("%")
    if zone:
        return (address, server.port, 0, socket.if_nametoindex(zone))
    return (address, server.port)
