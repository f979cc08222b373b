"""Whether a notice may be sent to a message's sender, who may be somebody else's invention.

Mail with a forged sender is common; a notice about it hits a stranger. A notice is sent only
where somebody vouches for the sender: this host's own submission, SPF, or DMARC.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from ..processors.results import AuthResult, Result
from ..spool.message import Message


def why_not_bounce(message: Message, results: tuple[AuthResult, ...]) -> str:
    """Why no notice about message may be sent, or the empty string. message is as it was received."""
    if not message.sender:
        return "its sender is empty"
    envelope = message.envelope
    if not envelope.host_address or envelope.host_auth is not None:
        return ""
    domain = message.sender.rpartition(b"@")[2].decode("utf-8", "replace").lower().removesuffix(".")
    for result in results:
        if result.result is Result.PASS and _vouches(result, domain):
            return ""
    return "its sender is neither authenticated nor local, and passed neither SPF nor DMARC"


def _vouches(result: AuthResult, domain: str) -> bool:
    for one in result.properties:
        name = one.value.rpartition("@")[2].lower().removesuffix(".")
        if result.method == "spf" and (one.ptype, one.name) == ("smtp", "mailfrom"):
            return name == domain
        if result.method == "dmarc" and (one.ptype, one.name) == ("header", "from"):
            # DMARC speaks for the author; of the envelope sender it says something only if both belong together.
            return name == domain or name.endswith(f".{domain}") or domain.endswith(f".{name}")
    return False
