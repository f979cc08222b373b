"""An SMTP server on loopback that keeps what it takes, and misbehaves where a script says so.

Diagnostics: none of its own; what it took is in messages, what it was told in commands.
"""

from __future__ import annotations

import re
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self

from msgspec import Struct

EXTENSIONS = (b"SIZE 10000000", b"8BITMIME", b"PIPELINING", b"CHUNKING", b"DSN", b"SMTPUTF8", b"ENHANCEDSTATUSCODES")

#: What is said to a command instead of the usual: the whole reply without its line end. None: the usual.
Answer = Callable[[bytes], bytes | None]


class Taken(Struct, frozen=True):
    """One message: what followed ``FROM:`` and ``TO:``, the content with CRLF, and the XCLIENT before it."""

    mail: bytes
    recipients: tuple[bytes, ...]
    content: bytes
    chunked: bool
    xclient: bytes
    helo: bytes
    over_tls: bool


class Death(Struct, frozen=True):
    """The server dies at reply number (from 0): before it takes what it answers, after that, or in mid-reply.

    how: ``close`` ends in order, ``reset`` does not.
    """

    number: int
    when: Literal["before", "after", "within"] = "before"
    how: Literal["close", "reset"] = "reset"


class _Dead(Exception):
    """This session is over."""


class _Session(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.script = self.server
        assert isinstance(self.script, _Server)
        self.socket: socket.socket = self.request
        self.socket.settimeout(60)
        self.buffer = b""
        self.xclient, self.helo, self.over_tls = b"", b"", False
        self.clear()
        try:
            self.reply(b"220 scripted ESMTP", lambda: None)
            while True:
                line = self.line()
                with self.script.lock:
                    self.script.commands.append(line)
                verb = line.split(b" ", 1)[0].upper()
                getattr(self, "do_" + verb.decode("ascii", "replace").lower(), self.unknown)(line)
        except (_Dead, OSError):
            self.socket.close()

    def clear(self) -> None:
        self.mail, self.recipients, self.chunks = b"", list[bytes](), list[bytes]()

    # -- the wire

    def line(self) -> bytes:
        while b"\n" not in self.buffer:
            self.receive()
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.removesuffix(b"\r")

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.receive()
        content, self.buffer = self.buffer[:size], self.buffer[size:]
        return content

    def receive(self) -> None:
        data = self.socket.recv(65536)
        if not data:
            raise _Dead
        self.buffer += data

    def reply(self, text: bytes, take: Callable[[], None], command: bytes = b"") -> bytes:
        """Say text, or what the script wants, and return it, having taken what it speaks of; or die, as the script says."""
        assert isinstance(self.script, _Server)
        with self.script.lock:
            number, self.script.replies = self.script.replies, self.script.replies + 1
            death = self.script.death
        if death is not None and death.number == number:
            if death.when != "before":
                take()
            if death.when == "within":
                self.socket.sendall(text[:2])
            self.die(death.how)
        answer = self.script.answer(command) if self.script.answer is not None else None
        if answer is None or answer.startswith(b"2"):
            take()
        said = text if answer is None else answer
        self.socket.sendall(said + b"\r\n")
        return said

    def die(self, how: str) -> None:
        if how == "reset":
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()
        raise _Dead

    # -- the commands

    def unknown(self, line: bytes) -> None:
        self.reply(b"500 5.5.1 what", lambda: None, line)

    def do_ehlo(self, line: bytes) -> None:
        assert isinstance(self.script, _Server)
        self.helo = line[5:]
        offered = [*self.script.extensions]
        if self.script.context is not None and not self.over_tls:
            offered.append(b"STARTTLS")
        lines = [b"scripted", *offered]
        text = b"".join(b"250-%b\r\n" % one for one in lines[:-1]) + b"250 " + lines[-1]
        self.reply(text, self.clear, line)

    def do_helo(self, line: bytes) -> None:
        self.helo = line[5:]
        self.reply(b"250 scripted", self.clear, line)

    def do_starttls(self, line: bytes) -> None:
        assert isinstance(self.script, _Server)
        if self.script.context is None:
            self.unknown(line)
            return
        self.reply(b"220 go on", lambda: None, line)
        try:
            self.socket = self.script.context.wrap_socket(self.socket, server_side=True)
        except OSError:
            raise _Dead from None
        self.over_tls, self.buffer = True, b""

    def do_xclient(self, line: bytes) -> None:
        def take() -> None:
            self.xclient = line[8:]

        self.reply(b"220 XCLIENT success", take, line)

    def do_mail(self, line: bytes) -> None:
        def take() -> None:
            self.clear()
            self.mail = line.partition(b":")[2]

        self.reply(b"250 2.1.0 OK", take, line)

    def do_rcpt(self, line: bytes) -> None:
        if not self.mail:
            self.reply(b"503 5.5.1 MAIL first", lambda: None, line)
            return
        self.reply(b"250 2.1.5 OK", lambda: self.recipients.append(line.partition(b":")[2]), line)

    def do_rset(self, line: bytes) -> None:
        self.reply(b"250 2.0.0 OK", self.clear, line)

    def do_data(self, line: bytes) -> None:
        if not self.recipients:
            self.reply(b"503 5.5.1 RCPT first", lambda: None, line)
            return
        if not self.reply(b"354 go on", lambda: None, line).startswith(b"3"):
            return
        lines: list[bytes] = []
        while (text := self.line()) != b".":
            lines.append(text.removeprefix(b".") + b"\r\n")
        self.reply(b"250 2.0.0 taken", lambda: self.take(b"".join(lines), chunked=False), b".")

    def do_bdat(self, line: bytes) -> None:
        match = re.fullmatch(rb"BDAT (\d+)( LAST)?", line.upper())
        if match is None:
            self.reply(b"501 5.5.4 bad BDAT", lambda: None, line)
            return
        content = self.exactly(int(match[1]))
        if not self.recipients:
            self.reply(b"503 5.5.1 RCPT first", lambda: None, line)
            return

        def take() -> None:
            self.chunks.append(content)
            if match[2]:
                self.take(b"".join(self.chunks), chunked=True)

        self.reply(b"250 2.0.0 taken", take, line)

    def do_quit(self, line: bytes) -> None:
        self.reply(b"221 2.0.0 bye", lambda: None, line)
        raise _Dead

    def take(self, content: bytes, *, chunked: bool) -> None:
        assert isinstance(self.script, _Server)
        taken = Taken(self.mail, tuple(self.recipients), content, chunked, self.xclient, self.helo, self.over_tls)
        with self.script.lock:
            self.script.messages.append(taken)
        self.clear()


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.extensions: tuple[bytes, ...] = EXTENSIONS
        self.messages: list[Taken] = []
        self.commands: list[bytes] = []
        self.replies = 0
        self.sessions = 0
        self.death: Death | None = None
        self.answer: Answer | None = None
        self.context: ssl.SSLContext | None = None
        self.lock = threading.Lock()

    def process_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: object) -> None:
        self.sessions += 1
        super().process_request(request, client_address)


class ScriptedSmtp:
    """``with ScriptedSmtp() as server: ...``; change extensions, death, answer and context as you like."""

    def __init__(self, *, extensions: tuple[bytes, ...] = EXTENSIONS, context: ssl.SSLContext | None = None) -> None:
        self.server = _Server()
        self.server.extensions, self.server.context = extensions, context
        self.port = int(self.server.server_address[1])
        self._thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )  # fmt: skip

    @property
    def messages(self) -> tuple[Taken, ...]:
        """What was taken so far."""
        with self.server.lock:
            return tuple(self.server.messages)

    @property
    def commands(self) -> tuple[bytes, ...]:
        """What was said so far."""
        with self.server.lock:
            return tuple(self.server.commands)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()
