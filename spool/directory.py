"""Directories that hold message files: an export, an archive, or an Exim ``input``.

Plain and split layouts (one subdirectory per 6th character of the id) are both read,
whatever Exim's configuration says, as Exim itself does (queue.c, spool_in.c).

Diagnostics: OSError from the system; ConfigError from check_ownership(). Foreign names
are skipped: every name in such a directory is an attacker's.
"""

from __future__ import annotations

import os
import stat
from typing import Final

from msgspec import Struct

from ..errors import ConfigError
from .ids import ALPHABET, MessageId

_SUFFIXES: Final = {"-D": 1, "-H": 2, "-J": 4}
_PAIR: Final = 3


class Found(Struct, frozen=True, order=True):
    """A name in a directory: the message, and the split subdirectory it lies in (empty: none)."""

    id: MessageId
    subdirectory: str = ""


class Listing(Struct, frozen=True):
    """What one look at a directory showed; both tuples are sorted, oldest first.

    halves are messages of which only ``-D`` or only ``-H`` is there.
    """

    pairs: tuple[Found, ...]
    halves: tuple[Found, ...]


def list_names(descriptor: int) -> list[str]:
    """Every name in an open directory.

    Read through an open file of its own: threads and forked children share the position
    of a directory descriptor, so that two listings of one would each miss names.
    """
    own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=descriptor)
    try:
        return os.listdir(own)
    finally:
        os.close(own)


class MessageDirectory:
    """An open directory with message files, in plain or split layout or both."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def open_subdirectory(self, name: str) -> int:
        """A new descriptor, the caller's to close, of a split subdirectory; of the directory itself for ""."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name or ".", flags, dir_fd=self.descriptor)

    def list(self) -> Listing:
        """Everything that is there now. Names that are no message's are left out."""
        names = list_names(self.descriptor)
        pairs: list[Found] = []
        halves: list[Found] = []
        _collect(names, "", pairs, halves)
        for name in names:
            if len(name) == 1 and name in ALPHABET:
                try:
                    descriptor = self.open_subdirectory(name)
                except OSError:
                    continue  # not a directory, or gone again
                try:
                    _collect(os.listdir(descriptor), name, pairs, halves)
                finally:
                    os.close(descriptor)
        return Listing(pairs=tuple(sorted(pairs)), halves=tuple(sorted(halves)))


def _collect(names: list[str], subdirectory: str, pairs: list[Found], halves: list[Found]) -> None:
    seen: dict[str, int] = {}
    for name in names:
        bit = _SUFFIXES.get(name[-2:])
        if bit is not None:
            seen[name[:-2]] = seen.get(name[:-2], 0) | bit
    for stem, bits in seen.items():
        if not bits & _PAIR:
            continue
        try:
            message_id = MessageId(stem)
        except ValueError:
            continue
        if subdirectory and message_id.split_directory != subdirectory:
            continue  # Exim never finds a message in a wrong subdirectory (spool_in.c): nor do we touch it
        (pairs if bits & _PAIR == _PAIR else halves).append(Found(message_id, subdirectory))


def occupants(directory: int, message_id: MessageId) -> dict[str, os.stat_result]:
    """The files of an id in an ``input`` directory, by relative path, in both layouts.

    Exim looks in both places (spool_in.c), so a name in either one is taken.
    """
    names = (message_id.data_name, message_id.header_name, message_id.journal_name)
    found: dict[str, os.stat_result] = {}
    for prefix in ("", message_id.split_directory + "/"):
        for name in names:
            try:
                found[prefix + name] = os.stat(prefix + name, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                if prefix and name == names[0] and not _has_subdirectory(directory, prefix[0]):
                    break
    return found


def _has_subdirectory(directory: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def check_ownership(path: str, descriptor: int, owner: int) -> None:
    """Refuse a directory that others than owner and root can write.

    Exim trusts ``-H`` completely (host, authentication, ``-local``, a debug log path), so
    whoever writes here commands Exim. Raises ConfigError with what to do.
    """
    status = os.fstat(descriptor)
    if status.st_uid not in {0, owner}:
        raise ConfigError(f"{path} belongs to uid {status.st_uid}, not to root or the spool's owner, uid {owner}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        mode = stat.S_IMODE(status.st_mode)
        raise ConfigError(f"{path} can be written by others (mode {mode:04o}): chmod go-w {path}")
