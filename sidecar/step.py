"""One processor as a step of the pipeline, and what its verdict makes of a message on its way.

Diagnostics: call() raises nothing that a processor raised: TemporaryError defers,
PermanentError holds, anything else, SystemExit included, is wrapped as ProcessorError and
``on_error`` decides. run_effect() lets TemporaryError and OSError through, for the caller
to try again, and logs the rest. Only the terminal's Ctrl-C goes through both.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from ..errors import PermanentError, ProcessorError, TemporaryError, sentence
from ..processors import api
from ..processors.conditions import Condition
from ..processors.edits import Edit, apply, divide
from ..processors.results import AuthResult
from ..processors.verdict_check import check_verdict
from ..spool.message import Message

_EXIT_FORKED = 70
OnError = Literal["defer", "skip", "hold"]


class Step(Struct, frozen=True):
    """One configured processor."""

    name: str
    processor: api.Processor[Any]
    on_error: OnError = "defer"
    condition: Condition | None = None
    split: bool = False


class Traced(Struct, frozen=True, kw_only=True):
    """What one processor said of one message or part, for logs, dry runs and ``--trace``.

    No verdict and no error: its ``when`` did not hold, or divided the message.
    """

    processor: str
    verdict: api.Verdict | None
    error: ProcessorError | TemporaryError | PermanentError | None
    seconds: float


class Part(Struct, frozen=True, kw_only=True):
    """A message on its way, or the part of one that a split made."""

    message: Message
    position: int
    results: tuple[AuthResult, ...] = ()
    frozen_for: str = ""
    original_body: bool = True
    queue: str = ""


#: Parts that go on, or the verdict that ends this one.
Following = list[Part] | api.Defer | api.Hold | api.Discard | api.Bounce


def call(step: Step, part: Part, context: api.Context) -> tuple[Traced, Following]:
    """What a processor says of part, and what becomes of that: parts that go on, or a verdict that ends it.

    The one boundary: whatever a processor does, the engine goes on.
    """
    started, process = time.monotonic(), os.getpid()
    verdict: api.Verdict | None = None
    error: ProcessorError | TemporaryError | PermanentError | None = None
    following: Following
    try:
        elsewhere = _when(step, part)
        if elsewhere is None:
            verdict = check_verdict(step.processor.process(part.message, context), part.message)
            following = _follow(step, part, verdict, released=context.released)
        else:
            following = elsewhere
    except TemporaryError as raised:
        # Made anew: the text of a stranger's error is asked for here, and never again.
        error = TemporaryError(sentence(raised), retry_after=_seconds(raised.retry_after))
        verdict, following = None, api.Defer(reason=error.reason, retry_after=error.retry_after)
    except PermanentError as raised:
        error = PermanentError(sentence(raised))
        verdict, following = None, api.Hold(reason=error.reason)
    except BaseException as raised:
        _end_fork(process)
        if _is_interrupt(raised):
            raise
        # No verdict that was returned counts any more: an edit of it may be what failed.
        verdict, error = None, ProcessorError(step.name, raised)
        context.log.exception("processor.failed", processor=step.name, error=error)
        _let_go(raised)
        following = _on_error(step, part, error)
    _end_fork(process)
    return Traced(processor=step.name, verdict=verdict, error=error, seconds=time.monotonic() - started), following


def run_effect(step: Step, effect: api.Effect, log: FilteringBoundLogger) -> None:
    """Run what a processor declared for after the commit. Raises TemporaryError or OSError: try again."""
    process = os.getpid()
    try:
        step.processor.run_effect(effect, log)
    except (TemporaryError, OSError):
        _end_fork(process)
        raise
    except BaseException as raised:
        _end_fork(process)
        if _is_interrupt(raised):
            raise
        # A bug in the processor: the message is committed, and trying again would not help.
        error = ProcessorError(step.name, raised)
        log.exception("effect.lost", key=effect.key, kind=effect.kind, error=error)
        _let_go(raised)
    _end_fork(process)


def _is_interrupt(raised: BaseException) -> bool:
    """True for Ctrl-C where nobody but Python handles it; a KeyboardInterrupt elsewhere is the processor's own."""
    return (
        isinstance(raised, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def _let_go(raised: BaseException) -> None:
    """Free what the frames of a failed processor hold, megabytes perhaps: the next message needs the room.

    The frame that keeps the error is one of them: a circle, which Python finds in its own time.
    """
    waiting: list[BaseException | None] = [raised]
    while waiting:
        error = waiting.pop()
        if error is not None and _traceback_of(error) is not None:
            BaseException.with_traceback(error, None)
            waiting += [_cause_of(error), _context_of(error)]


#: What Python keeps in an error, whatever a stranger's class makes of the names.
_traceback_of, _cause_of, _context_of = (
    BaseException.__dict__[name].__get__ for name in ("__traceback__", "__cause__", "__context__")
)


def _seconds(wait: Any) -> float | None:
    """What a TemporaryError asks for; None, the usual pause, for what is no time to wait."""
    return wait if isinstance(wait, int | float) and math.isfinite(wait) and wait >= 0 else None


def _end_fork(process: int) -> None:
    """A processor forked, and this is the child: it may not go on, as two would publish the message."""
    if os.getpid() != process:
        os._exit(_EXIT_FORKED)


def _when(step: Step, part: Part) -> list[Part] | None:
    """None where the step runs on this part; else what goes on without it. Raises TableError.

    A message that is to be divided comes back to the same step as the part of which the
    condition holds, beside the other part, which has the step behind it.
    """
    if step.condition is None:
        return None
    chosen = step.condition.chosen(part.message, part.results)
    if chosen is None:
        return [_after(part, part.message)]
    others = tuple({recipient.address for recipient in part.message.undelivered} - chosen)
    if not step.split or not others:
        return None
    first, second = divide(part.message, (tuple(chosen), others))
    if first is None or second is None:
        raise AssertionError("both parts have recipients")
    return [replace(part, message=first), _after(part, second)]


def _on_error(step: Step, part: Part, error: ProcessorError) -> Following:
    match step.on_error:
        case "defer":
            return api.Defer(reason=str(error))
        case "hold":
            return api.Hold(reason=str(error))
        case "skip":
            return [_after(part, part.message)]


def _follow(step: Step, part: Part, verdict: api.Verdict, *, released: bool) -> Following:
    match verdict:
        case api.Proceed():
            return [_after(part, part.message, verdict.edits, results=verdict.results)]
        case api.Freeze():
            return [_after(part, part.message, verdict.edits, frozen_for=f"{step.name}: {verdict.reason}")]
        case api.Hold() | api.Bounce() if released:
            return [_after(part, part.message)]
        case api.Defer() | api.Hold() | api.Discard() | api.Bounce():
            return verdict
        case api.Split():
            divided = divide(part.message, tuple(piece.recipients for piece in verdict.parts))
            return [
                _after(part, message, piece.edits, frozen_for=f"{step.name}: {piece.frozen}" if piece.frozen else "")
                for piece, message in zip(verdict.parts, divided, strict=True)
                if message is not None
            ]


def _after(
    part: Part,
    message: Message,
    edits: tuple[Edit, ...] = (),
    *,
    results: tuple[AuthResult, ...] = (),
    frozen_for: str = "",
) -> Part:
    """The part one step further, with edits applied."""
    applied = apply(message, edits)
    if edits and message.undelivered and not applied.message.undelivered:
        # Exim drops a message without recipients, and says nothing.
        raise ValueError("the edits leave nobody to deliver the message to; discard() says so openly")
    return Part(
        message=applied.message,
        position=part.position + 1,
        results=part.results + results,
        frozen_for=frozen_for or part.frozen_for,
        original_body=part.original_body and not applied.body_replaced,
        queue=part.queue if applied.queue is None else applied.queue,
    )
