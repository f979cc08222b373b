"""Messages and contexts for tests of processors."""

from __future__ import annotations

import time
from collections.abc import Iterable

import structlog

from respool.processors.api import Context
from respool.processors.results import AuthResult
from respool.spool.body import BytesBody
from respool.spool.editing import add_non_recipients
from respool.spool.envelope import Directive, Envelope, Header, Recipient
from respool.spool.ids import MessageId
from respool.spool.message import Message

from .authentication.fake_dns import FakeResolver


def make_message(
    headers: Iterable[tuple[bytes, bytes] | bytes] = ((b"From", b"A <a@example.com>"),),
    *,
    sender: bytes = b"bounce@example.com",
    host: bytes | None = b"[192.0.2.1]:4711",
    helo: bytes = b"mail.example.com",
    host_name: bytes | None = None,
    host_auth: bytes | None = None,
    variables: dict[str, bytes] | None = None,
    deleted: Iterable[bytes] = (),
    body: bytes = b"Hello\n",
    recipients: Iterable[bytes] = (),
    delivered: Iterable[bytes] = (),
) -> Message:
    directives = [Directive.make(b"helo_name", helo)]
    if host is not None:
        directives.append(Directive.make(b"host_address", host))
    if host_name is not None:
        directives.append(Directive.make(b"host_name", host_name))
    if host_auth is not None:
        directives.append(Directive.make(b"host_auth", host_auth))
    directives += [Directive.make_variable(name, value) for name, value in (variables or {}).items()]
    # Bytes are a field as it came in, which Header.make() might refuse.
    fields = [Header(flag=" ", raw=item) if isinstance(item, bytes) else Header.make(*item) for item in headers]
    fields += [Header(flag="*", raw=raw) for raw in deleted]
    envelope = Envelope(
        id=MessageId("1abcde-000000-00"),
        login=b"exim",
        uid=8,
        gid=8,
        sender=sender,
        received_time=1_700_000_000,
        warning_count=0,
        directives=tuple(directives),
        headers=tuple(fields),
        recipients=tuple(Recipient.make(address) for address in recipients),
    )
    envelope = add_non_recipients(envelope, delivered)
    return Message(envelope, BytesBody(body))


def make_context(
    resolver: FakeResolver | None = None,
    *,
    authserv_id: str = "mx.example.org",
    attempt: int = 1,
    released: bool = False,
    results: tuple[AuthResult, ...] = (),
) -> Context:
    return Context(
        hostname="mx.example.org",
        authserv_id=authserv_id,
        resolver=resolver or FakeResolver(),
        log=structlog.get_logger(),
        now=1_700_000_000.0,
        deadline=time.monotonic() + 60,
        attempt=attempt,
        released=released,
        results=results,
    )
