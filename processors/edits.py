"""Edits are values; one pure function applies them.

Header bytes that no edit names stay byte for byte. Dry run, trace and audit print the
same list.

Diagnostics: the constructors here raise ValueError for what a spool file can't hold;
apply() and divide() for an edit that doesn't fit the message (an index or a place out of range).
The engine wraps both as ProcessorError.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from ..spool import editing
from ..spool.body import Body, BytesBody, SplicedBody
from ..spool.envelope import Directive, Envelope, Header, Recipient
from ..spool.message import Message


class AddHeader(Struct, frozen=True, tag="add_header"):
    """Add one field, above all others or below them."""

    header: Header
    at: Literal["top", "end"] = "top"


class RemoveHeader(Struct, frozen=True, tag="remove_header"):
    """Remove the header record at index in message.headers."""

    index: int


class ReplaceHeader(Struct, frozen=True, tag="replace_header"):
    """Put header in the place of the record at index in message.headers."""

    index: int
    header: Header


class SetSender(Struct, frozen=True, tag="set_sender"):
    """Another envelope sender; empty for a bounce."""

    sender: bytes


class AddRecipient(Struct, frozen=True, tag="add_recipient"):
    """One more envelope recipient."""

    recipient: Recipient


class RemoveRecipient(Struct, frozen=True, tag="remove_recipient"):
    """Take an address off the envelope, wherever it stands in the list."""

    address: bytes


class RedirectRecipient(Struct, frozen=True, tag="redirect_recipient"):
    """Another address in the place of one, with its DSN parameters kept."""

    address: bytes
    new_address: bytes


class SetVariable(Struct, frozen=True, tag="set_variable"):
    """Set an ACL variable (``acl_m_foo``), which Exim's routers and transports see."""

    directive: Directive


class SetQueue(Struct, frozen=True, tag="set_queue"):
    """Requeue into this queue of Exim, "" for the default one, instead of the configured one."""

    queue: str


class ReplaceBody(Struct, frozen=True, tag="replace_body"):
    """Another body; Exim's counts of it are made anew."""

    body: Body


class InsertIntoBody(Struct, frozen=True, tag="insert_into_body"):
    """Put content into the body at position, in bytes of the body as given; all else stays, and is not copied.

    content has the line ends of the body: CRLF if message.body.wireformat, else LF.
    """

    position: int
    content: bytes


Edit = (
    AddHeader
    | RemoveHeader
    | ReplaceHeader
    | SetSender
    | AddRecipient
    | RemoveRecipient
    | RedirectRecipient
    | SetVariable
    | SetQueue
    | ReplaceBody
    | InsertIntoBody
)


def add_header(name: str | bytes, value: str | bytes, at: Literal["top", "end"] = "top") -> AddHeader:
    """Add ``name: value``; ValueError where that would be no single header field."""
    return AddHeader(Header.make(_encode(name), _encode(value)), at)


def set_variable(variable: str, value: str | bytes) -> SetVariable:
    """Set ``acl_m_…`` or ``acl_c_…``; ValueError for a bad name, or NUL in value."""
    return SetVariable(Directive.make_variable(variable, _encode(value)))


def add_recipient(address: str | bytes) -> AddRecipient:
    """Add an envelope recipient; ValueError for what can't be one."""
    return AddRecipient(Recipient.make(_encode(address)))


def set_queue(queue: str) -> SetQueue:
    """Requeue into queue; ValueError for what is no name of an Exim queue."""
    # "@" stands between number and queue in the name of a staged -H (requeue/job.py).
    is_printable = queue.isascii() and queue.isprintable()
    if len(queue) > 64 or "/" in queue or "@" in queue or queue in {".", ".."} or not is_printable:
        raise ValueError(f"not the name of a queue: {queue!r}")
    return SetQueue(queue)


def replace_body(content: bytes) -> ReplaceBody:
    """Another body, in LF lines; a last line without LF gets one, as Exim demands (transport.c)."""
    return ReplaceBody(BytesBody(content if not content or content.endswith(b"\n") else content + b"\n"))


def _encode(text: str | bytes) -> bytes:
    return text.encode() if isinstance(text, str) else text


class Applied(Struct, frozen=True, kw_only=True):
    """A message after edits; queue is None where no edit named one."""

    message: Message
    body_replaced: bool = False
    queue: str | None = None


def apply(message: Message, edits: tuple[Edit, ...]) -> Applied:
    """The message after edits, in order. Indexes and places are those of the message as given.

    Each field added at the top goes above all others: the one listed last ends up topmost.
    What goes into the body at one place stands in the order listed.
    """
    if not edits:
        return Applied(message=message)
    envelope, body = message.envelope, message.body
    queue: str | None = None
    changed: dict[int, Header | None] = {}
    top: list[Header] = []
    end: list[Header] = []
    variables: list[Directive] = []
    insertions: list[tuple[int, bytes]] = []
    for edit in edits:
        match edit:
            case SetVariable():
                variables.append(edit.directive)
            case AddHeader(at="top"):
                top.insert(0, edit.header)
            case AddHeader():
                end.append(edit.header)
            case RemoveHeader():
                changed[_checked(edit.index, envelope)] = None
            case ReplaceHeader():
                changed[_checked(edit.index, envelope)] = edit.header
            case SetQueue():
                queue = edit.queue
            case ReplaceBody():
                body = edit.body
            case InsertIntoBody():
                insertions.append((edit.position, edit.content))
            case _:
                envelope = _edit_envelope(envelope, edit)
    if variables:
        envelope = editing.set_directives(envelope, variables)
    if changed or top or end:
        kept = [changed.get(index, header) for index, header in enumerate(message.headers)]
        envelope = envelope.replace(headers=(*top, *[header for header in kept if header is not None], *end))
    if insertions:
        if body is not message.body:
            raise ValueError("a body that is replaced has no places to insert at: put it into the new one")
        body = SplicedBody(body, insertions)
    if body is not message.body:
        envelope = editing.with_body(envelope, body)
    return Applied(message=Message(envelope, body), body_replaced=body is not message.body, queue=queue)


def _checked(index: int, envelope: Envelope) -> int:
    if not 0 <= index < len(envelope.headers):
        raise ValueError(f"there is no header record {index}; the message has {len(envelope.headers)}")
    return index


def _edit_envelope(
    envelope: Envelope, edit: SetSender | AddRecipient | RemoveRecipient | RedirectRecipient
) -> Envelope:
    match edit:
        case SetSender():
            return editing.set_sender(envelope, edit.sender)
        case AddRecipient():
            return editing.add_recipient(envelope, edit.recipient)
        case RemoveRecipient():
            return editing.remove_recipients(envelope, _places(envelope, edit.address))
        case RedirectRecipient():
            for index in _places(envelope, edit.address):
                envelope = editing.redirect_recipient(envelope, index, edit.new_address)
            return envelope


def _places(envelope: Envelope, address: bytes) -> list[int]:
    return [index for index, recipient in enumerate(envelope.recipients) if recipient.address == address]


def divide(message: Message, parts: tuple[tuple[bytes, ...], ...]) -> tuple[Message | None, ...]:
    """The message divided by recipients: one message a part, None for a part that gets nobody.

    An address belongs to the first part that names it; those that no part names, to the
    first part. So every recipient is in exactly one.
    """
    owner = {address: number for number, part in reversed(list(enumerate(parts))) for address in part}
    indexes: list[list[int]] = [[] for _ in parts]
    for index, recipient in enumerate(message.envelope.recipients):
        indexes[owner.get(recipient.address, 0)].append(index)
    return tuple(
        Message(editing.keep_recipients(message.envelope, mine), message.body) if mine else None for mine in indexes
    )
