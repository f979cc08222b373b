"""A respool processor in one file: tells readers that a message came from outside.

It adds a header field, never a word to Subject or body: that would break the author's
DKIM signature wherever the message is forwarded to. Mail clients and sieve scripts show or
act on the field. A field of that name that came in is removed, since it could be forged;
so is one that a signature covers, whose loss that signature then notices.

    [[processor]]
    use = "/etc/respool/plugins/external_sender_note.py:ExternalSenderNote"
    config = { our_domains = ["example.org"] }
"""

from __future__ import annotations

import re
from typing import Annotated, Final

from msgspec import Meta

from respool import Context, Message, Processor, ProcessorConfig, RemoveHeader, Verdict, add_header, proceed

_NOT_OF_A_DOMAIN: Final = re.compile(rb"[^A-Za-z0-9.-]")


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    our_domains: Annotated[tuple[str, ...], Meta(description="Domains whose own mail is not marked.", min_length=1)]
    header: Annotated[str, Meta(description="The field that is added.")] = "X-External-Sender"


class ExternalSenderNote(Processor[Config]):
    """Mark mail that neither came from an authenticated client nor passed DMARC for a domain of ours."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._name = config.header.encode()
        self._ours = frozenset(domain.lower() for domain in config.our_domains)

    def process(self, message: Message, context: Context) -> Verdict:
        """Remove the field wherever it stands, and add it where it belongs."""
        forged = [RemoveHeader(index) for index, header in enumerate(message.headers) if header.is_named(self._name)]
        if self._is_ours(message, context):
            return proceed(*forged)
        # Whoever wrote the sender wrote the domain: only what a domain is made of gets into a header.
        domain = _NOT_OF_A_DOMAIN.sub(b"?", message.sender.rpartition(b"@")[2]).decode()
        return proceed(*forged, add_header(self.config.header, f"yes; domain={domain or 'none'}"))

    def _is_ours(self, message: Message, context: Context) -> bool:
        """True for submission, and for a DMARC pass of one of our domains: the sender alone can be forged."""
        if message.envelope.host_address is None or message.envelope.host_auth is not None:
            return True
        return any(
            result.method == "dmarc" and result.result == "pass" and getattr(result, "author_domain", "") in self._ours
            for result in context.results
        )
