"""``dane``: what DANE says of each recipient domain, before Exim delivers.

Nothing is decided here and no host is connected to. ``acl_m_dane`` gets a list of
``domain=status``, which an Exim transport reads with ``${extract{$domain}{$acl_m_dane}}``
and turns into ``hosts_require_dane``; docs/processors/dane.md shows it. So a message to
many domains stays one message.

Diagnostics: the constructor raises ConfigError. process() raises TemporaryError with
on_temperror = "defer" alone, and TableError for a table in trouble; DNS trouble is the
status ``temperror``.
"""

from __future__ import annotations

import re
import time
from typing import Annotated, Final, Literal

from msgspec import Meta

from ..errors import ConfigError
from ..lookups.dane import DaneStatus, DomainDane, preflight
from ..spool.message import Message
from .api import Context, Phase, Processor, ProcessorConfig, Verdict, defer, proceed
from .authentication.domain_names import a_label_domain
from .conditions import Items, domain_of
from .edits import set_variable
from .patterns import DomainPatterns

_PLAIN: Final = re.compile(rb"[a-z0-9_.-]{1,253}")


class DaneConfig(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    variable: Annotated[str, Meta(description="ACL variable that gets the list of domain=status.")] = "acl_m_dane"
    port: Annotated[int, Meta(description="The port that mail is delivered to.", ge=1, le=65535)] = 25
    except_domains: Annotated[
        Items | None, Meta(description="Recipient domains not looked at: ours, those with a smarthost; tables.")
    ] = None
    maximum_domains: Annotated[
        int, Meta(description="Domains looked at in one message; what is beyond gets no status.", ge=1, le=1000)
    ] = 50
    timeout_seconds: Annotated[
        float, Meta(description="For all questions of one message; then the status is temperror.", gt=0)
    ] = 20.0
    on_temperror: Annotated[
        Literal["annotate", "defer"], Meta(description="On DNS trouble: say so, or try the message again later.")
    ] = "annotate"


class Dane(Processor[DaneConfig]):
    """Look at MX, addresses and TLSA records of every recipient domain."""

    phase = Phase.MODIFY

    def __init__(self, config: DaneConfig) -> None:
        super().__init__(config)
        try:
            set_variable(config.variable, b"")
        except ValueError as error:
            raise ConfigError(str(error), key="config.variable") from error
        items = (config.except_domains,) if isinstance(config.except_domains, str) else config.except_domains
        self._except = None if items is None else DomainPatterns(items, key="config.except_domains")

    def process(self, message: Message, context: Context) -> Verdict:
        """Annotate message."""
        deadline = min(context.deadline, time.monotonic() + self.config.timeout_seconds)
        found = [
            (domain, preflight(context.resolver, name, port=self.config.port, deadline=deadline))
            for domain, name in self._domains(message).items()
        ]
        if not found:
            return proceed()
        trouble = [result for _, result in found if result.status is DaneStatus.TEMPERROR]
        if trouble and self.config.on_temperror == "defer":
            return defer(_explain(trouble[0]))
        value = b" ".join(domain + b"=" + result.status.value.encode() for domain, result in found)
        return proceed(
            set_variable(self.config.variable, value), reason="; ".join(_explain(result) for _, result in found)
        )

    def _domains(self, message: Message) -> dict[bytes, str]:
        """Recipient domains as Exim's $domain has them, and as DNS is asked."""
        domains: dict[bytes, str] = {}
        for recipient in message.undelivered:
            domain = domain_of(recipient.address)
            if domain in domains or len(domains) == self.config.maximum_domains:
                continue
            name = a_label_domain(domain)
            if name is None or (self._except is not None and self._except.match(domain)):
                continue
            # What is not plain in $domain has no place in a list for ${extract}.
            domains[domain if _PLAIN.fullmatch(domain) else name.encode()] = name
        return domains


def _explain(result: DomainDane) -> str:
    hosts = ", ".join(
        f"{host.host} {host.status.value}{f' ({host.reason})' if host.reason else ''}" for host in result.hosts[:5]
    )
    detail = result.reason or hosts
    return f"{result.domain}: {result.status.value}{f' ({detail})' if detail else ''}"
