"""What the SRS processor and ``respool srs`` are set up with: a dialect and its secrets.

Diagnostics: both functions raise ConfigError.
"""

from __future__ import annotations

import os
import stat
from typing import Final, Literal

from ..errors import ConfigError
from .srs_codec import EximSrs, SrsCodec, StandardSrs

Dialect = Literal["exim", "standard"]

_MAXIMUM_FILE: Final = 64 * 1024


def read_secrets(path: str) -> tuple[bytes, ...]:
    """The secrets in a file, one a line, the first being the one that signs. Raises ConfigError.

    Empty lines and those that begin with ``#`` don't count. The file must not be open to
    others, as a private key's.
    """
    try:
        # O_NONBLOCK: opening a FIFO by mistake must not hang.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", key="secret_file") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: not a regular file", key="secret_file")
        if status.st_mode & (stat.S_IRWXO | stat.S_IWGRP):
            mode = stat.S_IMODE(status.st_mode)
            raise ConfigError(f"{path}: mode {mode:04o} lets others use it; 0640 is the most", key="secret_file")
        content = os.read(descriptor, _MAXIMUM_FILE)
    finally:
        os.close(descriptor)
    lines = (line.strip(b"\r") for line in content.split(b"\n"))
    secrets = tuple(line for line in lines if line and not line.startswith(b"#"))
    if not secrets or any(b"\0" in secret for secret in secrets):
        raise ConfigError(f"{path}: no secret in it", key="secret_file")
    return secrets


def make_codec(
    dialect: Dialect,
    secrets: tuple[bytes, ...],
    *,
    separator: str = "=",
    hash_length: int = 4,
    minimum_hash_length: int = 4,
    max_age_days: int | None = None,
) -> SrsCodec:
    """The codec of a dialect; max_age_days None: 10 for exim, 21 for standard. Raises ConfigError."""
    if dialect == "exim":
        if (separator, hash_length, minimum_hash_length) != ("=", 4, 4):
            raise ConfigError("separator and hash_length are fixed in the exim dialect", key="dialect")
        return EximSrs(secrets, max_age_days=10 if max_age_days is None else max_age_days)
    return StandardSrs(
        secrets,
        separator=separator,
        hash_length=hash_length,
        minimum_hash_length=minimum_hash_length,
        max_age_days=21 if max_age_days is None else max_age_days,
    )
