"""SMTP commands as bytes, from what stands in a ``-H`` file.

What stands there came from strangers: nothing gets into a command that could end it, or add
a parameter to it.

Diagnostics: UnsendableError for an address that no command can hold, or that this server does
not take: no retry will change that.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final, Literal

from msgspec import Struct

from ..errors import PermanentError
from ..spool.envelope import DSN_DELAY, DSN_FAILURE, DSN_NEVER, DSN_SUCCESS, Envelope, Recipient
from .smtp_replies import Extensions
from .xtext import encode_xtext

Dialect = Literal["auto", "exim", "postfix"]

#: A path: atoms, quoted strings, a literal; no blank, control character or angle bracket outside quotes.
_MAILBOX: Final = re.compile(
    rb'(?:[^\x00-\x20\x7f"\\<>]|"(?:[^\x00-\x1f\x7f"\\]|\\[ -~])*")+'
)  # fmt: skip
_XTEXT: Final = re.compile(rb"(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_TYPED_XTEXT: Final = re.compile(rb"[A-Za-z0-9-]{1,32};(?:[!-*,-<>-~]|\+[0-9A-F]{2})+")
_UTF8_ORCPT: Final = re.compile(rb"utf-8;[^\x00-\x20\x7f+=]+", re.IGNORECASE)
_LONGEST_ADDRESS: Final = 1000
_LONGEST_ENVID, _LONGEST_ORCPT = 100, 500  # RFC 3461 4.2, 4.4
_LONGEST_XCLIENT: Final = 500
_LONGEST_XCLIENT_VALUE: Final = 255
_UNAVAILABLE: Final = b"[UNAVAILABLE]"
_RET: Final = {1: b"FULL", 2: b"HDRS"}
_NOTIFY: Final = ((DSN_SUCCESS, b"SUCCESS"), (DSN_FAILURE, b"FAILURE"), (DSN_DELAY, b"DELAY"))


class UnsendableError(PermanentError):
    """What the command would have to say can't be said. status is RFC 3463's."""

    def __init__(self, reason: str, status: str) -> None:
        self.status = status
        super().__init__(reason)


def check_mailbox(address: bytes, *, utf8: bool) -> bytes:
    """The address, if a command can hold it. Raises UnsendableError."""
    if len(address) > _LONGEST_ADDRESS or _MAILBOX.fullmatch(address) is None:
        raise UnsendableError(f"not an address that SMTP can carry: {address[:80]!r}", "5.1.3")
    if not address.isascii():
        if not utf8:
            raise UnsendableError("an address that needs SMTPUTF8, which the server does not offer", "5.6.7")
        try:
            address.decode("utf-8")
        except UnicodeDecodeError:
            raise UnsendableError("an address that is neither ASCII nor UTF-8", "5.6.7") from None
    return address


def mail_command(envelope: Envelope, extensions: Extensions, *, size: int, is_8bit: bool, utf8: bool) -> bytes:
    """``MAIL FROM`` with every parameter that applies and is offered. Raises UnsendableError."""
    if utf8 and "SMTPUTF8" not in extensions:
        raise UnsendableError("the message needs SMTPUTF8, which the server does not offer", "5.6.7")
    sender = check_mailbox(envelope.sender, utf8=utf8) if envelope.sender else b""
    limit = extensions.size_limit
    if limit and size > limit:
        raise UnsendableError(f"the message has {size} bytes, the server takes {limit}", "5.3.4")
    parts = [b"MAIL FROM:<%b>" % sender]
    if "SIZE" in extensions:
        parts.append(b"SIZE=%d" % size)
    if is_8bit and "8BITMIME" in extensions:
        parts.append(b"BODY=8BITMIME")
    if utf8:
        parts.append(b"SMTPUTF8")
    if "DSN" in extensions:
        if envelope.dsn_ret in _RET:
            parts.append(b"RET=" + _RET[envelope.dsn_ret])
        envid = envelope.dsn_envid or b""
        if len(envid) <= _LONGEST_ENVID and _XTEXT.fullmatch(envid):
            parts.append(b"ENVID=" + envid)
    return b" ".join(parts) + b"\r\n"


def rcpt_command(recipient: Recipient, extensions: Extensions, *, utf8: bool) -> bytes:
    """``RCPT TO`` with NOTIFY and ORCPT where they are known and offered. Raises UnsendableError."""
    parts = [b"RCPT TO:<%b>" % check_mailbox(recipient.address, utf8=utf8)]
    if "DSN" in extensions:
        if recipient.dsn_flags & DSN_NEVER:
            parts.append(b"NOTIFY=NEVER")
        else:
            wanted = b",".join(name for bit, name in _NOTIFY if recipient.dsn_flags & bit)
            if wanted:
                parts.append(b"NOTIFY=" + wanted)
        orcpt = recipient.orcpt
        is_sendable = _TYPED_XTEXT.fullmatch(orcpt) or (utf8 and _UTF8_ORCPT.fullmatch(orcpt))
        if is_sendable and len(orcpt) <= _LONGEST_ORCPT:
            parts.append(b"ORCPT=" + orcpt)
    return b" ".join(parts) + b"\r\n"


class ClientIdentity(Struct, frozen=True, kw_only=True):
    """The client that a message came from, as XCLIENT tells it; empty for what is not known."""

    address: bytes
    port: int = 0
    name: bytes = b""
    name_is_deferred: bool = False
    helo: bytes = b""
    login: bytes = b""
    protocol: bytes = b""
    destination_address: bytes = b""
    destination_port: int = 0


def client_identity(envelope: Envelope) -> ClientIdentity | None:
    """The client of a message; None for one that was made on this host."""
    if not envelope.host_address:
        return None
    return ClientIdentity(
        address=envelope.host_address,
        port=envelope.host_port,
        name=envelope.host_name or b"",
        name_is_deferred=envelope.host_lookup_deferred,
        helo=envelope.helo_name or b"",
        login=envelope.auth_id or b"",
        protocol=envelope.received_protocol or b"",
        destination_address=envelope.interface_address or b"",
        destination_port=envelope.interface_port,
    )


def xclient_commands(identity: ClientIdentity, offered: tuple[str, ...], dialect: Dialect) -> tuple[bytes, ...]:
    """The XCLIENT commands for identity, each of at most 500 bytes; mostly one.

    Every attribute that the server offers is sent, so that none is left of an earlier message of
    the session. Exim wants a plain IPv6 address, Postfix one with ``IPV6:`` before it; ``auto``
    knows Postfix by HELO or PROTO among the attributes. Raises UnsendableError without ADDR.
    """
    is_postfix = dialect == "postfix" or (dialect == "auto" and bool({"HELO", "PROTO"} & set(offered)))
    values = {
        "ADDR": _address(identity.address, is_postfix=is_postfix),
        "PORT": b"%d" % identity.port if identity.port else _UNAVAILABLE,
        "NAME": _value(identity.name, b"[TEMPUNAVAIL]" if identity.name_is_deferred else _UNAVAILABLE),
        "LOGIN": _value(identity.login),
        "DESTADDR": _address(identity.destination_address, is_postfix=is_postfix),
        "DESTPORT": b"%d" % identity.destination_port if identity.destination_port else _UNAVAILABLE,
        "HELO": _value(identity.helo),
        "PROTO": b"SMTP" if identity.protocol.lower() == b"smtp" else b"ESMTP",
    }
    if "ADDR" not in offered or values["ADDR"] == _UNAVAILABLE:
        raise UnsendableError("XCLIENT can't tell the client's address", "5.5.4")
    commands: list[bytes] = []
    command = b"XCLIENT"
    # ADDR and PORT come first: Exim wants both in its first XCLIENT.
    for name in (name for name in values if name in offered):
        attribute = b" %b=%b" % (name.encode(), values[name])
        if len(command) + len(attribute) > _LONGEST_XCLIENT:
            commands.append(command + b"\r\n")
            command = b"XCLIENT"
        command += attribute
    return (*commands, command + b"\r\n")


def _address(address: bytes, *, is_postfix: bool) -> bytes:
    try:
        parsed = ipaddress.ip_address(address.decode("ascii"))
    except ValueError:
        return _UNAVAILABLE
    text = str(parsed).encode()
    return b"IPV6:" + text if is_postfix and parsed.version == 6 else text


def _value(value: bytes, absent: bytes = _UNAVAILABLE) -> bytes:
    encoded = encode_xtext(value)
    if not value or len(encoded) > _LONGEST_XCLIENT_VALUE:
        return absent
    return encoded


_HELO: Final = re.compile(rb"[!-~]{1,255}")


def ehlo_command(name: bytes, *, verb: Literal["EHLO", "HELO"] = "EHLO") -> bytes:
    """The greeting; a name that can't be said (it may be a client's) is sent as an address literal."""
    return b"%b %b\r\n" % (verb.encode(), name if _HELO.fullmatch(name) else b"[127.0.0.1]")
