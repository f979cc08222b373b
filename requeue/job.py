"""The life of a claimed message, as a table.

What is on disk says how far a message got; this module reads it and nothing else, so
that it can be tested without a disk. requeue/README.md argues each row.

Diagnostics: phase_of() raises nothing; every listing is in exactly one phase.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from enum import Enum
from typing import TYPE_CHECKING, Final

import msgspec
from msgspec import Struct

from ..spool.ids import MessageId
from ..spool.locks import lock_directory, lock_message, unlock_directory, unlock_message
from . import durable
from .state import Claim, StateDirectory

if TYPE_CHECKING:
    from .effects import Effect

OUT: Final = "out"
STAGING: Final = "out.tmp"
PLAN: Final = "plan.json"
STATUS: Final = "status.json"

#: No descriptor: whatever is done relative to it fails. (os.listdir(-1) does not: it lists the working directory.)
_LEFT: Final = -2
_OUTPUT_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,5})(?:@([^/@]{1,64}))?-H")


class Phase(Enum):
    """How far a claimed message got, by what is in its directory."""

    EMPTY = "the directory was made, nothing moved: remove it, the pair is claimed anew"
    HALF = "-D was moved, -H was not: collect the rest from the source"
    CLAIMED = "the originals are complete: process them (again)"
    COMMITTED = "out/ holds outputs that are not published: publish them, never process again"
    PUBLISHED = "out/ holds no -H any more: settle"


def phase_of(message_id: MessageId, names: Collection[str], out: Collection[str] | None) -> Phase:
    """The phase that a listing shows; out is the listing of ``out/``, None where there is none."""
    if out is not None:
        return Phase.COMMITTED if any(parse_output(name) for name in out) else Phase.PUBLISHED
    if message_id.data_name in names and message_id.header_name in names:
        return Phase.CLAIMED
    if message_id.data_name in names or message_id.header_name in names:
        return Phase.HALF
    return Phase.EMPTY


class OutputName(Struct, frozen=True, order=True):
    """The name of a staged ``-H``: which output, and the queue it goes to.

    ``0-H`` goes to the default queue, ``0@scanned-H`` to the queue ``scanned``; so the
    destination needs no file of its own, and no fsync.
    """

    number: int
    queue: str = ""

    @property
    def name(self) -> str:
        """The file name in ``out/``."""
        return f"{self.number}@{self.queue}-H" if self.queue else f"{self.number}-H"


def parse_output(name: str) -> OutputName | None:
    """The output that a file in ``out/`` is, or None for any other name."""
    match = _OUTPUT_NAME.fullmatch(name)
    return OutputName(int(match[1]), match[2] or "") if match else None


class Status(Struct, frozen=True, kw_only=True):
    """What is remembered of a message between attempts, as readable text beside it.

    attempt is the one under way or last made, from 1; crashes counts the attempts in a
    row that ended with the worker's death. since is when the message came into its
    state, deferred_since when it was deferred for the first time, retry_at when the next
    attempt is due: Unix time, 0 where there is none. released names whose holds an
    operator overrode; as_is says that the original shall be requeued without processing.
    let_go says that a worker that ended in good order gave it up: the next one is no attempt after a crash.
    """

    attempt: int = 1
    crashes: int = 0
    reason: str = ""
    processor: str = ""
    since: float = 0.0
    deferred_since: float = 0.0
    retry_at: float = 0.0
    released: tuple[str, ...] = ()
    as_is: bool = False
    let_go: bool = False


class Staged(Struct, frozen=True):
    """An output that was staged by this process, and its id."""

    name: OutputName
    id: MessageId


class Job:
    """A claimed message whose directory lock is ours: the only one who may change it.

    data is a descriptor of ``-D`` open for reading and locking, or None while ``-D`` is
    not there. has_message_lock says whether Exim's lock on it is ours. staging is a
    descriptor of the directory that is called ``out.tmp`` before the commit and ``out`` after, or
    None while it is not open. is_fresh: claimed a moment ago by this process and complete,
    so that there is the pair (and a queue's ``-J``), and nothing else. may_have_journal: False
    where the source is no queue of Exim, and so has no ``-J``. staged: what was
    committed a moment ago, until somebody begins to publish it. effects: those that were committed
    with it; None where that was another attempt, so that they are to be read.
    """

    def __init__(self, state: StateDirectory, place: str, claim: Claim, descriptor: int) -> None:
        self.state = state
        self.place = place
        self.claim = claim
        self.descriptor = descriptor
        self.data: int | None = None
        self.has_message_lock = False
        self.staging: int | None = None
        self.is_fresh = False
        self.may_have_journal = True
        self.staged: tuple[Staged, ...] | None = None
        self.effects: tuple[Effect, ...] | None = None
        #: What the ledger has for this claim: received time, and the recipients that are its own.
        self.owned: tuple[int, frozenset[bytes]] | None = None

    @property
    def id(self) -> MessageId:
        """The id under which the message was claimed."""
        return self.claim.id

    @classmethod
    def take(cls, state: StateDirectory, place: str, claim: Claim) -> Job | None:
        """Own the directory of an existing claim; None if another does, or it has moved on."""
        try:
            descriptor = durable.open_directory(claim.name, at=state.states[place])
        except FileNotFoundError:
            return None
        if not lock_directory(descriptor):
            os.close(descriptor)
            return None
        job = cls(state, place, claim, descriptor)
        # Between open and lock its owner may have moved it to another state.
        status = durable.exists(claim.name, at=state.states[place])
        if status is None or status.st_ino != os.fstat(descriptor).st_ino:
            job.close()
            return None
        return job

    def close(self) -> None:
        """Give everything back; the files stay where they are."""
        self.release_data()
        if self.staging is not None:
            os.close(self.staging)
            self.staging = None
        if self.descriptor != _LEFT:
            # A forked child may have a copy of the descriptor, and with it the lock.
            unlock_directory(self.descriptor)
            os.close(self.descriptor)
            self.descriptor = _LEFT

    def leave(self) -> None:
        """Let go of the directory, its lock and ``staging``, which are the caller's now."""
        self.descriptor, self.staging = _LEFT, None

    def release_data(self) -> None:
        """Close ``-D``, unlocking first: a forked child keeps an OFD lock alive past close."""
        if self.data is not None:
            self.unlock()
            os.close(self.data)
            self.data = None

    def open_data(self) -> int:
        """The descriptor of ``-D``, opened at first use."""
        if self.data is None:
            self.data = durable.open_file(self.id.data_name, at=self.descriptor, write=True)
        return self.data

    def lock(self) -> bool:
        """Take Exim's lock on ``-D``; False while somebody else has it."""
        if not self.has_message_lock:
            self.has_message_lock = lock_message(self.open_data(), self.id)
        return self.has_message_lock

    def unlock(self) -> None:
        """Give Exim's lock on ``-D`` back."""
        if self.has_message_lock and self.data is not None:
            unlock_message(self.data, self.id)
        self.has_message_lock = False

    def open_out(self) -> int:
        """The descriptor of ``out/``, opened at first use."""
        if self.staging is None:
            self.staging = durable.open_directory(OUT, at=self.descriptor)
        return self.staging

    def names(self) -> list[str]:
        """What is in the directory."""
        return os.listdir(self.descriptor)

    def phase(self) -> Phase:
        """How far this message got."""
        names = self.names()
        out: list[str] | None = None
        if OUT in names:
            out_descriptor = durable.open_directory(OUT, at=self.descriptor)
            try:
                out = os.listdir(out_descriptor)
            finally:
                os.close(out_descriptor)
        return phase_of(self.id, names, out)

    def read_status(self) -> Status:
        """What earlier attempts left; the default where there was none or it can't be read."""
        try:
            descriptor = durable.open_file(STATUS, at=self.descriptor)
        except FileNotFoundError:
            return Status()
        try:
            return msgspec.json.decode(os.pread(descriptor, 1 << 16, 0), type=Status)
        except msgspec.DecodeError:
            return Status()
        finally:
            os.close(descriptor)

    def write_status(self, status: Status) -> None:
        """Remember status beside the message."""
        temporary = STATUS + ".tmp"
        if durable.exists(temporary, at=self.descriptor) is not None:
            durable.unlink(temporary, at=self.descriptor)
        descriptor = durable.create_file(temporary, at=self.descriptor)
        try:
            durable.write(descriptor, msgspec.json.format(msgspec.json.encode(status), indent=2) + b"\n")
            # An operator's command may run as root: the sidecar has to read what it wrote.
            owner = os.fstat(self.descriptor)
            durable.give(descriptor, owner.st_uid, owner.st_gid, durable.FILE_MODE)
        finally:
            os.close(descriptor)
        durable.replace(temporary, STATUS, at=self.descriptor)

    def move(self, place: str) -> None:
        """Change the message's state: one rename."""
        durable.rename(self.claim.name, self.claim.name, at=self.state.states[self.place], to=self.state.states[place])
        self.place = place
