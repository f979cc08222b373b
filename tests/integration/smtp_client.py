"""A plain SMTP client that sends exactly the bytes it is told to, by DATA or by BDAT.

smtplib knows neither BDAT nor a UTF-8 envelope given as bytes, and it repairs messages.

Diagnostics: SmtpRefusedError carries the command and the reply; OSError when the server is gone.
"""

from __future__ import annotations

import base64
import re
import socket
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self


class SmtpRefusedError(Exception):
    """The server answered a command with something else than what moves the message on."""

    def __init__(self, command: str, code: int, text: str) -> None:
        self.command, self.code, self.text = command, code, text
        super().__init__(command, code, text)

    def __str__(self) -> str:
        return f"{self.command!r} was answered with {self.code} {self.text}"


class SmtpClient:
    """One SMTP session with a server on loopback; any number of messages."""

    def __init__(self, port: int, *, helo: str = "client.example", timeout_seconds: float = 60) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_seconds)
        self._replies = self._socket.makefile("rb")
        self._expect("(connection)", 220)
        self.extensions = self.command(f"EHLO {helo}", 250).splitlines()[1:]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self.command("QUIT", 221)
        finally:
            self._replies.close()
            self._socket.close()

    def _expect(self, command: str, wanted: int) -> str:
        lines: list[str] = []
        while True:
            line = self._replies.readline().decode("utf-8", "surrogateescape").rstrip("\r\n")
            if not line:
                raise ConnectionError(f"the server closed the connection at {command!r}")
            lines.append(line[4:])
            if line[3:4] != "-":
                break
        text = "\n".join(lines)
        if (code := int(line[:3])) != wanted:
            raise SmtpRefusedError(command, code, text)
        return text

    def command(self, line: str, wanted: int) -> str:
        """Send one command line and return the text of its reply, which must have the code wanted."""
        self._socket.sendall(line.encode("utf-8", "surrogateescape") + b"\r\n")
        return self._expect(line, wanted)

    def authenticate(self, name: str) -> None:
        """AUTH PLAIN with any password."""
        self.command("AUTH PLAIN " + base64.b64encode(b"\0" + name.encode() + b"\0secret").decode(), 235)

    def send(
        self,
        message: bytes,
        *,
        sender: str = "sender@sender.example",
        recipients: Sequence[str] = ("a@file.example",),
        mail_options: Sequence[str] = (),
        rcpt_options: Sequence[str] | Mapping[str, Sequence[str]] = (),
        chunking: bool = False,
        chunk_size: int = 1 << 20,
    ) -> str:
        """Hand over one message and return the id that Exim gave it.

        message may have LF or CRLF line ends; it goes out with CRLF (by DATA dot-stuffed and
        ended by a line end; by BDAT as it stands). rcpt_options are for all recipients, or a
        mapping by recipient.
        """
        wire = re.sub(rb"\r?\n", b"\r\n", message)
        self.command(" ".join([f"MAIL FROM:<{sender}>", *mail_options]), 250)
        for recipient in recipients:
            options = rcpt_options.get(recipient, ()) if isinstance(rcpt_options, Mapping) else rcpt_options
            self.command(" ".join([f"RCPT TO:<{recipient}>", *options]), 250)
        if chunking:
            return self._message_id(self._send_chunks(wire, chunk_size))
        self.command("DATA", 354)
        if not wire.endswith(b"\r\n"):
            wire += b"\r\n"
        self._socket.sendall(re.sub(rb"(?m)^\.", b"..", wire) + b".\r\n")
        return self._message_id(self._expect("(end of data)", 250))

    def _send_chunks(self, wire: bytes, chunk_size: int) -> str:
        reply = ""
        for start in range(0, len(wire), chunk_size):
            chunk = wire[start : start + chunk_size]
            last = start + chunk_size >= len(wire)
            command = f"BDAT {len(chunk)}" + (" LAST" if last else "")
            self._socket.sendall(command.encode() + b"\r\n" + chunk)
            reply = self._expect(command, 250)
        return reply

    @staticmethod
    def _message_id(reply: str) -> str:
        match = re.search(r"\bid=(\S+)", reply)
        if match is None:
            raise SmtpRefusedError("(end of data)", 250, reply)
        return match[1]
