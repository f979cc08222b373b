"""One connection to the next hop: sockets, TLS and time limits around the dialogue.

A hostile or broken server costs bounded time and memory: each exchange has a deadline that no
dripping of bytes moves, a session has one over all, and replies are bounded (smtp_replies.py).

Diagnostics: DialogueError (temporary), TlsError among them, for whatever ends a session early;
its detail says in which state. OSError never leaves this module.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time
from collections.abc import Generator, Iterable, Sequence
from typing import TypeVar

from msgspec import Struct

from ..spool.envelope import Recipient
from .smtp_commands import ClientIdentity, Dialect
from .smtp_dialogue import Exchange, Letter, Outcome, Wait, greet, introduce, transact
from .smtp_replies import NO_EXTENSIONS, DialogueError, Extensions, Reply, ReplyReader
from .smtp_tls import TlsPlan, start_tls

_RECEIVED = 65536
_Result = TypeVar("_Result")


class Endpoint(Struct, frozen=True, kw_only=True):
    """Where a server is, and how to talk to it. name is what we call ourselves in EHLO."""

    host: str
    port: int
    name: bytes
    timeout_seconds: float


class Connection:
    """An open session, used by one thread at a time.

    Opening greets, and starts TLS as plan says. identity is the client that XCLIENT told of last.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        plan: TlsPlan,
        context: ssl.SSLContext | None,
        *,
        deadline: float,
        addresses: Iterable[str] = (),
    ) -> None:
        self._endpoint = endpoint
        self._deadline = deadline
        self._replies = ReplyReader()
        self.extensions: Extensions = NO_EXTENSIONS
        self.identity: ClientIdentity | None = None
        self.greeting = self.ehlo_response = self.actions = ""
        self.tls = ""
        self.sent = 0
        self.idle_since = 0.0
        self._socket: socket.socket = self._connect(tuple(addresses) or (endpoint.host,))
        try:
            self._open(plan, context)
        except BaseException:
            self.close()
            raise

    # -- opening

    def _connect(self, addresses: tuple[str, ...]) -> socket.socket:
        problem: OSError | None = None
        for address in addresses:
            try:
                found = socket.create_connection((address, self._endpoint.port), timeout=self._limit(Wait.COMMAND))
            except OSError as error:
                problem = error
                continue
            found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return found
        where = f"{self._endpoint.host}:{self._endpoint.port}"
        raise DialogueError(f"no connection to {where}: {problem}", detail="no connection")

    @property
    def peer(self) -> str:
        """The server's address."""
        with contextlib.suppress(OSError):
            return str(self._socket.getpeername()[0])
        return ""

    def _open(self, plan: TlsPlan, context: ssl.SSLContext | None) -> None:
        (greeting,) = self._exchange(Exchange((), 1, "the greeting"))
        self.greeting = greeting.text
        if not greeting.is_positive:
            raise DialogueError(f"the server does not want to talk: {greeting.text}", detail="refused at the greeting")
        self._greet()
        if "STARTTLS" in self.extensions and plan.offered_is_used and context is not None:
            self._start_tls(plan, context)
        elif plan.required:
            raise DialogueError("the server does not offer STARTTLS, which is required", detail="STARTTLS not offered")

    def _greet(self) -> None:
        self.extensions, action = self._run(greet(self._endpoint.name))
        self.actions += action

    def _start_tls(self, plan: TlsPlan, context: ssl.SSLContext) -> None:
        (reply,) = self._exchange(Exchange((b"STARTTLS\r\n",), 1, "STARTTLS"))
        if not reply.is_positive:
            if plan.required:
                raise DialogueError(f"the server refused STARTTLS: {reply.text}", detail="STARTTLS refused")
            return
        if not self._replies.is_empty:
            # What was slipped in before TLS must not be taken for what came within it.
            raise DialogueError("the server said more before TLS began", detail="plaintext behind STARTTLS")
        self._socket.settimeout(self._limit(Wait.COMMAND))
        try:
            secure = start_tls(self._socket, plan, context)
        except OSError as error:
            raise DialogueError(f"TLS: {error}", detail="TLS handshake") from error
        self._socket = secure
        self.tls = secure.version() or "TLS"
        self.actions += "s"
        self._greet()

    # -- using

    def introduce(self, identity: ClientIdentity, dialect: Dialect) -> None:
        """Tell the server by XCLIENT for whom the next message is. Raises DialogueError."""
        if identity == self.identity:
            return
        self.extensions = self._run(introduce(identity, self._endpoint.name, self.extensions, dialect))
        self.identity = identity
        self.actions += "x"

    def send(self, letter: Letter, recipients: Sequence[Recipient], *, deadline: float) -> Outcome:
        """One transaction. Raises DialogueError where the session ended before the final reply."""
        self._deadline = deadline
        outcome = self._run(transact(letter, recipients, self.extensions))
        self.sent += 1
        return outcome

    def check(self, *, deadline: float) -> bool:
        """Whether an idle session still lives: nothing came, and it answers."""
        self._deadline = deadline
        try:
            (reply,) = self._exchange(Exchange((b"RSET\r\n",), 1, "RSET"))
        except DialogueError:
            return False
        return reply.is_positive

    def quit(self) -> str:
        """Say goodbye; returns the unusual state that it ended in, or the empty string."""
        self._deadline = time.monotonic() + min(self._endpoint.timeout_seconds, 5.0)
        try:
            (reply,) = self._exchange(Exchange((b"QUIT\r\n",), 1, "QUIT"))
        except DialogueError as error:
            return error.detail
        finally:
            self.close()
        return "" if reply.is_positive else f"{reply.code} to QUIT"

    def close(self) -> None:
        """End it without a word."""
        with contextlib.suppress(OSError):
            self._socket.close()

    # -- input and output

    def _run(self, dialogue: Generator[Exchange, tuple[Reply, ...], _Result]) -> _Result:
        try:
            exchange = next(dialogue)
            while True:
                exchange = dialogue.send(self._exchange(exchange))
        except StopIteration as end:
            result: _Result = end.value
            return result
        finally:
            dialogue.close()

    def _exchange(self, exchange: Exchange) -> tuple[Reply, ...]:
        """Send, then read; 421 at any place ends the session (RFC 5321 3.8)."""
        try:
            return self._send_and_read(exchange)
        except DialogueError as error:
            error.stage = exchange.name
            raise

    def _send_and_read(self, exchange: Exchange) -> tuple[Reply, ...]:
        try:
            self._send(exchange)
            return self._read(exchange)
        except TimeoutError as error:
            raise DialogueError(
                f"no answer to {exchange.name} in time", detail=f"timeout at {exchange.name}"
            ) from error
        except ConnectionError as error:
            last = self._last_words()
            detail = last or f"reset at {exchange.name}"
            if exchange.name == "QUIT":
                detail = "reset after QUIT"
            raise DialogueError(f"the connection broke at {exchange.name}: {last or error}", detail=detail) from error
        except (OSError, ValueError) as error:
            raise DialogueError(f"{exchange.name}: {error}", detail=f"broken at {exchange.name}") from error

    def _send(self, exchange: Exchange) -> None:
        until = time.monotonic() + self._endpoint.timeout_seconds
        small: list[bytes] = []
        size = 0
        for piece in exchange.content:
            small.append(piece)
            size += len(piece)
            if size >= _RECEIVED:
                self._write(b"".join(small), until)
                small, size = [], 0
                # Each block may take its time, all of them what the session has.
                until = time.monotonic() + self._endpoint.timeout_seconds
        if small:
            self._write(b"".join(small), until)

    def _write(self, data: bytes, until: float) -> None:
        view = memoryview(data)
        while view:
            self._socket.settimeout(self._remaining(until))
            view = view[self._socket.send(view) :]

    def _read(self, exchange: Exchange) -> tuple[Reply, ...]:
        replies: list[Reply] = []
        until = time.monotonic() + self._limit(exchange.wait)
        while len(replies) < exchange.replies:
            reply = self._replies.next()
            if reply is None:
                self._receive(exchange, until)
                continue
            if reply.code == 421:
                raise DialogueError(f"the server ends the session at {exchange.name}: {reply.text}", detail="421")
            if exchange.name == "EHLO":
                self.ehlo_response = reply.text
            replies.append(reply)
            until = max(until, time.monotonic() + self._limit(exchange.wait))
        return tuple(replies)

    def _receive(self, exchange: Exchange, until: float) -> None:
        self._socket.settimeout(self._remaining(until))
        data = self._socket.recv(_RECEIVED)
        if not data:
            early = "closed without a greeting" if exchange.name == "the greeting" else f"closed at {exchange.name}"
            if exchange.name == "QUIT":
                early = "closed after QUIT"
            raise DialogueError(f"the server {early}", detail=early)
        self._replies.feed(data)

    def _last_words(self) -> str:
        """A 421 that the server sent before it closed, while we were sending."""
        with contextlib.suppress(OSError, ValueError, DialogueError):
            self._socket.settimeout(0.2)
            self._replies.feed(self._socket.recv(_RECEIVED))
            reply = self._replies.next()
            if reply is not None:
                return f"lone {reply.text}"
        return ""

    def _limit(self, wait: Wait) -> float:
        return min(self._endpoint.timeout_seconds * wait.value, max(self._deadline - time.monotonic(), 0.001))

    def _remaining(self, until: float) -> float:
        left = min(until, self._deadline) - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left
