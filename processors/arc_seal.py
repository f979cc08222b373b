"""``arc-seal``: adds an ARC set, so that receivers further on can see what was verified here.

The seal vouches for the Authentication-Results of our own authserv-id, whoever wrote
them: forged ones must have been removed before, by Exim or by ``authentication-results``.
A message that has none is left alone. The ``cv`` of the seal is what a processor before this one found when it
verified the chain; without one, the chain is verified here, as the message then stands.

Which key seals: that of the key_table's line for the domain of an undelivered recipient,
else that of an entry of keys for it, else the one of the configuration as a whole. Keys
of the configuration are read when the processor is built, so a new key needs a reload;
those that a table names are read anew when their files have changed.

Diagnostics: the constructor raises ConfigError for names, keys or a table that can't be used.
process() defers while DNS is in trouble, for as many attempts as configured: a
``cv=fail`` would stay on the message for ever. It also defers where the table's line or
its key can't be used, until somebody has mended it; TableError goes through.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta
from msgspec.structs import replace

from ..errors import ConfigError
from ..spool.message import Message
from .api import Context, Phase, Processor, ProcessorConfig, Verdict, defer, proceed
from .authentication.arc_seal import DEFAULT_SEALED_HEADERS, FORBIDDEN_HEADERS, NotSealed, Sealer, seal
from .authentication.arc_verify import ArcResult, ArcSignatures
from .authentication.body_hash import SIGNING_REQUEST
from .authentication.client import client_address
from .authentication.domain_names import a_label_domain
from .authentication.keys import KeyLookup, SigningKey, key_from_file, load_signing_key
from .authentication.message import AuthenticatedMessage
from .authentication.seal_specification import SealOptions, parse_options, parse_specification
from .authentication.signature_check import Times
from .authentication.signing import check_header_names, check_names
from .edits import AddHeader
from .named_table import NamedTable


class ArcSealKey(ProcessorConfig, frozen=True):
    """A key for mail to certain recipients."""

    recipient_domains: Annotated[
        tuple[str, ...], Meta(description="Recipient domains, any of which selects this key", min_length=1)
    ]
    domain: Annotated[str, Meta(description="Signing domain (d=) of this key")]
    selector: Annotated[str, Meta(description="Selector (s=) of this key")]
    key_file: Annotated[str, Meta(description="Private key in PEM, not readable by others")]


class Config(ProcessorConfig, frozen=True):
    """What arc-seal may be told."""

    domain: Annotated[str, Meta(description="Signing domain: d= of the seal and the message signature")]
    selector: Annotated[str, Meta(description="Selector: where below domain the public key stands in DNS")]
    key_file: Annotated[str, Meta(description="Private key in PEM, RSA or Ed25519, not readable by others")]
    authserv_id: Annotated[
        str, Meta(description="Whose Authentication-Results are sealed; empty for that of the configuration as a whole")
    ] = ""
    keys: Annotated[
        tuple[ArcSealKey, ...],
        Meta(description="Other keys, chosen by the domain of an undelivered recipient; the first that matches"),
    ] = ()
    sign_headers: Annotated[
        tuple[str, ...], Meta(description="Header fields that the message signature covers where they are present")
    ] = DEFAULT_SEALED_HEADERS
    key_table: Annotated[
        str,
        Meta(
            description="Table such as 'partial-lmdb;/etc/mail/seal.mdb': recipient domain to"
            " 'domain : selector : /key/file [: options]', as in Exim's arc_sign"
        ),
    ] = ""
    timestamps: Annotated[bool, Meta(description="Write t=, the time of sealing")] = True
    expire_seconds: Annotated[int, Meta(description="Write x= this many seconds after sealing; 0 for no x=", ge=0)] = 0
    options: Annotated[
        str,
        Meta(description="Exim's option words, over the two above: 'timestamps', 'expire', 'expire=+N', 'expire=N'"),
    ] = ""
    dns_attempts: Annotated[
        int, Meta(description="How often a message is deferred for DNS before its chain counts as failed", ge=0)
    ] = 10


class ArcSeal(Processor[Config]):
    """Add the three header fields of an ARC set at the top (RFC 8617 section 5.1)."""

    phase = Phase.SEAL

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        forbidden = sorted(FORBIDDEN_HEADERS.intersection(name.lower() for name in config.sign_headers))
        if forbidden:
            raise ConfigError(f"a seal must not sign {forbidden[0]} (RFC 8617 4.1.2)", key="sign_headers")
        check_header_names(config.sign_headers)
        check_names(config.domain, config.selector)
        try:
            self._options = parse_options(config.options)
        except ConfigError as error:
            raise ConfigError(error.reason, key="options") from None
        self._table = NamedTable.parse(config.key_table, key="key_table") if config.key_table else None
        self._default = self._sealer(config.domain, config.selector, load_signing_key(config.key_file), self._options)
        self._sealers: dict[str, Sealer] = {}
        for number, choice in enumerate(config.keys):
            check_names(choice.domain, choice.selector)
            sealer = self._sealer(choice.domain, choice.selector, load_signing_key(choice.key_file), self._options)
            for recipient_domain in choice.recipient_domains:
                name = a_label_domain(recipient_domain)
                if name is None:
                    raise ConfigError(f"{recipient_domain!r} is not a domain", key=f"keys[{number}].recipient_domains")
                self._sealers.setdefault(name, sealer)

    def process(self, message: Message, context: Context) -> Verdict:
        """Seal message; go on without a seal, and say why, where there must or can be none."""
        authenticated = AuthenticatedMessage.from_message(message)
        address = client_address(message)
        verified = next((result for result in reversed(context.results) if isinstance(result, ArcResult)), None)
        found_here: tuple[ArcResult, ...] = ()
        if verified is None:
            verified = self._verify(authenticated, context, message.envelope.received_time, address)
            found_here = (verified,)
        if verified.temporary and context.attempt <= self.config.dns_attempts:
            return defer(f"ARC chain not verified: {verified.reason}")
        try:
            sealer = self._choose(message)
        except ConfigError as error:
            return defer(f"no key to seal with: {error.reason}")
        if not sealer.authserv_id:
            sealer = replace(sealer, authserv_id=context.authserv_id)
        sealed = seal(authenticated, verified, sealer, now=context.now, client_address=address)
        if isinstance(sealed, NotSealed):
            return proceed(results=found_here, reason=f"not sealed: {sealed.reason}")
        # Each goes above the one before.
        edits = [AddHeader(header) for header in reversed(sealed.headers)]
        return proceed(*edits, results=found_here, reason=f"sealed as i={sealed.instance}")

    @staticmethod
    def _verify(message: AuthenticatedMessage, context: Context, received: int, address: str) -> ArcResult:
        signatures = ArcSignatures(message)
        message.will_need((SIGNING_REQUEST,))
        keys = KeyLookup(context.resolver, context.deadline)
        return signatures.verify(keys, Times.of(context.now, received), client_address=address)

    def _sealer(self, domain: str, selector: str, key: SigningKey, options: SealOptions) -> Sealer:
        config = self.config
        expire_seconds = options.expire_seconds
        if expire_seconds is None and options.expires_at is None:
            expire_seconds = config.expire_seconds or None
        return Sealer(
            authserv_id=config.authserv_id,
            domain=domain,
            selector=selector,
            key=key,
            headers=config.sign_headers,
            timestamps=config.timestamps or options.timestamps,
            expire_seconds=expire_seconds,
            expires_at=options.expires_at,
        )

    def _choose(self, message: Message) -> Sealer:
        """The sealer for message; ConfigError for a line of the table that can't be used."""
        if self._table is None and not self._sealers:
            return self._default
        # Exim keeps what SMTPUTF8 brought as it was written; a domain is the same in either spelling.
        for domain in dict.fromkeys(
            a_label_domain(recipient.address.rpartition(b"@")[2]) for recipient in message.undelivered
        ):
            if domain is None:
                continue
            found = self._table.find(domain.encode()) if self._table is not None else None
            if found is not None:
                return self._from_table(found.value.decode("utf-8", "replace"))
            if domain in self._sealers:
                return self._sealers[domain]
        return self._default

    def _from_table(self, text: str) -> Sealer:
        chosen = parse_specification(text)
        options = self._options if chosen.options == SealOptions() else chosen.options
        key = chosen.key
        return self._sealer(key.domain, key.selector, key_from_file(key.key_file), options)
