"""Source, state and target: whose they are, who can write, what they lie on.

Looked at as the user that the sidecar runs as. Nothing is written.

Diagnostics: the checks raise nothing.
"""

from __future__ import annotations

import grp
import os
import pwd
import stat
from typing import Final

from ...errors import ConfigError
from ...requeue.durable import keeps_metadata_in_order
from ...spool.directory import MessageDirectory, check_ownership
from ...spool.file_system import file_system_type, is_remote, mount_id
from ...spool.ids import ALPHABET
from ..config import Config, DirectoryRequeue, SmtpRequeue, SpoolRequeue
from ..config_check import source_directory
from .finding import Finding, Findings, ok, problem, warning

#: Bytes; a share of inodes.
_LITTLE_SPACE, _NO_SPACE = 1 << 30, 100 << 20
_FEW_INODES: Final = 0.05


def user_name(uid: int) -> str:
    """The account of a uid, or the number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _group_name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"


def owner_of(config: Config) -> int | None:
    """Whom the sidecar has to run as: the owner of Exim's input, or of the source; None where neither is there."""
    places = [f"{config.requeue.spool_directory}/input"] if isinstance(config.requeue, SpoolRequeue) else []
    for place in (*places, source_directory(config)):
        try:
            return os.stat(place).st_uid
        except OSError:
            continue
    return None


def check_directories(config: Config, owner: int) -> Findings:
    """All of them. The process should be owner's, so that access is what the sidecar has."""
    places = {"source": source_directory(config), "state": config.state_directory}
    match config.requeue:
        case SpoolRequeue():
            places["target"] = f"{config.requeue.spool_directory}/input"
        case DirectoryRequeue():
            places["target"] = config.requeue.directory
        case SmtpRequeue():
            pass
    opened: dict[str, int] = {}
    try:
        for name, path in places.items():
            finding, descriptor = _rights(name, path, owner)
            yield finding
            if descriptor is not None:
                opened[name] = descriptor
        if opened:
            yield _one_file_system(places, opened)
            yield from _file_system(places, opened)
    finally:
        for descriptor in opened.values():
            os.close(descriptor)
    if "target" in opened and isinstance(config.requeue, SpoolRequeue):
        yield _layout(config.requeue)


def _rights(name: str, path: str, owner: int) -> tuple[Finding, int | None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return _absent(name, path, owner), None
    except OSError as error:
        advice = f"make it a directory that {user_name(owner)} can read and write, no symlink"
        return problem(name, f"{path}: {error.strerror}", advice), None
    status = os.fstat(descriptor)
    who = f"{user_name(status.st_uid)}:{_group_name(status.st_gid)} {stat.S_IMODE(status.st_mode):04o}"
    try:
        check_ownership(path, descriptor, owner)
    except ConfigError as error:
        return problem(name, error.reason, f"chown {user_name(owner)} {path} && chmod go-w {path}"), descriptor
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        found = f"{path} is {who}: {user_name(os.geteuid())} can't write there"
        return problem(name, found, f"chown {user_name(owner)} {path}"), descriptor
    writers = " and ".join(dict.fromkeys([user_name(status.st_uid), "root"]))
    return ok(name, f"{path} is {who}: only {writers} can write"), descriptor


def _absent(name: str, path: str, owner: int) -> Finding:
    parent = os.path.dirname(path)
    if name == "state":
        if os.access(parent, os.W_OK | os.X_OK):
            return ok(name, f"{path} is not there yet: the first start makes it")
        advice = f"install -d -o {user_name(owner)} -m 750 {path}"
        return problem(name, f"{path} is not there, and {user_name(os.geteuid())} can't make it", advice)
    if name == "source" and path.endswith("/input"):
        advice = "Exim makes a queue's directories with its first message: put the recipe into Exim, send one message"
        return problem(name, f"{path} is not there", advice)
    return problem(name, f"{path} is not there", f"install -d -o {user_name(owner)} -m 750 {path}")


def _one_file_system(places: dict[str, str], opened: dict[str, int]) -> Finding:
    devices = {os.fstat(descriptor).st_dev for descriptor in opened.values()}
    mounts = {mount_id(descriptor) for descriptor in opened.values()}
    paths = ", ".join(places[name] for name in opened)
    if len(devices) > 1:
        return problem(
            "one file system", f"{paths} lie on several", "messages move by rename and link: put them on one"
        )
    if len(mounts) > 1:
        return problem(
            "one file system", f"{paths} lie in several mounts of one file system",
            "rename and link do not cross mounts: mount (or list in ReadWritePaths=) the directory above all of them",
        )  # fmt: skip
    return ok("one file system", f"{len(opened)} directories in one mount: rename and link work")


def _file_system(places: dict[str, str], opened: dict[str, int]) -> Findings:
    name = next(iter(opened))
    descriptor = opened[name]
    kind = file_system_type(descriptor)
    if is_remote(kind):
        yield warning(
            "file system", f"{places[name]} is on {kind}, which brings no events of what other hosts do",
            'set watch = "poll" and a short scan_seconds',
        )  # fmt: skip
    else:
        order = "metadata reach the disk in order" if keeps_metadata_in_order(descriptor) else "more fsyncs are made"
        yield ok("file system", f"{kind or 'of an unknown type'}: events come, {order}")
    space = os.fstatvfs(descriptor)
    free = space.f_bavail * space.f_frsize
    shown = f"{free / (1 << 30):.1f} GiB free"
    if free < _NO_SPACE:
        yield problem("free space", shown, "make room: without it mail stays where it is")
    elif free < _LITTLE_SPACE:
        yield warning("free space", shown, "make room: a body that changes is written anew")
    elif space.f_files and space.f_favail / space.f_files < _FEW_INODES:
        yield warning("free space", f"{shown}, but {space.f_favail} inodes", "each message in hand takes about ten")
    else:
        yield ok("free space", shown + (f", {space.f_favail} inodes" if space.f_files else ""))


def _layout(requeue: SpoolRequeue) -> Finding:
    """Whether the spool is split, as seen."""
    try:
        directory = MessageDirectory(f"{requeue.spool_directory}/input")
    except OSError as error:
        return problem("layout", f"{requeue.spool_directory}/input: {error.strerror}", "see target")
    try:
        names = os.listdir(directory.descriptor)
    finally:
        directory.close()
    is_split = any(len(name) == 1 and name in ALPHABET for name in names)
    shown = "split into subdirectories" if is_split else "plain"
    if requeue.split is not None and requeue.split != is_split and names:
        return warning(
            "layout", f"the spool is {shown}, the configuration says split = {str(requeue.split).lower()}",
            "leave requeue.split out: respool looks for itself, and Exim reads both",
        )  # fmt: skip
    return ok("layout", f"the spool is {shown}")
