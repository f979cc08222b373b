"""PATH on the command line, with what authentication needs to know of each message.

PATH itself is read by spool_files.py: a ``-H`` file, a directory with pairs, or an ``.eml``.

Diagnostics: SpoolFormatError and NotReadyError for a pair that can't be read,
click.UsageError for a PATH that is nothing of the kind; OSError from the system becomes
PermanentError with the path.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import click
from msgspec import Struct

from ...errors import NotReadyError, PermanentError
from ...processors.authentication.client import client_address
from ...processors.authentication.message import AuthenticatedMessage
from .spool_files import OpenMessage, Place, find, read, read_eml_bytes


class Subject(Struct, frozen=True, kw_only=True):
    """A message to look at: what is known of its client and sender is empty for an ``.eml``."""

    name: str
    message: AuthenticatedMessage
    client_ip: str = ""
    helo: bytes = b""
    sender: bytes | None = None
    received: float | None = None


def open_subjects(path: str) -> Iterator[Subject]:
    """Every message at path, one after the other; each is closed before the next is opened."""
    try:
        if not os.path.isdir(path) and not path.endswith("-H"):
            yield Subject(name=path, message=AuthenticatedMessage.from_bytes(read_eml_bytes(path)))
            return
        found = False
        for place in find(path):
            found = True
            yield from _open_pair(place)
    except OSError as error:
        raise PermanentError(f"{error.filename or path}: {error.strerror or error}") from error
    if not found:
        raise click.UsageError(f"{path} holds no message")


def _open_pair(place: Place) -> Iterator[Subject]:
    stored = read(place)
    if stored.first_line is None:
        raise NotReadyError(str(place.id), os.path.join(place.directory, place.id.data_name))
    with OpenMessage(stored) as message:
        yield Subject(
            name=place.header_path,
            message=AuthenticatedMessage.from_message(message),
            client_ip=client_address(message),
            helo=message.envelope.helo_name or b"",
            sender=message.sender,
            received=message.envelope.received_time,
        )
