"""``dkim-sign``: adds DKIM signatures with the keys that belong to the domain in From.

Every key that the key_table has for the author's domain makes one signature; without a
line for it there, every one of keys whose from_domains hold it. They stand in the order
of the table or the configuration: an RSA and an Ed25519 key side by side give two. Mail
whose From names several domains, or none that has a key, is left alone. Which mail counts
as our own is for ``when`` to say.

Diagnostics: the constructor raises ConfigError for names, keys or a table that can't be
used. process() defers where the table's line or its key can't be used, until somebody has
mended it; TableError goes through.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from ..errors import ConfigError
from ..spool.message import Message
from .api import Context, Phase, Processor, ProcessorConfig, Verdict, defer, proceed
from .authentication.author import find_author
from .authentication.canonicalization import Canonicalization
from .authentication.dkim_sign import DEFAULT_OVERSIGNED_HEADERS, DkimSigner, sign
from .authentication.domain_names import domain_or_below
from .authentication.keys import SigningKey, key_from_file, load_signing_key
from .authentication.message import AuthenticatedMessage
from .authentication.signing import DEFAULT_SIGNED_HEADERS, check_header_names, check_names, parse_key_specifications
from .edits import AddHeader
from .named_table import NamedTable

Algorithm = Literal["relaxed", "simple"]


class DkimKey(ProcessorConfig, frozen=True):
    """One key and whom it signs for."""

    domain: Annotated[str, Meta(description="Signing domain (d=)")]
    selector: Annotated[str, Meta(description="Selector (s=): where below domain the public key stands in DNS")]
    key_file: Annotated[str, Meta(description="Private key in PEM, RSA or Ed25519, not readable by others")]
    from_domains: Annotated[
        tuple[str, ...],
        Meta(description="From domains to sign for; empty for domain itself; '.example.org' for all below"),
    ] = ()
    identity: Annotated[
        str, Meta(description="i=, such as '@mail.example.org', within domain; empty to leave it out")
    ] = ""


class Config(ProcessorConfig, frozen=True):
    """What dkim-sign may be told."""

    keys: Annotated[tuple[DkimKey, ...], Meta(description="The keys; each that fits the From domain signs")] = ()
    key_table: Annotated[
        str,
        Meta(
            description="Table such as 'partial-lmdb;/etc/mail/dkim.mdb': From domain to"
            " 'domain : selector : /key/file', several with ';' between; before keys"
        ),
    ] = ""
    sign_headers: Annotated[
        tuple[str, ...], Meta(description="Header fields to sign where they are present; From always is")
    ] = DEFAULT_SIGNED_HEADERS
    oversign_headers: Annotated[
        tuple[str, ...], Meta(description="Of these, fields of which no further one may be added later")
    ] = DEFAULT_OVERSIGNED_HEADERS
    header_canonicalization: Annotated[Algorithm, Meta(description="First half of c=")] = "relaxed"
    body_canonicalization: Annotated[Algorithm, Meta(description="Second half of c=")] = "relaxed"
    timestamps: Annotated[bool, Meta(description="Write t=, the time of signing")] = True
    expire_seconds: Annotated[int, Meta(description="Write x= this many seconds after signing; 0 for no x=", ge=0)] = 0


class DkimSign(Processor[Config]):
    """Add a DKIM-Signature for every key that fits (RFC 6376 section 5)."""

    phase = Phase.SIGN

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        check_header_names((*config.sign_headers, *config.oversign_headers))
        if not config.keys and not config.key_table:
            raise ConfigError("neither keys nor key_table", key="keys")
        self._table = NamedTable.parse(config.key_table, key="key_table") if config.key_table else None
        self._signers: list[tuple[frozenset[str], DkimSigner]] = []
        for number, key in enumerate(config.keys):
            check_names(key.domain, key.selector)
            identity_domain = key.identity.rpartition("@")[2].lower()
            if key.identity and not ("@" in key.identity and f".{identity_domain}".endswith(f".{key.domain.lower()}")):
                raise ConfigError(f"{key.identity!r} is not within {key.domain}", key=f"keys[{number}].identity")
            signer = self._signer(key.domain, key.selector, load_signing_key(key.key_file), key.identity)
            names = [domain_or_below(domain) for domain in key.from_domains or (key.domain,)]
            if None in names:
                raise ConfigError("not a domain, nor a dot and one", key=f"keys[{number}].from_domains")
            self._signers.append((frozenset([name for name in names if name is not None]), signer))

    def process(self, message: Message, context: Context) -> Verdict:
        """Sign message with the keys of its author's domain."""
        authenticated = AuthenticatedMessage.from_message(message)
        author = find_author(authenticated.values(b"from"))
        if len(author.domains) != 1 or author.problem:
            return proceed(reason=f"not signed: {author.problem or 'From names no single domain'}")
        try:
            signers = self._choose(author.domains[0])
        except ConfigError as error:
            return defer(f"no key to sign with: {error.reason}")
        if not signers:
            return proceed(reason=f"not signed: no key for {author.domains[0]}")
        for signer in signers:
            authenticated.will_need((signer.body_request,))
        # Each goes above the one before: the first key of the configuration ends up topmost.
        edits = [AddHeader(sign(authenticated, signer, now=context.now)) for signer in reversed(signers)]
        return proceed(*edits, reason=f"signed by {len(signers)} keys")

    def _signer(self, domain: str, selector: str, key: SigningKey, identity: str = "") -> DkimSigner:
        config = self.config
        return DkimSigner(
            domain=domain,
            selector=selector,
            key=key,
            identity=identity,
            headers=config.sign_headers,
            oversigned=config.oversign_headers,
            header_canonicalization=Canonicalization(config.header_canonicalization.encode()),
            body_canonicalization=Canonicalization(config.body_canonicalization.encode()),
            timestamps=config.timestamps,
            expire_seconds=config.expire_seconds or None,
        )

    def _choose(self, domain: str) -> list[DkimSigner]:
        """Who signs for this author; ConfigError for a line of the table that can't be used."""
        found = self._table.find(domain.encode()) if self._table is not None else None
        if found is None:
            return [signer for domains, signer in self._signers if _covers(domains, domain)]
        keys = parse_key_specifications(found.value.decode("utf-8", "replace"))
        return [self._signer(key.domain, key.selector, key_from_file(key.key_file)) for key in keys]


def _covers(domains: frozenset[str], domain: str) -> bool:
    if domain in domains:
        return True
    labels = domain.split(".")
    return any("." + ".".join(labels[start:]) in domains for start in range(1, len(labels)))
