"""Who handed a message to us: from the spool, or from what a trusted relay wrote down.

Behind a relay of our own the connecting host is the relay, and SPF of it says nothing.
The relay's Received field names the client it saw. It is believed only for as long as
each host that wrote one is trusted; below that, Received is the sender's to write.

Diagnostics: raises nothing; an unknown client is an empty address.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from msgspec import Struct

from ...spool.message import Message

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
MAX_RELAYS: Final = 20
_MAX_RECEIVED: Final = 4096

_ADDRESS: Final = rb"\[(?:IPv6:)?([0-9A-Fa-f:.]{2,45})\](?::[0-9]{1,5})?"
# host.c of Exim: "name ([ip] helo=... ident=...)" and "[ip] (port=... helo=... ident=...)". Without anything in
# parentheses "[ip]" could as well be a HELO that another program wrote: not read.
_EXIM_NAMED: Final = re.compile(
    rb"from ([^\s()]{1,255}) \(" + _ADDRESS + rb"(?: helo=([^\s()]{1,255}))?[ )]", re.IGNORECASE
)
_EXIM_UNNAMED: Final = re.compile(
    rb"from " + _ADDRESS + rb" \((?=port=|helo=|ident=)(?:port=[0-9]{1,5}[ )])?(?:helo=([^\s()]{1,255})[ )])?",
    re.IGNORECASE,
)
# Postfix, Sendmail and many others: "HELO (name [ip])". A name has no "=".
_COMMON: Final = re.compile(
    rb"from ([^\s()]{1,255}) \((?:[^\s()\[\]=]{1,255} )?" + _ADDRESS + rb"(?: \(may be forged\))?\)", re.IGNORECASE
)


class Client(Struct, frozen=True, kw_only=True):
    """address is an IP address or empty; relays is how many trusted hosts were looked through."""

    address: str = ""
    helo: bytes = b""
    relays: int = 0


def client_address(message: Message) -> str:
    """The connecting host's IP address in canonical text; empty for local submission."""
    return canonical_address(message.envelope.host_address or b"")


def find_client(message: Message, trusted_relays: Sequence[Network] = ()) -> Client:
    """The host that gave the message to the first relay we trust, or to us."""
    envelope = message.envelope
    client = Client(address=client_address(message), helo=envelope.helo_name or b"")
    if not trusted_relays or not _is_within(client.address, trusted_relays):
        return client
    received = [header.value for header in message.sent_headers if header.is_named(b"Received")]
    # The topmost field is our own Exim's and names the relay that we already know.
    for value in received[1 : MAX_RELAYS + 1]:
        found = read_received(value)
        if found is None:
            break
        client = Client(address=found.address, helo=found.helo, relays=client.relays + 1)
        if not _is_within(client.address, trusted_relays):
            return client
    return Client(relays=client.relays)  # nobody outside was found: say nothing rather than something false


def read_received(value: bytes) -> Client | None:
    """Client address and HELO in the from clause of a Received field; None where they can't be told for certain."""
    text = b" ".join(value[:_MAX_RECEIVED].split())
    if (match := _EXIM_NAMED.match(text)) is not None:
        address, helo = match[2], match[3] or match[1]
    elif (match := _EXIM_UNNAMED.match(text)) is not None:
        address, helo = match[1], match[2] or b""
    elif (match := _COMMON.match(text)) is not None:
        helo, address = match[1], match[2]
    else:
        return None
    canonical = canonical_address(address)
    return Client(address=canonical, helo=helo) if canonical else None


@lru_cache(maxsize=256)  # auth, conditions and arc-seal ask for one message
def canonical_address(address: bytes) -> str:
    """An IP address in canonical text; empty for what is none."""
    try:
        return str(ipaddress.ip_address(address.decode("ascii", "replace")))
    except ValueError:
        return ""


def _is_within(address: str, networks: Sequence[Network]) -> bool:
    if not address:
        return False
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in network for network in networks)
