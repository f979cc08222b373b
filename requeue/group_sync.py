"""One fsync shared by all who wait for it.

fsync of a directory makes every earlier link and rename in it durable, whoever made
them; so concurrent messages need one, not one each.

Diagnostics: sync() raises OSError if the fsync that covered the caller failed.
"""

from __future__ import annotations

import errno
import os
import threading

from . import durable


class _Round:
    def __init__(self) -> None:
        self.done = False
        self.error: BaseException | None = None


class GroupSync:
    """Shares fsyncs of directories between threads, never dropping one.

    A caller is covered only by an fsync that began after it called: one already under
    way may have missed its change.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._running: set[tuple[int, int]] = set()
        self._waiting: dict[tuple[int, int], _Round] = {}

    def sync(self, descriptor: int) -> None:
        """Return when an fsync of this directory that began after the call has ended well."""
        status = os.fstat(descriptor)
        key = status.st_dev, status.st_ino
        with self._condition:
            mine = self._waiting.setdefault(key, _Round())
            while key in self._running and not mine.done:
                self._condition.wait()
            if not mine.done:
                # Nobody syncs: this thread does, for all who wait in this round.
                del self._waiting[key]
                self._running.add(key)
        if not mine.done:
            try:
                durable.sync(descriptor)
            except BaseException as error:
                # Whatever ended it: those who wait have not been synced.
                mine.error = error
                raise
            finally:
                with self._condition:
                    mine.done = True
                    self._running.discard(key)
                    self._condition.notify_all()
        if isinstance(mine.error, OSError):
            raise OSError(mine.error.errno, mine.error.strerror)
        if mine.error is not None:
            raise OSError(errno.EINTR, "the fsync that was to cover it was broken off")
