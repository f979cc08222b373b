"""Whether a configuration can be used: everything that a start loads and looks at, without owning it.

Diagnostics: ConfigError naming file and key, as preparation.prepare() would raise it.
"""

from __future__ import annotations

import os

from msgspec import Struct

from ..errors import ConfigError
from ..requeue.smtp_tls import make_context
from ..requeue.target import Target
from ..spool.directory import MessageDirectory, check_ownership
from .config import (
    Config,
    DirectoryRequeue,
    DirectorySource,
    ExportSource,
    QueueSource,
    SmtpRequeue,
    SpoolRequeue,
    errors_of,
)
from .pipeline_setup import build_steps, make_resolver


class Checked(Struct, frozen=True, kw_only=True):
    """What a configuration comes to, in words."""

    hostname: str
    authserv_id: str
    source: str
    requeue: str
    processors: tuple[str, ...]
    warnings: tuple[str, ...]


def check(path: str, config: Config) -> Checked:
    """Load and look at all that config, read from path, names. Raises ConfigError."""
    with errors_of(path):
        return _check(config)


def _check(config: Config) -> Checked:
    steps = build_steps(config.processor)
    make_resolver(config.dns)
    warnings: list[str] = []
    requeue = config.requeue
    place, owner, devices = _look_at_destination(requeue)
    devices["$.source"] = _look(source_directory(config), owner, "$.source")
    state = _existing(config.state_directory)
    if state == config.state_directory:
        devices["$.state_directory"] = _look(state, owner, "$.state_directory")
    else:
        warnings.append(f"state_directory {config.state_directory} does not exist yet: a start makes it")
        devices["$.state_directory"] = os.stat(state).st_dev
    for key, device in devices.items():
        if device != devices["$.state_directory"]:
            raise ConfigError("must be on the filesystem of state_directory: messages move by rename and link", key=key)
    if os.geteuid() not in {0, owner}:
        warnings.append(
            f"run by uid {os.geteuid()}; the sidecar has to run as root or as the spool's owner, uid {owner}"
        )
    return Checked(
        hostname=config.hostname,
        authserv_id=config.our_authserv_id,
        source=f"{_kind(config.source)} {source_directory(config)}",
        requeue=f"{_kind(requeue)} {place}",
        processors=tuple(step.name for step in steps),
        warnings=tuple(warnings),
    )


def _look_at_destination(
    requeue: SpoolRequeue | DirectoryRequeue | SmtpRequeue,
) -> tuple[str, int, dict[str, int]]:
    """Where it is, whose the other directories have to be, and its device if it has one. Raises ConfigError."""
    if isinstance(requeue, SmtpRequeue):
        if requeue.tls == "verify":
            make_context(verify=True, ca_file=requeue.ca_file)
        return f"{requeue.host}:{requeue.port}", os.geteuid(), {}
    is_spool = isinstance(requeue, SpoolRequeue)
    place = requeue.directory if isinstance(requeue, DirectoryRequeue) else requeue.spool_directory
    target = Target("spool" if is_spool else "directory", place, split=False)
    try:
        if is_spool:
            target.check()
        return place, target.uid if is_spool else os.geteuid(), {"$.requeue": target.device}
    finally:
        target.close()


def source_directory(config: Config) -> str:
    """Where messages are taken from."""
    match config.source:
        case QueueSource():
            return f"{config.source.spool_directory}/{config.source.queue}/input"
        case ExportSource() | DirectorySource():
            return config.source.directory


def _kind(section: Struct) -> str:
    return str(section.__struct_config__.tag)


def _look(path: str, owner: int, key: str) -> int:
    """The device of a directory that nobody else can write. Raises ConfigError."""
    try:
        directory = MessageDirectory(path)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", key=key) from error
    try:
        check_ownership(path, directory.descriptor, owner)
        return os.fstat(directory.descriptor).st_dev
    except ConfigError as error:
        raise ConfigError(error.reason, key=key) from error
    finally:
        directory.close()


def _existing(path: str) -> str:
    """The path itself, or the nearest directory above it that exists."""
    while not os.path.isdir(path) and path != os.path.dirname(path):
        path = os.path.dirname(path)
    return path or "."
