"""Certificates for tests of TLS: an authority, and a server's certificate under it.

Diagnostics: raises nothing of its own.
"""

from __future__ import annotations

import hashlib
import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


class Authority:
    """A new authority; issue() writes the files of a server."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Test Authority")])
        self.certificate = self._build(self._name, self._key.public_key(), is_authority=True, name=None, days=10)

    def _build(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, is_authority: bool, name: str | None, days: int
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        own = x509.SubjectKeyIdentifier.from_public_key(key)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=20))
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(own, critical=False)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=not is_authority, key_cert_sign=is_authority, crl_sign=is_authority,
                    content_commitment=False, key_encipherment=False, data_encipherment=False, key_agreement=False,
                    encipher_only=False, decipher_only=False,
                ),
                critical=True,
            )
        )  # fmt: skip
        if name is not None:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
            builder = (
                builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
                .add_extension(issuer, critical=False)
                .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            )
        return builder.sign(self._key, hashes.SHA256())

    def write(self, path: Path) -> Path:
        """The authority's certificate, as PEM."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path

    def issue(self, directory: Path, name: str, *, days: int = 10) -> tuple[x509.Certificate, Path, Path]:
        """A server's certificate, the file of its chain (with the authority's) and that of its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        own = self._build(subject, key.public_key(), is_authority=False, name=name, days=days)
        chain, secret = directory / f"{name}.pem", directory / f"{name}.key"
        chain.write_bytes(own.public_bytes(Encoding.PEM) + self.certificate.public_bytes(Encoding.PEM))
        secret.write_bytes(
            key.private_bytes(Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        )
        return own, chain, secret


def server_context(chain: Path, key: Path) -> ssl.SSLContext:
    """TLS as a server with these files speaks it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain, key)
    return context


def tlsa(
    certificate: x509.Certificate, *, usage: int, selector: int = 1, matching: int = 1
) -> tuple[int, int, int, bytes]:
    """The four fields of a TLSA record of certificate."""
    if selector == 0:
        data = certificate.public_bytes(Encoding.DER)
    else:
        data = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if matching:
        data = hashlib.new({1: "sha256", 2: "sha512"}[matching], data).digest()
    return usage, selector, matching, data


def tlsa_text(certificate: x509.Certificate, *, usage: int, selector: int = 1, matching: int = 1) -> str:
    """The same as it stands in a zone file."""
    fields = tlsa(certificate, usage=usage, selector=selector, matching=matching)
    return f"TLSA {fields[0]} {fields[1]} {fields[2]} {fields[3].hex()}"
