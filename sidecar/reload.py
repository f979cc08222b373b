"""Whether another configuration can take the place of the present one, tried without touching that.

The trial is a process of its own: it loads what the workers would load, and a processor
that hangs, dies or runs wild while it is made does no harm to those that work.

Diagnostics: outcome() returns what was found; a configuration that can't be used is a
Refused, never an exception.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from typing import Final

import msgspec
from msgspec import Struct

from ..errors import ConfigError
from .config import Config, DirectoryRequeue, SmtpRequeue, SpoolRequeue, decode, errors_of, read
from .config_check import check
from .preparation import Telling, ask_exim

#: Seconds: a name server that is asked for a host's address may take its time, and Exim to answer.
TRIAL_SECONDS: Final = 60.0
#: Less than a pipe holds, so that the trial never waits for its reader.
_LONGEST_REASON: Final = 16_000


class Accepted(Struct, frozen=True, tag=True):
    """It can be used; what was asked of Exim besides."""

    telling: Telling
    quoters: tuple[str, ...] | None


class Refused(Struct, frozen=True, tag=True):
    """It can't, and why: file, line, key, what was expected."""

    reason: str


def check_unchangeable(present: Config, new: Config) -> None:
    """Raise ConfigError for a setting that a running sidecar can't change: where its messages are."""
    for key, before, after in (
        ("$.state_directory", present.state_directory, new.state_directory),
        ("$.source", present.source, new.source),
        ("$.requeue.kind", type(present.requeue), type(new.requeue)),
        ("$.requeue", _place(present.requeue), _place(new.requeue)),
    ):
        if before != after:
            raise ConfigError("can't change while the sidecar runs: restart it, or put the old value back", key=key)


def _place(requeue: SpoolRequeue | DirectoryRequeue | SmtpRequeue) -> str:
    match requeue:
        case SpoolRequeue():
            return requeue.spool_directory
        case DirectoryRequeue():
            return requeue.directory
        case SmtpRequeue():
            return ""


class Trial:
    """One trial of the configuration at path, under way from the moment this is made. Raises OSError."""

    def __init__(self, path: str, present: Config) -> None:
        self.started = time.monotonic()
        self._path = path
        reading, writing = os.pipe()
        #: What is tried: the file may change meanwhile.
        self.content = b""
        found: Accepted | Refused | None = None
        try:
            self.content = read(path)
        except ConfigError as error:
            found = Refused(str(error))
        self.process = os.fork()
        if self.process == 0:
            try:
                os.close(reading)
                found = found or _try(path, self.content, present)
            finally:
                # Whatever a processor raises while it is made is the answer; nothing goes back into the parent's stack.
                found = found or Refused(f"{path}: {_raised()}"[:_LONGEST_REASON])
                os.write(writing, msgspec.msgpack.encode(found))
                os._exit(0)
        os.close(writing)
        self._reading = reading

    def is_overdue(self) -> bool:
        """Whether it has taken so long that it hangs."""
        return time.monotonic() - self.started > TRIAL_SECONDS

    def kill(self) -> None:
        """End it; it still has to be waited for."""
        os.kill(self.process, signal.SIGKILL)

    def outcome(self) -> Accepted | Refused:
        """What it found; to be called once its process has ended."""
        try:
            answer = os.read(self._reading, 1 << 16)
        finally:
            os.close(self._reading)
        if not answer:
            what = (
                f"took longer than {TRIAL_SECONDS:.0f} s" if self.is_overdue() else "killed the process that tried it"
            )
            return Refused(f"{self._path}: loading it {what}")
        return msgspec.msgpack.decode(answer, type=Accepted | Refused)


def _raised() -> str:
    error = sys.exc_info()[1]
    return "".join(traceback.format_exception_only(error)).strip() if error is not None else "nothing was found out"


def _try(path: str, content: bytes, present: Config) -> Accepted | Refused:
    # The parent keeps its own signals blocked.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGHUP else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        config = decode(content, Config, file=path)
        with errors_of(path):
            check_unchangeable(present, config)
            telling, quoters = ask_exim(config)
        check(path, config)
    except ConfigError as error:
        return Refused(str(error)[:_LONGEST_REASON])
    return Accepted(telling, None if quoters is None else tuple(sorted(quoters)))
