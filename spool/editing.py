"""Changes to an envelope, as functions from Envelope to Envelope.

What a function does not name stays byte for byte. What it writes is as Exim's own
writer would have it (spool_out.c): directives in Exim's order, ``aclc`` before
``aclm``, recipients plain or ``#3``.

Diagnostics: ValueError for a value that a spool file can't hold and for an index that
is out of range; the caller who took the value from outside reports it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final, Literal, TypeVar

from .body import Body, count_body
from .directive import Directive
from .envelope import Envelope, Header, Recipient
from .header_file import LONGEST_FIXED_LINE, MOST_RECIPIENTS
from .ids import MessageId
from .non_recipients import grow

_Item = TypeVar("_Item", Header, Recipient)

#: What fits a tree line with its two flags, space and LF.
LONGEST_TREE_NAME: Final = LONGEST_FIXED_LINE - 4

#: The order in which spool_out.c writes them.
_DIRECTIVE_ORDER: Final[Mapping[bytes, int]] = {
    name: place
    for place, name in enumerate((
        b"received_time_usec", b"received_time_complete", b"helo_name", b"host_address", b"host_name", b"host_auth",
        b"host_auth_pubname", b"interface_address", b"active_hostname", b"ident", b"received_protocol", b"acl",
        b"aclc", b"aclm", b"debug_selector", b"debuglog_name", b"spool_file_wireformat", b"body_linecount",
        b"max_received_linelength", b"body_zerocount", b"auth_id", b"auth_sender", b"allow_unqualified_recipient",
        b"allow_unqualified_sender", b"deliver_firsttime", b"frozen", b"N", b"host_lookup_deferred",
        b"host_lookup_failed", b"local", b"localerror", b"local_scan", b"spam_bar", b"spam_score", b"spam_score_int",
        b"manual_thaw", b"sender_set_untrusted", b"tls_certificate_verified", b"tls_cipher", b"tls_peercert",
        b"tls_peerdn", b"tls_sni", b"tls_ourcert", b"tls_ocsp", b"tls_resumption", b"tls_ver", b"smtputf8",
        b"utf8_downcvt", b"utf8_optdowncvt", b"dsn_envid", b"dsn_ret",
    ))
}  # fmt: skip


# Header fields


def add_header(envelope: Envelope, header: Header, *, at: Literal["top", "end"] = "top") -> Envelope:
    """One field more, above all records or below them."""
    headers = envelope.headers
    return envelope.replace(headers=(header, *headers) if at == "top" else (*headers, header))


def remove_header(envelope: Envelope, index: int, *, keep_record: bool = False) -> Envelope:
    """Without the record at index; with keep_record it stays as ``*``, not sent, as Exim keeps one."""
    header = _at(envelope.headers, index)
    kept = (Header("*", header.raw),) if keep_record else ()
    return envelope.replace(headers=envelope.headers[:index] + kept + envelope.headers[index + 1 :])


def replace_header(envelope: Envelope, index: int, header: Header) -> Envelope:
    """Another field in the place of the record at index."""
    _at(envelope.headers, index)
    return envelope.replace(headers=(*envelope.headers[:index], header, *envelope.headers[index + 1 :]))


# Envelope


def with_id(envelope: Envelope, message_id: MessageId) -> Envelope:
    """The same message under another id: only the first line changes."""
    return envelope.replace(id=message_id)


def set_sender(envelope: Envelope, sender: bytes) -> Envelope:
    """Another envelope sender, without angle brackets; empty for a bounce."""
    if any(byte in b"\n\r\0<>" for byte in sender) or len(sender) > LONGEST_FIXED_LINE - 3:
        raise ValueError(f"not a sender that a spool file can hold: {sender[:80]!r}")
    return envelope.replace(sender=sender)


def set_directive(envelope: Envelope, directive: Directive) -> Envelope:
    """The directive in the place of the last one of its name (others go), or at Exim's place for it.

    For an ACL variable the name is that of the variable.
    """
    return set_directives(envelope, (directive,))


def set_directives(envelope: Envelope, directives: Iterable[Directive]) -> Envelope:
    """Each directive set as set_directive() would, one after the other; of several with one name the last stands."""
    wanted = {_full_name(directive): directive for directive in directives}
    missing = dict(wanted)
    kept: list[Directive] = []
    for other in reversed(envelope.directives):
        name = _full_name(other)
        if name not in wanted:
            kept.append(other)
        elif name in missing:
            kept.append(missing.pop(name))
    kept.reverse()
    # What is new: the directives of one place of Exim's order stand together.
    by_place: dict[int, list[Directive]] = {}
    for directive in missing.values():
        by_place.setdefault(_DIRECTIVE_ORDER.get(directive.name, len(_DIRECTIVE_ORDER)), []).append(directive)
    for place, added in by_place.items():
        later = (at for at, other in enumerate(kept) if _DIRECTIVE_ORDER.get(other.name, -1) > place)
        at = next(later, len(kept))
        kept[at:at] = added
    return envelope.replace(directives=tuple(kept))


def remove_directive(envelope: Envelope, name: bytes) -> Envelope:
    """Without the single-line directives of that name."""
    kept = tuple(other for other in envelope.directives if other.variable is not None or other.name != name)
    return envelope.replace(directives=kept) if len(kept) != len(envelope.directives) else envelope


def set_variable(
    envelope: Envelope, variable: str, value: bytes, *, tainted: bool = False, quoter: bytes | None = None
) -> Envelope:
    """The ACL variable (``acl_m_foo``, ``acl_c0``) with that value, in its group of lines."""
    return set_directive(envelope, Directive.make_variable(variable, value, tainted=tainted, quoter=quoter))


def remove_variable(envelope: Envelope, variable: str) -> Envelope:
    """Without that ACL variable."""
    kept = tuple(other for other in envelope.directives if other.variable != variable)
    return envelope.replace(directives=kept) if len(kept) != len(envelope.directives) else envelope


def freeze(envelope: Envelope, now: int) -> Envelope:
    """Frozen since now (Unix seconds), as ``exim -Mf`` does it (queue.c)."""
    return set_directive(remove_directive(envelope, b"manual_thaw"), Directive.make(b"frozen", b"%d" % now))


def thaw(envelope: Envelope) -> Envelope:
    """Thawed, as ``exim -Mt`` does it: a system filter can't freeze the message again."""
    if not envelope.is_frozen:
        return envelope
    return set_directive(remove_directive(envelope, b"frozen"), Directive.make(b"manual_thaw"))


# Recipients


def add_recipient(envelope: Envelope, recipient: Recipient) -> Envelope:
    """One recipient more, at the end of the list."""
    return set_recipients(envelope, (*envelope.recipients, recipient))


def set_recipients(envelope: Envelope, recipients: Iterable[Recipient]) -> Envelope:
    """Exactly these recipients, whose parents count in the new list."""
    listed = tuple(recipients)
    if not 1 <= len(listed) <= MOST_RECIPIENTS:
        # Exim deletes a message without recipients, and refuses one with more.
        raise ValueError(f"a message has 1 to {MOST_RECIPIENTS} recipients, not {len(listed)}")
    if any(not -1 <= recipient.parent < len(listed) for recipient in listed):
        raise ValueError("the parent of a recipient is outside of the list")
    return modern_recipients(envelope.replace(recipients=listed))


def keep_recipients(envelope: Envelope, indexes: Collection[int]) -> Envelope:
    """Only the recipients at indexes; a parent that goes leaves its children without one."""
    kept = sorted(set(indexes))
    for index in kept:
        _at(envelope.recipients, index)
    new_index = {old: new for new, old in enumerate(kept)}
    return set_recipients(envelope, (_with_parent(envelope.recipients[old], new_index) for old in kept))


def remove_recipients(envelope: Envelope, indexes: Collection[int]) -> Envelope:
    """All recipients but those at indexes."""
    gone = set(indexes)
    for index in gone:
        _at(envelope.recipients, index)
    return keep_recipients(envelope, [index for index in range(len(envelope.recipients)) if index not in gone])


def redirect_recipient(envelope: Envelope, index: int, address: bytes) -> Envelope:
    """Another address for the recipient at index; its ORCPT and NOTIFY stay (RFC 3461 5.2.7)."""
    old = _at(envelope.recipients, index)
    new = Recipient.make(
        address, orcpt=old.orcpt, dsn_flags=old.dsn_flags, errors_to=old.errors_to, parent=old.parent
    )  # fmt: skip
    return set_recipients(envelope, (*envelope.recipients[:index], new, *envelope.recipients[index + 1 :]))


def modern_recipients(envelope: Envelope) -> Envelope:
    """Every recipient plain or ``#3``: of ``#1`` and ``#2`` Exim since 4.86 loses a byte or the flags."""
    if all(_is_modern(recipient) for recipient in envelope.recipients):
        return envelope
    return envelope.replace(recipients=tuple(_modernised(recipient) for recipient in envelope.recipients))


def add_non_recipients(envelope: Envelope, names: Iterable[bytes]) -> Envelope:
    """These names in the non-recipients tree too, inserted in their order as Exim would.

    The envelope itself if it has them all.
    """
    missing = [name for name in names if name not in envelope.non_recipients]
    if not missing:
        return envelope
    for name in missing:
        if not 1 <= len(name) <= LONGEST_TREE_NAME or b"\n" in name or b"\0" in name:
            raise ValueError(f"not a name that the tree can hold: {name[:80]!r}")
    return envelope.replace(tree=grow(envelope.tree, missing))


# Body


def with_body(envelope: Envelope, body: Body) -> Envelope:
    """The envelope for that body: its format and its counts, in one pass over it.

    body_linecount has to be exact, since Exim announces sizes with it (transport.c).
    max_received_linelength counts the lines of the sent header fields, too (receive.c).
    A local-format body that is not empty must end with LF, since Exim puts its final dot
    behind it: else ValueError.
    """
    counts = count_body(body)
    if not body.wireformat and not counts.ends_with_line_end:
        raise ValueError("a body in local format has to end with LF")
    header_lines = (line for header in envelope.headers if header.is_sent for line in header.raw.split(b"\n"))
    longest = max(counts.longest_line, max(map(len, header_lines), default=0))
    if body.wireformat:
        envelope = remove_directive(envelope, b"body_linecount")
        envelope = set_directive(envelope, Directive.make(b"spool_file_wireformat"))
    else:
        envelope = remove_directive(envelope, b"spool_file_wireformat")
        envelope = set_directive(envelope, Directive.make(b"body_linecount", b"%d" % counts.lines))
    envelope = set_directive(envelope, Directive.make(b"max_received_linelength", b"%d" % longest))
    if not counts.zeros:
        return remove_directive(envelope, b"body_zerocount")
    return set_directive(envelope, Directive.make(b"body_zerocount", b"%d" % counts.zeros))


def _full_name(directive: Directive) -> str | bytes:
    """What a directive is the value of: an ACL variable, as text, or the name itself."""
    return directive.name if directive.variable is None else directive.variable


def _with_parent(recipient: Recipient, new_index: Mapping[int, int]) -> Recipient:
    parent = new_index.get(recipient.parent, -1)
    return recipient if parent == recipient.parent else _made(recipient, parent)


def _made(recipient: Recipient, parent: int) -> Recipient:
    return Recipient.make(
        recipient.address,
        orcpt=recipient.orcpt,
        dsn_flags=recipient.dsn_flags,
        errors_to=recipient.errors_to,
        parent=parent,
    )


def _is_modern(recipient: Recipient) -> bool:
    raw = recipient.raw
    return raw.endswith(b"#3\n") or len(raw) == len(recipient.address) + 1


def _modernised(recipient: Recipient) -> Recipient:
    return recipient if _is_modern(recipient) else _made(recipient, recipient.parent)


def _at(values: Sequence[_Item], index: int) -> _Item:
    if not 0 <= index < len(values):
        raise ValueError(f"there is no element {index} among {len(values)}")
    return values[index]
