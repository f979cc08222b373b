"""What the directive lines of ``-H`` mean, as typed values.

One line here per directive of Exim's writer (spool_out.c). The mixin is part of
Envelope: ``envelope.helo_name``, ``envelope.host_port``. Each value is worked out when
it is asked for, from the last line of that name, as Exim's reader does (spool_in.c).
Numbers are read as atoi() reads them: leading digits, otherwise 0.

Diagnostics: nothing is raised. A directive that is absent gives None, False or 0, as
its type says; a value that Exim could not use either gives what Exim would see.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import Any, Final, Generic, TypeVar, overload

from .directive import Directive
from .unread import Unread

_LEADING_NUMBER: Final = re.compile(rb"\s*([+-]?\d{1,18})")
_USEC: Final = re.compile(rb"\.?\s*\+?(\d{1,9})")
_SECONDS_AND_USEC: Final = re.compile(rb"\s*\+?(\d{1,18})\.\s*\+?(\d{1,9})")
_ADDRESS_AND_PORT: Final = re.compile(rb"\[([^\]]*)\](?::(\d{0,9}))?")
_PORT: Final = re.compile(rb"\d{0,9}")
_ESCAPE: Final = re.compile(rb"\\(?:([0-7]{1,3})|x([0-9A-Fa-f]{0,2})|(.))", re.DOTALL)
_ESCAPED: Final = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}

ValueType = TypeVar("ValueType")


class _DirectiveValue(Generic[ValueType]):
    """A descriptor that reads one directive; see the subclasses for what they make of it."""

    def __init__(self, name: str) -> None:
        self.directive = name.encode()

    @overload
    def __get__(self, envelope: None, owner: type) -> _DirectiveValue[ValueType]: ...

    @overload
    def __get__(self, envelope: DirectiveValues, owner: type) -> ValueType: ...

    def __get__(self, envelope: DirectiveValues | None, owner: type) -> _DirectiveValue[ValueType] | ValueType:
        if envelope is None:
            return self
        return self.read(envelope.values, self.directive)

    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> ValueType:
        raise NotImplementedError


class _Text(_DirectiveValue[bytes | None]):
    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> bytes | None:
        return (values[name] or b"") if name in values else None


class _UnprintedText(_DirectiveValue[bytes | None]):
    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> bytes | None:
        return unprinted(values[name] or b"") if name in values else None


class _Flag(_DirectiveValue[bool]):
    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> bool:
        return name in values


class _Number(_DirectiveValue[int]):
    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> int:
        return leading_number(values.get(name) or b"")


class _OptionalNumber(_DirectiveValue[int | None]):
    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> int | None:
        return leading_number(values[name] or b"") if name in values else None


class _Address(_DirectiveValue[bytes | None]):
    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> bytes | None:
        return address_and_port(values[name] or b"")[0] if name in values else None


class _Port(_DirectiveValue[int]):
    def read(self, values: Mapping[bytes, bytes | None], name: bytes) -> int:
        return address_and_port(values.get(name) or b"")[1]


class DirectiveValues:
    """The typed values of an envelope's directives; None where a text is absent.

    A mixin: directives and received_time are Envelope's.
    """

    received_time = Unread[int]("When reception began, in Unix seconds (line 4).")
    directives = Unread[tuple[Directive, ...]](
        "The lines after line 4 that start with a hyphen, ACL variables among them, in their order."
    )
    _unread: Any = None

    @cached_property
    def values(self) -> dict[bytes, bytes | None]:
        """Single-line directives by name, the last of a name winning as in Exim."""
        return {directive.name: directive.value for directive in self.directives if directive.variable is None}

    @cached_property
    def variables(self) -> dict[str, bytes]:
        """ACL variables by full name (``acl_m_foo``), the last of a name winning."""
        return {d.variable: d.value or b"" for d in self.directives if d.variable is not None}

    # Where the message came from.
    host_address = _Address("host_address")  #: IP address of the sending host, without port
    host_port = _Port("host_address")  #: its port; 0 where the line has none
    host_name = _Text("host_name")  #: looked-up name of the sending host
    helo_name = _Text("helo_name")  #: the name in HELO or EHLO
    host_auth = _Text("host_auth")  #: the authenticator's name
    host_auth_pubname = _Text("host_auth_pubname")  #: its public (mechanism) name
    host_lookup_deferred = _Flag("host_lookup_deferred")
    host_lookup_failed = _Flag("host_lookup_failed")
    interface_address = _Address("interface_address")  #: the local address it came in on
    interface_port = _Port("interface_address")
    active_hostname = _Text("active_hostname")  #: only where it differs from primary_hostname
    ident = _Text("ident")  #: RFC 1413 ident string, or the local login
    received_protocol = _Text("received_protocol")  #: smtp, esmtps, local, utf8esmtp ...
    auth_id = _Text("auth_id")  #: $authenticated_id
    auth_sender = _Text("auth_sender")  #: $authenticated_sender, from MAIL AUTH=
    is_local = _Flag("local")  #: the sender is local
    is_local_error = _Flag("localerror")  #: a bounce generated here
    is_sender_set_untrusted = _Flag("sender_set_untrusted")
    allow_unqualified_recipient = _Flag("allow_unqualified_recipient")
    allow_unqualified_sender = _Flag("allow_unqualified_sender")

    # The body.
    is_wireformat = _Flag("spool_file_wireformat")  #: CRLF line ends, as BDAT brought them
    body_linecount = _OptionalNumber("body_linecount")  #: LF bytes of the body; None in wire format
    body_zerocount = _Number("body_zerocount")  #: NUL bytes of the body
    max_received_linelength = _Number("max_received_linelength")

    # The state of delivery.
    is_frozen = _Flag("frozen")  #: Exim's queue runners leave the message alone
    frozen_since = _OptionalNumber("frozen")  #: Unix seconds
    is_manually_thawed = _Flag("manual_thaw")
    is_first_delivery = _Flag("deliver_firsttime")  #: no delivery attempt has been completed yet
    is_delivery_faked = _Flag("N")  #: -N: every delivery is only said to have worked
    debug_selector = _Text("debug_selector")
    debuglog_name = _Text("debuglog_name")  #: a path that Exim opens

    # What scanners said at reception.
    local_scan = _Text("local_scan")
    spam_bar = _Text("spam_bar")
    spam_score = _Text("spam_score")
    spam_score_int = _OptionalNumber("spam_score_int")
    bmi_verdicts = _Text("bmi_verdicts")  #: Brightmail builds before 4.99

    # TLS of the incoming session.
    tls_cipher = _Text("tls_cipher")
    tls_ver = _Text("tls_ver")
    tls_peerdn = _UnprintedText("tls_peerdn")
    tls_sni = _UnprintedText("tls_sni")
    tls_peercert = _UnprintedText("tls_peercert")  #: PEM
    tls_ourcert = _UnprintedText("tls_ourcert")  #: PEM
    tls_is_certificate_verified = _Flag("tls_certificate_verified")
    tls_ocsp = _Number("tls_ocsp")  #: 0 not requested .. 4 verified (tls.h, ocsp state)
    tls_resumption_letter = _Text("tls_resumption")  #: 'A' plus bits
    tls_requiretls = _Text("tls_requiretls")  #: experimental builds of 4.92

    # Internationalised mail and delivery notices.
    is_smtputf8 = _Flag("smtputf8")
    is_utf8_downcvt = _Flag("utf8_downcvt")  #: always downconvert
    is_utf8_optdowncvt = _Flag("utf8_optdowncvt")  #: downconvert if needed
    dsn_envid = _Text("dsn_envid")  #: ENVID as received (xtext, RFC 3461)
    dsn_ret = _Number("dsn_ret")  #: 1 FULL, 2 HDRS, 0 not given

    @property
    def tls_resumption(self) -> int:
        """The session-resumption bits ($tls_in_resumption); 0 where absent."""
        letter = self.tls_resumption_letter
        return letter[0] - 0x41 if letter else 0

    @property
    def received_usec(self) -> int:
        """The microseconds of the received time, which -received_time_usec holds."""
        found = _USEC.match(self.values.get(b"received_time_usec") or b"")
        return int(found[1]) if found else 0

    @property
    def received_at(self) -> datetime | None:
        """When reception began, with microseconds; None for a time that no calendar has."""
        return _moment(self.received_time, self.received_usec)

    @property
    def received_complete(self) -> tuple[int, int] | None:
        """(seconds, microseconds) when the data had been received; None where unknown (before 4.95).

        Read as two integers: ``5.7`` means 5 s and 7 us (spool_in.c).
        """
        found = _SECONDS_AND_USEC.match(self.values.get(b"received_time_complete") or b"")
        return (int(found[1]), int(found[2])) if found else None


def leading_number(text: bytes) -> int:
    """The number that atoi() finds: leading digits after white space and a sign, otherwise 0."""
    found = _LEADING_NUMBER.match(text)
    return int(found[1]) if found else 0


def address_and_port(value: bytes) -> tuple[bytes, int]:
    """(address, port) of ``[addr]:port`` (4.96 and later) or ``addr.port``; a missing port is 0.

    A value of another shape is the address as it stands. Source: host_address_extract_port in
    host_address.c.
    """
    if value.startswith(b"["):
        bracketed = _ADDRESS_AND_PORT.fullmatch(value)
        return (bracketed[1], int(bracketed[2] or 0)) if bracketed is not None else (value, 0)
    # The port's dot: the fourth of an IPv4 address, the first after the colons of IPv6.
    address_dots = 0 if b":" in value else 3
    parts = value.split(b".", address_dots + 1)
    if len(parts) == address_dots + 2 and _PORT.fullmatch(parts[-1]):
        return value[: -1 - len(parts[-1])], int(parts[-1] or 0)
    return value, 0


def unprinted(text: bytes) -> bytes:
    """The text before Exim's string_printing() escaped it (string_unprinting in string.c)."""
    return _ESCAPE.sub(_unescape, text) if b"\\" in text else text


def _unescape(found: re.Match[bytes]) -> bytes:
    octal, hexadecimal, letter = found.groups()
    if octal is not None:
        return bytes((int(octal, 8) & 0xFF,))
    if hexadecimal is not None:
        return bytes((int(hexadecimal or b"0", 16),))
    return _ESCAPED.get(letter, letter)


def _moment(seconds: int, microseconds: int) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=microseconds)
    except (OverflowError, ValueError, OSError):
        return None
