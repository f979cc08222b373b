"""DEST of a batch before, between and after its messages: who may write it, what is done, what is left to clean up.

In ``DEST/.respool/`` outputs are staged; a note there names the outputs of a divided
message while they are written, since an interrupted message is processed again, and they
with it.

Diagnostics: ConfigError from own() and survey() for directories that can't be used;
OSError from the system.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Generator
from typing import Final

from msgspec import Struct

from ..errors import ConfigError
from ..requeue import durable
from ..requeue.reading import read_file
from ..spool.directory import Found, MessageDirectory, list_names, occupants
from ..spool.ids import MessageId
from ..spool.locks import lock_directory, lock_file
from . import owed_effects

STAGING: Final = ".respool"
#: Kept there while workers of several machines write: see Batch.process_once().
LOCKS: Final = "locks"
#: How the names of notes end that name the outputs of a divided message.
PARTS: Final = "-parts"
#: How often a worker looks whether its parent is still there.
PARENT_SECONDS: Final = 0.5
#: How long the workers of a batch that was killed may take to notice it, in seconds.
_PATIENCE: Final = 10.0


@contextlib.contextmanager
def own(destination: str) -> Generator[None]:
    """Make DEST, and be the one batch that writes it, workers included. Raises ConfigError."""
    try:
        os.makedirs(destination, mode=durable.DIRECTORY_MODE, exist_ok=True)
        descriptor = durable.open_directory(destination)
    except OSError as error:
        raise ConfigError(f"{destination}: {error.strerror}") from error
    try:
        # The workers of a batch that was killed look every PARENT_SECONDS, and on a busy machine late.
        give_up = time.monotonic() + _PATIENCE
        while not lock_directory(descriptor):
            if time.monotonic() > give_up:
                raise ConfigError(f"{destination} is being written by another batch")
            time.sleep(PARENT_SECONDS / 4)
        yield
    finally:
        os.close(descriptor)


class Survey(Struct, frozen=True):
    """The messages of SRC, oldest first: those left to do, and those that DEST has."""

    left: list[Found]
    done: list[Found]


def survey(source: str, destination: str, *, resume: bool, dry_run: bool, shared: bool = False) -> Survey:
    """What is left to do, and what is done; makes DEST. Raises ConfigError.

    shared: workers elsewhere may still have messages in hand, so nothing is cleaned up
    here: process_once() does it, message by message.

    Without resume DEST must not hold messages yet: which of them are results nobody could say.
    """
    try:
        directory = MessageDirectory(source)
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from error
    try:
        pairs = directory.list().pairs
    finally:
        directory.close()
    if dry_run:
        return Survey(list(pairs), [])
    try:
        os.makedirs(os.path.join(destination, STAGING), mode=durable.DIRECTORY_MODE, exist_ok=True)
        target = MessageDirectory(destination)
    except OSError as error:
        raise ConfigError(f"{destination}: {error.strerror}") from error
    try:
        done = {found.id for found in target.list().pairs}
        if resume and not shared:
            done -= _clean_up(target, done)
        if done and not resume:
            raise ConfigError(f"{destination} holds {len(done)} messages already: give --resume, or another directory")
        # process() looks at these once more.
        done -= _owing(target)
    finally:
        target.close()
    return Survey([found for found in pairs if found.id not in done], [found for found in pairs if found.id in done])


def _owing(target: MessageDirectory) -> set[MessageId]:
    staging = durable.open_directory(STAGING, at=target.descriptor)
    try:
        return owed_effects.owing(staging)
    finally:
        os.close(staging)


def _clean_up(target: MessageDirectory, done: set[MessageId]) -> set[MessageId]:
    """Remove what an interrupted run has staged, and written of messages that it had divided and not finished.

    The ids of the latter.
    """
    staging = durable.open_directory(STAGING, at=target.descriptor)
    removed: set[MessageId] = set()
    try:
        for name in list_names(staging):
            if not name.endswith(PARTS):
                continue
            if name.removesuffix(PARTS) not in done:
                removed |= remove_parts(staging, name, target.descriptor)
        # Notes only now: a kill between here and there is like one before.
        for name in list_names(staging):
            if name != LOCKS and not owed_effects.is_note(name):
                durable.unlink(name, at=staging)
    finally:
        os.close(staging)
    return removed


def remove_parts(staging: int, note: str, target: int) -> set[MessageId]:
    """Remove from DEST what a note says was being written; the ids."""
    removed: set[MessageId] = set()
    for text in read_file(note, at=staging).decode("ascii", "replace").split():
        # A torn note names nothing that was written: its part ids come after it.
        with contextlib.suppress(ValueError):
            message_id = MessageId(text)
            removed.add(message_id)
            for path in occupants(target, message_id):
                durable.unlink(path, at=target)
    return removed


def finish(destination: str) -> None:
    """Make everything durable and remove the staging directory, with what workers that died left in it.

    It stays while a worker has a message in hand.
    """
    descriptor = durable.open_directory(destination)
    try:
        durable.sync_file_system(descriptor)
        locks: int | None = None
        with contextlib.suppress(FileNotFoundError):
            locks = durable.open_file(f"{STAGING}/{LOCKS}", at=descriptor, write=True)
        if locks is not None:
            try:
                if not lock_file(locks):
                    return
                _clear_staging(descriptor)
            finally:
                os.close(locks)
        with contextlib.suppress(OSError):
            durable.remove_directory(STAGING, at=descriptor)
    finally:
        os.close(descriptor)


def _clear_staging(destination: int) -> None:
    staging = durable.open_directory(STAGING, at=destination)
    try:
        for name in list_names(staging):
            if not owed_effects.is_note(name):
                with contextlib.suppress(FileNotFoundError):
                    durable.unlink(name, at=staging)
    finally:
        os.close(staging)
