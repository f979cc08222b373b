"""Hints that a file appeared; the directory itself stays the truth.

watchdog's Observer delays events by seconds under load, so this uses its inotify layer
underneath: a callback per event, nothing buffered. Events wake the worker, they carry no
work; a lost or false one costs nothing but time until the next scan.

Diagnostics: start() raises OSError where inotify is not to be had (limits reached, no
kernel support): poll by scanning then. is_alive() is False once events have stopped: stop()
it, make another, scan.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections.abc import Callable, Iterable
from typing import Final

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from .directory import Found, MessageDirectory
from .ids import ALPHABET, parse_id

#: Names that appear, by creation, link or rename. Nothing else is asked for, so nothing else wakes anybody.
_MASK: Final = Mask(
    InotifyConstants.IN_CREATE
    | InotifyConstants.IN_MOVED_TO
    | InotifyConstants.IN_ONLYDIR
    | InotifyConstants.IN_DONT_FOLLOW
)

#: What /proc shows for the descriptor.
_INOTIFY: Final = "anon_inode:inotify"


class Watch:
    """Watches one directory and its split subdirectories for message files.

    appeared is called, from the watcher's thread, for each ``-D`` or ``-H`` that turns up;
    lost when events were lost or the set of subdirectories changed: scan then.
    """

    def __init__(
        self, directory: MessageDirectory, appeared: Callable[[Found], None], lost: Callable[[], None]
    ) -> None:
        # The open directory, whatever its path means by now: the same that is scanned.
        self._path = f"/proc/self/fd/{directory.descriptor}"
        self._appeared = appeared
        self._lost = lost
        self._inotify: InotifyFD | None = None
        self._guard = threading.Lock()
        self._callbacks: dict[str, _Callback] = {}

    def start(self) -> None:
        """Begin watching; the caller scans after this, not before, so that nothing falls between."""
        self._inotify = InotifyFD()
        self._inotify.start()
        try:
            self._add("")
        except OSError:
            self.stop()
            raise

    def add(self, subdirectories: Iterable[str]) -> None:
        """Watch these split subdirectories, too; one that is watched already is left as it is.

        Raises OSError where the system's limit of watches is reached.
        """
        for name in subdirectories:
            try:
                self._add(name)
            except (FileNotFoundError, NotADirectoryError):
                continue  # gone again, or replaced by something else

    def _add(self, name: str) -> None:
        with self._guard:
            if self._inotify is None or name in self._callbacks:
                return
            callback = self._callbacks[name] = _Callback(name, self)
        try:
            path = os.fsencode(f"{self._path}/{name or '.'}")
            if self._inotify.add_callback(path, _MASK, callback, CallbackId(id(callback))) < 0:
                # watchdog passes over this one error.
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
        except OSError:
            self._forget(callback)
            raise

    def is_alive(self) -> bool:
        """False once the watcher's thread has ended, or its descriptor was closed by somebody.

        A directory that is removed while it is open brings no event: the scan finds it out.
        """
        return self._inotify is not None and self._inotify.is_alive() and "" in self._callbacks and self._is_open()

    def _is_open(self) -> bool:
        """False if somebody closed the descriptor: watchdog's thread would spin on it, or read another file."""
        # watchdog has no public name for it.
        descriptor = vars(self._inotify).get("_inotify_fd", -1)
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}") == _INOTIFY
        except FileNotFoundError:
            return False

    def stop(self) -> None:
        """End the watcher's thread."""
        is_open = self._inotify is not None and self._is_open()
        inotify, self._inotify = self._inotify, None
        if inotify is None:
            return
        if is_open:
            inotify.stop()
            inotify.join()
        else:
            # The number may be another file's by now, which watchdog would close.
            inotify.stopped_event.set()
        self._callbacks.clear()

    def on_event(self, subdirectory: str, event: InotifyEvent) -> None:
        """Something happened in a watched directory; called by watchdog's thread."""
        name = event.name.decode("ascii", "replace")
        if name[-2:] in {"-D", "-H"}:
            message_id = parse_id(name[:-2])
            if message_id is not None and subdirectory in {"", message_id.split_directory}:
                self._appeared(Found(message_id, subdirectory))
        elif not subdirectory and len(name) == 1 and name in ALPHABET:
            # Watched at once; what came into it before is for the scan.
            with contextlib.suppress(OSError):
                self.add([name])
            self._lost()

    def on_deletion(self, callback: _Callback) -> None:
        """A watched directory has gone; called by watchdog's thread."""
        self._forget(callback)
        self._lost()

    def on_overflow(self) -> None:
        """Events were lost; called by watchdog's thread."""
        self._lost()

    def _forget(self, callback: _Callback) -> None:
        with self._guard:
            # A directory made anew may have a callback of its own already.
            if self._callbacks.get(callback.subdirectory) is callback:
                del self._callbacks[callback.subdirectory]


class _Callback:
    """What watchdog calls for one directory."""

    def __init__(self, subdirectory: str, watch: Watch) -> None:
        self.subdirectory = subdirectory
        self._watch = watch

    def on_event(self, event: InotifyEvent) -> None:
        self._watch.on_event(self.subdirectory, event)

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        del wd
        self._watch.on_deletion(self)

    def on_queue_overflow(self) -> None:
        self._watch.on_overflow()
