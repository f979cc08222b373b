"""Directories that hold message files: an export, an archive, or an Exim ``input``.

Plain and split layouts (one subdirectory per 6th character of the id) are both read,
whatever Exim's configuration says, as Exim itself does (queue.c, spool_in.c).

Diagnostics: OSError from the system; ConfigError from check_ownership(). Foreign names
are skipped: every name in such a directory is an attacker's.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

from msgspec import Struct

from ..errors import ConfigError
from .ids import ALPHABET, MessageId, parse_id

#: Of ``<id>-D``, with an old id and with a new one.
_NAME_LENGTHS: Final = frozenset({18, 25})


class Found(Struct, frozen=True, order=True, gc=False):
    """A name in a directory: the message, and the split subdirectory it lies in (empty: none)."""

    id: MessageId
    subdirectory: str = ""


class Listing(Struct, frozen=True):
    """What one look at a directory showed; pairs and halves are sorted, oldest first.

    halves are messages of which only ``-D`` or only ``-H`` is there. subdirectories are
    those of the split layout. strangers are paths below the directory that are named as a
    message's file and are none: a symlink, a FIFO, a device, a directory.
    """

    pairs: tuple[Found, ...]
    halves: tuple[Found, ...]
    subdirectories: tuple[str, ...] = ()
    strangers: tuple[str, ...] = ()


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
        """Everything that is there now. Names that are no message's are left out.

        Takes time and memory in proportion to the names; no file is opened, and the
        kernel says with each name what it is. FileNotFoundError if the directory itself was
        removed, which would look like an empty one.
        """
        if os.fstat(self.descriptor).st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, "the directory was removed", self.path)
        seen = _Seen()
        seen.look(self.descriptor, "")
        for name in sorted(seen.subdirectories):
            try:
                descriptor = self.open_subdirectory(name)
            except OSError:
                seen.subdirectories.remove(name)  # gone again, or not ours to read
                continue
            try:
                seen.look(descriptor, name)
            finally:
                os.close(descriptor)
        return seen.listing()


class _Seen:
    """What a scan has met so far: pairs and halves as stems of names, by layout (plain, split)."""

    def __init__(self) -> None:
        self.subdirectories: set[str] = set()
        self.strangers: list[str] = []
        self.pairs: tuple[list[str], list[str]] = ([], [])
        self.halves: tuple[list[str], list[str]] = ([], [])

    def look(self, directory: int, subdirectory: str) -> None:
        """Add the names in a directory. An own descriptor: see list_names()."""
        data: set[str] = set()
        headers: set[str] = set()
        kinds = {"-D": data, "-H": headers}
        own = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            with os.scandir(own) as entries:
                for entry in entries:
                    name = entry.name
                    length = len(name)
                    if length in _NAME_LENGTHS:
                        stems = kinds.get(name[-2:])
                        # Exim never finds a message in a wrong subdirectory (spool_in.c): nor do we touch it.
                        if stems is None or subdirectory not in {"", name[5]}:
                            continue
                        if entry.is_file(follow_symlinks=False):
                            stems.add(name[:-2])
                        elif parse_id(name[:-2]) is not None:
                            self.strangers.append(f"{subdirectory}/{name}" if subdirectory else name)
                    elif length == 1 and not subdirectory and name in ALPHABET and entry.is_dir(follow_symlinks=False):
                        self.subdirectories.add(name)
        finally:
            os.close(own)
        is_split = bool(subdirectory)
        self.pairs[is_split].extend(data & headers)
        self.halves[is_split].extend(data ^ headers)

    def listing(self) -> Listing:
        """All of it, in order."""
        return Listing(
            pairs=_found(*self.pairs),
            halves=_found(*self.halves),
            subdirectories=tuple(sorted(self.subdirectories)),
            strangers=tuple(sorted(self.strangers)),
        )


def _found(plain: list[str], split: list[str]) -> tuple[Found, ...]:
    found = [Found(message_id) for stem in sorted(plain) if (message_id := parse_id(stem)) is not None]
    in_split = [Found(message_id, stem[5]) for stem in sorted(split) if (message_id := parse_id(stem)) is not None]
    return tuple(sorted(found + in_split) if found and in_split else found or in_split)


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
                if prefix and name == names[0] and not has_subdirectory(directory, prefix[0]):
                    break
    return found


def has_subdirectory(directory: int, name: str) -> bool:
    """Whether a name in an open directory is a directory, no symlink to one."""
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
