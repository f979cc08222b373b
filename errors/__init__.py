"""Every error that respool raises on purpose, under one root.

An error carries data; its sentence is derived from them. A failed signature or a
missing table key is never an error: those are results.

Diagnostics: this module raises nothing; the table in docs/architecture.md says what
the engine does with each class.
"""

from __future__ import annotations

from typing import Final


class RespoolError(Exception):
    """The root. Anything else that escapes a public function of respool is a bug."""


class ConfigError(RespoolError):
    """The configuration can't be used; exit code 78, never raised once the program runs.

    file is the path of the configuration, key the place inside it
    (``$.processor[2].config.selector``, empty for the file as a whole), line where that is
    in the file, from 1, or 0 where it can't be told.
    """

    def __init__(self, reason: str, *, file: str = "", key: str = "", line: int = 0) -> None:
        self.reason, self.file, self.key, self.line = reason, file, key, line
        super().__init__(reason, file, key, line)

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        return ": ".join(part for part in (place, self.key, self.reason) if part)


class SpoolError(RespoolError):
    """Something about a message in a spool directory."""


class SpoolFormatError(SpoolError):
    """A spool file is not what Exim writes: the message goes to ``corrupt/``, the rest goes on.

    line counts from 1; column is the byte within the line, from 1; found is what stood
    there, shortened and escaped.
    """

    def __init__(self, *, file: str, line: int, column: int, expected: str, found: str) -> None:
        self.file, self.line, self.column, self.expected, self.found = file, line, column, expected, found
        super().__init__(file, line, column, expected, found)

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: expected {self.expected}, found {self.found}"


class NotReadyError(SpoolError):
    """Half of a message is not there yet: wait; no attempt is counted."""

    def __init__(self, message_id: str, missing: str) -> None:
        self.message_id, self.missing = message_id, missing
        super().__init__(message_id, missing)

    def __str__(self) -> str:
        return f"{self.message_id}: {self.missing} is not there yet"


class ConflictError(SpoolError):
    """Somebody else holds the message (its lock, or its name): leave it, look again later."""

    def __init__(self, message_id: str, holder: str) -> None:
        self.message_id, self.holder = message_id, holder
        super().__init__(message_id, holder)

    def __str__(self) -> str:
        return f"{self.message_id}: held by {self.holder}"


class TemporaryError(RespoolError):
    """Trouble that passes (DNS, a full disk, a socket): the message is deferred and tried again."""

    def __init__(self, reason: str, *, retry_after: float | None = None) -> None:
        self.reason, self.retry_after = reason, retry_after
        super().__init__(reason, retry_after)

    def __str__(self) -> str:
        return self.reason


class PermanentError(RespoolError):
    """Trouble that will not pass by itself: the message is held with this reason."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)

    def __str__(self) -> str:
        return self.reason


class ProcessorError(RespoolError):
    """A processor raised something it should not have: wrapped at the one boundary; ``on_error`` decides."""

    def __init__(self, processor: str, cause: BaseException) -> None:
        self.processor, self.cause = processor, cause
        super().__init__(processor, cause)

    def __str__(self) -> str:
        return f"processor {self.processor} failed: {type(self.cause).__name__}: {sentence(self.cause)}"


#: Characters of a reason that are kept: it stands in logs, in status.json, in bounces.
LONGEST_REASON: Final = 1000


def clean(text: str) -> str:
    """The text as a reason that every file and log can hold: valid Unicode, of bounded length."""
    if len(text) > LONGEST_REASON:
        text = text[:LONGEST_REASON] + "…"
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def sentence(error: BaseException) -> str:
    """What an error says, clean; also one whose own ``__str__`` fails: it may be a stranger's."""
    try:
        return clean(str(error))
    except Exception as another:  # noqa: BLE001 whatever a stranger's __str__ raises
        return f"(its text can't be had: {type(another).__name__})"
