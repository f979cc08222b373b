"""What keeps respool from working: a place that is full, read-only, closed to it, or gone.

An error of the system names a file, relative to some directory, and a number; what an
operator has to mend is a place. So each place of the configuration is looked at from
outside, by whoever wants to know: the worker that met the error, ``respool status``,
the page for readiness. A worker that can't write its report says nothing else.

Diagnostics: find() raises nothing: a place that can't be looked at is an obstacle itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from ..requeue.ledger import DIRECTORY as LEDGER
from ..requeue.state import STATES
from .config import Config, DirectoryRequeue, ExportSource, SmtpRequeue, SpoolRequeue
from .config_check import source_directory

#: A report of a worker has to fit, and the journal wants a little.
_LEAST_BYTES: Final = 128 << 10
_LEAST_FILES: Final = 8
#: linux/fs.h: FS_IOC_GETFLAGS, FS_IMMUTABLE_FL, FS_APPEND_FL.
_GET_FLAGS: Final = 0x80086601
_UNCHANGEABLE: Final = 0x10 | 0x20
#: ext4 (fs/ext4/super.c), after an error of the disk or of its own.
_STOPPED: Final = frozenset({"emergency_ro", "shutdown"})


class Obstacle(Struct, frozen=True, kw_only=True, order=True):
    """One thing that is in the way: key of the configuration, path, what is wrong, what to do.

    is_passing: the configuration is right, and so are the rights; a disk is not.
    """

    key: str
    path: str
    what: str
    advice: str
    is_passing: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.what}"


def find(config: Config, uid: int | None = None, gid: int | None = None) -> tuple[Obstacle, ...]:
    """What is in the way of a sidecar that runs as uid and gid; by default the owner of its state directory.

    Each file system that is full or read-only is named once, by the first place on it.
    """
    if uid is None or gid is None:
        with contextlib.suppress(OSError):
            owner = os.stat(config.state_directory)
            uid, gid = owner.st_uid, owner.st_gid
    stopped = _stopped_devices()
    found: list[Obstacle] = []
    seen: set[tuple[int, str]] = set()
    for key, path in _places(config):
        try:
            status, system = os.stat(path), os.statvfs(path)
            is_fixed = _is_unchangeable(path)
        except OSError as error:
            advice = "mount it, or make it again, and start respool anew"
            found.append(Obstacle(key=key, path=path, what=error.strerror or str(error), advice=advice))
            continue
        for what, advice in _of_file_system(system, is_root=uid == 0, is_stopped=status.st_dev in stopped):
            # "full" with two figures a moment apart is the same.
            if (status.st_dev, advice) not in seen:
                seen.add((status.st_dev, advice))
                found.append(Obstacle(key=key, path=path, what=what, advice=advice, is_passing=True))
        if is_fixed:
            found.append(Obstacle(key=key, path=path, what="may not be changed", advice=f"chattr -ia {path}"))
        elif uid is not None and gid is not None and not _may_change(status, uid, gid):
            mode = stat.S_IMODE(status.st_mode)
            what = f"uid {uid} may not change it (uid {status.st_uid}, gid {status.st_gid}, mode {mode:04o})"
            advice = f"chown or chmod it so that uid {uid} may read, write and search it"
            found.append(Obstacle(key=key, path=path, what=what, advice=advice))
    return tuple(found)


def _places(config: Config) -> Iterator[tuple[str, str]]:
    """Every directory in which respool has to make, move or remove names."""
    state = config.state_directory
    yield "$.state_directory", state
    for name in STATES:
        yield "$.state_directory", os.path.join(state, name)
    if isinstance(config.source, ExportSource) and os.path.isdir(os.path.join(state, LEDGER)):
        yield "$.state_directory", os.path.join(state, LEDGER)
    yield "$.source", source_directory(config)
    match config.requeue:
        case DirectoryRequeue():
            yield "$.requeue", config.requeue.directory
        case SpoolRequeue():
            top = config.requeue.spool_directory
            queue = os.path.join(top, config.requeue.queue) if config.requeue.queue else top
            # Made on demand, so whichever of them is there has to allow it.
            yield (
                "$.requeue",
                next((path for path in (os.path.join(queue, "input"), queue) if os.path.isdir(path)), top),
            )
        case SmtpRequeue():
            pass


def _of_file_system(system: os.statvfs_result, *, is_root: bool, is_stopped: bool) -> Iterator[tuple[str, str]]:
    """What is wrong with a file system, and what to do about it."""
    if is_stopped or system.f_flag & os.ST_RDONLY:
        yield "the file system is read-only", "find out why (dmesg); mount it read-write again"
    # Of what is kept for root ext4 keeps a part for itself (ext4_calculate_resv_clusters), and does not say so.
    kept = min(system.f_blocks // 50, 4096) if is_root else 0
    free = ((system.f_bfree if is_root else system.f_bavail) - kept) * system.f_frsize
    if system.f_blocks and free < _LEAST_BYTES:
        yield f"no space is left on the file system ({max(free, 0) >> 10} KiB)", "make room there"
    files = system.f_ffree if is_root else system.f_favail
    # f_files is 0 where the file system has no fixed number.
    if system.f_files and files < _LEAST_FILES:
        yield f"no inodes are left on the file system ({files})", "remove files there"


def _stopped_devices() -> set[int]:
    """File systems that the kernel writes no more, which statvfs says of none: by their mount options."""
    stopped: set[int] = set()
    with (
        contextlib.suppress(OSError),
        open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts,
    ):
        for line in mounts:
            left, _, right = line.partition(" - ")
            if _STOPPED & set(right.rstrip().rpartition(" ")[2].split(",")):
                major, _, minor = left.split(" ", 3)[2].partition(":")
                stopped.add(os.makedev(int(major), int(minor)))
    return stopped


def _is_unchangeable(path: str) -> bool:
    """Whether the immutable or the append-only attribute keeps even root out (chattr)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC) if os.access(path, os.R_OK) else -1
    if descriptor < 0:
        return False
    flags = bytearray(8)
    try:
        # Most file systems but ext4, XFS and btrfs have no such attributes.
        with contextlib.suppress(OSError):
            fcntl.ioctl(descriptor, _GET_FLAGS, flags)
    finally:
        os.close(descriptor)
    (value,) = struct.unpack_from("I", flags)
    return bool(value & _UNCHANGEABLE)


def _may_change(status: os.stat_result, uid: int, gid: int) -> bool:
    """Whether the mode gives uid the right to list, make and remove names in a directory."""
    if uid == 0:
        return True
    shift = 6 if status.st_uid == uid else 3 if status.st_gid == gid else 0
    return (status.st_mode >> shift) & 0o7 == 0o7
