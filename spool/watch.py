"""Hints that a file appeared; the directory itself stays the truth.

watchdog's Observer delays events by seconds under load, so this uses its inotify layer
underneath: a callback per event, nothing buffered. Events wake the worker, they carry no
work; a lost or false one costs nothing but time until the next scan.

Diagnostics: start() raises OSError where inotify is not to be had (limits reached, no
kernel support): poll by scanning then. is_alive() is False once events have stopped.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    WatchDescriptor,
)

from .directory import Found
from .ids import ALPHABET, MessageId

_MASK: Final = Mask(InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_ONLYDIR)


class Watch:
    """Watches one directory and its split subdirectories for message files.

    appeared is called, from the watcher's thread, for each ``-D`` or ``-H`` that turns up;
    lost when events were lost or the set of subdirectories changed: scan then.
    """

    def __init__(self, path: str, appeared: Callable[[Found], None], lost: Callable[[], None]) -> None:
        self._path = path
        self._appeared = appeared
        self._lost = lost
        self._inotify: InotifyFD | None = None
        self._callbacks: dict[str, _Callback] = {}

    def start(self) -> None:
        """Begin watching; the caller scans after this, not before, so that nothing falls between."""
        self._inotify = InotifyFD()
        self._inotify.start()
        self.add("")

    def add(self, subdirectory: str) -> None:
        """Watch a split subdirectory too; one that is watched already is left as it is."""
        if self._inotify is None or subdirectory in self._callbacks:
            return
        callback = _Callback(subdirectory, self)
        path = f"{self._path}/{subdirectory}" if subdirectory else self._path
        self._inotify.add_callback(path.encode(), _MASK, callback, CallbackId(id(callback)))
        self._callbacks[subdirectory] = callback

    def is_alive(self) -> bool:
        """False once the watcher's thread has ended, or its directory has gone."""
        return self._inotify is not None and self._inotify.is_alive() and "" in self._callbacks

    def stop(self) -> None:
        """End the watcher's thread."""
        if self._inotify is not None:
            self._inotify.stop()
            self._inotify.join()
            self._inotify = None
            self._callbacks.clear()

    def on_name(self, subdirectory: str, name: str) -> None:
        """An entry appeared; called by watchdog's thread."""
        if name[-2:] in {"-D", "-H"}:
            try:
                self._appeared(Found(MessageId(name[:-2]), subdirectory))
            except ValueError:
                return
        elif not subdirectory and len(name) == 1 and name in ALPHABET:
            self._lost()

    def on_loss(self, subdirectory: str | None = None) -> None:
        """Events were lost, or a watched directory went; called by watchdog's thread."""
        if subdirectory is not None:
            self._callbacks.pop(subdirectory, None)
        self._lost()


class _Callback:
    """What watchdog calls for one directory."""

    def __init__(self, subdirectory: str, watch: Watch) -> None:
        self._subdirectory = subdirectory
        self._watch = watch

    def on_event(self, event: InotifyEvent) -> None:
        self._watch.on_name(self._subdirectory, event.name.decode("utf-8", "replace"))

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        del wd
        self._watch.on_loss(self._subdirectory)

    def on_queue_overflow(self) -> None:
        self._watch.on_loss()
