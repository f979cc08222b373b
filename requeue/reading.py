"""Reading a claimed message back from its directory.

Diagnostics: SpoolFormatError where the files are not a message Exim could deliver: the
caller sets it aside. OSError from the system.
"""

from __future__ import annotations

import os
from typing import Final

from ..errors import SpoolFormatError
from ..spool.body import FileBody
from ..spool.envelope import Envelope
from ..spool.header_file import LARGEST_HEADER_FILE, parse_header_file
from ..spool.ids import MessageId
from ..spool.journal import merge_journal
from ..spool.message import Message
from . import durable
from .job import Job
from .ledger import owned_recipients

#: The ACL variable by which Exim's routers, and respool itself, know a message that went through.
MARK: Final = "acl_m_respool"


def read_message(job: Job) -> Message:
    """The message of a job, with its journal merged. The body reads from the job's descriptor.

    Deliveries that only ``-J`` knows are in the non-recipients tree afterwards, as Exim
    itself does before its next attempt (deliver.c); the file is left as it is.
    """
    check_first_line(job.open_data(), job.id)
    envelope = parse_header_file(read_file(job.id.header_name, at=job.descriptor), file=job.id.header_name)
    envelope = _merged(job, envelope)
    body = FileBody(job.open_data(), job.id.body_offset, wireformat=envelope.is_wireformat)
    return Message(envelope, body)


def read_asked_for(job: Job) -> tuple[int, tuple[bytes, ...]] | None:
    """Received time and recipients that a claimed export asks for: what the ledger is told.

    None where it has no part in the ledger: no message, or one that carries our mark.
    """
    try:
        envelope = parse_header_file(read_file(job.id.header_name, at=job.descriptor), file=job.id.header_name)
    except (SpoolFormatError, FileNotFoundError):
        return None
    if MARK in envelope.variables:
        return None
    return envelope.received_time, owned_recipients(envelope)


def check_first_line(descriptor: int, message_id: MessageId) -> None:
    """Raise SpoolFormatError unless ``-D`` begins with its own name."""
    expected = f"{message_id}-D"
    found = os.pread(descriptor, message_id.body_offset, 0)
    if found != expected.encode() + b"\n":
        raise SpoolFormatError(
            file=message_id.data_name, line=1, column=1, expected=f"{expected} and a line feed", found=repr(found)
        )


def _merged(job: Job, envelope: Envelope) -> Envelope:
    if not job.may_have_journal:
        return envelope
    try:
        return merge_journal(envelope, read_file(job.id.journal_name, at=job.descriptor))
    except FileNotFoundError:
        return envelope


def read_file(name: str, *, at: int) -> bytes:
    """The whole of a regular file, by pread; of one larger than a -H may be, so much that this shows."""
    descriptor = durable.open_file(name, at=at)
    try:
        size = min(os.fstat(descriptor).st_size, LARGEST_HEADER_FILE + 1)
        parts: list[bytes] = []
        position = 0
        while position < size:
            part = os.pread(descriptor, size - position, position)
            if not part:
                break
            position += len(part)
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
