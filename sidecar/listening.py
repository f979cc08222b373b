"""Addresses to listen on: ``127.0.0.1:9610``, ``[::1]:9610``, or a name of this host.

Diagnostics: ConfigError for text that is no address, and where it can't be listened on.
"""

from __future__ import annotations

import ipaddress
import socket

from ..errors import ConfigError


def parse_address(text: str, key: str) -> tuple[str, int]:
    """Host and port. Raises ConfigError with key."""
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ConfigError(f'"{text}" is not host:port, as 127.0.0.1:9610 is', key=key)
    return host, int(port)


def listen(text: str, key: str) -> socket.socket:
    """A socket that listens on an address. Raises ConfigError with key."""
    host, port = parse_address(text, key)
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(64)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"can't listen on {text}: {error.strerror}", key=key) from error
    return listener


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach that address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
