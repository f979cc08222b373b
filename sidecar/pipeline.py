"""Running a message through the processors: verdicts become a plan here, and nowhere else.

Diagnostics: run() raises nothing that a processor raised: TemporaryError defers,
PermanentError holds, anything else, SystemExit included, is wrapped as ProcessorError and
``on_error`` decides. Only the terminal's Ctrl-C goes through.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections import deque
from collections.abc import Callable

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ProcessorError
from ..lookups.cache import CacheStatistics
from ..lookups.dns import Resolver
from ..lookups.resolver import DnsResolver
from ..processors import api
from ..requeue.bounce import VOUCHED, Failure, bounce_notices
from ..requeue.effects import Effect
from ..requeue.plan import Defer, Hold, Output, Plan, Requeue
from ..spool.editing import freeze, set_variable
from ..spool.ids import MessageId
from ..spool.message import Message
from .backscatter import why_not_bounce
from .step import Part, Step, Traced, call, run_effect

_ENDINGS = (api.Hold, api.Bounce)


class Outcome(Struct, frozen=True, kw_only=True):
    """The plan, and how it came about."""

    plan: Plan
    trace: tuple[Traced, ...]


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
        finished: list[Part] = []
        reasons: list[str] = []
        notices: list[Output] = []
        effects: list[Effect] = []
        parts = deque([Part(message=message, position=0, queue=self.queue)])
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
                traced, following = call(step, part, context)
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
            run_effect(step, effect, log)

    def _output(self, received: Message, part: Part, now: float) -> Output:
        envelope = part.message.envelope
        if part.frozen_for:
            envelope = freeze(envelope, int(now))
        if self._notes_vouched and not why_not_bounce(received, part.results):
            envelope = set_variable(envelope, VOUCHED, b"1")
        message = Message(envelope, part.message.body)
        return Output(message=message, original_body=part.original_body, queue=part.queue)

    def _notices(self, part: Part, bounce: api.Bounce, now: float) -> list[Output]:
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
