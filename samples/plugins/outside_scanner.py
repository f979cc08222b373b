"""A respool processor in one file: asks a scanner outside, with a timeout and a circuit breaker.

It speaks clamd's INSTREAM (clamd(8)): four bytes of length before each piece of the
message, a length of zero at its end, one line of answer. The time it takes is that which
is configured, and never more than the message's deadline leaves. A scanner that fails
again and again is left alone for a while: without that, each message would wait for the
timeout, and the mail behind it.

    [[processor]]
    use = "/etc/respool/plugins/outside_scanner.py:OutsideScanner"
    config = { address = "/run/clamav/clamd.ctl" }
"""

from __future__ import annotations

import contextlib
import re
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import Annotated, Final, Literal

from msgspec import Meta

from respool import (
    ConfigError,
    Context,
    Message,
    Processor,
    ProcessorConfig,
    TemporaryError,
    Verdict,
    discard,
    freeze,
    hold,
    proceed,
    set_variable,
)

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]+)):([0-9]{1,5})")
_FOUND: Final = re.compile(rb"stream: ([!-~][ -~]{0,200}) FOUND")
_LONGEST_ANSWER: Final = 4096
_VARIABLE: Final = "acl_m_scan"
#: Seconds of the deadline that are left to what comes after this processor.
_REST: Final = 0.5


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    address: Annotated[str, Meta(description="Where clamd listens: /path/of/socket or host:port.")]
    timeout_seconds: Annotated[float, Meta(description="Time for one message.", gt=0, le=600)] = 20.0
    largest_bytes: Annotated[
        int, Meta(description="Larger messages are not scanned; at most clamd's StreamMaxLength.", gt=0)
    ] = 25 << 20
    otherwise: Annotated[
        Literal["hold", "freeze", "discard", "proceed"],
        Meta(description="The verdict on what is found; it stands in acl_m_scan in any case but hold and discard."),
    ] = "hold"
    on_failure: Annotated[
        Literal["defer", "proceed"], Meta(description="What happens while the scanner gives no answer.")
    ] = "defer"
    failures_before_pause: Annotated[int, Meta(description="Failures in a row, then it is left alone.", ge=1)] = 3
    pause_seconds: Annotated[float, Meta(description="How long it is left alone.", gt=0)] = 30.0


class OutsideScanner(Processor[Config]):
    """Ask clamd about each message."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._family, self._place = _parse_address(config.address)
        self._breaker = Breaker(config.failures_before_pause, config.pause_seconds)

    def process(self, message: Message, context: Context) -> Verdict:
        """Ask, and carry the answer on."""
        if message.size > self.config.largest_bytes:
            return proceed(set_variable(_VARIABLE, "unscanned"), reason="too large to be scanned")
        try:
            found = self._ask(message, context.deadline)
        except (OSError, ScannerError) as error:
            reason = f"scanner at {self.config.address}: {error}"
            if self.config.on_failure == "defer":
                raise TemporaryError(reason) from error
            context.log.warning("scanner.failed", reason=reason)
            return proceed(set_variable(_VARIABLE, "unscanned"), reason=reason)
        if not found:
            return proceed(set_variable(_VARIABLE, "clean"))
        match self.config.otherwise:
            case "hold":
                return hold(f"the scanner found {found}")
            case "discard":
                return discard(f"the scanner found {found}")
            case "freeze":
                return freeze(f"the scanner found {found}", set_variable(_VARIABLE, found))
            case "proceed":
                return proceed(set_variable(_VARIABLE, found), reason=f"the scanner found {found}")

    def _ask(self, message: Message, deadline: float) -> str:
        """What was found; empty for nothing. Raises OSError and ScannerError."""
        if not self._breaker.may_try():
            raise ScannerError("left alone after too many failures")
        end = min(time.monotonic() + self.config.timeout_seconds, deadline - _REST)
        try:
            answer = self._exchange(message, end)
        except (OSError, ScannerError):
            self._breaker.failed()
            raise
        self._breaker.succeeded()
        if answer == b"stream: OK":
            return ""
        match = _FOUND.fullmatch(answer)
        if match is None:
            # It answers, so it is not down; what it says concerns this message, a size limit above all.
            raise ScannerError(f"it said {answer[:200]!r}")
        return match[1].decode("ascii")

    def _exchange(self, message: Message, end: float) -> bytes:
        with contextlib.closing(socket.socket(self._family, socket.SOCK_STREAM)) as connection:
            _allow_until(connection, end)
            connection.connect(self._place)
            # A scanner that has seen enough answers and closes: then its answer counts, not our broken pipe.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for piece in _pieces(message):
                    _allow_until(connection, end)
                    connection.sendall(piece)
            answer = b""
            while b"\0" not in answer:
                _allow_until(connection, end)
                more = connection.recv(_LONGEST_ANSWER)
                answer += more
                if not more or len(answer) > _LONGEST_ANSWER:
                    raise ScannerError(f"no answer but {answer[:80]!r}")
            return answer.partition(b"\0")[0]


class ScannerError(Exception):
    """No answer that can be used."""


class Breaker:
    """Opens after failures in a row, for a while; then one tries, and the others wait for what comes of it."""

    def __init__(self, failures: int, pause_seconds: float) -> None:
        self._most, self._pause_seconds = failures, pause_seconds
        self._guard = threading.Lock()
        self._failures = 0
        self._closed_at = 0.0

    def may_try(self) -> bool:
        """Whether the scanner may be asked now."""
        with self._guard:
            if self._failures < self._most:
                return True
            if time.monotonic() < self._closed_at:
                return False
            self._closed_at = time.monotonic() + self._pause_seconds
            return True

    def failed(self) -> None:
        """It gave no answer."""
        with self._guard:
            self._failures += 1
            self._closed_at = time.monotonic() + self._pause_seconds

    def succeeded(self) -> None:
        """It gave one."""
        with self._guard:
            self._failures = 0


def _parse_address(address: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    if address.startswith("/"):
        return socket.AF_UNIX, address
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match[3]) < 65536:
        raise ConfigError(f'"{address}" is neither /path/of/socket nor host:port', key="config.address")
    return (socket.AF_INET6, (match[1], int(match[3]))) if match[1] else (socket.AF_INET, (match[2], int(match[3])))


def _allow_until(connection: socket.socket, end: float) -> None:
    left = end - time.monotonic()
    if left <= 0:
        raise TimeoutError("no answer in time")
    connection.settimeout(left)


def _pieces(message: Message) -> Iterator[bytes]:
    yield b"zINSTREAM\0"
    headers = b"".join(field.raw for field in message.sent_headers) + b"\n"
    yield struct.pack("!I", len(headers)) + headers
    for chunk in message.body.chunks():
        yield struct.pack("!I", len(chunk)) + chunk
    yield struct.pack("!I", 0)
