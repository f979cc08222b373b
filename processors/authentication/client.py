"""The address of the client that sent a message, as the spool records it.

Diagnostics: raises nothing; what is no address is none.
"""

from __future__ import annotations

from ipaddress import ip_address

from ...spool.message import Message


def client_address(message: Message) -> str:
    """The client's IP address in canonical text; empty for local submission."""
    text = message.envelope.host_address or b""
    try:
        return str(ip_address(text.decode("ascii")))
    except ValueError:
        return ""
