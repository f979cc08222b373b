"""One server, and the connections to it that the threads of a worker share.

A connection is used again for the next message as long as it is young; one that the server
ended meanwhile costs nothing but another connection.

Diagnostics: transact() raises DialogueError where the server did not answer as it should;
ConfigError from the constructor.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..lookups.dane import HostDane, host_preflight
from ..lookups.dns import DnsTemporaryError, Resolver
from ..spool.envelope import Recipient
from .smtp_commands import ClientIdentity, Dialect
from .smtp_connection import Connection, Endpoint
from .smtp_dialogue import Letter, Outcome
from .smtp_replies import DialogueError
from .smtp_tls import Level, make_context, plan_tls

_IDLE_UNCHECKED: Final = 0.5
#: Nothing of a transaction that ended in one of these states has been taken.
_BEFORE_DATA: Final = frozenset({"MAIL", "RSET", "XCLIENT", "EHLO"})


class SmtpSettings(Struct, frozen=True, kw_only=True):
    """How one server is talked to; sidecar/config.py says what each means."""

    host: str
    port: int
    hostname: str
    tls: Level = "verify"
    ca_file: str | None = None
    xclient: Literal["off"] | Dialect = "off"
    timeout_seconds: float = 60.0
    message_seconds: float = 600.0
    idle_seconds: float = 5.0
    messages_per_connection: int = 100
    recipients_per_message: int = 100
    refused: Literal["hold", "bounce"] = "hold"


class SmtpServer:
    """How the server is talked to, and the log bound to it, are for whoever sends."""

    def __init__(self, settings: SmtpSettings, *, resolver: Resolver, log: FilteringBoundLogger) -> None:
        self.settings = settings
        self._resolver = resolver
        self.log = log.bind(host=settings.host, port=settings.port)
        self._endpoint = Endpoint(
            host=settings.host,
            port=settings.port,
            name=settings.hostname.encode("idna" if not settings.hostname.isascii() else "ascii", "replace"),
            timeout_seconds=settings.timeout_seconds,
        )
        # One context for each: a connection's plan says which.
        self._contexts: dict[bool, ssl.SSLContext] = {}
        if settings.tls != "none":
            is_verified = settings.tls == "verify"
            self._contexts[is_verified] = make_context(verify=is_verified, ca_file=settings.ca_file)
        self._guard = threading.Lock()
        self._idle: deque[Connection] = deque()

    def hang_up(self) -> None:
        """Say goodbye to the server."""
        with self._guard:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            self._quit(connection)

    def transact(
        self, letter: Letter, recipients: Sequence[Recipient], identity: ClientIdentity | None, deadline: float
    ) -> tuple[Outcome, Connection]:
        """One transaction, on an idle connection if there is one. Raises DialogueError."""
        connection = self._take(identity, deadline)
        was_used = connection is not None
        try:
            if connection is None:
                connection = self._connect(deadline)
            if identity is not None and self.settings.xclient != "off":
                connection.introduce(identity, self.settings.xclient)
            outcome = connection.send(letter, recipients, deadline=deadline)
        except DialogueError as error:
            if connection is not None:
                connection.close()
            self.log.warning("smtp.session_broke", reason=str(error), protocol_detail=error.detail)
            if was_used and error.stage in _BEFORE_DATA:
                # The server had enough of the old session, not of the message.
                self._forget_idle()
                return self.transact(letter, recipients, identity, deadline)
            raise
        except BaseException:
            # A body that can't be read leaves a transaction half done.
            if connection is not None:
                connection.close()
            raise
        self._give_back(connection)
        return outcome, connection

    def _connect(self, deadline: float) -> Connection:
        settings = self.settings
        dane: HostDane | None = None
        addresses: list[str] = []
        if settings.tls in {"dane", "dane-only"}:
            dane = host_preflight(self._resolver, settings.host, port=settings.port, deadline=deadline)
            addresses = self._addresses(deadline)
        plan = plan_tls(settings.tls, settings.host, dane)
        return Connection(self._endpoint, plan, self._contexts.get(plan.verify), deadline=deadline, addresses=addresses)

    def _addresses(self, deadline: float) -> list[str]:
        """By the resolver whose validation DANE rests on, not by the system's."""
        found: list[str] = []
        for version in (6, 4):
            try:
                found += self._resolver.addresses(self.settings.host, version, deadline=deadline).records
            except DnsTemporaryError as error:
                raise DialogueError(str(error), detail="no address") from error
        return found

    # -- connections that wait for the next message

    def _take(self, identity: ClientIdentity | None, deadline: float) -> Connection | None:
        uses_xclient = self.settings.xclient != "off"
        while True:
            with self._guard:
                connection = next(
                    (
                        one
                        for one in reversed(self._idle)
                        # What was told of another client can be replaced, not taken back.
                        if not uses_xclient or identity is not None or one.identity is None
                    ),
                    None,
                )
                if connection is not None:
                    self._idle.remove(connection)
            if connection is None:
                return None
            idle = time.monotonic() - connection.idle_since
            if idle >= self.settings.idle_seconds:
                self._quit(connection)
            elif idle < _IDLE_UNCHECKED or connection.check(deadline=deadline):
                return connection
            else:
                connection.close()

    def _give_back(self, connection: Connection) -> None:
        connection.idle_since = now = time.monotonic()
        expired: list[Connection] = []
        with self._guard:
            while self._idle and now - self._idle[0].idle_since >= self.settings.idle_seconds:
                expired.append(self._idle.popleft())
            if connection.sent < self.settings.messages_per_connection:
                self._idle.append(connection)
            else:
                expired.append(connection)
        for one in expired:
            self._quit(one)

    def _forget_idle(self) -> None:
        with self._guard:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()

    def _quit(self, connection: Connection) -> None:
        detail = connection.quit()
        if detail:
            self.log.info("smtp.session_ended", protocol_detail=detail, messages=connection.sent)
