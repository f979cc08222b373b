"""What a sidecar opens, checks and owns before it works, and again when it is told to reload.

Diagnostics: ConfigError from prepare() and renew() for whatever makes a start unsafe;
TemporaryError from prepare() for what will pass.
"""

from __future__ import annotations

import errno
import os
import socket
from functools import partial
from typing import Final, Literal

import msgspec
from msgspec import Struct

from ..errors import ConfigError, TemporaryError
from ..processors.edits import set_queue
from ..requeue import durable
from ..requeue.exim_program import About, about, is_privilege_lost
from ..requeue.job import Job
from ..requeue.ledger import Ledger, restore
from ..requeue.ledger import renew as renew_ledger
from ..requeue.reading import read_asked_for
from ..requeue.smtp_tls import make_context
from ..requeue.state import Claim, StateDirectory
from ..requeue.target import Target
from ..spool.file_system import mount_id
from ..spool.sources import Kind, Source
from .config import Config, DirectorySource, ExportSource, QueueSource, SmtpRequeue, SpoolRequeue
from .listening import listen
from .obstacles import find
from .pipeline_setup import build_steps, make_resolver
from .step import Step

Telling = Literal["nobody", "socket", "socket, then command", "command"]

_COPIED_EXPORT: Final = (
    "must be on the filesystem of Exim's spool and of state_directory: across filesystems the queuefile transport "
    "copies instead of linking, and nothing tells a finished copy from half of one"
)
_OTHER_MOUNT: Final = (
    "is another mount of the filesystem of state_directory, and rename and link do not cross mounts: mount what is "
    "above both (or list that in ReadWritePaths= of the unit)"
)
#: What says nothing against the configuration.
_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE})


class Prepared(Struct, frozen=True, kw_only=True):
    """Everything opened, checked and owned; workers are forked from here."""

    config: Config
    state: StateDirectory
    source: Source
    target: Target | None
    steps: tuple[Step, ...]
    telling: Telling = "nobody"
    quoters: frozenset[str] | None = None
    listener: socket.socket | None = None

    def close(self) -> None:
        """Close all directories."""
        if self.listener is not None:
            self.listener.close()
        self.source.close()
        if self.target is not None:
            self.target.close()
        self.state.close()

    def leave(self, successor: Prepared) -> None:
        """Close what a successor of renew() does not use, too."""
        if self.target is not None:
            self.target.close()
        if self.listener is not None and self.listener is not successor.listener:
            self.listener.close()


def prepare(config: Config) -> Prepared:
    """Open, check and own the directories of a configuration, and build its processors.

    Raises ConfigError; TemporaryError where a disk is full or the like, which will pass.
    """
    try:
        return _prepare(config)
    except OSError as error:
        passing = [one for one in find(config, os.geteuid(), os.getegid()) if one.is_passing]
        if passing or error.errno in _PASSING:
            raise TemporaryError("; ".join([*map(str, passing), str(error)])) from error
        raise ConfigError(f"{error.filename or config.state_directory}: {error.strerror or error}") from error


def _prepare(config: Config) -> Prepared:
    steps = build_steps(config.processor)
    make_resolver(config.dns)  # each worker makes its own; this one shows that it can
    target = _open_target(config)
    source = _open_source(config)
    is_new = not os.path.isdir(config.state_directory)
    os.makedirs(config.state_directory, mode=durable.DIRECTORY_MODE, exist_ok=True)
    state = StateDirectory(config.state_directory)
    if target is not None and is_new:  # one that is there already is checked, not mended
        target.give(state.descriptor, durable.DIRECTORY_MODE)
    owner = target.uid if target is not None and target.kind == "spool" else os.geteuid()
    state.check(owner)
    source.check(owner)
    places = {"$.state_directory": state.descriptor, "$.source": source.input.descriptor}
    if target is not None:
        places["$.requeue"] = target.descriptor
    for key, descriptor in places.items():
        if os.fstat(descriptor).st_dev != os.fstat(state.descriptor).st_dev:
            if source.kind == "export" and key == "$.source":
                raise ConfigError(_COPIED_EXPORT, key=key)
            raise ConfigError("must be on the filesystem of state_directory: messages move by rename and link", key=key)
        if mount_id(descriptor) != mount_id(state.descriptor):
            raise ConfigError(_OTHER_MOUNT, key=key)
    state.own()
    source.own()
    if source.kind == "export":
        _renew_ledger(config, state)
    telling, quoters = ask_exim(config)
    listener = listen(config.metrics.listen, "$.metrics.listen") if config.metrics.listen else None
    return Prepared(
        config=config,
        state=state,
        source=source,
        target=target,
        steps=steps,
        telling=telling,
        quoters=quoters,
        listener=listener,
    )


def renew(prepared: Prepared, config: Config, telling: Telling, quoters: frozenset[str] | None) -> Prepared:
    """What workers of another configuration need, with the directories of the present one. Raises ConfigError.

    Whether these may stay as they are is for the caller to know (reload.check_unchangeable()).
    """
    steps = build_steps(config.processor)
    make_resolver(config.dns)
    target = _open_target(config)
    listener = prepared.listener
    try:
        if config.metrics.listen != prepared.config.metrics.listen:
            listener = listen(config.metrics.listen, "$.metrics.listen") if config.metrics.listen else None
    except ConfigError:
        if target is not None:
            target.close()
        raise
    return msgspec.structs.replace(
        prepared,
        config=config,
        steps=steps,
        target=target,
        telling=telling,
        quoters=quoters,
        listener=listener,
    )


def _renew_ledger(config: Config, state: StateDirectory) -> None:
    """Who owns what, anew from the claims that are there, before any worker claims more.

    Closed again: nothing of LMDB may live across a fork.
    """
    renew_ledger(state)
    ledger = open_ledger(config, state)
    try:
        restore(ledger, state, partial(_read_claim, state))
    finally:
        ledger.close()


def _read_claim(state: StateDirectory, place: str, claim: Claim) -> tuple[int, tuple[bytes, ...]] | None:
    job = Job.take(state, place, claim)
    if job is None:
        return None
    try:
        return read_asked_for(job)
    finally:
        job.close()


def open_ledger(config: Config, state: StateDirectory) -> Ledger:
    """The ledger as configured: in the process that uses it, and closed before it forks."""
    return Ledger(
        state,
        expiry_seconds=config.ledger.expire_days * 86400,
        largest=config.ledger.largest_mib << 20,
    )


def ask_exim(config: Config) -> tuple[Telling, frozenset[str] | None]:
    """How Exim is told, and which quoters it reads; ConfigError where notify = "command" can't work."""
    requeue = config.requeue
    if not isinstance(requeue, SpoolRequeue):
        return "nobody", None
    quoters = None if requeue.quoters is None else frozenset(requeue.quoters)
    exim: About | None = None
    trouble: ConfigError | None = None
    if quoters is None or requeue.notify in {"auto", "command"}:
        try:
            exim = about(config.exim.command)
        except ConfigError as error:
            trouble = error
    if quoters is None and exim is not None and exim.lookups:
        quoters = exim.lookups
    is_ours = exim is not None and os.path.realpath(exim.spool_directory) == os.path.realpath(requeue.spool_directory)
    if requeue.notify == "command":
        if trouble is not None:
            raise trouble
        if not is_ours and exim is not None:
            raise ConfigError(
                f"{config.exim.command} has its spool in {exim.spool_directory}, not in {requeue.spool_directory}",
                key="$.exim.command",
            )
        if is_privilege_lost():
            raise ConfigError(
                '"command" does not work under no_new_privs (NoNewPrivileges= of systemd): Exim would exit 0 and '
                'deliver nothing; use "socket"',
                key="$.requeue.notify",
            )
        return "command", quoters
    if requeue.notify == "auto":
        return ("socket, then command" if is_ours and not is_privilege_lost() else "socket"), quoters
    return ("socket" if requeue.notify == "socket" else "nobody"), quoters


def _open_target(config: Config) -> Target | None:
    requeue = config.requeue
    if isinstance(requeue, SmtpRequeue):
        if requeue.tls == "verify":
            make_context(verify=True, ca_file=requeue.ca_file)
        return None
    if isinstance(requeue, SpoolRequeue):
        try:
            set_queue(requeue.queue)
        except ValueError as error:
            raise ConfigError(str(error), key="$.requeue.queue") from error
        target = Target(
            "spool", requeue.spool_directory, split=requeue.split, localhost_number=requeue.localhost_number,
            id_format=requeue.id_format,
        )  # fmt: skip
        target.check()
        return target
    return Target("directory", requeue.directory, split=False)


def _open_source(config: Config) -> Source:
    source = config.source
    message_log: str | None = None
    kind: Kind
    match source:
        case ExportSource():
            kind, path = "export", source.directory
        case QueueSource():
            kind, path = "queue", f"{source.spool_directory}/{source.queue}/input"
            message_log = f"{source.spool_directory}/{source.queue}/msglog"
        case DirectorySource():
            kind, path = "directory", source.directory
    try:
        return Source(kind, path, message_log=message_log)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", key="$.source") from error
