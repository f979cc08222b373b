"""An SMTP server on loopback that keeps what it is sent, to the byte.

Diagnostics: none of its own; a client that breaks off leaves no message behind.
"""

from __future__ import annotations

import re
import socketserver
import threading
from types import TracebackType
from typing import Self

from msgspec import Struct


class SunkMessage(Struct, frozen=True):
    """One message as it came: the envelope commands' arguments and the content with CRLF line ends.

    mail and recipients hold what followed ``FROM:`` and ``TO:``, parameters included; content
    has its dot-stuffing undone. chunked tells that it came by BDAT.
    """

    mail: bytes
    recipients: tuple[bytes, ...]
    content: bytes
    chunked: bool


class _Session(socketserver.StreamRequestHandler):
    extensions = (b"SIZE", b"8BITMIME", b"PIPELINING", b"CHUNKING", b"DSN", b"SMTPUTF8")

    @property
    def sink(self) -> _Server:
        assert isinstance(self.server, _Server)
        return self.server

    def reply(self, text: bytes) -> None:
        self.wfile.write(text + b"\r\n")

    def handle(self) -> None:
        self.mail, self.recipients, self.chunks = b"", list[bytes](), list[bytes]()
        self.reply(b"220 sink.example ESMTP")
        while line := self.rfile.readline(65536):
            verb, _, argument = line.rstrip(b"\r\n").partition(b" ")
            match verb.upper():
                case b"EHLO":
                    names = (b"sink.example", *self.sink.extensions)
                    for name in names[:-1]:
                        self.reply(b"250-" + name)
                    self.reply(b"250 " + names[-1])
                case b"MAIL":
                    self.mail, self.recipients, self.chunks = argument.partition(b":")[2], [], []
                    self.reply(b"250 sender OK")
                case b"RCPT":
                    self.recipients.append(argument.partition(b":")[2])
                    self.reply(b"250 recipient OK")
                case b"DATA":
                    self.reply(b"354 go on")
                    self._data()
                case b"BDAT":
                    self._chunk(argument)
                case b"QUIT":
                    self.reply(b"221 bye")
                    return
                case _:
                    self.reply(b"250 OK")

    def _data(self) -> None:
        lines: list[bytes] = []
        while (line := self.rfile.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b"."))
        if line:
            self._keep(b"".join(lines), chunked=False)

    def _chunk(self, argument: bytes) -> None:
        match = re.fullmatch(rb"(\d+)( LAST)?", argument.upper().strip())
        if match is None:
            self.reply(b"501 bad BDAT")
            return
        content = self.rfile.read(int(match[1]))
        if len(content) < int(match[1]):
            return
        self.chunks.append(content)
        if match[2]:
            self._keep(b"".join(self.chunks), chunked=True)
        else:
            self.reply(b"250 chunk OK")

    def _keep(self, content: bytes, *, chunked: bool) -> None:
        message = SunkMessage(self.mail, tuple(self.recipients), content, chunked)
        with self.sink.lock:
            self.sink.messages.append(message)
        self.reply(b"250 kept")


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, extensions: tuple[bytes, ...]) -> None:
        super().__init__(("127.0.0.1", 0), _Session)
        self.extensions = extensions
        self.messages: list[SunkMessage] = []
        self.lock = threading.Lock()


class SmtpSink:
    """The server in a thread of its own: ``with SmtpSink() as sink: ... sink.messages``."""

    def __init__(self, extensions: tuple[bytes, ...] = _Session.extensions) -> None:
        self._server = _Server(extensions)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    @property
    def messages(self) -> tuple[SunkMessage, ...]:
        """What came so far, in order of completion."""
        with self._server.lock:
            return tuple(self._server.messages)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
