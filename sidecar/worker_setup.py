"""From what is prepared to a worker: its pipeline, destination, ledger, measurements.

Diagnostics: make_worker() raises ConfigError where something has changed since it was checked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

from structlog.typing import FilteringBoundLogger

from ..requeue import durable
from ..requeue.destination import Destination
from ..requeue.effects import Effect
from ..requeue.exim_program import CommandNotifier
from ..requeue.hand_back import HandBack
from ..requeue.job import Job
from ..requeue.notify import Notifier, SocketThenCommand, Tell, tell_nobody
from ..requeue.publish import Published
from ..requeue.slots import Slots
from ..requeue.smtp import SmtpDestination
from ..requeue.smtp_server import SmtpSettings
from .config import SmtpRequeue, SpoolRequeue
from .containment import OwnDescriptors
from .engine import Engine, Report
from .measure import Ended, Meter, ran
from .obstacles import find
from .pipeline_setup import make_pipeline, make_resolver
from .preparation import Prepared, open_ledger
from .worker import Worker


def make_worker(
    prepared: Prepared,
    log: FilteringBoundLogger,
    *,
    number: int = 0,
    count: int = 1,
    once: bool,
    trace: bool,
    report: Callable[[Report], None] | None = None,
    beat: Callable[[], None] | None = None,
) -> Worker:
    """A worker on prepared directories; call it in the process that shall run it."""
    config = prepared.config
    requeue = config.requeue
    queue = requeue.queue if isinstance(requeue, SpoolRequeue) else ""
    ledger = open_ledger(config, prepared.state) if prepared.source.kind == "export" else None
    pipeline = make_pipeline(
        config,
        prepared.steps,
        queue=queue,
        first_wait_seconds=config.deferral.first_seconds,
        longest_wait_seconds=config.deferral.longest_seconds,
        notes_vouched=isinstance(requeue, SmtpRequeue) and requeue.refused == "bounce",
    )

    meter = Meter(dns=pipeline.dns_statistics)
    tell, stop_telling = _make_tell(prepared, log)
    destination = _make_destination(prepared, log)

    def measure(reported: Report) -> None:
        meter.ended(_ended(reported), requeue_seconds=reported.requeue_seconds)
        if report is not None:
            report(reported)

    def measure_recovered(job: Job, published: tuple[Published, ...], seconds: float) -> None:
        ended = Ended(
            id=str(job.id), claim=job.claim.number, time=time.time(), state="requeued", seconds=round(seconds, 6),
            outputs=tuple(str(one.id) for one in published), reason="published after an interruption",
        )  # fmt: skip
        meter.ended(ended, requeue_seconds=seconds)

    def run_effects(job: Job, effects: tuple[Effect, ...]) -> None:
        pipeline.run_effects(job.id, job.claim.number, effects, log)

    ordered = durable.keeps_metadata_in_order(prepared.state.descriptor)
    slots = Slots(prepared.state) if ordered else None

    def at_end() -> None:
        if slots is not None:
            slots.close()
        destination.hang_up()
        stop_telling()

    hand_back = HandBack(
        prepared.state,
        destination,
        tell=tell,
        source=prepared.source,
        keep_id=isinstance(requeue, SmtpRequeue) or requeue.id == "keep",
        ordered=ordered,
        ledger=ledger,
        run_effects=run_effects,
        slots=slots,
    )
    descriptors = OwnDescriptors(log, _directories(prepared))
    engine = Engine(
        pipeline,
        hand_back,
        log,
        is_export=prepared.source.kind == "export",
        observe=config.mode == "observe",
        trace=trace,
        report=measure,
        report_recovered=measure_recovered,
        ledger=ledger,
        hold_after_seconds=config.deferral.hold_after_hours * 3600,
        quoters=prepared.quoters,
        check=descriptors.check,
    )
    return Worker(
        prepared.state,
        prepared.source,
        engine,
        log,
        number=number,
        count=count,
        threads=config.threads,
        once=once,
        scan_seconds=config.scan_seconds,
        orphan_seconds=config.orphan_seconds,
        deadline_seconds=config.deadline_seconds,
        requeue_seconds=requeue.message_seconds if isinstance(requeue, SmtpRequeue) else 0.0,
        ledger=ledger,
        at_end=at_end,
        in_use=None if prepared.target is None else prepared.target.is_in_use,
        meter=meter,
        beat=beat,
        obstacles=partial(find, config, os.geteuid(), os.getegid()),
        drop_after_seconds=None if config.held.drop_after_days is None else config.held.drop_after_days * 86400,
        watch_mode=config.watch,
        slots=slots,
        descriptors=descriptors,
    )


def _directories(prepared: Prepared) -> dict[str, int]:
    """What is open as long as a worker runs, by path."""
    state = prepared.state
    found = {state.path: state.descriptor, prepared.source.path: prepared.source.input.descriptor}
    found |= {f"{state.path}/{name}": descriptor for name, descriptor in state.states.items()}
    if prepared.target is not None:
        found[prepared.target.path] = prepared.target.descriptor
    return found


def _make_destination(prepared: Prepared, log: FilteringBoundLogger) -> Destination:
    requeue = prepared.config.requeue
    if prepared.target is not None:
        return prepared.target
    if not isinstance(requeue, SmtpRequeue):
        raise AssertionError("only a server needs no directory")
    settings = SmtpSettings(
        host=requeue.host,
        port=requeue.port,
        hostname=prepared.config.hostname,
        tls=requeue.tls,
        ca_file=requeue.ca_file,
        xclient=requeue.xclient,
        timeout_seconds=requeue.timeout_seconds,
        message_seconds=requeue.message_seconds,
        idle_seconds=requeue.idle_seconds,
        messages_per_connection=requeue.messages_per_connection,
        recipients_per_message=requeue.recipients_per_message,
        refused=requeue.refused,
    )
    return SmtpDestination(settings, resolver=make_resolver(prepared.config.dns), log=log)


def _make_tell(prepared: Prepared, log: FilteringBoundLogger) -> tuple[Tell, Callable[[], None]]:
    """How Exim is told, and what to call at the end."""
    requeue = prepared.config.requeue
    if not isinstance(requeue, SpoolRequeue) or prepared.telling == "nobody":
        return tell_nobody, _nothing
    if prepared.telling == "socket":
        notifier = Notifier.for_spool(requeue.spool_directory, requeue.notifier_socket)
        return notifier.tell, notifier.close
    command = CommandNotifier(prepared.config.exim.command, log)
    if prepared.telling == "command":
        return command.tell, command.close
    notifier = Notifier.for_spool(requeue.spool_directory, requeue.notifier_socket)
    return SocketThenCommand(notifier, command).tell, command.close


def _ended(report: Report) -> Ended:
    return Ended(
        id=str(report.id),
        claim=report.claim,
        time=time.time(),
        state=report.state,
        seconds=round(report.seconds, 6),
        ran=tuple(map(ran, report.outcome.trace)),
        outputs=tuple(str(published.id) for published in report.published),
        reason=report.outcome.plan.reason,
    )


def _nothing() -> None:
    """Nothing to end."""
