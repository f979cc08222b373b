"""Messages that respool keeps, held or deferred, and what an operator may do with them.

Everything here is safe beside a running sidecar: whoever changes a message holds the
lock on its directory. A released message goes to ``deferred/`` with its attempt due, so
that the sidecar takes it up at its next scan, or at its next start.

Diagnostics: PermanentError for a message that is not there; ConflictError where somebody
else has it in hand; OSError from the system.
"""

from __future__ import annotations

import os
import time
from typing import Final, Literal

import msgspec
from msgspec import Struct

from ..errors import ConflictError, PermanentError
from .hand_back import settle_in
from .job import Job, Status
from .ledger import Ledger
from .slots import forget
from .state import Claim, StateDirectory

Place = Literal["held", "deferred"]

#: Holds of respool itself, named like processors, so that each can be overridden by a release.
LOOP: Final = "respool:loop"
CRASHES: Final = "respool:crashes"
AGE: Final = "respool:age"
QUOTER: Final = "respool:quoter"


class Kept(Struct, frozen=True, kw_only=True):
    """One message that is kept, and what is remembered of it."""

    claim: Claim
    status: Status


def list_kept(state: StateDirectory, place: Place) -> list[Kept]:
    """All messages of a state, in claim order."""
    kept: list[Kept] = []
    for claim in state.list(place):
        try:
            descriptor = os.open(claim.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=state.states[place])
        except FileNotFoundError:
            continue  # moved on while we were looking
        # Only read: its owner, if there is one, replaces the file as a whole.
        reader = Job(state, place, claim, descriptor)
        try:
            kept.append(Kept(claim=claim, status=reader.read_status()))
        finally:
            os.close(descriptor)
    return kept


def find(state: StateDirectory, place: Place, name: str) -> Claim:
    """The one message that an operator calls by its id, or by ``<id>.<claim>`` where the id is there twice."""
    claims = [claim for claim in state.list(place) if name in {claim.name, str(claim.id)}]
    if not claims:
        raise PermanentError(f"no {place} message is called {name}")
    if len(claims) > 1:
        names = ", ".join(claim.name for claim in claims)
        raise PermanentError(f"{name} is there {len(claims)} times: say which of {names}")
    return claims[0]


def release(state: StateDirectory, claim: Claim, *, as_is: bool = False) -> None:
    """Let a held message go: processed again with that hold overridden, or as_is without any processing."""
    job = _take(state, "held", claim)
    try:
        status = job.read_status()
        released = dict.fromkeys((*status.released, status.processor))
        status = msgspec.structs.replace(
            status, released=tuple(name for name in released if name), as_is=as_is or status.as_is,
            reason=f"released; it was held: {status.reason}", since=time.time(), retry_at=0.0, crashes=0,
            deferred_since=0.0,
        )  # fmt: skip
        job.write_status(status)
        job.move("deferred")
    finally:
        job.close()


def drop(state: StateDirectory, claim: Claim, ledger: Ledger | None) -> None:
    """Remove a held message for good; an export that repeats it is a repeat all the same."""
    job = _take(state, "held", claim)
    try:
        if ledger is not None:
            settle_in(ledger, job)
        forget(job)
    finally:
        job.close()


def retry(state: StateDirectory, claim: Claim) -> None:
    """Make a deferred message due at once."""
    job = _take(state, "deferred", claim)
    try:
        job.write_status(msgspec.structs.replace(job.read_status(), retry_at=0.0))
    finally:
        job.close()


def drop_expired(state: StateDirectory, ledger: Ledger | None, older_than: float) -> list[Kept]:
    """Drop what has been held since before older_than (Unix time); what that was."""
    dropped: list[Kept] = []
    for kept in list_kept(state, "held"):
        if 0 < kept.status.since < older_than:
            try:
                drop(state, kept.claim, ledger)
            except (ConflictError, PermanentError):
                continue
            dropped.append(kept)
    return dropped


def _take(state: StateDirectory, place: Place, claim: Claim) -> Job:
    job = Job.take(state, place, claim)
    if job is not None:
        return job
    if claim in state.list(place):
        raise ConflictError(claim.id, "the sidecar, or another command, at this moment")
    raise PermanentError(f"{claim.name} is no longer {place}")
