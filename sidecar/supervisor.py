"""The parent process: starts workers, watches and ends them, and puts others in their place on SIGHUP.

It holds the locks that make this engine the only one on its state and source
directories; workers inherit them, so that a surviving worker keeps a successor out.

A reload is whole or not at all. The configuration is tried in a process of its own
(reload.py); then a generation of workers with all of it starts, and the one before is
told to end: it takes nothing new, finishes what it has in hand, and what it can't finish
is taken up by the new one, under the locks by which workers always divide the work.

Diagnostics: run() returns an exit code; a configuration that can't be reloaded is logged.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Final

import msgspec
from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConfigError
from .affinity import stay_on, usable_processors
from .config import Config, decode, errors_of
from .containment import contain
from .endpoint import Health, serve
from .heartbeat import LONGEST_SILENCE, Heartbeats
from .preparation import Prepared, renew
from .reload import Accepted, Refused, Trial
from .service_manager import ServiceManager
from .worker import EXIT_TEMPORARY
from .worker_setup import make_worker

_RESTART_WAIT: Final = 1.0
#: Number of the child that answers over HTTP; workers count from 0.
_ENDPOINT: Final = -1
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class _Generation(Struct, frozen=True):
    """Workers of one configuration."""

    prepared: Prepared
    heartbeats: Heartbeats


class _Child(Struct, frozen=True):
    number: int
    generation: _Generation


class Supervisor:
    """Keeps the configured number of workers running until told to stop.

    config_file is what SIGHUP reads again. What is prepared is closed at the end.
    """

    def __init__(
        self, prepared: Prepared, log: FilteringBoundLogger, *, once: bool, trace: bool, config_file: str
    ) -> None:
        self._log = log
        self._once = once
        self._trace = trace
        self._config_file = config_file
        self._present = _Generation(prepared, Heartbeats(prepared.config.workers))
        self._processors = usable_processors()
        self._children: dict[int, _Child] = {}
        self._due: dict[int, float] = {}
        self._trial: Trial | None = None
        self._is_reload_wanted = False
        self._stopping = False
        self._worst = 0
        self._manager = ServiceManager()
        self._is_ready = self._is_withheld = False

    def run(self) -> int:
        """Run until SIGTERM or SIGINT, or with once until the source is drained. Returns the exit code."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            workers = self._start_all()
            prepared = self._present.prepared
            self._log.info(
                "sidecar.started", workers=workers, source=prepared.source.path, exim_told_by=prepared.telling
            )
            while self._children or self._due:
                self._react(signal.sigtimedwait(_SIGNALS, 0.5))
                self._tell_manager()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._present.prepared.close()
        self._log.info("sidecar.stopped", exit_code=self._worst)
        return self._worst

    def _start_all(self) -> int:
        """Start a whole generation; how many workers it has."""
        prepared = self._present.prepared
        self._due.clear()
        if prepared.listener is not None and not self._once:
            self._start(_ENDPOINT)
        for number in range(prepared.config.workers):
            self._start(number)
        return prepared.config.workers

    def _react(self, received: signal.struct_siginfo | None) -> None:
        match received and received.si_signo:
            case signal.SIGHUP if not _is_terminal_gone():
                # What drains the source will have ended before a reload matters.
                self._is_reload_wanted = not self._once
            case signal.SIGTERM | signal.SIGINT | signal.SIGHUP as number if not self._stopping:
                self._stop(number)
            case _:
                pass
        self._reap()
        now = time.monotonic()
        for number in [number for number, due in self._due.items() if due <= now]:
            del self._due[number]
            self._start(number)
        self._consider_reload()

    def _stop(self, number: int) -> None:
        self._stopping = True
        self._due.clear()
        self._log.info("sidecar.stopping", signal=signal.Signals(number).name)
        self._manager.stopping()
        if self._trial is not None:
            self._trial.kill()
        self._end(list(self._children))

    def _end(self, processes: list[int]) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGTERM)

    def _reap(self) -> None:
        while True:
            try:
                process, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if process == 0:
                return
            if self._trial is not None and process == self._trial.process:
                trial, self._trial = self._trial, None
                self._conclude(trial)
                continue
            child = self._children.pop(process, None)
            if child is not None:
                self._mourn(child, os.waitstatus_to_exitcode(status))

    def _mourn(self, child: _Child, code: int) -> None:
        is_told = self._once or self._stopping or child.generation is not self._present
        if code in {0, 1, 75} and is_told:
            self._worst = max(self._worst, code if self._once else 0)
        elif not self._stopping:
            self._log.error(
                "endpoint.died" if child.number == _ENDPOINT else "worker.died", number=child.number, exit_code=code
            )
            if child.generation is self._present:
                self._due[child.number] = time.monotonic() + _RESTART_WAIT

    # Reloading.

    def _consider_reload(self) -> None:
        """Begin a reload that is wanted: one at a time, and none while the last one's workers are still ending."""
        if self._trial is not None and self._trial.is_overdue():
            self._trial.kill()
        is_settled = all(child.generation is self._present for child in self._children.values())
        if not self._is_reload_wanted or self._trial is not None or self._stopping or not is_settled:
            return
        self._is_reload_wanted = False
        self._is_ready = False
        self._manager.reloading()
        try:
            self._trial = Trial(self._config_file, self._present.prepared.config)
        except OSError as error:
            self._refuse(str(error))

    def _conclude(self, trial: Trial) -> None:
        found = trial.outcome()
        if self._stopping:
            return
        if isinstance(found, Refused):
            self._refuse(found.reason)
            return
        try:
            self._exchange(trial.content, found)
        except ConfigError as error:
            # It has changed since it was tried.
            self._refuse(str(error))

    def _refuse(self, reason: str) -> None:
        self._log.error("sidecar.reload_refused", error=reason, action="the old configuration goes on")
        self._is_ready = True
        self._manager.ready("Working; a reload was refused: " + reason)

    def _exchange(self, content: bytes, found: Accepted) -> None:
        """Start workers of a new generation and end the old ones. Raises ConfigError, and then nothing has changed."""
        past = self._present.prepared
        config = decode(content, Config, file=self._config_file)
        quoters = None if found.quoters is None else frozenset(found.quoters)
        with errors_of(self._config_file):
            prepared = renew(past, config, found.telling, quoters)
        self._present = _Generation(prepared, Heartbeats(config.workers))
        before = list(self._children)
        workers = self._start_all()
        self._end(before)
        past.leave(prepared)
        self._log.info("sidecar.reloaded", workers=workers, changed=_changed(past.config, config))

    # Telling others.

    def _tell_manager(self) -> None:
        """Ready once all workers have begun; pings while all of them give signs of life, and no longer."""
        heartbeats = self._present.heartbeats
        if not self._is_ready and self._trial is None and not self._stopping and heartbeats.have_all_begun():
            self._is_ready = True
            self._manager.ready()
        silent = [] if self._stopping else heartbeats.silent()
        if not silent:
            self._is_withheld = False
            self._manager.ping()
        elif not self._is_withheld:
            self._is_withheld = True
            self._log.error("watchdog.withheld", workers=silent, seconds=LONGEST_SILENCE)
            self._manager.status(f"Workers {silent} give no sign of life")

    # Children.

    def _start(self, number: int) -> None:
        process = os.fork()
        if process:
            self._children[process] = _Child(number, self._present)
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
        prepared = self._present.prepared
        if prepared.listener is not None:
            health = Health(prepared.config, self._present.heartbeats)
            serve(prepared.listener, health)
        return 0

    def _work(self, number: int) -> int:
        prepared = self._present.prepared
        log = self._log.bind(worker=number)
        if prepared.config.affinity:
            try:
                stay_on(self._processors, number)
            except OSError as error:
                log.info("worker.affinity_refused", error=error)
        try:
            worker = make_worker(
                prepared,
                log,
                number=number,
                count=prepared.config.workers,
                once=self._once,
                trace=self._trace,
                beat=partial(self._present.heartbeats.beat, number),
            )
        except OSError as error:
            return _not_started(log, error)
        _on_stop(worker.stop)
        contain(self._log, prepared.config.memory_mib)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        return worker.run()


def _not_started(log: FilteringBoundLogger, error: OSError) -> int:
    """The exit code: the ledger's files can't be opened now, and as with all that the system refuses, again later."""
    log.error("worker.not_started", error=error)
    return EXIT_TEMPORARY


def _on_stop(stop: Callable[[], None]) -> None:
    def handler(_number: int, _frame: object) -> None:
        stop()

    signal.signal(signal.SIGTERM, handler)
    # The terminal sends both to the whole group; the parent passes on what concerns a worker as SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def _is_terminal_gone() -> bool:
    """Whether a SIGHUP is no request: the terminal that the log goes to has hung up."""
    poll = select.poll()
    poll.register(sys.stderr.fileno(), 0)
    # A terminal that has hung up no longer says that it is one.
    is_device = stat.S_ISCHR(os.fstat(sys.stderr.fileno()).st_mode)
    return is_device and any(events & select.POLLHUP for _, events in poll.poll(0))


def _changed(before: Config, after: Config) -> list[str]:
    """The settings, or their tables, that are not what they were."""
    return [
        field.encode_name
        for field in msgspec.structs.fields(Config)
        if getattr(before, field.name) != getattr(after, field.name)
    ]
