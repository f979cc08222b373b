"""Reading Received-SPF (RFC 7208 section 9.1), as Exim's ``$spf_received`` writes it.

The field names nobody as its author, so it proves nothing by itself: it counts only
where an administrator says that what comes in with one loses it. Even then it is taken
only if the client and the sender it speaks of are those of the envelope.

Diagnostics: raises nothing; None for text that does not parse or is about another message.
"""

from __future__ import annotations

import ipaddress
from typing import Final

from ..results import Result
from .spf import SpfResult, spf_result
from .structured_field import KEYWORD, LAX_VALUE, Cursor, UnreadableError

_MAX_LENGTH: Final = 4096
_MAX_PAIRS: Final = 32
_RESULTS: Final = {
    result.value: result
    for result in (
        Result.PASS, Result.FAIL, Result.SOFTFAIL, Result.NEUTRAL, Result.NONE, Result.TEMPERROR, Result.PERMERROR,
    )
}  # fmt: skip


def read_received_spf(value: bytes, *, client_address: str, sender: bytes, helo: bytes) -> SpfResult | None:
    """The result in a Received-SPF value for this envelope.

    client_address is in canonical text, sender empty for a bounce. ``client-ip`` must be
    there and be it; ``envelope-from`` must be sender where it is there.
    """
    if len(value) > _MAX_LENGTH:
        return None
    try:
        result, pairs = _read(Cursor(value))
    except UnreadableError:
        return None
    if result is None or _canonical(pairs.get("client-ip", b"")) != client_address or not client_address:
        return None
    envelope_from = pairs.get("envelope-from", sender).strip(b"<>").lower()
    if envelope_from != sender.lower() and not (not sender and envelope_from.startswith(b"postmaster@")):
        return None
    domain = (sender.rpartition(b"@")[2] or pairs.get("helo", helo)).decode("utf-8", "replace").lower()
    return spf_result(result, domain=domain, scope="mailfrom" if sender else "helo")


def _read(cursor: Cursor) -> tuple[Result | None, dict[str, bytes]]:
    """The result and the key-value pairs; of several with one key the first."""
    cursor.skip_cfws()
    result = _RESULTS.get(cursor.match(KEYWORD).decode("ascii").lower())
    pairs: dict[str, bytes] = {}
    cursor.skip_cfws()
    while not cursor.at_end():
        if len(pairs) >= _MAX_PAIRS:
            raise UnreadableError
        key = cursor.match(KEYWORD).decode("ascii").lower()
        cursor.skip_cfws()
        cursor.require(b"=")
        cursor.skip_cfws()
        pairs.setdefault(key, cursor.value(LAX_VALUE))
        cursor.skip_cfws()
        while cursor.take(b";"):
            cursor.skip_cfws()
    return result, pairs


def _canonical(address: bytes) -> str:
    try:
        return str(ipaddress.ip_address(address.decode("ascii", "replace")))
    except ValueError:
        return ""
