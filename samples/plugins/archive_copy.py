"""A respool processor in one file: a copy of every message, as an .eml file, into a directory.

The copy is an effect: it is written once the message is committed, so that nothing is
archived of a message that is deferred or held and processed again, and nothing in a dry
run. Effects run at least once; the key names the file, so a second run finds it there.

    [[processor]]
    use = "/etc/respool/plugins/archive_copy.py:ArchiveCopy"
    config = { directory = "/srv/mail/archive" }

Put it before what signs, if the archive shall have messages as they came. `respool batch`
runs effects, too: leave it out of the configuration of a batch that shall copy nothing.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import zlib
from typing import Annotated, Final

from msgspec import Meta
from structlog.typing import FilteringBoundLogger

from respool import ConfigError, Context, Effect, Message, Processor, ProcessorConfig, Verdict, hold, proceed

_CONTROL: Final = re.compile(rb"[\x00-\x1f\x7f]")
_DIRECTORY_FLAGS: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Config(ProcessorConfig, frozen=True):
    """What the administrator may set."""

    directory: Annotated[str, Meta(description="Where the copies go: a directory that only respool writes.")]
    largest_bytes: Annotated[
        int, Meta(description="Larger messages are held: they would have to stand in memory.", gt=0)
    ] = 64 << 20


class ArchiveCopy(Processor[Config]):
    """Copy each message into an archive."""

    phase = "modify"

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        if not os.path.isabs(config.directory):
            raise ConfigError("an absolute path is expected", key="config.directory")
        try:
            with contextlib.closing(_Directory(config.directory)) as directory:
                is_open_to_others = directory.is_open_to_others
        except OSError as error:
            raise ConfigError(f"{config.directory}: {error.strerror}", key="config.directory") from error
        if is_open_to_others:
            raise ConfigError(f"{config.directory} can be written by others: chmod go-w it", key="config.directory")

    def process(self, message: Message, context: Context) -> Verdict:
        """Declare the copy. What it holds is fixed here; it is written after the commit."""
        if message.size > self.config.largest_bytes:
            return hold(f"too large for the archive: {message.size} bytes")
        # Compressed, since it stands in respool's plan until the message is settled.
        context.effects.declare("copy", zlib.compress(_content(message), level=1))
        return proceed()

    def run_effect(self, effect: Effect, log: FilteringBoundLogger) -> None:
        """Write the copy under its key. OSError: tried again."""
        name = effect.key.replace("/", ".").removeprefix(".") + ".eml"
        with contextlib.closing(_Directory(self.config.directory)) as directory:
            if directory.has(name):
                return  # written before a crash
            directory.write(name, zlib.decompress(effect.payload))
        log.debug("archive.copied", key=effect.key)


def _content(message: Message) -> bytes:
    """The message in LF lines, below fields that say what its envelope was."""
    envelope = [b"Return-Path: <%b>\n" % _CONTROL.sub(b"?", message.sender)]
    envelope += [b"X-Envelope-To: <%b>\n" % _CONTROL.sub(b"?", one.address) for one in message.undelivered]
    headers = [field.raw for field in message.sent_headers]
    body = b"".join(message.body.chunks())
    return b"".join((*envelope, *headers, b"\n", body.replace(b"\r\n", b"\n") if message.body.wireformat else body))


class _Directory:
    """The archive, open. Raises OSError."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, _DIRECTORY_FLAGS)

    def close(self) -> None:
        """Close it."""
        os.close(self._descriptor)

    @property
    def is_open_to_others(self) -> bool:
        """True if others than its owner can write in it."""
        return bool(os.fstat(self._descriptor).st_mode & (stat.S_IWGRP | stat.S_IWOTH))

    def has(self, name: str) -> bool:
        """True if there is a file of that name."""
        try:
            os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return True

    def write(self, name: str, content: bytes) -> None:
        """A file that has its name only once all of it is on disk."""
        unfinished = f".{name}.{os.getpid()}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(unfinished, flags, 0o600, dir_fd=self._descriptor)
        with os.fdopen(file, "wb") as writing:
            writing.write(content)
            writing.flush()
            os.fsync(file)
        os.rename(unfinished, name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        os.fsync(self._descriptor)
