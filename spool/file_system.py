"""What kind of file system a directory lies on, as far as watching it is concerned.

Diagnostics: raises nothing; where the kernel does not say, the answer is "" and False.
"""

from __future__ import annotations

from typing import Final

#: File systems whose changes by other hosts (or by the host of a virtual machine or container) bring no events here.
_REMOTE: Final = frozenset({
    "9p", "afs", "beegfs", "ceph", "cifs", "fakeowner", "gfs2", "glusterfs", "lustre", "ncpfs", "nfs", "nfs4", "ocfs2",
    "prl_fs", "smb3", "smbfs", "vboxsf", "virtiofs", "vmhgfs",
})  # fmt: skip


def file_system_type(descriptor: int) -> str:
    """The type of the mount that an open file lies in (``ext4``, ``nfs4``, ``fuse.sshfs``), by its mount id.

    Not by its device number, which btrfs and overlays make up. Source: proc(5), mountinfo and fdinfo.
    """
    mount = mount_id(descriptor)
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
            return next((_type_of(line) for line in mounts if line.split(" ", 1)[0] == mount), "")
    except OSError:
        return ""


def mount_id(descriptor: int) -> str:
    """The mount that an open file lies in; "" where the kernel does not say.

    rename(2) and link(2) refuse to cross from one mount to another (EXDEV), be they of one file system.
    """
    try:
        with open(f"/proc/self/fdinfo/{descriptor}", encoding="ascii") as info:
            return next((line.split()[1] for line in info if line.startswith("mnt_id:")), "")
    except OSError:
        return ""


def _type_of(line: str) -> str:
    return line.partition(" - ")[2].split(" ", 1)[0]


def is_remote(file_system: str) -> bool:
    """True for a type whose events tell only of what this very system does: poll there.

    FUSE passes on no events from behind it, whatever it is (fuseblk, a local disk, apart).
    """
    return file_system in _REMOTE or file_system.startswith("fuse.") or file_system == "fuse"
