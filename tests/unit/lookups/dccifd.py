"""A dccifd for tests: the daemon's side of the protocol, to the byte, on loopback or a Unix socket.

It takes a request apart as the daemon does (options; address with CR name; HELO; sender;
recipients, with CR user; empty line; message up to the end of the stream) and answers
with what the test scripted.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from msgspec import Struct


class Request(Struct, frozen=True, kw_only=True):
    options: tuple[bytes, ...]
    client_address: bytes
    client_name: bytes
    helo: bytes
    sender: bytes
    recipients: tuple[bytes, ...]
    message: bytes


def read_request(content: bytes) -> Request:
    options, client, helo, sender, rest = content.split(b"\n", 4)
    recipients: list[bytes] = []
    while True:
        line, newline, rest = rest.partition(b"\n")
        assert newline, content[:200]
        if not line:
            break
        recipients.append(line)
    address, _, name = client.partition(b"\r")
    return Request(
        options=tuple(options.split(b" ")),
        client_address=address,
        client_name=name,
        helo=helo,
        sender=sender,
        recipients=tuple(recipients),
        message=rest,
    )


FIELD = b"X-DCC-test-Metrics: dcc.example 1234; Body=1 Fuz1=2\n\tFuz2=many rep=90%\n"


def accept_all(request: Request) -> bytes:
    return b"A\n" + b"A" * len(request.recipients) + b"\n" + FIELD + b"\n"


class Dccifd:
    """``with Dccifd(path) as daemon``; path None: TCP on a free port. address is what a client is given."""

    def __init__(self, path: str | None = None, answer: Callable[[Request], bytes | None] = accept_all) -> None:
        self.answer = answer
        self.requests: list[Request] = []
        self.connections = 0
        if path is None:
            self._listener = socket.create_server(("127.0.0.1", 0))
            self.address = f"127.0.0.1 {self._listener.getsockname()[1]}"
        else:
            self._listener = socket.socket(socket.AF_UNIX)
            self._listener.bind(path)
            self._listener.listen()
            self.address = path
        self._released = threading.Event()
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._released.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            with connection:
                content = bytearray()
                try:
                    while piece := connection.recv(65536):
                        content += piece
                    request = read_request(bytes(content))
                except (OSError, ValueError):  # the client died in the middle
                    continue
                self.requests.append(request)
                answer = self.answer(request)
                if answer is None:  # hangs
                    self._released.wait(30)
                else:
                    with suppress(OSError):  # the client may have had enough
                        connection.sendall(answer)
