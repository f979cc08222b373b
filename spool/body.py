"""Bodies, read in chunks: never mapped, never whole in memory.

A mapping of a file that somebody truncates is SIGBUS, and mapped pages count as memory;
pread is neither.

Diagnostics: OSError from the file goes to the caller, who defers the message.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from msgspec import Struct

CHUNK_SIZE: Final = 256 * 1024


class Body(Protocol):
    """The body of a message, without the first line of ``-D``.

    wireformat says which line end chunks() yields: CRLF if true, LF if not.
    """

    @property
    def size(self) -> int:
        """Bytes of the body as stored."""
        ...

    @property
    def wireformat(self) -> bool:
        """True for CRLF line ends."""
        ...

    def chunks(self) -> Iterator[bytes]:
        """The stored bytes, in pieces of at most CHUNK_SIZE; may be called any number of times."""
        ...


class FileBody:
    """A body in an open ``-D`` file, from offset to its end.

    The descriptor stays the caller's: it is neither closed nor locked here, and its
    file position is not used.
    """

    def __init__(self, descriptor: int, offset: int, *, wireformat: bool) -> None:
        self._descriptor = descriptor
        self._offset = offset
        self.wireformat = wireformat
        self.size = max(0, os.fstat(descriptor).st_size - offset)

    def chunks(self) -> Iterator[bytes]:
        """See Body. What is appended after construction is not read."""
        position, end = self._offset, self._offset + self.size
        while position < end:
            chunk = os.pread(self._descriptor, min(CHUNK_SIZE, end - position), position)
            if not chunk:
                return
            position += len(chunk)
            yield chunk


class BytesBody:
    """A body held in memory: a replaced one, a notice, a test's."""

    def __init__(self, content: bytes, *, wireformat: bool = False) -> None:
        self._content = content
        self.wireformat = wireformat
        self.size = len(content)

    def chunks(self) -> Iterator[bytes]:
        """See Body."""
        for start in range(0, len(self._content), CHUNK_SIZE):
            yield self._content[start : start + CHUNK_SIZE]


class SplicedBody:
    """Another body with pieces put into it: its own bytes are read where they are, and copied nowhere."""

    def __init__(self, body: Body, insertions: Iterable[tuple[int, bytes]]) -> None:
        """insertions: (position in body, content); at one position they stand in the order given.

        ValueError for a position outside body.
        """
        self._body = body
        self._insertions = tuple(sorted(insertions, key=lambda insertion: insertion[0]))
        for position, _ in self._insertions:
            if not 0 <= position <= body.size:
                raise ValueError(f"there is no place {position} in a body of {body.size} bytes")
        self.wireformat = body.wireformat
        self.size = body.size + sum(len(content) for _, content in self._insertions)

    def chunks(self) -> Iterator[bytes]:
        """See Body."""
        waiting = list(reversed(self._insertions))
        position = 0
        for chunk in self._body.chunks():
            done = 0
            while waiting and waiting[-1][0] <= position + len(chunk):
                place, content = waiting.pop()
                if place - position > done:
                    yield chunk[done : place - position]
                    done = place - position
                yield from BytesBody(content).chunks()
            if done < len(chunk):
                yield chunk[done:]
            position += len(chunk)
        for _, content in reversed(waiting):
            yield from BytesBody(content).chunks()


def wire_chunks(body: Body) -> Iterator[bytes]:
    """The body with CRLF line ends, as it goes over SMTP (before dot-stuffing).

    As Exim sends it (write_chunk in transport.c): in a local-format body every LF becomes
    CRLF, also one after CR, which is content; a wire-format body goes as it is, bare LF
    and bare CR included. local_chunks() of the result gives a local body back.
    """
    if body.wireformat:
        yield from body.chunks()
        return
    for chunk in body.chunks():
        yield chunk.replace(b"\n", b"\r\n")


def local_chunks(body: Body) -> Iterator[bytes]:
    """The body with LF line ends, as in a local-format ``-D``.

    Of a wire-format body one CR before each LF goes; bare CR and bare LF stay
    (write_chunk in transport.c). Whether the last line ends is left as it is.
    """
    if not body.wireformat:
        yield from body.chunks()
        return
    held = b""
    for chunk in body.chunks():
        piece = held + chunk
        held = b"\r" if piece.endswith(b"\r") else b""
        local = (piece[:-1] if held else piece).replace(b"\r\n", b"\n")
        if local:
            yield local
    if held:
        yield held


class BodyCounts(Struct, frozen=True, kw_only=True):
    """What ``-H`` says of a body: its LFs, its NULs, its longest line in bytes without the line end."""

    lines: int
    zeros: int
    longest_line: int
    ends_with_line_end: bool


def count_body(body: Body) -> BodyCounts:
    """Counts body in one pass; an empty body ends with a line end."""
    lines = zeros = longest = unfinished = 0
    for chunk in local_chunks(body):
        zeros += chunk.count(b"\0")
        first, *others = chunk.split(b"\n")
        unfinished += len(first)
        if others:
            lines += len(others)
            longest = max(longest, unfinished, *map(len, others[:-1]))
            unfinished = len(others[-1])
    return BodyCounts(
        lines=lines, zeros=zeros, longest_line=max(longest, unfinished), ends_with_line_end=not unfinished
    )
