"""Where messages come from: an export directory, a named queue, an archive.

Diagnostics: ConfigError where a source can't be read safely; OSError from the system.
"""

from __future__ import annotations

from typing import Literal

from ..errors import ConfigError
from .directory import MessageDirectory, check_ownership
from .locks import lock_directory

Kind = Literal["export", "queue", "directory"]


class Source:
    """An open source.

    has_journal: ``-J`` files there belong to the message (a queue of Exim). message_log is
    the queue's msglog directory, where it has one.
    """

    def __init__(self, kind: Kind, path: str, *, message_log: str | None = None) -> None:
        self.kind = kind
        self.input = MessageDirectory(path)
        self.has_journal = kind == "queue"
        self.message_log = MessageDirectory(message_log) if message_log is not None else None

    @property
    def path(self) -> str:
        """The directory with the pairs."""
        return self.input.path

    def close(self) -> None:
        """Close the directory, and with it the ownership."""
        self.input.close()
        if self.message_log is not None:
            self.message_log.close()

    def own(self) -> None:
        """Become the one engine that reads this directory (flock); ConfigError while another does."""
        if not lock_directory(self.input.descriptor):
            raise ConfigError(f"{self.path} is being read by another respool", key="$.source")

    def check(self, owner: int) -> None:
        """Raise ConfigError if others than owner and root can write here."""
        check_ownership(self.path, self.input.descriptor, owner)
