"""Which servers are asked: addresses with ports, from the configuration or resolv.conf.

Diagnostics: parse_nameserver raises ConfigError; read_resolv_conf raises nothing: without
a usable file it is the server on this machine, as resolv.conf(5) says.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from msgspec import Struct

from ..errors import ConfigError

RESOLV_CONF = "/etc/resolv.conf"

_WITH_PORT = re.compile(r"(?:\[(?P<v6>[^\]]+)\]|(?P<v4>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


class Nameserver(Struct, frozen=True):
    """One server. address is numeric, with the zone for a link-local one; loopback tells if it is this machine."""

    address: str
    port: int = 53

    @property
    def family(self) -> socket.AddressFamily:
        """AF_INET6 or AF_INET."""
        return socket.AF_INET6 if ":" in self.address else socket.AF_INET

    @property
    def loopback(self) -> bool:
        """Whether no packet leaves this machine: nobody on a path can set AD."""
        return ipaddress.ip_address(self.address).is_loopback

    def __str__(self) -> str:
        if self.port == 53:
            return self.address
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


class SystemNameservers(Struct, frozen=True):
    """What resolv.conf says; trust_ad is its ``options trust-ad``."""

    servers: tuple[Nameserver, ...]
    trust_ad: bool


def parse_nameserver(text: str) -> Nameserver:
    """Read ``192.0.2.1``, ``2001:db8::1``, ``192.0.2.1:5353`` or ``[2001:db8::1]:5353``. Raises ConfigError."""
    address, port = text.strip(), 53
    if match := _WITH_PORT.fullmatch(address):
        address, port = match["v6"] or match["v4"], int(match["port"])
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError as error:
        raise ConfigError(f"{text!r} is not the address of a name server: {error}") from error
    if not 0 < port < 65536:
        raise ConfigError(f"{text!r}: no such port")
    return Nameserver(str(parsed), port)


def read_resolv_conf(path: str = RESOLV_CONF) -> SystemNameservers:
    """Return the first three servers and whether AD is trusted; the search list is not used."""
    servers: list[Nameserver] = []
    trust_ad = False
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            lines = file.read(1 << 16).splitlines()
    except OSError:
        lines = []
    for line in lines:
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver":
            try:
                servers.append(parse_nameserver(words[1]))
            except ConfigError:
                continue  # the system's resolver passes over it likewise
        elif words and words[0] == "options":
            trust_ad = trust_ad or "trust-ad" in words[1:]
    return SystemNameservers(tuple(servers[:3]) or (Nameserver("127.0.0.1"),), trust_ad)
