"""What an SMTP server says, read from its bytes: replies, and the extensions in the one to EHLO.

Diagnostics: ReplyReader raises DialogueError for what is no reply, and for one past any bound;
the session can't be used after that.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from ..errors import TemporaryError

#: RFC 5321 4.5.3.1.5 allows 512; servers that say more are listened to, up to a point.
LONGEST_REPLY_LINE: Final = 4096
MOST_REPLY_LINES: Final = 256

_LINE: Final = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED: Final = re.compile(r"([245]\.[0-9]{1,3}\.[0-9]{1,3})(?:\s|$)")
_KEYWORD: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}")


class DialogueError(TemporaryError):
    """The session with a server ended before it should: tried again later.

    detail names the state it ended in, as ``protocol_detail`` in the log; stage is what was
    waited for.
    """

    def __init__(self, reason: str, *, detail: str = "") -> None:
        self.detail, self.stage = detail, ""
        super().__init__(reason)


class Reply(Struct, frozen=True):
    """One reply: its code and its lines, without codes and line ends."""

    code: int
    lines: tuple[str, ...]

    @property
    def is_positive(self) -> bool:
        """2yz."""
        return 200 <= self.code < 300

    @property
    def is_permanent(self) -> bool:
        """5yz: don't try again as it is."""
        return self.code >= 500

    @property
    def text(self) -> str:
        """Code and lines as one line."""
        return " ".join((str(self.code), *self.lines)).strip()

    @property
    def enhanced(self) -> str:
        """The enhanced status code (RFC 2034), or one that says no more than the code does."""
        match = _ENHANCED.match(self.lines[0]) if self.lines else None
        if match is not None and match[1][0] == str(self.code)[0]:
            return match[1]
        return f"{self.code // 100}.0.0"


class ReplyReader:
    """Bytes in, replies out; never more than one reply and one line is kept beyond what was asked for."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._lines: list[str] = []
        self._code = 0
        self._replies: deque[Reply] = deque()

    def feed(self, data: bytes) -> None:
        """Take what came from the server. Raises DialogueError."""
        self._buffer += data
        while (end := self._buffer.find(b"\n")) >= 0:
            if end > LONGEST_REPLY_LINE:
                break
            line = bytes(self._buffer[:end]).removesuffix(b"\r")
            del self._buffer[: end + 1]
            self._take(line)
        if len(self._buffer) > LONGEST_REPLY_LINE:
            raise DialogueError("the server's reply has a line without end", detail="overlong reply")

    def _take(self, line: bytes) -> None:
        match = _LINE.fullmatch(line)
        if match is None or (self._lines and int(match[1]) != self._code):
            raise DialogueError(f"the server said what is no reply: {line[:80]!r}", detail="not a reply")
        self._code = int(match[1])
        self._lines.append((match[3] or b"").decode("utf-8", "replace"))
        if match[2] != b"-":
            self._replies.append(Reply(self._code, tuple(self._lines)))
            self._lines = []
        elif len(self._lines) >= MOST_REPLY_LINES:
            raise DialogueError("the server's reply has too many lines", detail="overlong reply")

    def next(self) -> Reply | None:
        """The next whole reply, in order."""
        return self._replies.popleft() if self._replies else None

    @property
    def is_empty(self) -> bool:
        """Whether everything that came has been taken out as replies."""
        return not (self._buffer or self._lines or self._replies)


class Extensions(Struct, frozen=True):
    """What a server offers: keyword in upper case, with its parameters (RFC 5321 4.1.1.1)."""

    offered: Mapping[str, tuple[str, ...]]

    def __contains__(self, keyword: str) -> bool:
        return keyword in self.offered

    @property
    def size_limit(self) -> int:
        """The largest message that it takes, 0 where it names none (RFC 1870)."""
        parameters = self.offered.get("SIZE", ())
        return int(parameters[0]) if parameters and re.fullmatch(r"[0-9]{1,18}", parameters[0], re.ASCII) else 0

    @property
    def xclient(self) -> tuple[str, ...]:
        """The attributes of XCLIENT, empty where that is not offered."""
        return tuple(word.upper() for word in self.offered.get("XCLIENT", ()))


NO_EXTENSIONS: Final = Extensions({})


def read_extensions(reply: Reply) -> Extensions:
    """The extensions in the reply to EHLO; what is no keyword is passed over."""
    offered: dict[str, tuple[str, ...]] = {}
    for line in reply.lines[1:]:
        keyword, *parameters = line.split() or [""]
        if _KEYWORD.fullmatch(keyword):
            offered[keyword.upper()] = tuple(parameters)
    return Extensions(offered)
