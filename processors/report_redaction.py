"""What of a message's header a failure report may carry, and without whose name (RFC 6590).

A report goes to the domain that From names, which may have nothing to do with the
message. Only listed fields go; local parts of addresses in other domains become a word
from which nobody can tell them, the same one for the same address where there is a key.

Diagnostics: raises nothing; a field that can't be shown safely is left out.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import Final

from ..spool.envelope import Header
from .authentication.domain_names import a_label_domain, is_at_or_below

#: Fields that tell how the message came and was signed, and who it claims to be from.
DEFAULT_FIELDS: Final = (
    "From", "Sender", "Reply-To", "Return-Path", "To", "Cc", "Date", "Message-ID", "Received", "DKIM-Signature",
    "ARC-Seal", "ARC-Message-Signature", "ARC-Authentication-Results", "Authentication-Results", "Received-SPF",
    "List-Id", "MIME-Version", "Content-Type",
)  # fmt: skip
LONGEST_HEADERS: Final = 32 * 1024
_LONGEST_LINE: Final = 998
_MOST_FIELDS: Final = 200
_REDACTED: Final = b"redacted"
#: An address wherever it stands. Each atom is looked at once: a match begins only behind a delimiter.
_ADDRESS: Final = re.compile(
    rb"(?<![^\s<>()\[\],;:\"=])(\"[^\"\n]{1,128}\"|[^\s<>()\[\],;:\"=@]+)"
    rb"@(\[[^\]\s]{1,60}\]|[^\s<>()\[\],;:\"=@]{1,253})"
)
#: Fields that name people beside their addresses: of these only the addresses go.
_PEOPLE: Final = frozenset({
    b"to", b"cc", b"bcc", b"sender", b"reply-to", b"return-path", b"delivered-to", b"envelope-to", b"x-original-to",
    b"resent-from", b"resent-to", b"resent-cc",
})  # fmt: skip
#: Message ids look like addresses, and tell nothing about people.
_IDS: Final = frozenset({b"message-id", b"references", b"in-reply-to", b"list-id", b"from"})
_SAFE_LOCAL: Final = re.compile(rb"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]{1,64}")
_CONTROLS: Final = re.compile(rb"[\x00-\x08\x0b-\x1f\x7f]")


class Redaction:
    """Takes names of people out. own is the organizational domain that the report is for.

    Without redacts names stay, but what can't be shown safely still goes.
    """

    def __init__(self, own: str, key: bytes = b"", *, redacts: bool = True) -> None:
        self._own, self._key, self._redacts = own, key, redacts

    def address(self, address: bytes) -> bytes:
        """An envelope address, its local part redacted unless it is in the own domain; one line, ASCII."""
        local, at, domain = address.rpartition(b"@")
        name = a_label_domain(domain)
        if not at or name is None:
            return _REDACTED
        return self._local(local, name) + b"@" + name.encode()

    def text(self, text: bytes) -> bytes:
        """Text with the local part of every address in another domain redacted."""
        return _ADDRESS.sub(self._replace, text) if self._redacts else text

    def headers(self, headers: Iterable[Header], fields: frozenset[bytes]) -> bytes:
        """The fields of a message that may be shown (names in lower case), redacted, each ending with LF."""
        shown: list[bytes] = []
        size = 0
        for header in headers:
            name = header.name.lower()
            if not header.is_sent or name not in fields or len(shown) == _MOST_FIELDS:
                continue
            field = self._field(name, header)
            size += len(field)
            if size > LONGEST_HEADERS:
                break
            shown.append(field)
        return b"".join(shown)

    def _field(self, name: bytes, header: Header) -> bytes:
        if len(header.raw) > LONGEST_HEADERS:
            return b""
        value = header.value.lstrip(b" \t")
        if name in _PEOPLE and self._redacts:
            value = b", ".join(b"<%b>" % self._replace(found) for found in _ADDRESS.finditer(value)) or _REDACTED
            value = value.replace(b", <", b",\n <")
        elif name not in _IDS:
            value = self.text(value)
        value = _CONTROLS.sub(b"?", value)
        lines = value.rstrip(b"\n \t").split(b"\n")
        if any(len(line) > _LONGEST_LINE for line in lines) or any(line[:1] not in {b" ", b"\t"} for line in lines[1:]):
            return b""
        # A line of white space alone would end the section for some readers.
        return b"%b: %b\n" % (header.name, b"\n".join(line for line in lines if line.strip()))

    def _replace(self, found: re.Match[bytes]) -> bytes:
        domain = a_label_domain(found[2])
        if domain is None:
            return _REDACTED
        return self._local(found[1], domain) + b"@" + found[2]

    def _local(self, local: bytes, domain: str) -> bytes:
        if (not self._redacts or is_at_or_below(domain, self._own)) and _SAFE_LOCAL.fullmatch(local):
            return local
        if not self._key:
            return _REDACTED
        digest = hmac.new(self._key, local.lower(), hashlib.sha256).digest()
        # RFC 6590 3: enough of the hash to tell one from another, in letters that an address may have.
        return base64.b32encode(digest[:15]).lower()
