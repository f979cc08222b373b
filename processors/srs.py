"""``srs``: the sender rewritten for what is really forwarded, and bounces sent back.

Forward: a message from outside to a recipient outside (or to one of ours whom Exim
forwards, as ``forwarded`` says) gets a sender at our domain. Whoever of the recipients is
local keeps the original sender: the message is divided. Reverse: in mail from the null
sender a recipient that is an SRS address at our domain becomes the address it stands for.

Diagnostics: the constructor raises ConfigError for secrets open to others and tables that
can't be read; process() raises TableError (a TemporaryError) and nothing else. An
address that can't be rewritten is left alone, with a log line.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from ..errors import ConfigError
from ..spool.message import Message
from .api import Context, Part, Phase, Processor, ProcessorConfig, Verdict, proceed, split
from .authentication.domain_names import a_label_domain
from .conditions import Items, domain_of
from .edits import Edit, RedirectRecipient, SetSender
from .patterns import AddressPatterns, DomainPatterns
from .srs_codec import looks_like_srs
from .srs_settings import Dialect, make_codec, read_secrets


class SrsConfig(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    domain: Annotated[str, Meta(description="Our domain in rewritten addresses; its bounces must come to this Exim.")]
    secret_file: Annotated[
        str, Meta(description="Secrets, one a line: the first signs, all verify. Not readable by others.")
    ]
    local_domains: Annotated[
        Items,
        Meta(description="Domains that are ours: their senders are not rewritten, their recipients not forwarded."),
    ]
    dialect: Annotated[
        Dialect, Meta(description="exim: as ${srs_encode} and inbound_srs; standard: as postsrsd and libsrs2.")
    ] = "exim"
    forwarded: Annotated[
        Items | None, Meta(description="Recipients in local_domains whom Exim forwards elsewhere: addresses, tables.")
    ] = None
    except_senders: Annotated[
        Items | None, Meta(description="Domains of senders that are never rewritten (those without SPF, say).")
    ] = None
    except_recipients: Annotated[
        Items | None, Meta(description="Domains to which the sender is never rewritten (hosts that we relay for).")
    ] = None
    submission: Annotated[
        bool, Meta(description="Rewrite what authenticated clients and local programs send, too.")
    ] = False
    forward: Annotated[bool, Meta(description="Rewrite senders.")] = True
    reverse: Annotated[bool, Meta(description="Send bounces back.")] = True
    separator: Annotated[str, Meta(description="What follows SRS0 and SRS1; standard only.")] = "="
    hash_length: Annotated[int, Meta(description="Characters of the hash; standard only.")] = 4
    minimum_hash_length: Annotated[int, Meta(description="The fewest accepted; standard only.")] = 4
    max_age_days: Annotated[
        Annotated[int, Meta(ge=0, le=1023)] | None,
        Meta(description="How long an address is good for bounces; unset: 10 for exim, 21 for standard."),
    ] = None


class Srs(Processor[SrsConfig]):
    """Rewrite senders of forwarded mail, and send its bounces back."""

    phase = Phase.MODIFY

    def __init__(self, config: SrsConfig) -> None:
        super().__init__(config)
        domain = a_label_domain(config.domain)
        if domain is None:
            raise ConfigError(f'"{config.domain}" is no domain', key="config.domain")
        self._domain = domain
        try:
            self._codec = make_codec(
                config.dialect,
                read_secrets(config.secret_file),
                separator=config.separator,
                hash_length=config.hash_length,
                minimum_hash_length=config.minimum_hash_length,
                max_age_days=config.max_age_days,
            )
        except ConfigError as error:
            raise ConfigError(error.reason, key=f"config.{error.key}" if error.key else "config") from error
        self._local = _domains(config.local_domains, "local_domains")
        self._except_senders = _domains(config.except_senders, "except_senders")
        self._except_recipients = _domains(config.except_recipients, "except_recipients")
        self._forwarded = (
            None if config.forwarded is None else AddressPatterns(_items(config.forwarded), key="config.forwarded")
        )

    def process(self, message: Message, context: Context) -> Verdict:
        """Rewrite the sender for those who are forwarded, or the recipients of a bounce."""
        if not message.sender:
            return self._send_back(message, context) if self.config.reverse else proceed()
        if not self.config.forward or not self._is_rewritten(message):
            return proceed()
        # A recipient with a bounce address of its own is not sent with the sender's (deliver.c).
        forwarded = tuple(
            dict.fromkeys(
                recipient.address
                for recipient in message.undelivered
                if not recipient.errors_to and self._is_forwarded(recipient.address)
            )
        )
        if not forwarded:
            return proceed()
        rewritten = self._codec.forward(message.sender, self._domain, context.now)
        if rewritten.problem:
            context.log.warning("srs.not_rewritten", reason=rewritten.problem)
            return proceed(reason=f"the sender is not rewritten: {rewritten.problem}")
        edit = SetSender(rewritten.address)
        others = {recipient.address for recipient in message.undelivered}.difference(forwarded)
        if not others:
            return proceed(edit)
        return split(
            Part(tuple(others)), Part(forwarded, (edit,)), reason="only some recipients are forwarded"
        )  # fmt: skip

    def _is_rewritten(self, message: Message) -> bool:
        envelope = message.envelope
        if not self.config.submission and (not envelope.host_address or envelope.host_auth is not None):
            return False
        domain = domain_of(message.sender)
        return (
            domain not in {b"", self._domain.encode()}
            and not (self._local is not None and self._local.match(domain))
            and not (self._except_senders is not None and self._except_senders.match(domain))
        )

    def _is_forwarded(self, address: bytes) -> bool:
        domain = domain_of(address)
        if not domain or domain == self._domain.encode():
            return False
        if self._except_recipients is not None and self._except_recipients.match(domain):
            return False
        if self._local is None or not self._local.match(domain):
            return True
        return self._forwarded is not None and self._forwarded.match(address)

    def _send_back(self, message: Message, context: Context) -> Verdict:
        edits: list[Edit] = []
        for address in dict.fromkeys(recipient.address for recipient in message.undelivered):
            if domain_of(address) != self._domain.encode() or not looks_like_srs(address):
                continue
            original = self._codec.reverse(address, context.now)
            if original.problem:
                context.log.info("srs.not_reversed", reason=original.problem)
            elif original.address != address:
                edits.append(RedirectRecipient(address, original.address))
        return proceed(*edits)


def _items(items: Items) -> tuple[str, ...]:
    return (items,) if isinstance(items, str) else items


def _domains(items: Items | None, key: str) -> DomainPatterns | None:
    return None if items is None or items in ((), "") else DomainPatterns(_items(items), key=f"config.{key}")
