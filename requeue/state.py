"""The state directory: where a message is, is its state.

``work/ deferred/ held/ corrupt/`` each hold one directory per claimed message, named
``<id>.<claim>``. A message is in exactly one of them, and moves by renaming that
directory. Claim numbers never repeat, so a second export of an id never meets the first.

Diagnostics: ConfigError where the directory can't be used (another engine owns it,
others can write it); OSError from the system otherwise.
"""

from __future__ import annotations

import os
import re
import threading
from typing import Final

from msgspec import Struct

from ..errors import ConfigError
from ..spool.directory import check_ownership, list_names
from ..spool.ids import MessageId
from ..spool.locks import lock_directory, lock_file
from . import durable

STATES: Final = ("work", "deferred", "held", "corrupt")
GONE: Final = "gone."
_CLAIM_NAME: Final = re.compile(r"([0-9A-Za-z-]{16,23})\.([1-9][0-9]{0,17})", re.ASCII)
_BLOCK: Final = 1000


class Claim(Struct, frozen=True, order=True):
    """One taking of a message: the number orders claims of one worker and never repeats."""

    number: int
    id: MessageId

    @property
    def name(self) -> str:
        """The directory's name, ``<id>.<claim>``."""
        return f"{self.id}.{self.number}"


def parse_claim(name: str) -> Claim | None:
    """The claim that a directory is named for, or None for any other name."""
    match = _CLAIM_NAME.fullmatch(name)
    if match is None:
        return None
    try:
        return Claim(int(match[2]), MessageId(match[1]))
    except ValueError:
        return None


class StateDirectory:
    """The open state directory. One engine owns it: see own()."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.descriptor = durable.open_directory(path)
        for name in STATES:
            try:
                durable.make_directory(name, at=self.descriptor)
            except FileExistsError:
                continue
            durable.sync(self.descriptor)
        self.states = {name: durable.open_directory(name, at=self.descriptor) for name in STATES}
        self._lock_descriptor: int | None = None
        self._claim_guard = threading.Lock()
        self._next = self._end = self._reserved_by = 0

    def close(self) -> None:
        """Close every descriptor; an engine lock ends with the last process that inherited it."""
        for descriptor in self.states.values():
            os.close(descriptor)
        if self._lock_descriptor is not None:
            os.close(self._lock_descriptor)
        os.close(self.descriptor)

    def check(self, owner: int) -> None:
        """Raise ConfigError if others than owner and root can write here."""
        check_ownership(self.path, self.descriptor, owner)
        for name, descriptor in self.states.items():
            check_ownership(f"{self.path}/{name}", descriptor, owner)

    def own(self) -> None:
        """Become the one engine of this directory; workers forked later share the ownership.

        Raises ConfigError while another engine, or a surviving worker of one, has it.
        """
        descriptor = self._open_control("lock")
        if not lock_file(descriptor):
            os.close(descriptor)
            raise ConfigError(f"{self.path} is in use by another respool")
        self._lock_descriptor = descriptor

    def next_claim(self, message_id: MessageId) -> Claim:
        """A claim with a number that was never given out.

        Numbers are reserved in durable blocks: after a power cut a block is lost, never
        given twice.
        """
        with self._claim_guard:
            # A forked worker must not go on with its parent's block.
            if self._next == self._end or self._reserved_by != os.getpid():
                self._reserve()
            number = self._next
            self._next += 1
        return Claim(number, message_id)

    def _reserve(self) -> None:
        descriptor = self._open_control("claims")
        try:
            while not lock_file(descriptor):
                threading.Event().wait(0.001)  # another worker reserves its block
            text = os.pread(descriptor, 32, 0).strip()
            first = int(text) if text.isdigit() else self._highest_claim() + 1
            os.pwrite(descriptor, b"%-31d\n" % (first + _BLOCK), 0)
            durable.sync(descriptor)
            if not text:
                durable.sync(self.descriptor)
        finally:
            os.close(descriptor)
        self._next, self._end, self._reserved_by = first, first + _BLOCK, os.getpid()

    def _highest_claim(self) -> int:
        claims = [claim.number for state in STATES for claim in self.list(state)]
        return max(claims, default=0)

    def _open_control(self, name: str) -> int:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        return os.open(name, flags, durable.FILE_MODE, dir_fd=self.descriptor)

    def list(self, state: str) -> list[Claim]:
        """The claims in a state, in claim order; other names are skipped."""
        names = list_names(self.states[state])
        return sorted(claim for claim in map(parse_claim, names) if claim is not None)

    def count(self, state: str) -> int:
        """How many claims are in a state."""
        return len(self.list(state))

    def sweep_gone(self) -> None:
        """Remove what settled messages left behind when removal was cut short."""
        for name in list_names(self.states["work"]):
            if name.startswith(GONE):
                descriptor = self._take(name)
                if descriptor is not None:
                    durable.remove_tree(name, at=self.states["work"])
                    os.close(descriptor)

    def _take(self, name: str) -> int | None:
        try:
            descriptor = durable.open_directory(name, at=self.states["work"])
        except FileNotFoundError:
            return None
        if not lock_directory(descriptor) or os.fstat(descriptor).st_nlink == 0:
            os.close(descriptor)
            return None
        return descriptor
