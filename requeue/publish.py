"""Publishing: ``-D`` by link, ``-H`` by rename, in that order, under Exim's lock.

The vanished ``out/<n>-H`` is the evidence that output n is published, also when Exim has
delivered and deleted it since. requeue/README.md argues each step.

Diagnostics: ConflictError where Exim's lock is taken (later); OSError from the system,
after which publish() may simply be called again.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from ..errors import ConflictError, SpoolFormatError
from ..spool.directory import occupants
from ..spool.ids import MessageId
from ..spool.locks import lock_message, unlock_message
from . import durable
from .group_sync import GroupSync
from .job import Job, OutputName, Staged, parse_output
from .stage import copy_data, write_new

if TYPE_CHECKING:
    from .target import Target

_ATTEMPTS: Final = 8
_NEW: Final = ".new"


class Published(Struct, frozen=True):
    """One output that Exim can see now: under which id, in which queue."""

    id: MessageId
    queue: str


class _Taken(Exception):
    """The id is in use in the target: another one is needed."""


def publish(job: Job, target: Target, syncs: GroupSync) -> tuple[Published, ...]:
    """Publish what is left in ``out/``; when it returns, all of it is durable and unlocked.

    Exim can act on an output only after its publication is durable, since the lock is
    held until then: otherwise a power cut would publish it again.
    """
    out = job.open_out()
    staged, job.staged = job.staged, None
    publications: list[_Publication] = []
    try:
        for output in read_staged(out) if staged is None else staged:
            publications.append(_publish_one(job, out, output, target))
    finally:
        # Also for those that went before one that failed: never unlocked before durable.
        try:
            for directory in {p.directory_key: p.directory for p in publications}.values():
                syncs.sync(directory)
        finally:
            # One that can't be unlocked may not keep Exim out of the others.
            with contextlib.ExitStack() as all_of_them:
                for publication in publications:
                    all_of_them.callback(publication.close, job)
    return tuple(Published(p.id, p.name.queue) for p in publications)


def read_staged(out: int) -> list[Staged]:
    """What is left in ``out/``, in the order of the numbers."""
    names = sorted(name for name in map(parse_output, os.listdir(out)) if name is not None)
    return [Staged(name, read_id(out, name)) for name in names]


class _Publication:
    """One output being published: what is locked, and where it goes."""

    def __init__(self, name: OutputName, message_id: MessageId, data: int, directory: int) -> None:
        self.name, self.id, self.data, self.directory = name, message_id, data, directory
        status = os.fstat(directory)
        self.directory_key = status.st_dev, status.st_ino

    def close(self, job: Job) -> None:
        if self.data == job.data:
            job.unlock()
        else:
            unlock_message(self.data, self.id)
            os.close(self.data)
        os.close(self.directory)


def _publish_one(job: Job, out: int, output: Staged, target: Target) -> _Publication:
    name, message_id = output.name, output.id
    for _ in range(_ATTEMPTS):
        mine = os.stat(message_id.data_name, dir_fd=out, follow_symlinks=False)
        data = _lock(job, out, message_id, mine)
        try:
            directory = _place(out, name, message_id, mine, target)
        except BaseException as error:
            if data == job.data:
                job.unlock()
            else:
                unlock_message(data, message_id)
                os.close(data)
            if not isinstance(error, _Taken):
                raise
            message_id = _give_new_id(out, name, message_id, target)
        else:
            return _Publication(name, message_id, data, directory)
    raise ConflictError(job.id, "other files under every id that was tried")


def read_id(out: int, name: OutputName) -> MessageId:
    """The id in the first line of a staged ``-H``."""
    descriptor = durable.open_file(name.name, at=out)
    try:
        line, _, _ = os.pread(descriptor, 64, 0).partition(b"\n")
    finally:
        os.close(descriptor)
    try:
        return MessageId(line.decode("ascii").removesuffix("-H"))
    except ValueError as error:
        raise SpoolFormatError(file=name.name, line=1, column=1, expected="<id>-H", found=repr(line[:40])) from error


def _lock(job: Job, out: int, message_id: MessageId, mine: os.stat_result) -> int:
    """Lock the very inode that will be linked.

    Where that is the claimed one, by the claim's descriptor: two OFD locks of one file
    conflict even within a process.
    """
    claimed = os.fstat(job.open_data())
    if (mine.st_dev, mine.st_ino) == (claimed.st_dev, claimed.st_ino):
        if not job.lock():
            raise ConflictError(message_id, "Exim, or another program that locks -D")
        return job.open_data()
    if message_id == job.id and not job.lock():
        # A changed body under a kept id: whoever still has the original -D open must not
        # deliver it with our -H. Kept until the job is settled.
        raise ConflictError(message_id, "Exim, or another program that locks -D")
    data = durable.open_file(message_id.data_name, at=out, write=True)
    if not lock_message(data, message_id):
        os.close(data)
        raise ConflictError(message_id, "Exim, or another program that locks -D")
    return data


def _place(out: int, name: OutputName, message_id: MessageId, mine: os.stat_result, target: Target) -> int:
    """Link ``-D``, rename ``-H``; the descriptor of the directory they are in. Raises _Taken."""
    top = target.open_input(name.queue)
    try:
        subdirectory = target.subdirectory(name.queue, top, message_id)
        path = f"{subdirectory}/{message_id.data_name}" if subdirectory else message_id.data_name
        for found, status in occupants(top, message_id).items():
            is_data = found == path and (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino)
            if not is_data and not (found == path[:-1] + "H" and _is_same(status, name, out)):
                raise _Taken
        for _ in range(_ATTEMPTS):
            directory = target.open_subdirectory(top, subdirectory)
            try:
                _link_and_rename(out, name, message_id, directory, mine)
            except FileNotFoundError:
                # Exim removes an empty split directory (queue.c): made anew in the next round.
                os.close(directory)
            except BaseException:
                os.close(directory)
                raise
            else:
                return directory
        raise ConflictError(message_id, "whoever removes the split directory as often as it is made")
    finally:
        os.close(top)


def _link_and_rename(out: int, name: OutputName, message_id: MessageId, directory: int, mine: os.stat_result) -> None:
    try:
        durable.link(message_id.data_name, message_id.data_name, at=out, to=directory)
    except FileExistsError as error:
        there = durable.exists(message_id.data_name, at=directory)
        if there is None or (there.st_dev, there.st_ino) != (mine.st_dev, mine.st_ino):
            raise _Taken from error
    try:
        durable.rename(name.name, message_id.header_name, at=out, to=directory)
    except FileExistsError as error:
        there = durable.exists(message_id.header_name, at=directory)
        if there is not None and _is_same(there, name, out):
            # A power cut may leave both names of a rename where metadata is not kept in order: this was published.
            durable.unlink(name.name, at=out)
            return
        # Ours is the -D alone: take it away again, the -H is somebody else's.
        durable.unlink(message_id.data_name, at=directory)
        raise _Taken from error


def _is_same(there: os.stat_result, name: OutputName, out: int) -> bool:
    """Whether an ``-H`` in the target is the very file that is staged as name."""
    staged = os.stat(name.name, dir_fd=out, follow_symlinks=False)
    return (there.st_dev, there.st_ino) == (staged.st_dev, staged.st_ino)


def _give_new_id(out: int, name: OutputName, old_id: MessageId, target: Target) -> MessageId:
    """Let an output have another id: new files first, then one rename, then the old ``-D`` goes.

    Our link in the target goes first of all: were it left until after the rename, a crash
    would leave a ``-D`` there that nobody knows of.
    """
    _remove_own_link(out, name, old_id, target)
    new_id = target.mint(old_id)
    with contextlib.suppress(FileNotFoundError):
        durable.unlink(name.name + _NEW, at=out)
    source = durable.open_file(old_id.data_name, at=out)
    try:
        data = durable.create_file(new_id.data_name, at=out)
        try:
            copy_data(source, old_id, data, new_id)
            target.give(data)
            durable.sync(data)
        finally:
            os.close(data)
    finally:
        os.close(source)
    header = durable.open_file(name.name, at=out)
    try:
        content = os.pread(header, os.fstat(header).st_size, 0)
    finally:
        os.close(header)
    _, _, rest = content.partition(b"\n")
    write_new(name.name + _NEW, b"%b\n" % new_id.header_name.encode() + rest, at=out, target=target)
    durable.replace(name.name + _NEW, name.name, at=out)
    durable.unlink(old_id.data_name, at=out)
    return new_id


def _remove_own_link(out: int, name: OutputName, old_id: MessageId, target: Target) -> None:
    mine = os.stat(old_id.data_name, dir_fd=out, follow_symlinks=False)
    top = target.open_input(name.queue)
    try:
        for path, status in occupants(top, old_id).items():
            if path.endswith("-D") and (status.st_dev, status.st_ino) == (mine.st_dev, mine.st_ino):
                durable.unlink(path, at=top)
    finally:
        os.close(top)
