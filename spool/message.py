"""A message: its envelope and its body, the value that everything else works on.

Diagnostics: raises nothing of its own.
"""

from __future__ import annotations

from msgspec import Struct

from .body import Body
from .envelope import Envelope, Header, Recipient, unique_form
from .ids import MessageId

__all__ = ["Message", "unique_form"]


class Message(Struct, frozen=True):
    """What a processor sees. Editing makes a new value; the files stay as they are."""

    envelope: Envelope
    body: Body

    @property
    def id(self) -> MessageId:
        """The Exim message id."""
        return self.envelope.id

    @property
    def sender(self) -> bytes:
        """The envelope sender; empty for a bounce."""
        return self.envelope.sender

    @property
    def headers(self) -> tuple[Header, ...]:
        """All header records, ``*`` ones included; see header_fields() for those that are sent."""
        return self.envelope.headers

    @property
    def sent_headers(self) -> tuple[Header, ...]:
        """The header fields that are transmitted, top to bottom."""
        return tuple(header for header in self.envelope.headers if header.flag != "*")

    @property
    def size(self) -> int:
        """$message_size, in bytes."""
        return self.envelope.message_size(self.body.size)

    @property
    def undelivered(self) -> tuple[Recipient, ...]:
        """Recipients that still have to get the message: the list minus the tree (spool_in.c)."""
        envelope = self.envelope
        return tuple(recipient for recipient in envelope.recipients if not envelope.is_delivered(recipient))
