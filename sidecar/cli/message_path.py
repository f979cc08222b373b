"""PATH on the command line: a ``-H`` file, a directory with pairs, or an ``.eml``.

Diagnostics: SpoolFormatError and NotReadyError for a pair that can't be read,
click.UsageError for a PATH that is nothing of the kind; OSError from the system becomes
PermanentError with the path.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Generator, Iterator

import click
from msgspec import Struct

from ...errors import NotReadyError, PermanentError
from ...processors.authentication.client import client_address
from ...processors.authentication.message import AuthenticatedMessage
from ...spool.body import FileBody
from ...spool.directory import MessageDirectory
from ...spool.header_file import parse_header_file
from ...spool.message import Message


class Subject(Struct, frozen=True, kw_only=True):
    """A message to look at: what is known of its client and sender is empty for an ``.eml``."""

    name: str
    message: AuthenticatedMessage
    client_ip: str = ""
    helo: bytes = b""
    sender: bytes | None = None


def open_subjects(path: str) -> Iterator[Subject]:
    """Every message at path, one after the other; each is closed before the next is opened."""
    if os.path.isdir(path):
        directory = MessageDirectory(path)
        try:
            found = directory.list().pairs
        finally:
            directory.close()
        if not found:
            raise click.UsageError(f"{path} holds no message")
        names = [os.path.join(path, item.subdirectory, item.id.header_name) for item in found]
    else:
        names = [path]
    for name in names:
        try:
            if name.endswith("-H"):
                with _open_pair(name) as subject:
                    yield subject
            else:
                with open(name, "rb") as file:
                    content = file.read()
                yield Subject(name=name, message=AuthenticatedMessage.from_bytes(content))
        except OSError as error:
            raise PermanentError(f"{error.filename or name}: {error.strerror or error}") from error


@contextlib.contextmanager
def _open_pair(header_path: str) -> Generator[Subject]:
    with open(header_path, "rb") as file:
        envelope = parse_header_file(file.read(), file=header_path)
    data_path = header_path.removesuffix("-H") + "-D"
    try:
        descriptor = os.open(data_path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        raise NotReadyError(str(envelope.id), data_path) from None
    try:
        body = FileBody(descriptor, envelope.id.body_offset, wireformat=envelope.is_wireformat)
        message = Message(envelope, body)
        yield Subject(
            name=header_path,
            message=AuthenticatedMessage.from_message(message),
            client_ip=client_address(message),
            helo=envelope.helo_name or b"",
            sender=envelope.sender,
        )
    finally:
        os.close(descriptor)
