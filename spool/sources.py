"""Where messages come from: an export directory, a named queue, an archive.

Diagnostics: ConfigError where a source can't be read safely; OSError from the system.
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import Literal

from ..errors import ConfigError
from .directory import MessageDirectory, check_ownership
from .ids import ALPHABET
from .locks import lock_directory

Kind = Literal["export", "queue", "directory"]


class Source:
    """An open source.

    has_journal: ``-J`` files there belong to the message (a queue of Exim). message_log is
    the path of the queue's msglog directory.
    """

    def __init__(self, kind: Kind, path: str, *, message_log: str | None = None) -> None:
        self.kind = kind
        self.input = MessageDirectory(path)
        self.has_journal = kind == "queue"
        self._message_log_path, self._message_log = message_log, self._open_message_log(message_log)
        self._guard = threading.Lock()

    @property
    def message_log(self) -> MessageDirectory | None:
        """The queue's msglog directory; None until there is one: Exim makes it with the first log."""
        if self._message_log is None and self._message_log_path is not None:
            with self._guard:
                self._message_log = self._message_log or self._open_message_log(self._message_log_path)
        return self._message_log

    @staticmethod
    def _open_message_log(path: str | None) -> MessageDirectory | None:
        with contextlib.suppress(FileNotFoundError):
            return MessageDirectory(path) if path is not None else None
        return None

    @property
    def path(self) -> str:
        """The directory with the pairs."""
        return self.input.path

    def close(self) -> None:
        """Close the directory, and with it the ownership."""
        self.input.close()
        if self._message_log is not None:
            self._message_log.close()

    def own(self) -> None:
        """Become the one engine that reads this directory (flock); ConfigError while another does."""
        if not lock_directory(self.input.descriptor):
            raise ConfigError(f"{self.path} is being read by another respool", key="$.source")

    def check(self, owner: int) -> None:
        """Raise ConfigError if others than owner and root can write here, or in a split subdirectory."""
        check_ownership(self.path, self.input.descriptor, owner)
        for name in ALPHABET:
            try:
                descriptor = self.input.open_subdirectory(name)
            except OSError:
                continue  # not there, or nothing that would be listed
            try:
                check_ownership(f"{self.path}/{name}", descriptor, owner)
            finally:
                os.close(descriptor)
