"""For tests of processors, yours and ours: messages, DNS out of a text, and one call that runs a processor.

``respool.testing`` is this module. run() does what the engine does with one processor:
its config table is decoded as a configuration's is, its verdict is returned, and its
edits are applied, so that a verdict that the engine would refuse fails here too.

Diagnostics: ConfigError for a config table that the processor refuses, ValueError for a
message that no spool could hold; whatever process() raises goes through.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog
from msgspec import Struct

from ..lookups.dns import Resolver
from ..lookups.zone import ZoneResolver
from ..spool.body import BytesBody
from ..spool.directive import Directive
from ..spool.editing import with_body
from ..spool.envelope import Envelope, Header, Recipient
from ..spool.header_file import parse_header_file
from ..spool.ids import MessageId
from ..spool.message import Message
from .api import Context, Freeze, Proceed, Processor, ProcessorConfig, Verdict
from .contract import Answer, Contract, carry_out, check_contract
from .edits import apply
from .registry import decode_config
from .results import AuthResult
from .verdict_check import check_verdict

__all__ = [
    "Answer",
    "Contract",
    "Ran",
    "ZoneResolver",
    "check_contract",
    "make_context",
    "make_message",
    "read_message",
    "run",
]

#: When the messages that make_message() makes were received, and what run() takes for now: Unix time.
RECEIVED = 1_795_348_800
_DEADLINE_SECONDS = 60.0

_HEADERS = (
    ("From", "Alice <alice@sender.example>"),
    ("To", "bob@example.org"),
    ("Subject", "test"),
    ("Date", "Sun, 22 Nov 2026 12:00:00 +0000"),
    ("Message-ID", "<test@sender.example>"),
)


class Ran(Struct, frozen=True, kw_only=True):
    """What came of run().

    messages is what goes on: the message after the edits; one for each part of a split that
    got recipients; none where the verdict ends the message.
    """

    verdict: Verdict
    messages: tuple[Message, ...]
    queue: str = ""

    @property
    def message(self) -> Message:
        """The one message that goes on; AssertionError if there is none or there are several."""
        if len(self.messages) != 1:
            raise AssertionError(f"{len(self.messages)} messages go on: {self.verdict!r}")
        return self.messages[0]

    @property
    def results(self) -> tuple[AuthResult, ...]:
        """The authentication results that processors after this one see."""
        return self.verdict.results if isinstance(self.verdict, Proceed) else ()

    def header(self, name: str) -> tuple[str, ...]:
        """The values of all fields of that name that will be sent, top to bottom, folds kept."""
        wanted = name.encode()
        fields = [field for field in self.message.sent_headers if field.is_named(wanted)]
        return tuple(field.value.strip().decode("utf-8", "backslashreplace") for field in fields)

    @property
    def variables(self) -> Mapping[str, bytes]:
        """The ACL variables that Exim will see."""
        return self.message.envelope.variables


def make_message(
    headers: Iterable[tuple[str, str] | bytes] = _HEADERS,
    *,
    body: bytes = b"Hello,\n\nworld.\n",
    wireformat: bool = False,
    sender: str = "alice@sender.example",
    recipients: Iterable[str] = ("bob@example.org",),
    client_address: str | None = "192.0.2.1",
    helo: str = "mail.sender.example",
    authenticated: str | None = None,
    variables: Mapping[str, str | bytes] | None = None,
    message_id: str = "1xVAbc-000000001aB-0cDe",
    received_time: int = RECEIVED,
) -> Message:
    """A message as Exim would have received it over SMTP.

    A header given as bytes is a field exactly as it came in, with its LF. client_address None is a
    local submission; authenticated is the id that the client authenticated as. Raises
    ValueError for what a spool can't hold.
    """
    directives = [Directive.make(b"helo_name", helo.encode())] if client_address is not None else []
    if client_address is not None:
        directives.append(Directive.make(b"host_address", f"[{client_address}]:25000".encode()))
    if authenticated is not None and client_address is not None:
        directives.append(Directive.make(b"host_auth", b"plain"))
    protocol = "local" if client_address is None else "esmtp" if authenticated is None else "esmtpa"
    directives.append(Directive.make(b"received_protocol", protocol.encode()))
    for name, value in (variables or {}).items():
        directives.append(Directive.make_variable(name, value.encode() if isinstance(value, str) else value))
    if authenticated is not None:
        directives.append(Directive.make(b"auth_id", authenticated.encode()))
    if client_address is None:
        directives.append(Directive.make(b"local"))
    fields = [
        Header(" ", field) if isinstance(field, bytes) else Header.make(field[0].encode(), field[1].encode())
        for field in headers
    ]
    envelope = Envelope(
        id=MessageId(message_id),
        login=b"exim",
        uid=93,
        gid=93,
        sender=sender.encode(),
        received_time=received_time,
        warning_count=0,
        directives=tuple(directives),
        recipients=tuple(Recipient.make(address.encode()) for address in recipients),
        headers=tuple(fields),
    )
    content = BytesBody(body, wireformat=wireformat)
    return Message(with_body(envelope, content), content)


def read_message(path: str | Path) -> Message:
    """A message from a ``-H`` file and the ``-D`` beside it. Raises SpoolFormatError and OSError."""
    header_path = Path(path)
    envelope = parse_header_file(header_path.read_bytes(), file=str(path))
    content = header_path.with_name(envelope.id.data_name).read_bytes()
    body = BytesBody(content[envelope.id.body_offset :], wireformat=envelope.is_wireformat)
    return Message(envelope, body)


def make_context(
    *,
    zone: str = "",
    resolver: Resolver | None = None,
    hostname: str = "mx.example.org",
    authserv_id: str = "mx.example.org",
    now: float = RECEIVED + 60.0,
    attempt: int = 1,
    released: bool = False,
    results: tuple[AuthResult, ...] = (),
) -> Context:
    """A context whose DNS is the master file in zone: what it lacks does not exist; see ZoneResolver for faults."""
    return Context(
        hostname=hostname,
        authserv_id=authserv_id,
        resolver=ZoneResolver.from_text(zone) if resolver is None else resolver,
        log=structlog.get_logger(),
        now=now,
        deadline=time.monotonic() + _DEADLINE_SECONDS,
        attempt=attempt,
        released=released,
        results=results,
    )


def run(
    processor: Processor[Any] | type[Processor[Any]],
    message: Message | None = None,
    *,
    config: Mapping[str, Any] | None = None,
    context: Context | None = None,
    zone: str = "",
) -> Ran:
    """Run a processor on a message, and apply what it says.

    A class is made into a processor with config, as a configuration's ``config`` table.
    message: by default a plain one; context: by default make_context(zone=zone).
    """
    if isinstance(processor, type):
        settings: ProcessorConfig = decode_config(processor, dict(config or {}))
        processor = processor(settings)
    elif config is not None:
        raise ValueError("config is for a class: this processor is made already")
    given = make_message() if message is None else message
    answer = processor.process(given, make_context(zone=zone) if context is None else context)
    verdict = check_verdict(answer, given)
    queue = apply(given, verdict.edits).queue if isinstance(verdict, Proceed | Freeze) else None
    return Ran(verdict=verdict, messages=carry_out(given, verdict), queue=queue or "")
