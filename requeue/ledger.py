"""The ledger of exports: each recipient of a message belongs to one claim.

Exim's queuefile transport exports at least once: naive routers export a message once per
recipient, a killed delivery exports again. The ledger says who was first. Two files in
``state_directory/ledger/``:

``owned``    which claim, whose directory is there, owns a recipient. It can be derived from
             the claim directories, so it is never synced, and made anew at every start.
``settled``  recipients whose message was handed back. Synced before the claim is removed.

A claim that is settled is marked in the second file and then leaves the first, at the latest
with the next put; whoever puts looks at the first and then at the second. So there is no
moment at which nobody owns it.

Diagnostics: LedgerError (an OSError: the intake pauses and the message stays where it is)
for whatever LMDB reports; entries() and open_for_reading() too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from msgspec import Struct

from ..spool.envelope import Envelope, unique_form
from ..spool.ids import MessageId
from . import durable
from .ledger_file import LmdbFile
from .state import STATES, Claim, StateDirectory

DIRECTORY: Final = "ledger"
EXPIRY_SECONDS: Final = 14 * 86400.0

_OWNED, _SETTLED = "owned", "settled"
#: claim, Unix time of the entry; the recipient follows, for people.
_VALUE: Final = struct.Struct(">QQ")
_LONGEST_SHOWN: Final = 320
_SWEPT_AT_ONCE: Final = 5000


class Entry(Struct, frozen=True, kw_only=True):
    """One recipient of one message. recipient is cut after 320 bytes; time is Unix time."""

    id: str
    received_time: int
    recipient: bytes
    claim: int
    settled: bool
    time: int


def owned_recipients(envelope: Envelope) -> tuple[bytes, ...]:
    """Whom a claimed export asks for: the list minus the tree, domains in lower case, each once."""
    wanted = (recipient for recipient in envelope.recipients if not envelope.is_delivered(recipient))
    return tuple(dict.fromkeys(unique_form(recipient.address) for recipient in wanted))


class Ledger:
    """The open ledger of one process; its threads share transactions, and so the syncs.

    Open it after a fork, never before. largest is the size in bytes that neither file
    may exceed.
    """

    def __init__(
        self, state: StateDirectory, *, expiry_seconds: float = EXPIRY_SECONDS, largest: int = 1 << 30
    ) -> None:
        self._state = state
        self._expiry = expiry_seconds
        if durable.exists(DIRECTORY, at=state.descriptor) is None:
            with contextlib.suppress(FileExistsError):
                durable.make_directory(DIRECTORY, at=state.descriptor)
                _adopt(state)
                durable.sync(state.descriptor)
        path = os.path.join(state.path, DIRECTORY)
        self._owned = LmdbFile(os.path.join(path, _OWNED), largest, synced=False)
        self._settled = LmdbFile(os.path.join(path, _SETTLED), largest, synced=True)
        self._swept_to = b""
        self._guard = threading.Lock()
        #: Keys in ``owned`` whose settled mark is durable, and their claims.
        self._to_let_go: list[tuple[bytes, int]] = []

    def close(self) -> None:
        """Close both files."""
        with contextlib.suppress(OSError):
            self._let_go()
        self._owned.close()
        self._settled.close()

    def put(self, claim: Claim, received_time: int, recipients: Iterable[bytes]) -> frozenset[bytes]:
        """Make claim the owner of whom nobody owns; the recipients that are its own now.

        Doing it again for the same claim gives the same answer.
        """
        keys = {key_of(claim.id, received_time, recipient): recipient for recipient in recipients}
        now = int(time.time())

        settled = self._take_settled()

        def put_absent(transaction: Any) -> dict[bytes, bytes]:
            _remove(transaction, settled)
            mine: dict[bytes, bytes] = {}
            there: dict[int, bool] = {claim.number: False}
            for key, recipient in keys.items():
                value = transaction.get(key)
                if value is not None:
                    owner = _VALUE.unpack_from(value)[0]
                    if owner not in there:
                        there[owner] = self._is_there(Claim(owner, claim.id))
                    if there[owner]:
                        continue
                transaction.put(key, _value(claim.number, now, recipient))
                mine[key] = recipient
            return mine

        mine = self._owned.change(put_absent)

        # After the put, never before: who settles marks there first and lets go here second.
        def others(transaction: Any) -> list[bytes]:
            found: list[bytes] = []
            for key in mine:
                value = transaction.get(key)
                if value is not None:
                    owner, since = _VALUE.unpack_from(value)
                    if owner != claim.number and since > now - self._expiry:
                        found.append(key)
            return found

        lost = self._settled.read(others)
        if lost:
            self._owned.change(lambda transaction: _remove(transaction, [(key, claim.number) for key in lost]))
        return frozenset(recipient for key, recipient in mine.items() if key not in lost)

    def settle(self, claim: Claim, received_time: int, recipients: Iterable[bytes]) -> None:
        """Mark recipients of claim as handed back; durable on return, by a sync that concurrent callers share."""
        now = int(time.time())
        values = {key_of(claim.id, received_time, name): _value(claim.number, now, name) for name in recipients}

        def mark(transaction: Any) -> None:
            for key, value in values.items():
                transaction.put(key, value)

        if values:
            self._settled.change(mark)
            # The next put takes them out of ``owned``: until then their claim is there, or blocks nobody.
            with self._guard:
                self._to_let_go.extend((key, claim.number) for key in values)

    def owned_by(self, claim: Claim, received_time: int, recipients: Iterable[bytes]) -> frozenset[bytes]:
        """Those of recipients that claim owns, settled or not."""
        keys = {key_of(claim.id, received_time, recipient): recipient for recipient in recipients}

        def mine(transaction: Any) -> set[bytes]:
            values = {recipient: transaction.get(key) for key, recipient in keys.items()}
            return {name for name, value in values.items() if value and _VALUE.unpack_from(value)[0] == claim.number}

        return frozenset(self._owned.read(mine) | self._settled.read(mine))

    def _take_settled(self) -> list[tuple[bytes, int]]:
        with self._guard:
            settled, self._to_let_go = self._to_let_go, []
        return settled

    def _let_go(self) -> None:
        settled = self._take_settled()
        if settled:
            self._owned.change(lambda transaction: _remove(transaction, settled))

    def _is_there(self, claim: Claim) -> bool:
        # Twice: it may have moved from a state not yet looked at to one already passed.
        for _ in range(2):
            for descriptor in self._state.states.values():
                if durable.exists(claim.name, at=descriptor) is not None:
                    return True
        return False

    def sweep(self) -> int:
        """Remove what has expired among the next some thousand settled entries; how many that were."""
        self._let_go()
        limit = int(time.time() - self._expiry)

        def remove(transaction: Any) -> int:
            removed = looked_at = 0
            with transaction.cursor() as cursor:
                is_there = cursor.set_range(self._swept_to)
                while is_there and looked_at < _SWEPT_AT_ONCE:
                    looked_at += 1
                    if _VALUE.unpack_from(cursor.value())[1] <= limit:
                        removed += 1
                        is_there = cursor.delete() and bool(cursor.key())
                    else:
                        is_there = cursor.next()
                self._swept_to = cursor.key() if is_there else b""
            return removed

        removed: int = self._settled.change(remove)
        return removed

    def entries(self, id_prefix: str = "") -> Iterator[Entry]:
        """Every entry of the ids that begin so, by id; what is being worked on first."""
        yield from _entries(self._owned, id_prefix, settled=False)
        yield from _entries(self._settled, id_prefix, settled=True)


def key_of(message_id: MessageId, received_time: int, recipient: bytes) -> bytes:
    """The key of (id, received time, recipient); ordered by id. Recipients may be longer than a key: hashed."""
    digest = hashlib.blake2b(recipient, digest_size=16).digest()
    return message_id.encode() + struct.pack(">q", received_time) + digest


def _remove(transaction: Any, entries: Iterable[tuple[bytes, int]]) -> None:
    """Delete each key that still belongs to its claim."""
    for key, claim in entries:
        value = transaction.get(key)
        if value is not None and _VALUE.unpack_from(value)[0] == claim:
            transaction.delete(key)


def _value(claim: int, now: int, recipient: bytes) -> bytes:
    return _VALUE.pack(claim, now) + recipient[:_LONGEST_SHOWN]


def renew(state: StateDirectory) -> None:
    """Forget who owned what: for the start of an engine, before restore() and before any worker."""
    with contextlib.suppress(FileNotFoundError):
        for name in (_OWNED, _OWNED + "-lock"):
            with contextlib.suppress(FileNotFoundError):
                durable.unlink(f"{DIRECTORY}/{name}", at=state.descriptor)


def restore(
    ledger: Ledger, state: StateDirectory, read: Callable[[str, Claim], tuple[int, tuple[bytes, ...]] | None]
) -> int:
    """Put the entries of all claims that are there again, in claim order; how many claims had any.

    read gives the received time and recipients of a claim in a state, None where its
    originals are no message or have no part in the ledger.
    """
    claims = sorted((claim, name) for name in STATES for claim in state.list(name))
    count = 0
    for claim, name in claims:
        found = read(name, claim)
        if found is not None:
            ledger.put(claim, *found)
            count += 1
    return count


def open_for_reading(path: str, id_prefix: str = "") -> Iterator[Entry]:
    """The entries of the ledger in a state directory at path, beside a running sidecar or without one."""
    for name in (_OWNED, _SETTLED):
        file = os.path.join(path, DIRECTORY, name)
        if os.path.exists(file):
            reader = LmdbFile(file, 0, synced=True, read_only=True)
            try:
                yield from _entries(reader, id_prefix, settled=name == _SETTLED)
            finally:
                reader.close()


def _adopt(state: StateDirectory) -> None:
    """The ledger belongs to whom the state directory belongs to, whoever opens it first."""
    owner = os.fstat(state.descriptor)
    descriptor = durable.open_directory(DIRECTORY, at=state.descriptor)
    try:
        if os.geteuid() == 0:
            durable.give(descriptor, owner.st_uid, owner.st_gid, durable.DIRECTORY_MODE)
    finally:
        os.close(descriptor)


def _entries(file: LmdbFile, id_prefix: str, *, settled: bool) -> Iterator[Entry]:
    for key, value in file.items(id_prefix.encode()):
        claim, since = _VALUE.unpack_from(value)
        yield Entry(
            id=key[:-24].decode(), received_time=struct.unpack(">q", key[-24:-16])[0],
            recipient=value[_VALUE.size :], claim=claim, settled=settled, time=since,
        )  # fmt: skip
