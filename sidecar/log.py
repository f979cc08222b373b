"""The operator's log: one event per fact, past tense, fields not prose.

JSON lines on standard error, or aligned text where that is a terminal. Message bytes
that could steer a terminal or forge a line are escaped here, once, for every event.

A line that can't be written (a full disk, a pipe that nobody reads any more) is lost: for
want of a log no mail may wait.

Diagnostics: configure() raises nothing, nor does a logger.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import MutableMapping
from typing import Any, BinaryIO, cast

import msgspec
import structlog
from structlog.typing import FilteringBoundLogger, WrappedLogger

from ..errors import RespoolError
from .cli.terminal import escape, escape_lines


class _StandardError:
    """Standard error without its buffer: a line that could not be written is not in the way of the next."""

    def __init__(self) -> None:
        # Tests put something in its place that has no other layer.
        self._file: BinaryIO = getattr(sys.stderr.buffer, "raw", sys.stderr.buffer)

    def write(self, line: bytes) -> int:
        with contextlib.suppress(OSError):
            return self._file.write(line)
        return 0

    def flush(self) -> None:
        """Nothing is kept back."""


def to_file(file: BinaryIO, *, level: int = 20) -> FilteringBoundLogger:
    """A logger apart from the process's own, which writes JSON lines into an open file."""
    logger: FilteringBoundLogger = structlog.wrap_logger(
        structlog.BytesLogger(file),
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _escape_values,
            _render_json,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
    )
    return logger


def configure(*, level: int = 20, terminal: bool | None = None) -> None:
    """Set the process's log up; level as in the logging module, terminal None to find out."""
    is_terminal = sys.stderr.isatty() if terminal is None else terminal
    renderers: list[Any] = (
        [structlog.dev.ConsoleRenderer(pad_event_to=24, sort_keys=False)] if is_terminal else [_render_json]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            # By Python's own words: what a console shows of an exception by default are all local
            # variables, keys and secrets among them.
            structlog.processors.format_exc_info,
            _escape_values,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr)
        if is_terminal
        else structlog.BytesLoggerFactory(cast("BinaryIO", _StandardError())),
        cache_logger_on_first_use=True,
    )


def get() -> FilteringBoundLogger:
    """The logger; bind fields to it with ``.bind()``."""
    logger: FilteringBoundLogger = structlog.get_logger()
    return logger


def _escape_values(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key == "exception" and isinstance(value, str):
            event[key] = escape_lines(value)
        elif isinstance(value, bytes | str):
            event[key] = escape(value)
        elif isinstance(value, RespoolError | OSError):
            event[key] = escape(str(value))
    return event


def _render_json(_logger: WrappedLogger, _method: str, event: MutableMapping[str, Any]) -> bytes:
    first = {key: event.pop(key) for key in ("timestamp", "level", "event") if key in event}
    return msgspec.json.encode({**first, **event}, enc_hook=repr)
