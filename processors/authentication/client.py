"""The address of the client that sent a message, as the spool records it.

Diagnostics: raises nothing; what is no address is none.
"""

from __future__ import annotations

from ipaddress import ip_address

from ...spool.message import Message


def client_address(message: Message) -> str:
    """The client's IP address in canonical text; empty for local submission.

    Exim writes ``[address]:port`` since 4.96 and ``address.port`` before (spool_out.c).
    """
    text = (message.envelope.values.get(b"host_address") or b"").decode("ascii", "replace")
    address = text[1:].partition("]")[0] if text.startswith("[") else text
    for candidate in (address, address.rpartition(".")[0]):
        try:
            return str(ip_address(candidate))
        except ValueError:
            continue
    return ""
