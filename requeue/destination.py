"""Where outputs go, as the hand-back sees it: a spool or a directory (target.py), or a server (smtp.py).

What is staged is the same for each: ``out/<n>-H`` and ``-D``. A destination takes them away one
by one; the ``out/<n>-H`` that is gone is the evidence that output n has been taken.

Diagnostics: those of each implementation, as publish() says.
"""

from __future__ import annotations

from typing import Protocol

from ..errors import RespoolError
from ..spool.ids import MessageId
from . import durable
from .group_sync import GroupSync
from .job import Job
from .publish import Published


class LeftOverError(RespoolError):
    """A destination did not take all of a committed message: what is left stays in ``out/``.

    is_permanent: trying again as it is will not help, so hold it; else defer it.
    """

    def __init__(self, reason: str, *, is_permanent: bool) -> None:
        self.reason, self.is_permanent = reason, is_permanent
        super().__init__(reason, is_permanent)

    def __str__(self) -> str:
        return self.reason


class Destination(Protocol):
    """Shared by the threads of a worker."""

    def accepts(self, message_id: MessageId) -> bool:
        """Whether a message of this id can be read there."""
        ...

    def may_keep_id(self, job: Job, queue: str) -> bool:
        """Whether an output may have the claimed id. Raises ConflictError where Exim holds the message."""
        ...

    def mint(self, like: MessageId) -> MessageId:
        """A new id."""
        ...

    def give(self, descriptor: int, mode: int = durable.FILE_MODE) -> None:
        """Owner, group and mode of a file that is staged."""
        ...

    def queue_of(self, message_id: MessageId) -> str | None:
        """The queue that holds a message published before; None where none does, or there are no queues."""
        ...

    def publish(self, job: Job, syncs: GroupSync) -> tuple[Published, ...]:
        """Get rid of what is left in ``out/``; on return that is durable.

        Raises ConflictError and OSError (call it again later), and where outputs are sent
        LeftOverError, after every output was tried.
        """
        ...

    def hang_up(self) -> None:
        """End what is kept open between messages: the worker is about to end."""
        ...

    def sync_file_system(self) -> None:
        """Make durable what a predecessor published before it died."""
        ...
