"""The parent process: opens and checks everything, starts workers, watches and ends them.

It holds the locks that make this engine the only one on its state and source
directories; workers inherit them, so that a surviving worker keeps a successor out.

Diagnostics: ConfigError from prepare() for whatever makes a start unsafe; run() returns
an exit code.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConfigError, TemporaryError
from ..requeue import durable
from ..requeue.destination import Destination
from ..requeue.effects import Effect
from ..requeue.exim_program import About, CommandNotifier, about, is_privilege_lost
from ..requeue.hand_back import HandBack
from ..requeue.job import Job
from ..requeue.ledger import Ledger, renew, restore
from ..requeue.notify import Notifier, SocketThenCommand, Tell, tell_nobody
from ..requeue.publish import Published
from ..requeue.reading import read_asked_for
from ..requeue.slots import Slots
from ..requeue.smtp import SmtpDestination, SmtpSettings
from ..requeue.smtp_tls import make_context
from ..requeue.state import Claim, StateDirectory
from ..requeue.target import Target
from ..spool.sources import Kind, Source
from .config import Config, DirectorySource, ExportSource, QueueSource, SmtpRequeue, SpoolRequeue
from .endpoint import Health, serve
from .engine import Engine, Report
from .heartbeat import LONGEST_SILENCE, Heartbeats
from .listening import listen
from .measure import Ended, Meter, ran
from .memory import limit_memory
from .obstacles import find
from .pipeline import Step
from .pipeline_setup import build_steps, make_pipeline, make_resolver
from .service_manager import ServiceManager
from .worker import EXIT_HUNG, MESSAGE_THREAD, Worker

Telling = Literal["nobody", "socket", "socket, then command", "command"]

_COPIED_EXPORT: Final = (
    "must be on the filesystem of Exim's spool and of state_directory: across filesystems the queuefile transport "
    "copies instead of linking, and nothing tells a finished copy from half of one"
)
_RESTART_WAIT: Final = 1.0
#: Number of the child that answers over HTTP; workers count from 0.
_ENDPOINT: Final = -1
#: What says nothing against the configuration.
_PASSING: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE})
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Prepared(Struct, frozen=True, kw_only=True):
    """Everything opened, checked and owned; workers are forked from here."""

    config: Config
    state: StateDirectory
    source: Source
    target: Target | None
    steps: tuple[Step, ...]
    telling: Telling = "nobody"
    quoters: frozenset[str] | None = None
    listener: socket.socket | None = None

    def close(self) -> None:
        """Close all directories."""
        if self.listener is not None:
            self.listener.close()
        self.source.close()
        if self.target is not None:
            self.target.close()
        self.state.close()


def prepare(config: Config) -> Prepared:
    """Open, check and own the directories of a configuration, and build its processors.

    Raises ConfigError; TemporaryError where a disk is full or the like, which will pass.
    """
    try:
        return _prepare(config)
    except OSError as error:
        passing = [one for one in find(config, os.geteuid(), os.getegid()) if one.is_passing]
        if passing or error.errno in _PASSING:
            raise TemporaryError("; ".join([*map(str, passing), str(error)])) from error
        raise ConfigError(f"{error.filename or config.state_directory}: {error.strerror or error}") from error


def _prepare(config: Config) -> Prepared:
    steps = build_steps(config.processor)
    make_resolver(config.dns)  # each worker makes its own; this one shows that it can
    target = _open_target(config)
    source = _open_source(config)
    is_new = not os.path.isdir(config.state_directory)
    os.makedirs(config.state_directory, mode=durable.DIRECTORY_MODE, exist_ok=True)
    state = StateDirectory(config.state_directory)
    if target is not None and is_new:  # one that is there already is checked, not mended
        target.give(state.descriptor, durable.DIRECTORY_MODE)
    owner = target.uid if target is not None and target.kind == "spool" else os.geteuid()
    state.check(owner)
    source.check(owner)
    devices = {
        "$.state_directory": os.fstat(state.descriptor).st_dev,
        "$.source": os.fstat(source.input.descriptor).st_dev,
    }
    if target is not None:
        devices["$.requeue"] = target.device
    for key, device in devices.items():
        if device != devices["$.state_directory"]:
            if source.kind == "export" and key == "$.source":
                raise ConfigError(_COPIED_EXPORT, key=key)
            raise ConfigError("must be on the filesystem of state_directory: messages move by rename and link", key=key)
    state.own()
    source.own()
    if source.kind == "export":
        _renew_ledger(config, state)
    telling, quoters = _ask_exim(config)
    listener = listen(config.metrics.listen, "$.metrics.listen") if config.metrics.listen else None
    return Prepared(
        config=config,
        state=state,
        source=source,
        target=target,
        steps=steps,
        telling=telling,
        quoters=quoters,
        listener=listener,
    )


def _renew_ledger(config: Config, state: StateDirectory) -> None:
    """Who owns what, anew from the claims that are there, before any worker claims more.

    Closed again: nothing of LMDB may live across a fork.
    """
    renew(state)
    ledger = _open_ledger(config, state)
    try:
        restore(ledger, state, partial(_read_claim, state))
    finally:
        ledger.close()


def _read_claim(state: StateDirectory, place: str, claim: Claim) -> tuple[int, tuple[bytes, ...]] | None:
    job = Job.take(state, place, claim)
    if job is None:
        return None
    try:
        return read_asked_for(job)
    finally:
        job.close()


def _open_ledger(config: Config, state: StateDirectory) -> Ledger:
    return Ledger(
        state,
        expiry_seconds=config.ledger.expire_days * 86400,
        largest=config.ledger.largest_mib << 20,
    )


def _ask_exim(config: Config) -> tuple[Telling, frozenset[str] | None]:
    """How Exim is told, and which quoters it reads; ConfigError where notify = "command" can't work."""
    requeue = config.requeue
    if not isinstance(requeue, SpoolRequeue):
        return "nobody", None
    quoters = None if requeue.quoters is None else frozenset(requeue.quoters)
    exim: About | None = None
    trouble: ConfigError | None = None
    if quoters is None or requeue.notify in {"auto", "command"}:
        try:
            exim = about(config.exim.command)
        except ConfigError as error:
            trouble = error
    if quoters is None and exim is not None and exim.lookups:
        quoters = exim.lookups
    is_ours = exim is not None and os.path.realpath(exim.spool_directory) == os.path.realpath(requeue.spool_directory)
    if requeue.notify == "command":
        if trouble is not None:
            raise trouble
        if not is_ours and exim is not None:
            raise ConfigError(
                f"{config.exim.command} has its spool in {exim.spool_directory}, not in {requeue.spool_directory}",
                key="$.exim.command",
            )
        if is_privilege_lost():
            raise ConfigError(
                '"command" does not work under no_new_privs (NoNewPrivileges= of systemd): Exim would exit 0 and '
                'deliver nothing; use "socket"',
                key="$.requeue.notify",
            )
        return "command", quoters
    if requeue.notify == "auto":
        return ("socket, then command" if is_ours and not is_privilege_lost() else "socket"), quoters
    return ("socket" if requeue.notify == "socket" else "nobody"), quoters


def _open_target(config: Config) -> Target | None:
    requeue = config.requeue
    if isinstance(requeue, SmtpRequeue):
        if requeue.tls == "verify":
            make_context(verify=True, ca_file=requeue.ca_file)
        return None
    if isinstance(requeue, SpoolRequeue):
        target = Target(
            "spool", requeue.spool_directory, split=requeue.split, localhost_number=requeue.localhost_number,
            id_format=requeue.id_format,
        )  # fmt: skip
        target.check()
        return target
    return Target("directory", requeue.directory, split=False)


def _open_source(config: Config) -> Source:
    source = config.source
    message_log: str | None = None
    kind: Kind
    match source:
        case ExportSource():
            kind, path = "export", source.directory
        case QueueSource():
            kind, path = "queue", f"{source.spool_directory}/{source.queue}/input"
            message_log = f"{source.spool_directory}/{source.queue}/msglog"
            if not os.path.isdir(message_log):
                message_log = None
        case DirectorySource():
            kind, path = "directory", source.directory
    try:
        return Source(kind, path, message_log=message_log)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}", key="$.source") from error


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
    ledger = _open_ledger(config, prepared.state) if prepared.source.kind == "export" else None
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
    )


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


class Supervisor:
    """Keeps the configured number of workers running until told to stop."""

    def __init__(self, prepared: Prepared, log: FilteringBoundLogger, *, once: bool, trace: bool) -> None:
        self._prepared = prepared
        self._log = log
        self._once = once
        self._trace = trace
        self._children: dict[int, int] = {}
        self._due: dict[int, float] = {}
        self._stopping = False
        self._worst = 0
        self._heartbeats = Heartbeats(prepared.config.workers)
        self._manager = ServiceManager()
        self._is_ready = self._is_withheld = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or with once until the source is drained. Returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if self._prepared.listener is not None and not self._once:
                self._start(_ENDPOINT)
            for number in range(self._prepared.config.workers):
                self._start(number)
            self._log.info("sidecar.started", workers=len(self._children), source=self._prepared.source.path,
                           exim_told_by=self._prepared.telling)  # fmt: skip
            while self._children or self._due:
                self._react(signal.sigtimedwait(_SIGNALS, 0.5))
                self._tell_manager()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._log.info("sidecar.stopped", exit_code=self._worst)
        return self._worst

    def _react(self, received: signal.struct_siginfo | None) -> None:
        if received is not None and received.si_signo != signal.SIGCHLD and not self._stopping:
            self._stopping = True
            self._due.clear()
            self._log.info("sidecar.stopping", signal=signal.Signals(received.si_signo).name)
            self._manager.stopping()
            for process in self._children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGTERM)
        self._reap()
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            number = self._children.pop(process, None)
            if number is None:
                continue
            code = os.waitstatus_to_exitcode(status)
            if code in {0, 1, 75} and (self._once or self._stopping):
                self._worst = max(self._worst, code if self._once else 0)
            elif not self._stopping:
                self._log.error(
                    "endpoint.died" if number == _ENDPOINT else "worker.died", number=number, exit_code=code
                )
                self._due[number] = time.monotonic() + _RESTART_WAIT

    def _tell_manager(self) -> None:
        """Ready once all workers have begun; pings while all of them give signs of life, and no longer."""
        if not self._is_ready and not self._stopping and self._heartbeats.have_all_begun():
            self._is_ready = True
            self._manager.ready()
        silent = [] if self._stopping else self._heartbeats.silent()
        if not silent:
            self._is_withheld = False
            self._manager.ping()
        elif not self._is_withheld:
            self._is_withheld = True
            self._log.error("watchdog.withheld", workers=silent, seconds=LONGEST_SILENCE)
            self._manager.status(f"Workers {silent} give no sign of life")

    def _start(self, number: int) -> None:
        process = os.fork()
        if process:
            self._children[process] = number
            return
        code = 70
        try:
            code = self._work(number) if number != _ENDPOINT else self._answer()
        finally:
            try:
                if sys.exc_info()[0] is not None:
                    traceback.print_exc()
            finally:
                # Never back into the parent's stack: its finally blocks are not this process's.
                os._exit(code)

    def _answer(self) -> int:
        if self._prepared.listener is not None:
            health = Health(self._prepared.config, self._heartbeats)
            serve(self._prepared.listener, health)
        return 0

    def _work(self, number: int) -> int:
        worker = make_worker(
            self._prepared,
            self._log.bind(worker=number),
            number=number,
            count=self._prepared.config.workers,
            once=self._once,
            trace=self._trace,
            beat=partial(self._heartbeats.beat, number),
        )
        _on_stop(worker.stop)
        limit_memory(self._prepared.config.memory_mib)
        os.register_at_fork(after_in_child=_end_fork, after_in_parent=partial(_tell_of_fork, self._log))
        threading.excepthook = partial(_thread_failed, self._log)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return worker.run()


def _on_stop(stop: Callable[[], None]) -> None:
    def handler(_number: int, _frame: object) -> None:
        stop()

    signal.signal(signal.SIGTERM, handler)
    # The terminal sends SIGINT to the whole group; the parent passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _end_fork() -> None:
    """In a child that a processor has forked: it would keep our locks, and perhaps publish what we publish."""
    os._exit(EXIT_HUNG)


def _tell_of_fork(log: FilteringBoundLogger) -> None:
    log.error(
        "processor.meddled", changed="a fork of the worker", action="the child was ended; run programs by subprocess"
    )


def _thread_failed(log: FilteringBoundLogger, raised: threading.ExceptHookArgs) -> None:
    """A thread ended by an exception; without one of its own the worker can't go on: its messages are recovered."""
    name = "" if raised.thread is None else raised.thread.name
    is_ours = name.startswith(MESSAGE_THREAD)
    log.error(
        "thread.failed", thread=name, ours=is_ours,
        exc_info=(raised.exc_type, raised.exc_value, raised.exc_traceback),
    )  # fmt: skip
    if is_ours:
        os._exit(EXIT_HUNG)
