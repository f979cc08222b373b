"""The Sender Rewriting Scheme: addresses that send bounces back through whoever forwarded.

Two dialects, which can't read each other:

- ``exim``: what Exim's ``${srs_encode}`` writes and ``inbound_srs`` reads (expand.c):
  ``SRS0=<4 hex of HMAC-MD5>=<day>=<domain>=<local part>``. The hash does not cover the
  day, so a captured address can be made fresh again; SRS1 does not exist.
- ``standard``: that of Mail::SRS, libsrs2 and postsrsd:
  ``SRS0=<base64 of HMAC-SHA1>=<day>=<domain>=<local part>``, all of it hashed, and
  ``SRS1=<hash>=<first forwarder>=<rest of its SRS0>`` where forwarders follow each other.

The first secret signs, each verifies. Hashes are short (four characters by custom), so
that one may be guessed: a decoded address is only handed out if it is a plain address.

Diagnostics: the constructors raise ConfigError; forward() and reverse() raise nothing,
an Srs says what is wrong.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

from msgspec import Struct

from ..errors import ConfigError

DAY_SECONDS: Final = 86_400
SLOTS: Final = 1024
"""Days until a stamp, two base32 digits, comes round again."""

LONGEST_ADDRESS: Final = 254
"""RFC 5321 4.5.3.1.3: a path of 256 octets, angle brackets included."""

_BASE32: Final = b"abcdefghijklmnopqrstuvwxyz234567"
_ATEXT: Final = re.compile(rb"[.!#$%&'*+\-/=?^_`{|}~0-9A-Za-z\x80-\xff]+")
_QTEXT: Final = re.compile(rb"(?:[ !#-\[\]-~\x80-\xff]|\\[ -~])*")
_DOMAIN: Final = re.compile(
    rb"[0-9A-Za-z_\x80-\xff](?:[0-9A-Za-z_.\-\x80-\xff]*[0-9A-Za-z_\x80-\xff])?|\[[0-9A-Za-z:.]+\]"
)
_SRS: Final = re.compile(rb"SRS([01])[=+-]", re.IGNORECASE)
_QUOTED_PAIR: Final = re.compile(rb"\\(.)", re.DOTALL)


class Srs(Struct, frozen=True):
    """An address, or why there is none: then address is empty and problem is not."""

    address: bytes = b""
    problem: str = ""


class SrsCodec(Protocol):
    """One dialect with its secrets. now is Unix time in seconds."""

    def forward(self, sender: bytes, domain: str, now: float) -> Srs:
        """The address at domain that stands for sender."""
        ...

    def reverse(self, address: bytes, now: float) -> Srs:
        """The address that an SRS address stands for."""
        ...


def looks_like_srs(address: bytes) -> bool:
    """True for a local part that begins as SRS0 or SRS1, in any case."""
    return _SRS.match(address.removeprefix(b'"')) is not None


class EximSrs:
    """Exim's own dialect. max_age_days is 10 in Exim and can't be changed there."""

    def __init__(self, secrets: Sequence[bytes], *, max_age_days: int = 10) -> None:
        self._secrets = _usable(secrets)
        self._max_age_days = max_age_days

    def forward(self, sender: bytes, domain: str, now: float) -> Srs:
        """As ``${srs_encode{secret}{sender}{domain}}``, which also wraps an SRS address again."""
        if not sender:
            return Srs(problem="the null sender is not rewritten")
        local, at, host = sender.rpartition(b"@")
        if not at:
            local, host = sender, b""
        # Exim takes quotes off, puts them around the whole, and leaves backslashes alone.
        quoted = b'"' in local
        rewritten = b"SRS0=%b=%b=%b=%b" % (
            self._hash(self._secrets[0], sender.lower()), _stamp(now), host, local.replace(b'"', b""),
        )  # fmt: skip
        return _if_writable((b'"%b"' if quoted else b"%b") % rewritten + b"@" + domain.encode())

    def reverse(self, address: bytes, now: float) -> Srs:
        """As ``inbound_srs``, and ``$srs_recipient`` of it: in lower case."""
        local = _bare_local_part(address)
        fields = local.split(b"=", 4)
        if len(fields) != 5 or fields[0].upper() != b"SRS0":
            return Srs(problem="not an SRS0 address")
        _, digest, stamp, host, user = fields
        # Exim reads small letters only in a stamp, its regular expression notwithstanding.
        problem = _why_stale(stamp, now, self._max_age_days) if stamp == stamp.lower() else "a stamp in capitals"
        if problem:
            return Srs(problem=problem)
        if len(digest) != 4:
            return Srs(problem="a hash of the wrong length")
        host, user = host.lower(), user.lower()
        quoting = _ATEXT.fullmatch(user) is None
        recipient = (b'"%b"@%b' if quoting else b"%b@%b") % (user, host)
        if not _any_equal(digest, (self._hash(secret, recipient) for secret in self._secrets)):
            return Srs(problem="the hash does not verify")
        return _checked(user, host, recipient)

    @staticmethod
    def _hash(secret: bytes, data: bytes) -> bytes:
        return hmac.new(secret, data, "md5").hexdigest()[:4].encode()


class StandardSrs:
    """The common dialect. separator follows SRS0 and SRS1; hash_length is how much of the hash is written.

    Hashes from minimum_hash_length characters on are accepted, so that a longer one can be
    brought in while old addresses are still about.
    """

    def __init__(
        self,
        secrets: Sequence[bytes],
        *,
        separator: str = "=",
        hash_length: int = 4,
        minimum_hash_length: int = 4,
        max_age_days: int = 21,
    ) -> None:
        self._secrets = _usable(secrets)
        if separator not in {"=", "+", "-"}:
            raise ConfigError(f'the separator is one of "=", "+", "-", not {separator!r}', key="separator")
        if not 4 <= minimum_hash_length <= hash_length <= 27:
            raise ConfigError("hashes have 4 to 27 characters, no fewer than the minimum", key="hash_length")
        self._separator = separator.encode()
        self._hash_length, self._minimum_hash_length = hash_length, minimum_hash_length
        self._max_age_days = max_age_days

    def forward(self, sender: bytes, domain: str, now: float) -> Srs:
        """SRS0 for a plain address, SRS1 for one that another forwarder has rewritten."""
        local, at, host = sender.rpartition(b"@")
        if not at or not local or not host:
            return Srs(problem="no address with a domain")
        local = _bare_local_part(sender)
        kind = _SRS.match(local)
        if kind is None:
            stamp = _stamp(now).upper()
            rewritten = b"SRS0%b%b=%b=%b=%b" % (
                self._separator, self._hash(self._secrets[0], stamp, host, local), stamp, host, local,
            )  # fmt: skip
        else:
            if kind[1] == b"0":
                first, rest = host, local[4:]
            else:
                _, first, rest = (*local[5:].split(b"=", 2), b"", b"")[:3]
                if not first or not rest:
                    return Srs(problem="an SRS1 address without its parts")
            rewritten = b"SRS1%b%b=%b=%b" % (
                self._separator, self._hash(self._secrets[0], first, rest), first, rest,
            )  # fmt: skip
        quoting = _ATEXT.fullmatch(rewritten) is None
        return _if_writable((_quoted(rewritten) if quoting else rewritten) + b"@" + domain.encode())

    def reverse(self, address: bytes, now: float) -> Srs:
        """The original address of an SRS0, the first forwarder's SRS0 address of an SRS1."""
        local = _bare_local_part(address)
        kind = _SRS.match(local)
        if kind is None:
            return Srs(problem="not an SRS address")
        fields = local[5:].split(b"=", 3 if kind[1] == b"0" else 2)
        if len(fields) != (4 if kind[1] == b"0" else 3) or not all(fields):
            return Srs(problem="an SRS address without its parts")
        digest, *parts = fields
        if kind[1] == b"0" and (problem := _why_stale(parts[0], now, self._max_age_days)):
            return Srs(problem=problem)
        if not self._verifies(digest, parts):
            return Srs(problem="the hash does not verify")
        if kind[1] == b"0":
            _, host, user = parts
        else:
            host, user = parts[0], b"SRS0" + parts[1]
            if _SRS.match(user) is None:
                return Srs(problem="an SRS1 address around no SRS0 address")
        return _checked(user, host)

    def _verifies(self, digest: bytes, parts: Sequence[bytes]) -> bool:
        if not self._minimum_hash_length <= len(digest) <= 27:
            return False
        # Case is ignored, since some hosts change it, and so is which base64 it was.
        offered = digest.translate(_EITHER_BASE64).lower()
        computed = (self._full_hash(secret, *parts)[: len(digest)].lower() for secret in self._secrets)
        return _any_equal(offered, computed)

    def _hash(self, secret: bytes, *parts: bytes) -> bytes:
        return self._full_hash(secret, *parts)[: self._hash_length]

    @staticmethod
    def _full_hash(secret: bytes, *parts: bytes) -> bytes:
        # With "+" and "/": Mail::SRS and postsrsd 1 read nothing else; postsrsd 2 writes "-" and "_" and reads both.
        return base64.b64encode(hmac.digest(secret, b"".join(parts).lower(), "sha1"))


_EITHER_BASE64: Final = bytes.maketrans(b"-_", b"+/")


def _usable(secrets: Sequence[bytes]) -> tuple[bytes, ...]:
    if not secrets or not all(secrets):
        raise ConfigError("SRS needs a secret, and none may be empty")
    return tuple(secrets)


def _stamp(now: float) -> bytes:
    day = int(now // DAY_SECONDS) % SLOTS
    return bytes((_BASE32[day >> 5], _BASE32[day & 31]))


def _why_stale(stamp: bytes, now: float, max_age_days: int) -> str:
    digits = [_BASE32.find(digit) for digit in stamp[:3].lower()]
    if len(digits) != 2 or min(digits) < 0:
        return "no stamp of two base32 digits"
    age = (int(now // DAY_SECONDS) - (digits[0] * 32 + digits[1])) % SLOTS
    return "" if age <= max_age_days else f"made {age} days ago (of {SLOTS}), more than {max_age_days}"


def _any_equal(offered: bytes, computed: Iterable[bytes]) -> bool:
    """In a time that tells nothing about the hashes."""
    found = False
    for digest in computed:
        found |= hmac.compare_digest(offered, digest)
    return found


def _bare_local_part(address: bytes) -> bytes:
    """The local part, without the quotes and backslashes of a quoted string."""
    local, at, _ = address.rpartition(b"@")
    if not at:
        local = address
    if len(local) >= 2 and local.startswith(b'"') and local.endswith(b'"'):
        return _QUOTED_PAIR.sub(rb"\1", local[1:-1])
    return local


def _quoted(local: bytes) -> bytes:
    return b'"' + re.sub(rb'(["\\])', rb"\\\1", local) + b'"'


def _checked(user: bytes, host: bytes, address: bytes = b"") -> Srs:
    """The decoded address, refused where it is more than an address."""
    if not user or _DOMAIN.fullmatch(host) is None or b".." in host:
        return Srs(problem="it stands for no address")
    if not address:
        address = (user if _ATEXT.fullmatch(user) else _quoted(user)) + b"@" + host
    local = address.rpartition(b"@")[0]
    if local.startswith(b'"') and _QTEXT.fullmatch(local[1:-1]) is None:
        return Srs(problem="it stands for no address")
    return _if_writable(address)


def _if_writable(address: bytes) -> Srs:
    if len(address) > LONGEST_ADDRESS:
        return Srs(problem=f"{len(address)} bytes, more than the {LONGEST_ADDRESS} that an address may have")
    if any(byte in b"\n\r\0<>" for byte in address):
        return Srs(problem="characters that no spool file holds in an address")
    return Srs(address)
