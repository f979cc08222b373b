"""Running a message through the processors: verdicts become a plan here, and nowhere else.

Diagnostics: run() raises nothing that a processor raised: TemporaryError defers,
PermanentError holds, anything else, SystemExit included, is wrapped as ProcessorError and
``on_error`` decides. Only the terminal's Ctrl-C goes through.
"""

from __future__ import annotations

import math
import os
import random
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct
from msgspec.structs import replace
from structlog.typing import FilteringBoundLogger

from ..errors import PermanentError, ProcessorError, TemporaryError, sentence
from ..lookups.cache import CacheStatistics
from ..lookups.dns import Resolver
from ..lookups.resolver import DnsResolver
from ..processors import api
from ..processors.conditions import Condition
from ..processors.edits import Edit, apply, divide
from ..processors.results import AuthResult
from ..processors.verdict_check import check_verdict
from ..requeue.bounce import VOUCHED, Failure, bounce_notices
from ..requeue.effects import Effect
from ..requeue.plan import Defer, Hold, Output, Plan, Requeue
from ..spool.editing import freeze, set_variable
from ..spool.ids import MessageId
from ..spool.message import Message
from .backscatter import why_not_bounce

_EXIT_FORKED = 70
_ENDINGS = (api.Hold, api.Bounce)
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


class Outcome(Struct, frozen=True, kw_only=True):
    """The plan, and how it came about."""

    plan: Plan
    trace: tuple[Traced, ...]


class _Part(Struct, frozen=True, kw_only=True):
    """A message on its way, or the part of one that a split made."""

    message: Message
    position: int
    results: tuple[AuthResult, ...] = ()
    frozen_for: str = ""
    original_body: bool = True
    queue: str = ""


class Pipeline:
    """The processors of one worker, shared by its threads."""

    def __init__(
        self,
        steps: tuple[Step, ...],
        *,
        hostname: str,
        authserv_id: str,
        resolver: Resolver,
        queue: str = "",
        deadline_seconds: float = 60.0,
        clock: Callable[[], float] = time.time,
        first_wait_seconds: float = 60.0,
        longest_wait_seconds: float = 3600.0,
        notes_vouched: bool = False,
    ) -> None:
        self._notes_vouched = notes_vouched
        self._first_wait_seconds, self._longest_wait_seconds = first_wait_seconds, longest_wait_seconds
        self._labels = _labels(steps)
        self._steps = steps
        self._hostname = hostname
        self._authserv_id = authserv_id
        self._resolver = resolver
        self.queue = queue
        self._deadline_seconds = deadline_seconds
        self._clock = clock
        self._running: dict[int, str] = {}
        self._umask = os.umask(0o077)
        os.umask(self._umask)

    def running(self, thread: int) -> str:
        """The processor that this thread is in; empty if it is in none."""
        return self._running.get(thread, "")

    def run(
        self,
        message: Message,
        *,
        log: FilteringBoundLogger,
        attempt: int = 1,
        released: tuple[str, ...] = (),
        entering: Callable[[str], None] | None = None,
    ) -> Outcome:
        """What shall become of message. released are the labels of steps whose hold is overridden.

        entering is told of each processor before it is called, for whoever wants to know
        which one ended the process.

        defer and hold concern the whole message, also from one part of a split one: nothing
        of it is published then. discard and bounce concern their part alone; a bounce that
        might hit somebody who never sent the message becomes a hold.
        """
        deadline, now = time.monotonic() + self._deadline_seconds, self._clock()
        trace: list[Traced] = []
        finished: list[_Part] = []
        reasons: list[str] = []
        notices: list[Output] = []
        effects: list[Effect] = []
        parts = deque([_Part(message=message, position=0, queue=self.queue)])
        while parts:
            part = parts.popleft()
            if part.position == len(self._steps):
                finished.append(part)
                continue
            step, label = self._steps[part.position], self._labels[part.position]
            context = api.Context(
                hostname=self._hostname,
                authserv_id=self._authserv_id,
                resolver=self._resolver,
                log=log,
                now=now,
                deadline=deadline,
                attempt=attempt,
                released=label in released,
                results=part.results,
            )
            if entering is not None:
                entering(step.name)
            thread = threading.get_ident()
            self._running[thread] = step.name
            try:
                traced, following = _call(step, part, context)
            finally:
                del self._running[thread]
                # It belongs to the whole process: the files that others make next depend on it.
                if os.umask(self._umask) != self._umask:
                    log.error("processor.meddled", processor=step.name, changed="umask", action="set back")
            trace.append(traced)
            # A hold or bounce that an operator overrode has not happened, nor what goes with it.
            happened = traced.error is None and not (
                isinstance(traced.verdict, _ENDINGS) and isinstance(following, list)
            )
            for kind, payload in context.effects.declared if happened else ():
                effects.append(Effect(processor=label, number=len(effects), kind=kind, payload=payload))
            notices += [self._notice(notice) for notice in context.notices.sent] if happened else []
            match following:
                case api.Defer():
                    wait = self.backoff(attempt) if following.retry_after is None else following.retry_after
                    plan = Defer(reason=following.reason, retry_at=now + wait, processor=step.name)
                    return Outcome(plan=plan, trace=tuple(trace))
                case api.Hold():
                    return Outcome(plan=_hold(following, label, traced.error), trace=tuple(trace))
                case api.Discard():
                    reasons.append(f"{step.name}: {following.reason}")
                case api.Bounce():
                    doubt = why_not_bounce(message, part.results)
                    if doubt:
                        reason = f"{following.reason} (not bounced: {doubt})"
                        return Outcome(plan=Hold(reason=reason, processor=label), trace=tuple(trace))
                    reasons.append(f"{step.name}: bounced: {following.reason}")
                    notices += self._notices(part, following, now)
                case _:
                    parts.extendleft(reversed(following))
        reasons.extend(part.frozen_for for part in finished if part.frozen_for)
        outputs = (*(self._output(message, part, now) for part in finished), *notices)
        requeue = Requeue(outputs=outputs, reason="; ".join(reasons), effects=tuple(effects))
        return Outcome(plan=requeue, trace=tuple(trace))

    def dns_statistics(self) -> CacheStatistics | None:
        """The counts of the resolver's cache; None for a resolver that has none."""
        return self._resolver.statistics() if isinstance(self._resolver, DnsResolver) else None

    def backoff(self, attempt: int) -> float:
        """Seconds until the next attempt: doubling, with a jitter of a fifth so that a crowd spreads."""
        wait = min(self._first_wait_seconds * 2.0 ** min(attempt - 1, 40), self._longest_wait_seconds)
        return wait * random.uniform(0.8, 1.2)  # noqa: S311 no secret

    def run_effects(
        self, message_id: MessageId, claim: int, effects: tuple[Effect, ...], log: FilteringBoundLogger
    ) -> None:
        """Run effects of a committed message. Raises TemporaryError or OSError where one has to be tried again."""
        steps = dict(zip(self._labels, self._steps, strict=True))
        for stored in effects:
            effect = api.Effect(
                id=message_id, claim=claim, processor=stored.processor, number=stored.number, kind=stored.kind,
                payload=stored.payload,
            )  # fmt: skip
            step = steps.get(stored.processor)
            if step is None:
                log.error(
                    "effect.lost", key=effect.key, kind=effect.kind, reason="the processor is no longer configured"
                )
                continue
            _run_effect(step, effect, log)

    def _output(self, received: Message, part: _Part, now: float) -> Output:
        envelope = part.message.envelope
        if part.frozen_for:
            envelope = freeze(envelope, int(now))
        if self._notes_vouched and not why_not_bounce(received, part.results):
            envelope = set_variable(envelope, VOUCHED, b"1")
        message = Message(envelope, part.message.body)
        return Output(message=message, original_body=part.original_body, queue=part.queue)

    def _notices(self, part: _Part, bounce: api.Bounce, now: float) -> list[Output]:
        failure = Failure(reason=bounce.reason, status=bounce.status)
        made = bounce_notices(part.message, failure, hostname=self._hostname, now=now)
        return [self._notice(notice) for notice in made]

    def _notice(self, message: Message) -> Output:
        return Output(message=message, original_body=False, queue=self.queue, is_notice=True)


def _labels(steps: tuple[Step, ...]) -> tuple[str, ...]:
    """The names of steps, the second of a name with ``#2`` and so on: to find one again by."""
    names = [step.name for step in steps]
    before = [names[:index].count(name) for index, name in enumerate(names)]
    return tuple(f"{name}#{count + 1}" if count else name for name, count in zip(names, before, strict=True))


def _hold(verdict: api.Hold, label: str, error: Exception | None) -> Hold:
    if error is None:
        return Hold(reason=verdict.reason, processor=label)
    # Nobody's verdict, so nobody's name: a release has to try again, not to override what was never said.
    return Hold(reason=verdict.reason if isinstance(error, ProcessorError) else f"{label}: {verdict.reason}")


def _run_effect(step: Step, effect: api.Effect, log: FilteringBoundLogger) -> None:
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
    _end_fork(process)


_Following = list[_Part] | api.Defer | api.Hold | api.Discard | api.Bounce


def _call(step: Step, part: _Part, context: api.Context) -> tuple[Traced, _Following]:
    """The one boundary: whatever a processor does, the engine goes on."""
    started, process = time.monotonic(), os.getpid()
    verdict: api.Verdict | None = None
    error: ProcessorError | TemporaryError | PermanentError | None = None
    following: _Following
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
        following = _on_error(step, part, error)
    _end_fork(process)
    return Traced(processor=step.name, verdict=verdict, error=error, seconds=time.monotonic() - started), following


def _is_interrupt(raised: BaseException) -> bool:
    """True for Ctrl-C where nobody but Python handles it; a KeyboardInterrupt elsewhere is the processor's own."""
    return (
        isinstance(raised, KeyboardInterrupt)
        and threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )


def _seconds(wait: Any) -> float | None:
    """What a TemporaryError asks for; None, the usual pause, for what is no time to wait."""
    return wait if isinstance(wait, int | float) and math.isfinite(wait) and wait >= 0 else None


def _end_fork(process: int) -> None:
    """A processor forked, and this is the child: it may not go on, as two would publish the message."""
    if os.getpid() != process:
        os._exit(_EXIT_FORKED)


def _when(step: Step, part: _Part) -> list[_Part] | None:
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


def _on_error(step: Step, part: _Part, error: ProcessorError) -> _Following:
    match step.on_error:
        case "defer":
            return api.Defer(reason=str(error))
        case "hold":
            return api.Hold(reason=str(error))
        case "skip":
            return [_after(part, part.message)]


def _follow(step: Step, part: _Part, verdict: api.Verdict, *, released: bool) -> _Following:
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
    part: _Part,
    message: Message,
    edits: tuple[Edit, ...] = (),
    *,
    results: tuple[AuthResult, ...] = (),
    frozen_for: str = "",
) -> _Part:
    """The part one step further, with edits applied."""
    applied = apply(message, edits)
    if edits and message.undelivered and not applied.message.undelivered:
        # Exim drops a message without recipients, and says nothing.
        raise ValueError("the edits leave nobody to deliver the message to; discard() says so openly")
    return _Part(
        message=applied.message,
        position=part.position + 1,
        results=part.results + results,
        frozen_for=frozen_for or part.frozen_for,
        original_body=part.original_body and not applied.body_replaced,
        queue=part.queue if applied.queue is None else applied.queue,
    )
