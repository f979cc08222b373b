"""Whether what process() returned is a verdict that can be carried out.

Structs check no types when they are made, and a field or recipient made by hand may hold
what would end the header section or the line of a spool file. So everything a processor
returns is looked at once, before it leaves the boundary around the processor.

Diagnostics: TypeError and ValueError say what is wrong; the engine wraps them as
ProcessorError, as it does everything else that a processor raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from msgspec.structs import replace

from ..errors import clean
from ..spool.body import BytesBody, FileBody
from ..spool.directive import Directive
from ..spool.envelope import Header, Recipient
from ..spool.message import Message
from .api import Bounce, Defer, Discard, Freeze, Hold, Part, Proceed, Split, Verdict
from .edits import (
    AddHeader,
    AddRecipient,
    Edit,
    InsertIntoBody,
    RedirectRecipient,
    RemoveHeader,
    RemoveRecipient,
    ReplaceBody,
    ReplaceHeader,
    SetQueue,
    SetSender,
    SetVariable,
    set_queue,
)
from .results import AuthResult, Property, Result

_HEADER_FLAGS: Final = frozenset(" FTCBIPRS*")
#: A field name, then lines that each end, later ones beginning with a space or tab and holding something else.
_FIELD: Final = re.compile(rb"[!-9;-~]+[ \t]*:[^\n\0\r]*\n(?:[ \t]+[^ \t\n\0\r][^\n\0\r]*\n)*")
_STATUS: Final = re.compile(r"[245]\.[0-9]{1,3}\.[0-9]{1,3}")


def check_verdict(verdict: object, message: Message) -> Verdict:
    """The verdict itself, its reasons made clean. Raises TypeError and ValueError."""
    match verdict:
        case Proceed():
            _edits(verdict.edits, message)
            for result in _tuple(verdict.results, "results"):
                _result(result)
        case Freeze():
            _edits(verdict.edits, message)
        case Discard() | Hold():
            pass
        case Bounce():
            if _STATUS.fullmatch(_is(verdict.status, str, "status")) is None:
                raise ValueError(f"{verdict.status!r} is no enhanced status code")
        case Defer():
            wait: Any = verdict.retry_after
            if wait is not None and not (isinstance(wait, int | float) and math.isfinite(wait) and wait >= 0):
                raise ValueError(f"retry_after is {wait!r}, not a number of seconds")
        case Split():
            return _split(verdict, message)
        case _:
            raise TypeError(f"process() returned {type(verdict).__name__}, not a verdict")
    return _with_clean_reason(verdict)


def _with_clean_reason(verdict: Verdict) -> Verdict:
    reason = clean(_is(verdict.reason, str, "reason"))
    return verdict if reason is verdict.reason else replace(verdict, reason=reason)


def _split(verdict: Split, message: Message) -> Verdict:
    parts = _tuple(verdict.parts, "parts")
    if not parts:
        raise ValueError("a split into no parts")
    for part in parts:
        _is(part, Part, "a part")
        for address in _tuple(part.recipients, "recipients of a part"):
            _is(address, bytes, "a recipient of a part")
        _is(part.frozen, str, "frozen")
        _edits(part.edits, message)
    cleaned = tuple(replace(part, frozen=clean(part.frozen)) if part.frozen else part for part in parts)
    return _with_clean_reason(replace(verdict, parts=cleaned))


def _is(value: Any, kind: type[Any], what: str) -> Any:
    # No subclass either: one of bytes or str may lie about itself when it is written.
    if type(value) is not kind:
        raise TypeError(f"{what} is {type(value).__name__}, not {kind.__name__}")
    return value


def _tuple(value: Any, what: str) -> tuple[Any, ...]:
    return cast("tuple[Any, ...]", _is(value, tuple, what))


def _result(result: Any) -> None:
    if not isinstance(result, AuthResult):
        raise TypeError(f"a result is {type(result).__name__}, not AuthResult")
    _is(result.method, str, "method")
    _is(result.result, Result, "result")
    _is(result.reason, str, "reason of a result")
    for item in _tuple(result.properties, "properties"):
        _is(item, Property, "a property")
        for text in (item.ptype, item.name, item.value):
            _is(text, str, "a part of a property")


def _edits(edits: Any, message: Message) -> None:
    for edit in _tuple(edits, "edits"):
        check = _CHECKS.get(cast("type[Edit]", type(edit)))
        if check is None:
            raise TypeError(f"an edit is {type(edit).__name__}")
        check(edit, message)


def _add_header(edit: AddHeader, message: Message) -> None:
    if edit.at not in {"top", "end"}:
        raise ValueError(f'a field goes to "top" or "end", not to {edit.at!r}')
    _header(edit.header, message)


def _remove_header(edit: RemoveHeader, message: Message) -> None:
    # Its range is checked where edits are applied.
    del message
    _is(edit.index, int, "index")


def _replace_header(edit: ReplaceHeader, message: Message) -> None:
    _is(edit.index, int, "index")
    _header(edit.header, message)


def _header(header: Any, message: Message) -> None:
    _is(header, Header, "header")
    if _is(header.flag, str, "flag of a header") not in _HEADER_FLAGS or not header.flag:
        raise ValueError(f"{header.flag!r} is no type letter of a header")
    _is(header.raw, bytes, "text of a header")
    if header.lead == b"" and _FIELD.fullmatch(header.raw) is not None:
        return
    # What came with the message may be moved about as it is.
    if not any(header is known for known in message.headers):
        raise ValueError(f"not one header field: {header.raw[:80]!r}")


def _set_sender(edit: SetSender, message: Message) -> None:
    del message
    _is(edit.sender, bytes, "sender")


def _add_recipient(edit: AddRecipient, message: Message) -> None:
    recipient = _is(edit.recipient, Recipient, "recipient")
    if any(recipient is known for known in message.envelope.recipients):
        return
    made = Recipient.make(
        recipient.address,
        orcpt=recipient.orcpt,
        dsn_flags=recipient.dsn_flags,
        errors_to=recipient.errors_to,
        parent=recipient.parent,
    )
    if made.raw != recipient.raw:
        raise ValueError(f"a recipient whose line in -H says something else: {recipient.raw[:80]!r}")


def _remove_recipient(edit: RemoveRecipient, message: Message) -> None:
    del message
    _is(edit.address, bytes, "address")


def _redirect_recipient(edit: RedirectRecipient, message: Message) -> None:
    del message
    _is(edit.address, bytes, "address")
    _is(edit.new_address, bytes, "new address")


def _set_variable(edit: SetVariable, message: Message) -> None:
    del message
    directive = _is(edit.directive, Directive, "directive")
    value = _is(directive.value, bytes, "value of a variable")
    made = Directive.make_variable(
        _is(directive.variable, str, "variable"), value, tainted=directive.tainted, quoter=directive.quoter
    )
    if made != directive:
        raise ValueError(f"a variable whose lines in -H say something else: {directive.raw[:80]!r}")


def _set_queue(edit: SetQueue, message: Message) -> None:
    del message
    set_queue(_is(edit.queue, str, "queue"))


def _replace_body(edit: ReplaceBody, message: Message) -> None:
    # Read again long after process() has returned, when nobody could say whose fault a failure is.
    if type(edit.body) not in {BytesBody, FileBody} and edit.body is not message.body:
        raise TypeError(f"a body is {type(edit.body).__name__}; make it with replace_body()")


def _insert_into_body(edit: InsertIntoBody, message: Message) -> None:
    # Its range is checked where edits are applied.
    del message
    _is(edit.position, int, "position")
    _is(edit.content, bytes, "content")


_CHECKS: Final[Mapping[type[Edit], Callable[[Any, Message], None]]] = {
    AddHeader: _add_header,
    RemoveHeader: _remove_header,
    ReplaceHeader: _replace_header,
    SetSender: _set_sender,
    AddRecipient: _add_recipient,
    RemoveRecipient: _remove_recipient,
    RedirectRecipient: _redirect_recipient,
    SetVariable: _set_variable,
    SetQueue: _set_queue,
    ReplaceBody: _replace_body,
    InsertIntoBody: _insert_into_body,
}
