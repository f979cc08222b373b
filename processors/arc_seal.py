"""``arc-seal``: adds an ARC set, so that receivers further on can see what was verified here.

The seal vouches for the Authentication-Results of our own authserv-id, whoever wrote
them: forged ones must have been removed before, by Exim or by ``authentication-results``.
A message that has none is left alone. The ``cv`` of the seal is what a processor before this one found when it
verified the chain; without one, the chain is verified here, as the message then stands.

Diagnostics: the constructor raises ConfigError for names or keys that can't be used.
process() defers while DNS is in trouble, for as many attempts as configured: a
``cv=fail`` would stay on the message for ever.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

from msgspec import Meta

from ..errors import ConfigError
from ..spool.message import Message
from .api import Context, Phase, Processor, ProcessorConfig, Verdict, defer, proceed
from .authentication.arc_seal import DEFAULT_SEALED_HEADERS, FORBIDDEN_HEADERS, NotSealed, Sealer, seal
from .authentication.arc_verify import ArcResult, ArcSignatures
from .authentication.body_hash import SIGNING_REQUEST
from .authentication.keys import KeyLookup, SigningKey, load_signing_key
from .authentication.message import AuthenticatedMessage
from .authentication.signing import check_names
from .edits import AddHeader


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
    timestamps: Annotated[bool, Meta(description="Write t=, the time of sealing")] = True
    expire_seconds: Annotated[int, Meta(description="Write x= this many seconds after sealing; 0 for no x=", ge=0)] = 0
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
        check_names(config.domain, config.selector, config.sign_headers)
        self._key = load_signing_key(config.key_file)
        self._sealers: dict[str, tuple[str, str, SigningKey]] = {}
        for choice in config.keys:
            check_names(choice.domain, choice.selector, ())
            key = load_signing_key(choice.key_file)
            for recipient_domain in choice.recipient_domains:
                self._sealers.setdefault(recipient_domain.lower(), (choice.domain, choice.selector, key))

    def process(self, message: Message, context: Context) -> Verdict:
        """Seal message; go on without a seal, and say why, where there must or can be none."""
        authenticated = AuthenticatedMessage.from_message(message)
        address = _client_address(message)
        verified = next((result for result in reversed(context.results) if isinstance(result, ArcResult)), None)
        found_here: tuple[ArcResult, ...] = ()
        if verified is None:
            verified = self._verify(authenticated, context, address)
            found_here = (verified,)
        if verified.temporary and context.attempt <= self.config.dns_attempts:
            return defer(f"ARC chain not verified: {verified.reason}")
        sealed = seal(authenticated, verified, self._sealer(message, context), now=context.now, client_address=address)
        if isinstance(sealed, NotSealed):
            return proceed(results=found_here, reason=f"not sealed: {sealed.reason}")
        # Each goes above the one before.
        edits = [AddHeader(header) for header in reversed(sealed.headers)]
        return proceed(*edits, results=found_here, reason=f"sealed as i={sealed.instance}")

    @staticmethod
    def _verify(message: AuthenticatedMessage, context: Context, address: str) -> ArcResult:
        signatures = ArcSignatures(message)
        message.will_need((SIGNING_REQUEST,))
        keys = KeyLookup(context.resolver, context.deadline)
        return signatures.verify(keys, now=context.now, client_address=address)

    def _sealer(self, message: Message, context: Context) -> Sealer:
        domain, selector, key = self.config.domain, self.config.selector, self._key
        if self._sealers:
            for recipient in message.undelivered:
                recipient_domain = recipient.address.rpartition(b"@")[2].decode("utf-8", "replace").lower()
                if recipient_domain in self._sealers:
                    domain, selector, key = self._sealers[recipient_domain]
                    break
        return Sealer(
            authserv_id=self.config.authserv_id or context.authserv_id,
            domain=domain,
            selector=selector,
            key=key,
            headers=self.config.sign_headers,
            timestamps=self.config.timestamps,
            expire_seconds=self.config.expire_seconds or None,
        )


def _client_address(message: Message) -> str:
    """The client's IP address in canonical text; empty for local submission."""
    try:
        return str(ip_address((message.envelope.host_address or b"").decode("ascii")))
    except ValueError:
        return ""
