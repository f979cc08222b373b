"""The messages that a path on the command line names, opened for reading only.

A directory may be an export, an archive, an Exim spool (with its named queues), an
``input`` directory in either layout, or a state directory of respool.

Diagnostics: OSError for a path that can't be read; SpoolFormatError from read(). Inside
a directory no symbolic link is followed and nothing but regular files is opened.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from ...errors import SpoolFormatError
from ...spool.body import FileBody
from ...spool.envelope import Envelope, Header, flag_for
from ...spool.header_file import LARGEST_HEADER_FILE, parse_header_file
from ...spool.ids import ALPHABET, MessageId, parse_id
from ...spool.journal import merge_journal
from ...spool.message import Message

_DEEPEST: Final = 5
_PASSED_OVER: Final = frozenset({"msglog", "db", "scan", "log", "out", "out.tmp", "status"})
_LARGEST_JOURNAL: Final = 64 * 1024 * 1024
_FIELD: Final = re.compile(rb"([!-9;-~]+)[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*")


class Place(Struct, frozen=True, order=True):
    """A ``-H`` file: the id that its name gives, its directory, and that directory as seen from what was asked for."""

    id: MessageId
    directory: str
    below: str = ""

    @property
    def header_path(self) -> str:
        """The path of ``-H``."""
        return os.path.join(self.directory, self.id.header_name)

    @property
    def is_lost(self) -> bool:
        """In a split directory where Exim does not look for this id, nor does respool (spool_in.c)."""
        name = os.path.basename(self.below)
        return len(name) == 1 and name in ALPHABET and name != self.id.split_directory


class Stored(Struct, frozen=True):
    """What the files of one message say; journal is the content of ``-J``, already merged into envelope.

    on_disk is the envelope as ``-H`` has it. body is closed: read_body() opens it again.
    first_line is what stands in ``-D`` before the body, None where ``-D`` is missing.
    """

    place: Place
    header_data: bytes
    on_disk: Envelope
    envelope: Envelope
    journal: bytes | None
    first_line: bytes | None
    body_size: int


def find(path: str) -> Iterator[Place]:
    """Every ``-H`` file that path names, oldest first within its directory."""
    if os.path.isdir(path):
        yield from sorted((place for place, _ in _search(path, "", _DEEPEST, ("-H",))), key=_by_age)
        return
    directory, name = os.path.split(path)
    message_id = _id_of(name, ("-H",))
    if message_id is None:
        raise FileNotFoundError(f"{path}: not the name of a -H file (<message id>-H)")
    yield Place(message_id, directory or ".")


def find_with_halves(path: str) -> tuple[list[Place], list[Place]]:
    """As find(), and the messages of which there is a ``-D`` alone; one look, in which what comes later has no part."""
    if not os.path.isdir(path):
        return list(find(path)), []
    found: dict[str, set[Place]] = {"-H": set(), "-D": set()}
    for place, suffix in _search(path, "", _DEEPEST, tuple(found)):
        found[suffix].add(place)
    return sorted(found["-H"], key=_by_age), sorted(found["-D"] - found["-H"], key=_by_age)


def _by_age(place: Place) -> tuple[str, MessageId]:
    return place.below, place.id


def _search(directory: str, below: str, depth: int, suffixes: tuple[str, ...]) -> Iterator[tuple[Place, str]]:
    """The places of files that end so, and how each ends; in no order."""
    with os.scandir(directory) as entries:
        listed = list(entries)
    folders = [entry.name for entry in listed if entry.is_dir(follow_symlinks=False)]
    for entry in listed:
        message_id = _id_of(entry.name, suffixes)
        if message_id is not None and entry.is_file(follow_symlinks=False):
            yield Place(message_id, directory, below), entry.name[-2:]
    if depth:
        for name in folders:
            # A named queue of Exim may be called like anything.
            is_queue = os.path.isdir(os.path.join(directory, name, "input"))
            if is_queue or (name not in _PASSED_OVER and not name.startswith(".")):
                yield from _search(os.path.join(directory, name), os.path.join(below, name), depth - 1, suffixes)


def _id_of(name: str, suffixes: tuple[str, ...]) -> MessageId | None:
    return parse_id(name[:-2]) if name.endswith(suffixes) else None


def read(place: Place) -> Stored:
    """Read one message: ``-H`` whole, ``-J`` if there is one, of ``-D`` the first line and the size."""
    header_data = _read_whole(place.header_path, LARGEST_HEADER_FILE + 1)
    on_disk = parse_header_file(header_data, file=place.header_path)
    journal = None
    envelope = on_disk
    try:
        journal = _read_whole(os.path.join(place.directory, place.id.journal_name), _LARGEST_JOURNAL)
        envelope = merge_journal(on_disk, journal)
    except FileNotFoundError:
        pass
    first_line, body_size = None, 0
    try:
        descriptor = _open(os.path.join(place.directory, place.id.data_name))
    except FileNotFoundError:
        pass
    else:
        try:
            first_line = os.pread(descriptor, place.id.body_offset, 0)
            body_size = max(0, os.fstat(descriptor).st_size - place.id.body_offset)
        finally:
            os.close(descriptor)
    return Stored(place, header_data, on_disk, envelope, journal, first_line, body_size)


class OpenMessage:
    """A context manager: the message with its body open."""

    def __init__(self, stored: Stored) -> None:
        self._stored = stored

    def __enter__(self) -> Message:
        place = self._stored.place
        self._descriptor = _open(os.path.join(place.directory, place.id.data_name))
        envelope = self._stored.envelope
        return Message(
            envelope, FileBody(self._descriptor, place.id.body_offset, wireformat=envelope.is_wireformat)
        )  # fmt: skip

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def read_eml_bytes(path: str) -> bytes:
    """The whole of a message file without an envelope, as it is."""
    return _read_whole(path, LARGEST_HEADER_FILE)


def read_eml(path: str) -> tuple[tuple[Header, ...], bytes]:
    """(header fields, body) of a message file without an envelope, both with LF line ends."""
    content = read_eml_bytes(path).replace(b"\r\n", b"\n")
    headers: list[Header] = []
    position = 0
    while (found := _FIELD.match(content, position)) is not None:
        headers.append(Header(flag_for(found[1]), found[0]))
        position = found.end()
    if position < len(content) and content[position : position + 1] != b"\n":
        line = content.count(b"\n", 0, position) + 1
        raise SpoolFormatError(
            file=path, line=line, column=1, expected="a header field or an empty line",
            found=ascii(content[position : position + 40])[1:],
        )  # fmt: skip
    return tuple(headers), content[position + 1 :]


def _open(path: str) -> int:
    """A regular file, open for reading; O_NONBLOCK, so that a FIFO of that name stops nobody."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise PermissionError(f"{path}: not a regular file")
    return descriptor


def _read_whole(path: str, limit: int) -> bytes:
    descriptor = _open(path)
    try:
        pieces: list[bytes] = []
        while limit > 0 and (piece := os.read(descriptor, min(limit, 1024 * 1024))):
            pieces.append(piece)
            limit -= len(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)
