"""The system calls that change a file system, one function each.

Every change respool makes below a state, source or target directory goes through this
module and no other: relative to a directory descriptor, never through a symlink, never
onto an existing name. The fault tests kill and fail the program at exactly these calls.

Diagnostics: each function raises OSError as the system call reports it, and nothing else.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE: Final = 1
_FICLONE: Final = 0x40049409

FILE_MODE: Final = 0o640
DIRECTORY_MODE: Final = 0o750


def open_directory(path: str, *, at: int | None = None) -> int:
    """A descriptor for a directory that is not a symlink."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)


def open_file(name: str, *, at: int, write: bool = False) -> int:
    """A descriptor for an existing regular file; ENXIO for anything else (a FIFO does not block)."""
    # O_APPEND as Exim opens -D; O_RDWR because a write lock needs it (spool_in.c).
    access = os.O_RDWR | os.O_APPEND if write else os.O_RDONLY
    descriptor = os.open(name, access | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.ENXIO, "not a regular file", name)
    return descriptor


def create_file(name: str, *, at: int) -> int:
    """A new empty file, open for reading and writing; EEXIST where the name is taken."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, FILE_MODE, dir_fd=at)


def write(descriptor: int, data: bytes) -> None:
    """All of data, at the file's position."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def copy_tail(source: int, target: int, offset: int) -> None:
    """Append source from offset on to target, by copy_file_range where the file system can."""
    size = os.fstat(source).st_size
    while offset < size:
        try:
            copied = os.copy_file_range(source, target, size - offset, offset_src=offset)
        except OSError as error:
            if error.errno not in {errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EBADF}:
                raise
            chunk = os.pread(source, min(1 << 20, size - offset), offset)
            write(target, chunk)
            copied = len(chunk)
        if copied == 0:
            raise OSError(errno.EIO, "the file became shorter while it was copied")
        offset += copied


def clone(source: int, target: int) -> bool:
    """Make the empty target share all extents of source; False where the file system can't."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError as error:
        if error.errno in {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}:
            return False
        raise
    return True


def give(descriptor: int, uid: int, gid: int, mode: int) -> None:
    """Set owner, group and mode; the owner only where it differs (the program may not be root)."""
    status = os.fstat(descriptor)
    if (status.st_uid, status.st_gid) != (uid, gid):
        os.fchown(descriptor, uid, gid)
    if stat.S_IMODE(status.st_mode) != mode:
        os.fchmod(descriptor, mode)


def make_directory(name: str, *, at: int) -> None:
    """A new directory; EEXIST where the name is taken."""
    os.mkdir(name, DIRECTORY_MODE, dir_fd=at)


def link(name: str, new_name: str, *, at: int, to: int) -> None:
    """A second name for a file; EEXIST where new_name is taken."""
    os.link(name, new_name, src_dir_fd=at, dst_dir_fd=to, follow_symlinks=False)


def rename(name: str, new_name: str, *, at: int, to: int) -> None:
    """Move a name, never onto an existing one (RENAME_NOREPLACE): EEXIST instead.

    A plain rename between two links of one inode does nothing and reports success; this
    one fails there.
    """
    result = _libc.renameat2(at, os.fsencode(name), to, os.fsencode(new_name), _RENAME_NOREPLACE)
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), name, None, new_name)


def replace(name: str, new_name: str, *, at: int) -> None:
    """Move a name onto another of the same directory: for respool's own control files only."""
    os.rename(name, new_name, src_dir_fd=at, dst_dir_fd=at)


def unlink(name: str, *, at: int) -> None:
    """Remove a file's name."""
    os.unlink(name, dir_fd=at)


def remove_directory(name: str, *, at: int) -> None:
    """Remove an empty directory."""
    os.rmdir(name, dir_fd=at)


def sync(descriptor: int) -> None:
    """Make a file's contents, or a directory's entries, durable."""
    os.fsync(descriptor)


def sync_file_system(descriptor: int) -> None:
    """Make everything on the file system of descriptor durable (syncfs)."""
    if _libc.syncfs(descriptor) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def keeps_metadata_in_order(descriptor: int) -> bool:
    """True on ext4 and XFS, whose journal commits every earlier link and rename with an fsync.

    ext3 does so, too. Anything else counts as not ordered: overlays and network file systems
    above all, and an ext4 that was made without its journal. There each step is synced by itself.
    """
    device = os.fstat(descriptor).st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
        for line in mounts:
            left, _, right = line.partition(" - ")
            if left.split(" ", 3)[2] == wanted:
                kind = right.split(" ", 1)[0]
                return kind == "xfs" or (kind in {"ext3", "ext4"} and _has_journal(wanted))
    return False


def _has_journal(device: str) -> bool:
    """Whether an ext3 or ext4 has one; where /sys does not say, it has: without is rare, and made on purpose."""
    try:
        block_device = os.path.basename(os.readlink(f"/sys/dev/block/{device}"))
        with open(f"/sys/fs/ext4/{block_device}/journal_task", encoding="ascii") as task:
            return task.read().strip() != "<none>"
    except OSError:
        return True


def exists(name: str, *, at: int) -> os.stat_result | None:
    """The status of a name itself (a symlink is not followed), None where there is none."""
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None


def remove_files(descriptor: int) -> None:
    """Remove every file in a directory of respool's own."""
    for entry in os.listdir(descriptor):
        unlink(entry, at=descriptor)


def remove_tree(name: str, *, at: int) -> None:
    """Remove a directory of respool's own, two levels deep at most, contents first."""
    descriptor = open_directory(name, at=at)
    try:
        for entry in os.listdir(descriptor):
            try:
                unlink(entry, at=descriptor)
            except (IsADirectoryError, PermissionError):
                inner = open_directory(entry, at=descriptor)
                try:
                    remove_files(inner)
                finally:
                    os.close(inner)
                remove_directory(entry, at=descriptor)
    finally:
        os.close(descriptor)
    remove_directory(name, at=at)
