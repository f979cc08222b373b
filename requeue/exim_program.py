"""Asking and starting Exim's own program: what it is built with, and ``exim -Mc``.

Diagnostics: about() raises ConfigError where the program can't be asked. CommandNotifier
raises nothing after its construction; what goes wrong is counted and logged, and Exim's
own queue runner finds the message in any case.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct
from structlog.typing import FilteringBoundLogger

from ..errors import ConfigError
from .publish import Published

_MOST_IDS: Final = 100
_MOST_WAITING: Final = 10_000
_ASK_SECONDS: Final = 10.0
#: A run of 100 messages with slow remote hosts takes long; longer than this something hangs.
_RUN_SECONDS: Final = 3600.0
_LOOKUPS: Final = re.compile(r"^Lookups \((?:built-in|as module)\):(.*)$", re.MULTILINE)


class About(Struct, frozen=True, kw_only=True):
    """What an Exim says of itself. lookups are the types it knows, so the quoters that it reads."""

    spool_directory: str
    lookups: frozenset[str]


def about(command: str) -> About:
    """Ask ``exim -bV`` and ``exim -bP spool_directory``. Raises ConfigError."""
    version = _ask(command, "-bV")
    lookups = {word for line in _LOOKUPS.findall(version) for word in line.split()}
    _, _, spool_directory = _ask(command, "-bP", "spool_directory").partition("\n")[0].partition("=")
    return About(spool_directory=spool_directory.strip(), lookups=frozenset(lookups))


def _ask(command: str, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            [command, *arguments], stdin=subprocess.DEVNULL, capture_output=True, check=True, timeout=_ASK_SECONDS
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ConfigError(f"{command} {' '.join(arguments)}: {error}", key="$.exim.command") from error
    return answer.stdout.decode("utf-8", "backslashreplace")


def is_privilege_lost() -> bool:
    """True where Exim, started from here, would not become root: no_new_privs, and we are not root.

    ``exim -Mc`` exits 0 then and may deliver nothing.
    """
    if os.geteuid() == 0:
        return False
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        return any(line.split() == ["NoNewPrivs:", "1"] for line in status)


class CommandNotifier:
    """Runs ``exim -Mc`` for published messages, some hundred at once, in a thread of its own."""

    def __init__(self, command: str, log: FilteringBoundLogger) -> None:
        self._command, self._log = command, log
        self._condition = threading.Condition()
        self._waiting: deque[Published] = deque()
        self._is_open = True
        self._thread: threading.Thread | None = None
        self.failed = 0
        self.dropped = 0

    def tell(self, published: Iterable[Published]) -> int:
        """Queue them; the number taken. What exceeds the queue is left to Exim's runner."""
        taken = 0
        with self._condition:
            for output in published:
                if len(self._waiting) >= _MOST_WAITING:
                    if not self.dropped:
                        self._log.warning("exim.untold", error=f"{_MOST_WAITING} messages wait to be told of already")
                    self.dropped += 1
                    continue
                self._waiting.append(output)
                taken += 1
            if taken and self._thread is None and self._is_open:
                # A daemon thread: a delivery that hangs does not keep the worker from ending.
                self._thread = threading.Thread(target=self._serve, name="exim-Mc", daemon=True)
                self._thread.start()
            self._condition.notify()
        return taken

    def close(self, seconds: float = 10.0) -> None:
        """Let what waits be told, but no longer than that."""
        with self._condition:
            self._is_open = False
            self._condition.notify()
            thread = self._thread
        if thread is not None:
            thread.join(seconds)

    def _serve(self) -> None:
        while True:
            with self._condition:
                while not self._waiting and self._is_open:
                    self._condition.wait()
                if not self._waiting:
                    return
                queue = self._waiting[0].queue
                ids: list[str] = []
                while self._waiting and self._waiting[0].queue == queue and len(ids) < _MOST_IDS:
                    ids.append(self._waiting.popleft().id)
            self._run(queue, ids)

    def _run(self, queue: str, ids: list[str]) -> None:
        # -Mc respects retry times and freezing, as after a reception (exim.c).
        arguments = [f"-qG{queue}"] if queue else []
        try:
            subprocess.run(
                [self._command, *arguments, "-Mc", *ids],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                check=True, timeout=_RUN_SECONDS,
            )  # fmt: skip
        except (OSError, subprocess.SubprocessError) as error:
            self.failed += 1
            # The ids would make the line long, and Exim's runner finds them all the same.
            what = str(error) if isinstance(error, OSError) else type(error).__name__
            if isinstance(error, subprocess.CalledProcessError):
                what = f"exit code {error.returncode}"
            self._log.warning("exim.untold", command=self._command, queue=queue, messages=len(ids), error=what)
