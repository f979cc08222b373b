"""Public keys from DNS and private keys from files, for DKIM and ARC.

Key records are RFC 6376 section 3.6.1 with RFC 8301 (RSA sizes) and RFC 8463 (Ed25519).
Parsed records are kept, keyed by their text: a key is decoded once while it is in use.

Diagnostics: a record that can't be used is a KeyFault, never an exception, whatever it
holds. load_signing_key() raises ConfigError.
"""

from __future__ import annotations

import binascii
import hashlib
import os
import re
import stat
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key, load_pem_private_key
from msgspec import Struct

from ...errors import ConfigError
from ...lookups.dns import DnsTemporaryError, Resolver
from ..results import Result
from .signature import SignatureSyntaxError, parse_tag_list

#: RFC 8301 section 3.2: a verifier must not accept less.
MIN_RSA_BITS: Final = 1024
# What keeps a hostile key from costing more than an honest one by much.
_MAX_RSA_BITS: Final = 8192
_MAX_RSA_EXPONENT_BITS: Final = 64
_MAX_RECORD_BYTES: Final = 8192
_MAX_RECORDS: Final = 4
_MAX_KEY_FILE_BYTES: Final = 65536

_PADDING: Final = PKCS1v15()
_PREHASHED: Final = Prehashed(SHA256())
_LABEL_VALUE: Final = re.compile(rb"[A-Za-z0-9*-]+")
#: ``s=`` of keys that are for mail (RFC 6376 3.6.1).
_SERVICES: Final = frozenset({b"*", b"email"})


class KeyType(Enum):
    """``k=`` of a key record, and the part of ``a=`` before the hyphen."""

    RSA = b"rsa"
    ED25519 = b"ed25519"


class KeyFault(Struct, frozen=True):
    """Why there is no usable key: result is temperror or permerror. is_lookup: DNS gave no key record at all."""

    result: Result
    reason: str
    is_lookup: bool = False


class KeyRecord(Struct, frozen=True):
    """A usable key record.

    algorithm is the ``a=`` of the signatures it verifies. bits is the size of an RSA
    modulus, 256 for Ed25519. fault says why no signature may be verified with it (RFC 6376
    6.1.2 steps 6-9, RFC 8301 3.2), None where one may. testing and strict are the flags
    ``y`` and ``s`` of ``t=``; what the first one means is decided by who uses the result
    (see identifiers() in evaluation.py). check raises InvalidSignature or ValueError
    unless a signature fits a digest.
    """

    key_type: KeyType
    algorithm: bytes
    bits: int
    fault: str | None
    testing: bool
    strict: bool
    check: Callable[[bytes, bytes], None]

    def verify(self, signature: bytes, digest: bytes) -> bool:
        """True if signature is this key's over the data whose SHA-256 is digest."""
        try:
            self.check(signature, digest)
        except (InvalidSignature, ValueError):
            return False
        return True


@lru_cache(maxsize=2048)
def parse_key_record(record: bytes) -> KeyRecord | KeyFault:
    """Read a key record (RFC 6376 3.6.1, 6.1.2)."""
    if len(record) > _MAX_RECORD_BYTES:
        return _unusable("the key record is too long")
    try:
        tags = parse_tag_list(record).tags
    except SignatureSyntaxError:
        return _unusable("key record syntax error")
    if b"v" in tags and (tags[b"v"] != b"DKIM1" or next(iter(tags)) != b"v"):
        return _unusable("not a DKIM1 key record")
    if b"p" not in tags:
        return _unusable("no p= in the key record")
    try:
        key_type = KeyType(tags.get(b"k", b"rsa"))
    except ValueError:
        return _unusable("unknown key type in k=")
    text = b"".join(tags[b"p"].split())
    if not text:
        return _unusable("key revoked")
    try:
        data = binascii.a2b_base64(text, strict_mode=True)
        public_key, bits = _load_public_key(key_type, data)
    except (ValueError, UnsupportedAlgorithm):
        return _unusable("unusable public key in p=")
    if isinstance(public_key, RSAPublicKey) and bits > _MAX_RSA_BITS:
        return _unusable("RSA key too large")
    flags = _colon_list(tags.get(b"t", b""))
    return KeyRecord(
        key_type=key_type,
        algorithm=key_type.value + b"-sha256",
        bits=bits,
        fault=_fault(key_type, bits, tags),
        testing=b"y" in flags,
        strict=b"s" in flags,
        check=_check(public_key),
    )


def _fault(key_type: KeyType, bits: int, tags: dict[bytes, bytes]) -> str | None:
    """See KeyRecord."""
    if b"h" in tags and b"sha256" not in _colon_list(tags[b"h"]):
        return "inappropriate hash algorithm"
    if key_type is KeyType.RSA and bits < MIN_RSA_BITS:
        return f"RSA key of {bits} bits is too short"
    if _SERVICES.isdisjoint(_colon_list(tags.get(b"s", b"*"))):
        return "key is not for email"
    return None


def _check(public_key: RSAPublicKey | Ed25519PublicKey) -> Callable[[bytes, bytes], None]:
    """See KeyRecord. Which kind it is, an abstract class has to be asked: once for a key."""
    if isinstance(public_key, RSAPublicKey):
        return lambda signature, digest: public_key.verify(signature, digest, _PADDING, _PREHASHED)
    return public_key.verify  # RFC 8463 section 3: PureEdDSA over the hash


def _load_public_key(key_type: KeyType, data: bytes) -> tuple[RSAPublicKey | Ed25519PublicKey, int]:
    """The key and its size; ValueError or UnsupportedAlgorithm for what is none."""
    if key_type is KeyType.ED25519:
        return Ed25519PublicKey.from_public_bytes(data), 256  # RFC 8463 section 4: the bare 32 bytes
    try:
        key = load_der_public_key(data)  # SubjectPublicKeyInfo, and RSAPublicKey (RFC 6376 3.6.1, erratum 3017)
    except TypeError as error:
        raise ValueError("no public key") from error
    if not isinstance(key, RSAPublicKey):
        raise UnsupportedAlgorithm("no RSA key")
    numbers: RSAPublicNumbers = key.public_numbers()
    if numbers.e.bit_length() > _MAX_RSA_EXPONENT_BITS:
        raise ValueError("the exponent is too large")
    return key, key.key_size


def _colon_list(text: bytes) -> frozenset[bytes]:
    return frozenset([item.strip(b" \t\r\n") for item in text.split(b":")])


def _unusable(reason: str) -> KeyFault:
    return KeyFault(Result.PERMERROR, reason)


_NO_KEY: Final = KeyFault(Result.PERMERROR, "no key for signature", is_lookup=True)


class KeyLookup:
    """Finds key records in DNS for one message; a key that several signatures use is asked for once.

    deadline is a time.monotonic() value, or None.
    """

    def __init__(self, resolver: Resolver, deadline: float | None = None) -> None:
        self._resolver = resolver
        self._deadline = deadline
        self._found: dict[str, KeyRecord | KeyFault] = {}

    def find(self, domain: str, selector: str) -> KeyRecord | KeyFault:
        """The key record of selector at domain, both as DNS has them; trouble in DNS is a KeyFault with temperror."""
        name = f"{selector}._domainkey.{domain}"
        found = self._found.get(name)
        if found is None:
            found = self._found[name] = self._ask(name)
        return found

    def _ask(self, name: str) -> KeyRecord | KeyFault:
        try:
            records = self._resolver.txt(name, deadline=self._deadline).records
        except DnsTemporaryError as error:
            return KeyFault(Result.TEMPERROR, str(error), is_lookup=True)
        found: KeyRecord | KeyFault = _NO_KEY
        for record in records[:_MAX_RECORDS]:
            parsed = parse_key_record(record)
            if isinstance(parsed, KeyRecord):
                return parsed  # RFC 6376 6.1.2 leaves the choice among several: the first that is usable
            if found is _NO_KEY:
                found = parsed
        return found


class SigningKey:
    """A private key, parsed once. Safe for threads.

    algorithm is the ``a=`` it makes.
    """

    def __init__(self, private_key: RSAPrivateKey | Ed25519PrivateKey) -> None:
        self._private_key = private_key
        self._sign: Callable[[bytes], bytes]
        if isinstance(private_key, RSAPrivateKey):
            self.key_type = KeyType.RSA
            self._sign = lambda digest: private_key.sign(digest, _PADDING, _PREHASHED)
        else:
            self.key_type = KeyType.ED25519
            self._sign = private_key.sign
        self.algorithm = self.key_type.value + b"-sha256"

    def sign(self, digest: bytes) -> bytes:
        """The signature over the data whose SHA-256 is digest."""
        return self._sign(digest)

    @property
    def public_record(self) -> bytes:
        """The key record to publish for this key."""
        return public_record(self._private_key)


def public_record(private_key: RSAPrivateKey | Ed25519PrivateKey) -> bytes:
    """The TXT record text that belongs to a private key (RFC 6376 3.6.1, RFC 8463 section 4)."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    if isinstance(private_key, RSAPrivateKey):
        data = private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return b"v=DKIM1; k=rsa; p=" + binascii.b2a_base64(data, newline=False)
    data = private_key.public_key().public_bytes_raw()
    return b"v=DKIM1; k=ed25519; p=" + binascii.b2a_base64(data, newline=False)


#: SHA-256 of key texts that were validated in this process: validating an RSA key takes 46 ms.
_validated: set[bytes] = set()


def parse_signing_key(pem: bytes) -> SigningKey:
    """A private key from PEM: RSA (PKCS #1 or #8) of at least 1024 bits, or Ed25519; ConfigError otherwise."""
    fingerprint = hashlib.sha256(pem).digest()
    try:
        key = load_pem_private_key(pem, password=None, unsafe_skip_rsa_key_validation=fingerprint in _validated)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"not a private key in PEM without a passphrase: {error}") from error
    if isinstance(key, RSAPrivateKey):
        if key.key_size < MIN_RSA_BITS:
            raise ConfigError(f"an RSA key of {key.key_size} bits; RFC 8301 asks for at least {MIN_RSA_BITS}")
    elif not isinstance(key, Ed25519PrivateKey):
        raise ConfigError("neither an RSA nor an Ed25519 key")
    _validated.add(fingerprint)
    return SigningKey(key)


def load_signing_key(path: str) -> SigningKey:
    """The private key in a file that others can't read or write.

    Raises ConfigError: no such file, open to others, or no usable key.
    """
    check_key_path(path)
    try:
        # O_NONBLOCK: opening a FIFO by mistake must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"private key {path}: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"private key {path}: not a regular file")
        if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(f"private key {path}: mode {mode:04o} lets others use it; 0640 is the most")
        pem = os.read(descriptor, _MAX_KEY_FILE_BYTES)
    finally:
        os.close(descriptor)
    try:
        return parse_signing_key(pem)
    except ConfigError as error:
        raise ConfigError(f"private key {path}: {error.reason}") from error


def check_key_path(path: str) -> None:
    """ConfigError for a key itself: what is wrong with a path is told with the path, and that must not be a key."""
    if "-----BEGIN" in path:
        raise ConfigError("a private key stands where the path of its file belongs")


def key_from_file(path: str) -> SigningKey:
    """As load_signing_key(), but the key is kept until its file changes: for names that come from a table."""
    check_key_path(path)
    try:
        status = os.stat(path)
    except OSError as error:
        raise ConfigError(f"private key {path}: {error.strerror}") from error
    return _key_of_file(path, status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


@lru_cache(maxsize=256)
def _key_of_file(path: str, *_identity: int) -> SigningKey:
    return load_signing_key(path)
