"""One message from claim to settled: reading, processors, plan, hand-back.

Diagnostics: ConflictError where Exim's lock is taken and OSError from the system go to
the worker, who keeps the job and tries again; everything else ends in a named state.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Final, Literal

import msgspec
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import SpoolFormatError
from ..requeue.destination import LeftOverError
from ..requeue.hand_back import HandBack
from ..requeue.hold import AGE, CRASHES, LOOP, QUOTER
from ..requeue.job import Job, Phase, Status
from ..requeue.ledger import Ledger, owned_recipients
from ..requeue.plan import Defer, Hold, Output, Plan, Requeue, SetAside
from ..requeue.publish import Published
from ..requeue.reading import MARK, read_message
from ..spool.editing import add_non_recipients, set_variable
from ..spool.ids import MessageId
from ..spool.message import Message, unique_form
from .pipeline import Outcome, Pipeline

#: After so many attempts in a row that ended with the worker's death a message is held.
MOST_CRASHES: Final = 5

#: How a job came into hand: claimed now; left by a worker that died; due again after a deferral.
Why = Literal["claimed", "crashed", "due"]

State = Literal["requeued", "discarded", "deferred", "held", "corrupt"]
_FAILURES: Final = frozenset({"deferred", "held", "corrupt"})


class Report(Struct, frozen=True, kw_only=True):
    """What became of one message, for whoever wants to show it to a person.

    seconds is the time from claim to end, requeue_seconds the part after the decision.
    """

    id: MessageId
    claim: int
    seconds: float
    requeue_seconds: float
    state: State
    outcome: Outcome
    published: tuple[Published, ...]


class Engine:
    """Handles claimed messages; shared by the threads of a worker. report is told of each.

    check is called with the id after the processors: what it does not let pass, is not handed back.
    """

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
        report_recovered: Callable[[Job, tuple[Published, ...], float], None] | None = None,
        ledger: Ledger | None = None,
        hold_after_seconds: float = 96 * 3600.0,
        quoters: frozenset[str] | None = None,
        check: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._check = check
        self._ledger = ledger
        self._hold_after_seconds = hold_after_seconds
        self._quoters = quoters
        self._pipeline = pipeline
        self._hand_back = hand_back
        self._log = log
        self._is_export = is_export
        self._observe = observe
        self._trace = trace
        self._report_to = report
        self._report_recovered_to = report_recovered

    def handle(self, job: Job, phase: Phase, *, why: Why = "claimed") -> State:
        """Bring a job in this phase to its end."""
        started = time.monotonic()
        log = self._log.bind(id=str(job.id), claim=job.claim.number)
        if phase in {Phase.COMMITTED, Phase.PUBLISHED}:
            try:
                published = self._hand_back.finish(job, recovered=True)
            except LeftOverError as error:
                plan = self._left_over(job, error)
                return self._report(Outcome(plan=plan, trace=()), (), log, time.monotonic() - started)
            log.info("message.requeued", outputs=_names(published), recovered=True)
            if self._report_recovered_to is not None:
                self._report_recovered_to(job, published, time.monotonic() - started)
            return "requeued"
        outcome = self._decide(job, phase, log, why)
        self._check(str(job.id))
        decided = time.monotonic()
        try:
            published = self._hand_back.carry_out(job, outcome.plan)
        except LeftOverError as error:
            outcome, published = msgspec.structs.replace(outcome, plan=self._left_over(job, error)), ()
        ended = time.monotonic()
        state = self._report(outcome, published, log, ended - started)
        if self._report_to is not None:
            self._report_to(
                Report(
                    id=job.id, claim=job.claim.number, seconds=ended - started, requeue_seconds=ended - decided,
                    state=state, outcome=outcome, published=published,
                )
            )  # fmt: skip
        return state

    def _left_over(self, job: Job, error: LeftOverError) -> Plan:
        """Put aside a committed job that its destination did not take: what is left of it waits there."""
        plan: Plan = Hold(reason=str(error))
        if not error.is_permanent:
            status = job.read_status()
            waited = time.time() - status.deferred_since if status.deferred_since else 0.0
            if waited >= self._hold_after_seconds:
                plan = Hold(reason=f"not sent for {waited / 3600:.1f} hours: {error}")
            else:
                job.write_status(msgspec.structs.replace(status, attempt=status.attempt + 1))
                wait = self._pipeline.backoff(status.attempt)
                plan = Defer(reason=str(error), retry_at=time.time() + wait)
        self._hand_back.carry_out(job, plan)
        return plan

    def running(self, thread: int) -> str:
        """The processor that this thread is in; empty if it is in none."""
        return self._pipeline.running(thread)

    def put_off(self, job: Job, reason: str) -> None:
        """Defer a job, in whatever phase, that the system can't go on with while it can with others."""
        attempt = job.read_status().attempt
        plan = Defer(reason=reason, retry_at=time.time() + self._pipeline.backoff(attempt))
        self._hand_back.put_off(job, plan)
        self._log.warning("message.deferred", id=str(job.id), claim=job.claim.number, reason=reason)

    def let_go(self, job: Job) -> None:
        """Leave a job in ``work/`` to whoever takes it up next, since this worker ends in good order."""
        # Where it can't be written, the next attempt counts as one after a crash: of these a message has several.
        with contextlib.suppress(OSError):
            job.write_status(msgspec.structs.replace(job.read_status(), let_go=True))
        job.close()

    def _decide(self, job: Job, phase: Phase, log: FilteringBoundLogger, why: Why) -> Outcome:
        if phase is not Phase.CLAIMED:
            missing = job.id.header_name if job.id.data_name in job.names() else job.id.data_name
            return Outcome(plan=SetAside(reason=f"{missing} is nowhere to be found"), trace=())
        status = _count_attempt(job, why)
        if status.crashes > MOST_CRASHES and CRASHES not in status.released:
            reason = f"the worker died {MOST_CRASHES} times while it had this message in hand"
            reason += f", the last time in processor {status.processor}" if status.processor else ""
            return Outcome(plan=Hold(reason=reason, processor=CRASHES), trace=())
        try:
            message = read_message(job)
        except SpoolFormatError as error:
            return Outcome(plan=SetAside(reason=str(error)), trace=())
        is_marked = MARK in message.envelope.variables
        if self._is_export and is_marked and LOOP not in status.released and not status.as_is:
            reason = f"loop: the export carries {MARK}, so respool has already requeued this message"
            return Outcome(plan=Hold(reason=reason, processor=LOOP), trace=())
        if self._ledger is not None and not is_marked:
            message = _ours(self._ledger, job, message)
        if not message.undelivered:
            reason = "nobody is left to deliver it to: delivered, or exported before"
            return Outcome(plan=Requeue(reason=reason), trace=())
        if status.as_is:
            return Outcome(plan=marked(Requeue(outputs=(self._unchanged(message),), reason="released as is")), trace=())

        def entering(processor: str) -> None:
            job.write_status(msgspec.structs.replace(status, processor=processor))

        outcome = self._pipeline.run(
            message,
            log=log,
            attempt=status.attempt,
            released=status.released,
            # Only where a worker has died of this message: it costs a file for each processor.
            entering=entering if status.crashes else None,
        )
        self._log_trace(outcome, log)
        if self._observe:
            log.info("message.observed", would=_kind(outcome.plan))
            plan: Plan = Requeue(outputs=(self._unchanged(message),), reason="mode = observe")
        else:
            plan = self._limited(outcome.plan, status)
        return Outcome(plan=marked(plan), trace=outcome.trace)

    def _unchanged(self, message: Message) -> Output:
        return Output(message=message, queue=self._pipeline.queue)

    def _limited(self, plan: Plan, status: Status) -> Plan:
        """The plan, unless it may not go on so: deferred for too long, or unreadable for the destination."""
        match plan:
            case Defer():
                waited = time.time() - status.deferred_since if status.deferred_since else 0.0
                if waited >= self._hold_after_seconds:
                    reason = f"deferred for {waited / 3600:.1f} hours: {plan.reason}"
                    return Hold(reason=reason, processor=AGE)
            case Requeue() if self._quoters is not None and QUOTER not in status.released:
                for output in plan.outputs:
                    for directive in output.message.envelope.directives:
                        if directive.quoter is not None and directive.quoter.decode() not in self._quoters:
                            # Exim calls the whole message a format error (spool_in.c).
                            reason = f"a value is quoted for {directive.quoter.decode()}, which the destination lacks"
                            return Hold(reason=reason, processor=QUOTER)
            case _:
                pass
        return plan

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
                log.info(
                    "message.dropped" if not outcome.trace else "message.discarded",
                    reason=outcome.plan.reason,
                    seconds=took,
                )
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


def _count_attempt(job: Job, why: Why) -> Status:
    status = Status() if job.is_fresh else job.read_status()
    match why:
        case "claimed":
            return status
        case "crashed" if status.let_go:
            status = msgspec.structs.replace(status, let_go=False)
        case "crashed":
            status = msgspec.structs.replace(status, crashes=status.crashes + 1)
        case "due":
            status = msgspec.structs.replace(status, attempt=status.attempt + 1)
    # Before the first processor: what kills the worker is counted.
    job.write_status(status)
    return status


def _ours(ledger: Ledger, job: Job, message: Message) -> Message:
    """The message with all recipients that belong to other claims put among the delivered ones."""
    envelope = message.envelope
    asked_for = owned_recipients(envelope)
    mine = ledger.put(job.claim, envelope.received_time, asked_for)
    job.owned = envelope.received_time, mine
    if len(mine) == len(asked_for):
        return message
    others = [recipient.address for recipient in message.undelivered if unique_form(recipient.address) not in mine]
    # Both spellings, as Exim has it (deliver.c).
    return Message(add_non_recipients(envelope, [*others, *map(unique_form, others)]), message.body)


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
