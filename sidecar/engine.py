"""One message from claim to settled: reading, processors, plan, hand-back.

Diagnostics: ConflictError where Exim's lock is taken and OSError from the system go to
the worker, who keeps the job and tries again; everything else ends in a named state.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import PermanentError, SpoolFormatError, TemporaryError
from ..requeue.hand_back import HandBack
from ..requeue.job import Job, Phase
from ..requeue.plan import Defer, Hold, Output, Plan, Requeue, SetAside
from ..requeue.publish import Published
from ..requeue.reading import read_message
from ..spool.editing import set_variable
from ..spool.ids import MessageId
from ..spool.message import Message
from .pipeline import Outcome, Pipeline

#: The ACL variable by which Exim's routers, and respool itself, know a message that went through.
MARK: Final = "acl_m_respool"

#: After so many attempts that ended with the worker's death a message is held.
MOST_ATTEMPTS: Final = 5

State = Literal["requeued", "discarded", "deferred", "held", "corrupt"]
_FAILURES: Final = frozenset({"deferred", "held", "corrupt"})


class Report(Struct, frozen=True, kw_only=True):
    """What became of one message, for whoever wants to show it to a person."""

    id: MessageId
    state: State
    outcome: Outcome
    published: tuple[Published, ...]


class Engine:
    """Handles claimed messages; shared by the threads of a worker. report is told of each."""

    def __init__(
        self,
        pipeline: Pipeline,
        hand_back: HandBack,
        log: FilteringBoundLogger,
        *,
        is_export: bool,
        observe: bool = False,
        trace: bool = False,
        report: Callable[[Report], None] | None = None,
        hold_after_seconds: float = 96 * 3600.0,
    ) -> None:
        self._hold_after_seconds = hold_after_seconds
        self._pipeline = pipeline
        self._hand_back = hand_back
        self._log = log
        self._is_export = is_export
        self._observe = observe
        self._trace = trace
        self._report_to = report

    def handle(self, job: Job, phase: Phase, *, again: bool = False) -> State:
        """Bring a job in this phase to its end. again: its last attempt ended with a crash."""
        started = time.monotonic()
        log = self._log.bind(id=str(job.id), claim=job.claim.number)
        if phase in {Phase.COMMITTED, Phase.PUBLISHED}:
            try:
                published = self._hand_back.finish(job)
            except (TemporaryError, PermanentError) as error:
                plan = self._left_over(job, error)
                return self._report(Outcome(plan=plan, trace=()), (), log, time.monotonic() - started)
            log.info("message.requeued", outputs=_names(published), recovered=True)
            return "requeued"
        outcome = self._decide(job, phase, log, again=again)
        try:
            published = self._hand_back.carry_out(job, outcome.plan)
        except (TemporaryError, PermanentError) as error:
            outcome, published = msgspec.structs.replace(outcome, plan=self._left_over(job, error)), ()
        state = self._report(outcome, published, log, time.monotonic() - started)
        if self._report_to is not None:
            self._report_to(Report(id=job.id, state=state, outcome=outcome, published=published))
        return state

    def close(self) -> None:
        """No more messages come."""
        self._hand_back.hang_up()

    def _left_over(self, job: Job, error: TemporaryError | PermanentError) -> Plan:
        """Put aside a committed job that its destination did not take: what is left of it waits there."""
        plan: Plan = Hold(reason=str(error))
        if isinstance(error, TemporaryError):
            status = job.read_status()
            waited = time.time() - status.deferred_since if status.deferred_since else 0.0
            if waited >= self._hold_after_seconds:
                plan = Hold(reason=f"not sent for {waited / 3600:.1f} hours: {error}")
            else:
                job.write_status(msgspec.structs.replace(status, attempt=status.attempt + 1))
                wait = error.retry_after or self._pipeline.backoff(status.attempt)
                plan = Defer(reason=str(error), retry_at=time.time() + wait)
        self._hand_back.carry_out(job, plan)
        return plan

    def _decide(self, job: Job, phase: Phase, log: FilteringBoundLogger, *, again: bool) -> Outcome:
        if phase is not Phase.CLAIMED:
            missing = job.id.header_name if job.id.data_name in job.names() else job.id.data_name
            return Outcome(plan=SetAside(reason=f"{missing} is nowhere to be found"), trace=())
        status = job.read_status()
        if again:
            status = msgspec.structs.replace(status, attempt=status.attempt + 1)
            job.write_status(status)
            if status.attempt > MOST_ATTEMPTS:
                reason = f"the worker died {MOST_ATTEMPTS} times while it had this message in hand"
                return Outcome(plan=Hold(reason=reason), trace=())
        try:
            message = read_message(job)
        except SpoolFormatError as error:
            return Outcome(plan=SetAside(reason=str(error)), trace=())
        if self._is_export and MARK in message.envelope.variables:
            reason = f"loop: the export carries {MARK}, so respool has already requeued this message"
            return Outcome(plan=Hold(reason=reason), trace=())
        outcome = self._pipeline.run(message, log=log, attempt=status.attempt, released=status.released)
        self._log_trace(outcome, log)
        if self._observe:
            unchanged = Requeue(outputs=(Output(message=message),), reason="mode = observe")
            log.info("message.observed", would=_kind(outcome.plan))
            outcome = Outcome(plan=unchanged, trace=outcome.trace)
        return Outcome(plan=marked(outcome.plan), trace=outcome.trace)

    def _log_trace(self, outcome: Outcome, log: FilteringBoundLogger) -> None:
        if not (self._trace or self._observe):
            return
        for traced in outcome.trace:
            log.info(
                "processor.answered",
                processor=traced.processor,
                verdict=None if traced.verdict is None else msgspec.json.encode(traced.verdict, enc_hook=repr).decode(),
                error=traced.error,
                seconds=round(traced.seconds, 6),
            )

    def _report(
        self, outcome: Outcome, published: tuple[Published, ...], log: FilteringBoundLogger, seconds: float
    ) -> State:
        took = round(seconds, 6)
        match outcome.plan:
            case Requeue(outputs=()):
                log.info("message.discarded", reason=outcome.plan.reason, seconds=took)
                return "discarded"
            case Requeue():
                reason = outcome.plan.reason or None
                log.info("message.requeued", outputs=_names(published), reason=reason, seconds=took)
                return "requeued"
            case Defer():
                log.warning(
                    "message.deferred",
                    reason=outcome.plan.reason,
                    processor=outcome.plan.processor,
                    retry_at=outcome.plan.retry_at,
                )
                return "deferred"
            case Hold():
                log.warning("message.held", reason=outcome.plan.reason, processor=outcome.plan.processor or None)
                return "held"
            case SetAside():
                log.error("message.corrupt", reason=outcome.plan.reason)
                return "corrupt"


def is_failure(state: str) -> bool:
    """True for a state that a person should look at."""
    return state in _FAILURES


def marked(plan: Plan) -> Plan:
    """The plan with our mark in every output, by which loops are known."""
    if not isinstance(plan, Requeue):
        return plan
    outputs = tuple(
        msgspec.structs.replace(
            output,
            message=Message(set_variable(output.message.envelope, MARK, b"1"), output.message.body),
        )
        for output in plan.outputs
    )
    return msgspec.structs.replace(plan, outputs=outputs)


def _kind(plan: Plan) -> str:
    return type(plan).__name__.lower()


def _names(published: tuple[Published, ...]) -> list[str]:
    return [f"{output.id}@{output.queue}" if output.queue else str(output.id) for output in published]
