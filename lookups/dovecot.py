"""Asks Dovecot's authentication service whether a password is right.

One connection a question, over a Unix socket or TCP, with TLS where asked for. A password
is never sent in the clear to another host.

Diagnostics: check() gives the user's name or None, and raises TemporaryError where Dovecot
could not be asked or could not tell; the constructor raises ConfigError.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import secrets
import socket
import ssl
import time
from collections.abc import Generator
from typing import Final

from ..errors import ConfigError, TemporaryError

#: Dovecot's own limit for a line of this protocol (AUTH_CLIENT_MAX_LINE_LENGTH).
_LONGEST_LINE: Final = 16384
_MOST_LINES: Final = 200
_LONGEST_SECRET: Final = 1024


class DovecotAuth:
    """A client of the auth protocol, version 1. Safe for threads: each question has its own connection.

    address: the absolute path of an ``auth-client`` socket, or host and port with a space
    between (as Exim's ``server_socket``). ca_file: whom to trust, empty for the system's
    certificates. service: what Dovecot's settings and log call us. timeout: seconds for
    the whole of one question; Dovecot itself delays answers after failures, by up to 17 seconds.
    """

    def __init__(
        self, address: str, *, tls: bool = False, ca_file: str = "", service: str = "respool", timeout: float = 25.0
    ) -> None:
        self._service, self._timeout = service, timeout
        self._path, self._host, self._port = "", "", 0
        self._tls: ssl.SSLContext | None = None
        if address.startswith("/"):
            self._path = address
            if tls:
                raise ConfigError("TLS over a Unix socket: Dovecot has none there")
            return
        host, _, port = address.partition(" ")
        port = port.strip()
        if not host or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f'"{address}" is neither an absolute path nor host and port with a space between')
        self._host, self._port = host, int(port)
        if tls:
            try:
                self._tls = ssl.create_default_context(cafile=ca_file or None)
            except (OSError, ssl.SSLError) as error:
                raise ConfigError(f"{ca_file}: {error}") from error
        elif not _is_loopback(host):
            raise ConfigError(f"{host} is another host: passwords are sent there over TLS or not at all")

    def check(self, name: str, password: str, *, remote: str = "") -> str | None:
        """The user's name as Dovecot has it, or None where the password is wrong. Raises TemporaryError.

        remote is the address of whoever asks, for Dovecot's own limits and log.
        """
        user, secret = name.encode(), password.encode()
        # RFC 4616: NUL separates the fields.
        if not user or not secret or b"\0" in user + secret or len(user) + len(secret) > _LONGEST_SECRET:
            return None
        try:
            with self._connect() as connection:
                return _ask(connection, user, secret, self._service, _address_or_empty(remote))
        except (OSError, ValueError) as error:
            raise TemporaryError(f"Dovecot: {error}") from error

    @contextlib.contextmanager
    def _connect(self) -> Generator[_Lines]:
        until = time.monotonic() + self._timeout
        with contextlib.ExitStack() as stack:
            if self._path:
                plain = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
                plain.settimeout(self._timeout)
                plain.connect(self._path)
            else:
                plain = stack.enter_context(socket.create_connection((self._host, self._port), self._timeout))
            if self._tls is not None:
                plain.settimeout(max(0.001, until - time.monotonic()))
                plain = stack.enter_context(self._tls.wrap_socket(plain, server_hostname=self._host))
            yield _Lines(plain, until)


class _Lines:
    """Lines of TAB-separated fields over a socket, bounded in time, length and number."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection, self._until = connection, until
        self._buffer = b""
        self._left = _MOST_LINES

    def send(self, *lines: bytes) -> None:
        self._hurry()
        self._connection.sendall(b"".join(line + b"\n" for line in lines))

    def next(self) -> list[bytes]:
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many lines")
        while b"\n" not in self._buffer:
            if len(self._buffer) > _LONGEST_LINE:
                raise ValueError("a line that does not end")
            self._hurry()
            block = self._connection.recv(4096)
            if not block:
                raise ValueError("it closed the connection")
            self._buffer += block
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.split(b"\t")

    def _hurry(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self._connection.settimeout(left)


def _ask(lines: _Lines, user: bytes, secret: bytes, service: str, remote: str) -> str | None:
    # A number of its own: Dovecot refuses a second connection under one that it knows.
    number = secrets.randbelow(2**31 - 2) + 1
    lines.send(b"VERSION\t1\t1", b"CPID\t%d" % number)
    mechanisms: set[bytes] = set()
    while True:
        fields = lines.next()
        match fields:
            case [b"VERSION", major, *_] if major != b"1":
                raise ValueError(f"it speaks version {ascii(major)[:20]} of the protocol")
            case [b"SPID", *_] if not mechanisms:
                # As Exim's dovecot.c has it: a master socket names no mechanisms.
                raise ValueError("this is its auth-master socket: auth-client is wanted")
            case [b"MECH", name, *_]:
                mechanisms.add(name.upper())
            case [b"DONE", *_]:
                break
            case _:
                pass
    if b"PLAIN" not in mechanisms:
        raise ValueError("it does not offer PLAIN")
    response = base64.b64encode(b"\0" + user + b"\0" + secret)
    # secured: the password came over loopback or a proxy's TLS, and goes on over a local socket or TLS.
    request = [b"AUTH", b"1", b"PLAIN", b"service=" + service.encode(), b"secured", b"nologin"]
    if remote:
        request.append(b"rip=" + remote.encode())
    lines.send(b"\t".join([*request, b"resp=" + response]))
    while True:
        match lines.next():
            case [b"OK", b"1", *parameters]:
                names = [value[5:] for value in parameters if value.startswith(b"user=")]
                if not names or not names[0]:
                    raise ValueError("it said OK without a user")
                return _unescape(names[0]).decode()
            case [b"FAIL", b"1", *parameters]:
                if b"temp" in parameters:
                    raise ValueError("it could not tell just now")
                return None
            case [b"CONT", *_]:
                raise ValueError("it asked for more, which PLAIN does not need")
            case _:
                pass


_ESCAPES: Final = {b"0": b"\0", b"1": b"\1", b"t": b"\t", b"r": b"\r", b"n": b"\n", b"l": b"\n"}


def _unescape(value: bytes) -> bytes:
    first, *others = value.split(b"\1")
    return first + b"".join(_ESCAPES.get(other[:1], other[:1]) + other[1:] for other in others)


def _address_or_empty(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    address = _address_or_empty(host)
    return ipaddress.ip_address(address).is_loopback if address else host == "localhost"
