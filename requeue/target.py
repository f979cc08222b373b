"""Where outputs are published: the ``input`` directories of an Exim spool, or one directory.

Files and directories made here get the owner and group of the spool and Exim's modes
(0640, 0750): Exim does not check them on reading, but fails to unlink afterwards where
they are wrong (deliver.c).

Diagnostics: ConfigError for a target that can't be used; OSError from the system.
"""

from __future__ import annotations

import contextlib
import os
from typing import Final, Literal

from ..errors import ConfigError, ConflictError
from ..spool.directory import check_ownership, has_subdirectory, list_names, occupants
from ..spool.ids import ALPHABET, IdMinter, MessageId
from ..spool.locks import lock_message, unlock_message
from . import durable
from .group_sync import GroupSync
from .job import Job
from .publish import Published, publish

Kind = Literal["spool", "directory"]
IdFormat = Literal["same", "short", "long"]

_MAKING_ATTEMPTS: Final = 16


class Target:
    """An open destination.

    kind ``spool``: path is Exim's spool directory, outputs go to ``path[/queue]/input[/X]``.
    kind ``directory``: outputs go to path itself, whatever their queue. split says whether
    ``X`` is used; None finds out by looking for such subdirectories, once per queue.
    id_format says which ids the destination can read: ``short`` before Exim 4.97, which
    sees no others; ``same`` as in the source.
    """

    def __init__(
        self,
        kind: Kind,
        path: str,
        *,
        split: bool | None = None,
        localhost_number: int | None = None,
        id_format: IdFormat = "same",
    ) -> None:
        self._id_format = id_format
        self.kind: Kind = kind
        self.path = path
        try:
            self.descriptor = durable.open_directory(path)
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}", key="$.requeue") from error
        self._split = split
        self._layouts: dict[str, bool] = {}
        status = os.fstat(self.descriptor)
        self.uid, self.gid, self.device = status.st_uid, status.st_gid, status.st_dev
        if kind == "spool":
            # S itself may be root's; input is always Exim's.
            with contextlib.suppress(FileNotFoundError):
                found = os.stat("input", dir_fd=self.descriptor, follow_symlinks=False)
                self.uid, self.gid = found.st_uid, found.st_gid
        self._minters = {
            is_long: IdMinter(long=is_long, localhost_number=localhost_number) for is_long in (True, False)
        }

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self.descriptor)

    def check(self) -> None:
        """Raise ConfigError if others than the spool's owner and root can write here."""
        check_ownership(self.path, self.descriptor, self.uid)

    def sync_file_system(self) -> None:
        """Make everything on the target's file system durable."""
        durable.sync_file_system(self.descriptor)

    def accepts(self, message_id: MessageId) -> bool:
        """True if the destination can read a message of this id."""
        return self._id_format == "same" or (self._id_format == "long") == message_id.is_long

    def mint(self, like: MessageId) -> MessageId:
        """A new id, in the shape of another unless id_format says which one."""
        return self._minters[like.is_long if self.accepts(like) else not like.is_long].mint()

    def may_keep_id(self, job: Job, queue: str) -> bool:
        """Whether the claimed id is free in a queue and Exim is done with it. Raises ConflictError."""
        if not job.lock():
            raise ConflictError(job.id, "Exim, or another program that locks -D")
        if os.fstat(job.open_data()).st_nlink != 1:
            # The original is still queued: Exim's final unlinks go by name and would take ours.
            job.unlock()
            return False
        directory = self.open_input(queue)
        try:
            return not occupants(directory, job.id)
        finally:
            os.close(directory)

    def publish(self, job: Job, syncs: GroupSync) -> tuple[Published, ...]:
        """Link and rename what is left in ``out/`` into the queues: publish.py."""
        return publish(job, self, syncs)

    def hang_up(self) -> None:
        """Nothing is kept open but the directory, which is the supervisor's."""

    def is_in_use(self, message_id: MessageId) -> bool:
        """True while an Exim holds the lock on ``-D`` of that id, in whatever queue of this spool."""
        if self.kind != "spool":
            return False
        for queue in self._queues():
            for path in _paths(queue, message_id, message_id.data_name):
                try:
                    data = durable.open_file(path, at=self.descriptor, write=True)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                try:
                    if not lock_message(data, message_id):
                        return True
                    unlock_message(data, message_id)
                finally:
                    os.close(data)
        return False

    def queue_of(self, message_id: MessageId) -> str | None:
        """The queue in which ``-H`` of an id is; None where it is in none: Exim is done with it."""
        if self.kind != "spool":
            return None
        for queue in self._queues():
            for path in _paths(queue, message_id, message_id.header_name):
                with contextlib.suppress(NotADirectoryError):
                    if durable.exists(path, at=self.descriptor) is not None:
                        return queue
        return None

    def _queues(self) -> tuple[str, ...]:
        """The default queue, and every other name in the spool that may be one."""
        return ("", *(name for name in list_names(self.descriptor) if name != "input"))

    def open_input(self, queue: str) -> int:
        """A descriptor, the caller's to close, of the directory that holds a queue's messages."""
        if self.kind == "directory":
            return os.dup(self.descriptor)
        parts = [queue, "input"] if queue else ["input"]
        current = os.dup(self.descriptor)
        for part in parts:
            try:
                following = self._open_or_make(part, at=current)
            finally:
                os.close(current)
            current = following
        return current

    def subdirectory(self, queue: str, directory: int, message_id: MessageId) -> str:
        """The split subdirectory in which an id belongs, "" for the plain layout."""
        if self._split is None:
            if queue not in self._layouts:
                names = list_names(directory)
                self._layouts[queue] = any(
                    len(name) == 1 and name in ALPHABET and has_subdirectory(directory, name) for name in names
                )
            is_split = self._layouts[queue]
        else:
            is_split = self._split
        return message_id.split_directory if is_split else ""

    def open_subdirectory(self, directory: int, name: str) -> int:
        """A descriptor, the caller's to close, of a split subdirectory made anew if it vanished."""
        return self._open_or_make(name, at=directory) if name else os.dup(directory)

    def _open_or_make(self, name: str, *, at: int) -> int:
        for _ in range(_MAKING_ATTEMPTS):
            with contextlib.suppress(FileNotFoundError):
                descriptor = durable.open_directory(name, at=at)
                if self.uid and os.fstat(descriptor).st_uid == 0 == os.geteuid():
                    # One that ran as root, as we do, made it and died: Exim could not unlink in it.
                    self.give(descriptor, durable.DIRECTORY_MODE)
                return descriptor
            with contextlib.suppress(FileExistsError):
                durable.make_directory(name, at=at)
                with contextlib.suppress(FileNotFoundError):
                    descriptor = durable.open_directory(name, at=at)
                    self.give(descriptor, durable.DIRECTORY_MODE)
                    # A new directory is durable only with its parent.
                    durable.sync(at)
                    return descriptor
        raise OSError(f"{name}: vanishes as often as it is made")

    def give(self, descriptor: int, mode: int = durable.FILE_MODE) -> None:
        """Make a file or directory the spool's: owner, group, mode."""
        uid, gid = (self.uid, self.gid) if os.geteuid() in {0, self.uid} else (os.geteuid(), self.gid)
        durable.give(descriptor, uid, gid, mode)


def _paths(queue: str, message_id: MessageId, name: str) -> tuple[str, str]:
    """Where a file of a message may be in a queue, relative to the spool: both layouts."""
    place = f"{queue}/input" if queue else "input"
    return f"{place}/{name}", f"{place}/{message_id.split_directory}/{name}"
