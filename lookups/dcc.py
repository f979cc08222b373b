"""A client of dccifd, the local daemon of the Distributed Checksum Clearinghouses.

One connection a message, over a Unix socket or TCP: options, client, HELO, sender and
recipients, one a line, an empty line, the message; then the sending side is closed and
the answer read: an overall letter, a letter for each recipient, the ``X-DCC`` field.
A daemon that fails again and again is left alone for a while (circuit breaker), so that
mail doesn't wait for a timeout a message.

Diagnostics: DccClient raises ConfigError for a bad address; check() raises DccError (a
TemporaryError) and nothing else but what the chunks it is given raise.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable, Iterable
from typing import Final, Literal, cast

from msgspec import Struct

from ..errors import ConfigError, TemporaryError

Letter = Literal["A", "R", "G", "T"]
"""Accept, reject (bulk), greylisted, temporary failure. S (accept for some) counts as A, as in Exim."""

_MAXIMUM_ANSWER: Final = 64 * 1024
_TCP: Final = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[^\s:\[\]]+))[\s:]+(?P<port>[0-9]{1,5})")
_FIELD: Final = re.compile(rb"(X-DCC[!-9;-~]{0,100}):[ \t]*+([\t -~]*(?:\n[ \t][\t -~]*)*)", re.IGNORECASE)
_COUNT: Final = re.compile(r"([A-Za-z][A-Za-z0-9-]{0,30})=(many|[0-9]{1,9})(%?)")
_FORBIDDEN: Final = re.compile(rb"[\x00-\x1f\x7f]")


class DccError(TemporaryError):
    """dccifd gave no answer that can be used: this says nothing about the message."""

    def __init__(self, address: str, reason: str) -> None:
        self.address = address
        super().__init__(f"dccifd at {address}: {reason}")


class DccRequest(Struct, frozen=True, kw_only=True):
    """What dccifd is told besides the message. client_address empty: local submission."""

    client_address: str = ""
    client_name: bytes = b""
    helo: bytes = b""
    sender: bytes = b""
    recipients: tuple[bytes, ...] = ()
    options: tuple[str, ...] = ("header", "no-grey")

    def render(self) -> bytes:
        """The lines before the message. Control characters in what strangers wrote become ``?``."""
        client = self.client_address.encode() or b"127.0.0.1"
        if self.client_name:
            client += b"\r" + _one_line(self.client_name)
        lines = [
            " ".join(self.options).encode(), client, _one_line(self.helo), _one_line(self.sender) or b"<>",
            # An empty line would end the list.
            *(_one_line(recipient) or b"?" for recipient in self.recipients),
        ]  # fmt: skip
        return b"\n".join(lines) + b"\n\n"


class DccAnswer(Struct, frozen=True, kw_only=True):
    """What dccifd said. recipients has a letter for each recipient asked about, or is empty.

    header is the ``X-DCC-...`` field as name and value (folded with LF), if it sent one;
    counts are its checksums' counts, float("inf") for ``many``.
    """

    result: Letter
    recipients: str = ""
    header: tuple[bytes, bytes] | None = None
    counts: tuple[tuple[str, float], ...] = ()


def parse_answer(content: bytes, recipient_count: int) -> DccAnswer | None:
    """Read dccifd's answer; None for what is none. An ``X-DCC`` field that no header may hold is left out."""
    first, newline, rest = content.partition(b"\n")
    letter = first.strip()
    if not newline or letter not in {b"A", b"R", b"G", b"T", b"S"}:
        return None
    second, _, rest = rest.partition(b"\n")
    letters = second.strip().decode("ascii", "replace")
    if len(letters) != recipient_count or set(letters) - set("ARG"):
        letters = ""
    field = _FIELD.fullmatch(rest.replace(b"\r\n", b"\n").partition(b"\n\n")[0].rstrip(b"\n"))
    header = None if field is None else (field[1], _without_empty_folds(field[2]))
    return DccAnswer(
        result=cast(Letter, "A" if letter == b"S" else letter.decode()),
        recipients=letters,
        header=header,
        counts=() if header is None else _counts(header[1]),
    )


def _without_empty_folds(value: bytes) -> bytes:
    return b"\n".join(line for number, line in enumerate(value.split(b"\n")) if number == 0 or line.strip())


def _counts(value: bytes) -> tuple[tuple[str, float], ...]:
    """``Body=1 Fuz1=many rep=90%``, which follow the server's name and a semicolon."""
    text = value.partition(b";")[2].decode("ascii", "replace")
    return tuple(
        (match[1], float("inf") if match[2] == "many" else float(match[2]))
        for match in _COUNT.finditer(text)
    )  # fmt: skip


def _one_line(text: bytes) -> bytes:
    return _FORBIDDEN.sub(b"?", text)


class DccClient:
    """One dccifd: ``/path/of/socket``, ``host port`` or ``host:port`` (``[v6]:port``).

    timeout_seconds is for a whole question. After failures_before_pause failures in a row
    nothing is asked for pause_seconds; then one question tries again. Safe for threads.
    """

    def __init__(
        self,
        address: str,
        *,
        timeout_seconds: float = 10.0,
        failures_before_pause: int = 3,
        pause_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.address = address
        self._timeout_seconds = timeout_seconds
        self._failures_before_pause, self._pause_seconds = failures_before_pause, pause_seconds
        self._clock = clock
        self._lock = threading.Lock()
        self._failures = 0
        self._paused_until = 0.0
        if address.startswith("/"):
            if len(address.encode()) > 107:
                raise ConfigError(f"{address}: longer than the 107 bytes of a socket's name", key="address")
            self._tcp: tuple[str, int] | None = None
            return
        match = _TCP.fullmatch(address.strip())
        if match is None or not 0 < int(match["port"]) < 65536:
            raise ConfigError(f'"{address}": expected /path/of/socket or host:port', key="address")
        self._tcp = (match["v6"] or match["host"], int(match["port"]))

    def check(self, request: DccRequest, content: Iterable[bytes], *, deadline: float | None = None) -> DccAnswer:
        """Ask about a message; content is all of it with CRLF line ends, deadline time.monotonic().

        Raises DccError.
        """
        self._enter()
        try:
            answer = self._ask(request, content, self._end(deadline))
        except OSError as error:
            self._leave(failed=True)
            reason = "timed out" if isinstance(error, TimeoutError) else error.strerror or str(error)
            raise DccError(self.address, reason) from error
        self._leave(failed=answer is None)
        if answer is None:
            raise DccError(self.address, "no answer in dccifd's protocol")
        return answer

    def _enter(self) -> None:
        with self._lock:
            if self._failures >= self._failures_before_pause:
                now = self._clock()
                if now < self._paused_until:
                    raise DccError(self.address, f"left alone after {self._failures} failures")
                # One question tries; the others wait for what becomes of it.
                self._paused_until = now + self._pause_seconds

    def _leave(self, *, failed: bool) -> None:
        with self._lock:
            self._failures = self._failures + 1 if failed else 0
            if failed:
                self._paused_until = self._clock() + self._pause_seconds

    def _end(self, deadline: float | None) -> float:
        end = time.monotonic() + self._timeout_seconds
        return end if deadline is None else min(end, deadline)

    def _connect(self, end: float) -> socket.socket:
        if self._tcp is not None:
            return socket.create_connection(self._tcp, timeout=_remaining(end))
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(_remaining(end))
            connection.connect(self.address)
        except OSError:
            connection.close()
            raise
        return connection

    def _ask(self, request: DccRequest, content: Iterable[bytes], end: float) -> DccAnswer | None:
        with self._connect(end) as connection:
            try:
                connection.sendall(request.render())
                for chunk in content:
                    connection.settimeout(_remaining(end))
                    connection.sendall(chunk)
                connection.shutdown(socket.SHUT_WR)
            except (BrokenPipeError, ConnectionResetError):
                pass  # dccifd may know its answer before the end of a long message
            answer = bytearray()
            while len(answer) <= _MAXIMUM_ANSWER:
                connection.settimeout(_remaining(end))
                piece = connection.recv(8192)
                if not piece:
                    break
                answer += piece
        if len(answer) > _MAXIMUM_ANSWER:
            return None
        return parse_answer(bytes(answer), len(request.recipients))


def _remaining(end: float) -> float:
    remaining = end - time.monotonic()
    if remaining <= 0:
        raise TimeoutError
    return remaining
