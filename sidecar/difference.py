"""What became of a message, as values, and these for a person to read.

Linear in the size of the two envelopes, whatever they hold: no alignment is sought, a
record that stands in one and not in the other is removed or added. Bodies are told
apart by identity and size; their bytes are not read.

Diagnostics: raises nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from msgspec import Struct
from rich.text import Text

from ..spool.body import Body
from ..spool.envelope import Directive, Envelope, Recipient
from ..spool.message import Message
from .cli.message_json import text as json_text
from .cli.terminal import escape, escape_lines

What = Literal["sender", "recipient", "delivered", "header", "variable", "setting", "queue", "body"]


class Change(Struct, frozen=True, kw_only=True):
    """One thing that is different: before is None for what was added, after for what was removed.

    name says which one where there are several (an ACL variable, a header field);
    before and after are whole, a header with its name and folds.
    """

    what: What
    name: str = ""
    before: bytes | None = None
    after: bytes | None = None


def compare(before: Message, after: Message, *, queue: str = "") -> tuple[Change, ...]:
    """What differs between two forms of a message, envelope first. queue: where it goes, if not the default."""
    if before is after and not queue:
        return ()
    changes: list[Change] = []
    old, new = before.envelope, after.envelope
    if queue:
        changes.append(Change(what="queue", after=queue.encode()))
    if old is not new:
        if old.sender != new.sender:
            changes.append(Change(what="sender", before=b"<%b>" % old.sender, after=b"<%b>" % new.sender))
        changes += _recipients(old, new)
        changes += _settings(old, new)
        changes += _headers(old, new)
    if before.body is not after.body:
        changes.append(Change(what="body", before=_body(before.body), after=_body(after.body)))
    return tuple(changes)


def _recipients(old: Envelope, new: Envelope) -> Iterator[Change]:
    if old.recipients is not new.recipients:
        for recipient in _only_in(old.recipients, new.recipients):
            yield Change(what="recipient", before=recipient)
        for recipient in _only_in(new.recipients, old.recipients):
            yield Change(what="recipient", after=recipient)
    for name in sorted(old.non_recipients - new.non_recipients):
        yield Change(what="delivered", before=name)
    for name in sorted(new.non_recipients - old.non_recipients):
        yield Change(what="delivered", after=name)


def _only_in(these: Iterable[Recipient], those: Iterable[Recipient]) -> Iterator[bytes]:
    left = Counter(recipient.address for recipient in those)
    for recipient in these:
        if left[recipient.address]:
            left[recipient.address] -= 1
        else:
            yield recipient.address


def _settings(old: Envelope, new: Envelope) -> Iterator[Change]:
    if old.directives is new.directives:
        return
    gone, come = dict(_named(old.directives)), dict(_named(new.directives))
    for (what, name), value in gone.items():
        if (what, name) not in come:
            yield Change(what=what, name=name, before=value)
    for (what, name), value in come.items():
        if gone.get((what, name)) != value:
            yield Change(what=what, name=name, before=gone.get((what, name)), after=value)


def _named(directives: Iterable[Directive]) -> Iterator[tuple[tuple[Literal["variable", "setting"], str], bytes]]:
    for directive in directives:
        if directive.variable is not None:
            yield ("variable", directive.variable), directive.value or b""
        else:
            yield ("setting", escape(directive.name)), directive.value or b""


def _headers(old: Envelope, new: Envelope) -> Iterator[Change]:
    if old.headers is new.headers:
        return
    before = [header for header in old.headers if header.is_sent]
    after = [header for header in new.headers if header.is_sent]
    left = Counter(header.raw for header in after)
    for header in before:
        if left[header.raw]:
            left[header.raw] -= 1
        else:
            yield Change(what="header", name=escape(header.name), before=header.raw)
    left = Counter(header.raw for header in before)
    for header in after:
        if left[header.raw]:
            left[header.raw] -= 1
        else:
            yield Change(what="header", name=escape(header.name), after=header.raw)


def _body(body: Body) -> bytes:
    return b"%d bytes%b" % (body.size, b", CRLF" if body.wireformat else b"")


def render(changes: Iterable[Change], *, unfolded: bool = False) -> Iterator[Text]:
    """Lines as of a diff, escaped. unfolded: each header field on one line, to be truncated by whoever prints it."""
    for change in changes:
        for sign, style, value in (("-", "red", change.before), ("+", "green", change.after)):
            if value is None:
                continue
            if change.what != "header":
                shown = " ".join(filter(None, (change.what, change.name))).encode() + b": " + value
            else:
                shown = b" ".join(value.split()) if unfolded else value.removesuffix(b"\n")
            for line in escape_lines(shown).split("\n"):
                yield Text(f"{sign} {line.expandtabs(4)}", style=style)


def document(changes: Iterable[Change]) -> list[dict[str, Any]]:
    """The changes for JSON; bytes that are not UTF-8 as ``{"b64": …}``."""
    return [
        {
            "what": change.what,
            "name": change.name,
            "before": json_text(change.before),
            "after": json_text(change.after),
        }
        for change in changes
    ]
