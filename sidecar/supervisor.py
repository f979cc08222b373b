"""The parent process: opens and checks everything, starts workers, watches and ends them.

It holds the locks that make this engine the only one on its state and source
directories; workers inherit them, so that a surviving worker keeps a successor out.

Diagnostics: ConfigError from prepare() for whatever makes a start unsafe; run() returns
an exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConfigError
from ..requeue import durable
from ..requeue.destination import Destination
from ..requeue.hand_back import HandBack
from ..requeue.notify import Notifier, Tell, tell_nobody
from ..requeue.smtp import SmtpDestination, SmtpSettings
from ..requeue.smtp_tls import make_context
from ..requeue.state import StateDirectory
from ..requeue.target import Target
from ..spool.sources import Kind, Source
from .config import Config, DirectorySource, ExportSource, QueueSource, SmtpRequeue, SpoolRequeue
from .engine import Engine, Report
from .pipeline import Step
from .pipeline_setup import build_steps, make_pipeline, make_resolver
from .worker import Worker

_RESTART_WAIT: Final = 1.0
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)


class Prepared(Struct, frozen=True, kw_only=True):
    """Everything opened, checked and owned; workers are forked from here."""

    config: Config
    state: StateDirectory
    source: Source
    target: Target | None
    steps: tuple[Step, ...]

    def close(self) -> None:
        """Close all directories."""
        self.source.close()
        if self.target is not None:
            self.target.close()
        self.state.close()


def prepare(config: Config) -> Prepared:
    """Open, check and own the directories of a configuration, and build its processors. Raises ConfigError."""
    try:
        return _prepare(config)
    except OSError as error:
        raise ConfigError(f"{error.filename or config.state_directory}: {error.strerror}") from error


def _prepare(config: Config) -> Prepared:
    steps = build_steps(config.processor)
    make_resolver(config.dns)  # each worker makes its own; this one shows that it can
    target = _open_target(config)
    source = _open_source(config)
    os.makedirs(config.state_directory, mode=durable.DIRECTORY_MODE, exist_ok=True)
    state = StateDirectory(config.state_directory)
    if target is not None:
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
            raise ConfigError("must be on the filesystem of state_directory: messages move by rename and link", key=key)
    state.own()
    source.own()
    return Prepared(config=config, state=state, source=source, target=target, steps=steps)


def _open_target(config: Config) -> Target | None:
    requeue = config.requeue
    if isinstance(requeue, SmtpRequeue):
        if requeue.tls == "verify":
            make_context(verify=True, ca_file=requeue.ca_file)
        return None
    if isinstance(requeue, SpoolRequeue):
        target = Target(
            "spool", requeue.spool_directory, split=requeue.split, localhost_number=requeue.localhost_number
        )
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
) -> Worker:
    """A worker on prepared directories; call it in the process that shall run it."""
    config = prepared.config
    tell: Tell = tell_nobody
    queue = ""
    if isinstance(config.requeue, SpoolRequeue):
        queue = config.requeue.queue
        if config.requeue.notify != "none":
            tell = Notifier.for_spool(config.requeue.spool_directory).tell
    bounces = isinstance(config.requeue, SmtpRequeue) and config.requeue.refused == "bounce"
    pipeline = make_pipeline(config, prepared.steps, queue=queue, notes_vouched=bounces)
    destination = _make_destination(prepared, log)
    hand_back = HandBack(
        prepared.state,
        destination,
        tell=tell,
        source=prepared.source,
        keep_id=isinstance(config.requeue, SmtpRequeue) or config.requeue.id == "keep",
        ordered=durable.keeps_metadata_in_order(prepared.state.descriptor),
    )
    engine = Engine(
        pipeline,
        hand_back,
        log,
        is_export=prepared.source.kind == "export",
        observe=config.mode == "observe",
        trace=trace,
        report=report,
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
        requeue_seconds=config.requeue.message_seconds if isinstance(config.requeue, SmtpRequeue) else 0.0,
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

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or with once until the source is drained. Returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            for number in range(self._prepared.config.workers):
                self._start(number)
            self._log.info("sidecar.started", workers=len(self._children), source=self._prepared.source.path)
            while self._children or self._due:
                self._react(signal.sigtimedwait(_SIGNALS, 0.5))
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        self._log.info("sidecar.stopped", exit_code=self._worst)
        return self._worst

    def _react(self, received: signal.struct_siginfo | None) -> None:
        if received is not None and received.si_signo != signal.SIGCHLD and not self._stopping:
            self._stopping = True
            self._due.clear()
            self._log.info("sidecar.stopping", signal=signal.Signals(received.si_signo).name)
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
                self._log.error("worker.died", number=number, exit_code=code)
                self._due[number] = time.monotonic() + _RESTART_WAIT

    def _start(self, number: int) -> None:
        process = os.fork()
        if process:
            self._children[process] = number
            return
        code = 70
        try:
            code = self._work(number)
        finally:
            # Never back into the parent's stack: its finally blocks are not this process's.
            os._exit(code)

    def _work(self, number: int) -> int:
        worker = make_worker(
            self._prepared,
            self._log.bind(worker=number),
            number=number,
            count=self._prepared.config.workers,
            once=self._once,
            trace=self._trace,
        )
        _on_stop(worker.stop)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return worker.run()


def _on_stop(stop: Callable[[], None]) -> None:
    def handler(_number: int, _frame: object) -> None:
        stop()

    signal.signal(signal.SIGTERM, handler)
    # The terminal sends SIGINT to the whole group; the parent passes it on as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
