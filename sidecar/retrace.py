"""What each processor said of a message and changed in it, told from the trace.

The pipeline keeps verdicts, not the messages between them: applying a verdict's edits
again, to what the processor saw, shows what it changed.

Diagnostics: raises nothing for a trace that a pipeline has made.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Any

from msgspec import Struct

from ..errors import PermanentError, TemporaryError
from ..processors.api import Freeze, Proceed, Split
from ..processors.edits import apply, divide
from ..spool.message import Message
from . import difference
from .difference import Change
from .step import Traced


class PartShown(Struct, frozen=True, kw_only=True):
    """One part into which a processor divided a message: for whom, and what was changed for them."""

    recipients: tuple[str, ...]
    changes: tuple[Change, ...]


class StepShown(Struct, frozen=True, kw_only=True):
    """What one processor said and changed; seconds it took.

    parts is what it divided the message into; part counts from 1 and says on which of them
    it worked, 0 where the message is whole.
    """

    processor: str
    part: int
    parts: tuple[PartShown, ...]
    verdict: str
    reason: str
    results: tuple[str, ...]
    changes: tuple[Change, ...]
    seconds: float


class _InHand(Struct, frozen=True, kw_only=True):
    """A message, or a part of one, on its way through the processors."""

    message: Message
    position: int = 0
    part: int = 0

    def after(self, message: Message) -> _InHand:
        return _InHand(message=message, position=self.position + 1, part=self.part)


def retrace(before: Message, trace: tuple[Traced, ...], count: int) -> Iterator[StepShown]:
    """Each processor's part, found by doing again what the pipeline of count steps did with the verdicts."""
    waiting = deque([_InHand(message=before)])
    parts_made = 0
    for traced in trace:
        while waiting[0].position == count:
            waiting.popleft()
        hand = waiting.popleft()
        verdict = traced.verdict
        changes: tuple[Change, ...] = ()
        parts: list[PartShown] = []
        match verdict:
            case Proceed() | Freeze():
                after = apply(hand.message, verdict.edits)
                changes = difference.compare(hand.message, after.message, queue=after.queue or "")
                waiting.appendleft(hand.after(after.message))
            case Split():
                made: list[_InHand] = []
                for part, message in zip(
                    verdict.parts, divide(hand.message, tuple(part.recipients for part in verdict.parts)), strict=True
                ):
                    if message is None:
                        continue
                    after = apply(message, part.edits)
                    changed = difference.compare(message, after.message, queue=after.queue or "")
                    parts.append(PartShown(recipients=open_recipients(after.message), changes=changed))
                    parts_made += 1
                    made.append(_InHand(message=after.message, position=hand.position + 1, part=parts_made))
                waiting.extendleft(reversed(made))
            case None if traced.error is None or not isinstance(traced.error, TemporaryError | PermanentError):
                waiting.appendleft(hand.after(hand.message))
            case _:
                pass  # a part that is dropped; or the end of the whole message, and of the trace
        results = verdict.results if isinstance(verdict, Proceed) else ()
        yield StepShown(
            processor=traced.processor,
            part=hand.part,
            parts=tuple(parts),
            verdict=type(verdict).__name__.lower() if verdict is not None else "error" if traced.error else "skipped",
            reason=str(traced.error) if traced.error is not None else getattr(verdict, "reason", ""),
            results=tuple(f"{result.method}={result.result.value}" for result in results),
            changes=changes,
            seconds=traced.seconds,
        )


def open_recipients(message: Message) -> tuple[str, ...]:
    """Who is still to get it, as text that is not escaped yet."""
    return tuple(recipient.address.decode("utf-8", "backslashreplace") for recipient in message.undelivered)


def step_document(step: StepShown) -> dict[str, Any]:
    """A step for JSON."""
    return {
        "processor": step.processor,
        "part": step.part,
        "parts": [
            {"recipients": list(part.recipients), "changes": difference.document(part.changes)} for part in step.parts
        ],
        "verdict": step.verdict,
        "reason": step.reason,
        "results": list(step.results),
        "changes": difference.document(step.changes),
        "seconds": round(step.seconds, 6),
    }
