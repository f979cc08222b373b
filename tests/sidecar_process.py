"""A sidecar as a process of its own: started, signalled, stopped, killed, its log in a file.

Diagnostics: AssertionError where it is asked something before it was started.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.process_group import kill_group

#: What Python is given to be a sidecar.
RUN = ("-m", "respool", "run", "-c")
PATIENCE_SECONDS = 60.0


class SidecarProcess:
    """``respool run -c configuration``; nothing runs until start().

    program is what Python is given before the name of the configuration; directory is the working directory.
    """

    def __init__(
        self, configuration: Path, log_file: Path, *, program: Sequence[str] = RUN, directory: Path | None = None
    ) -> None:
        self.configuration = configuration
        self.log_file = log_file
        self._command = [sys.executable, *program, str(configuration)]
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """In the background, in a session of its own; what it says is added to the log."""
        with self.log_file.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdout=log, stderr=log, start_new_session=True, cwd=self._directory, env=environment()
            )

    def signal(self, number: signal.Signals) -> None:
        """To the parent process."""
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to the parent and all workers, if it was started and not stopped."""
        if self._process is None:
            return
        kill_group(self._process.pid)
        self._process.wait()
        self._process = None

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        assert self._process is not None
        self._process.terminate()
        code = self._process.wait(PATIENCE_SECONDS)
        self._process = None
        return code

    def until(self, condition: Callable[[], bool]) -> None:
        """Wait for it; AssertionError with the end of the log where it does not come."""
        end = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < end, self.log()[-4000:]
            time.sleep(0.02)

    def is_running(self) -> bool:
        """True until the parent process has ended."""
        return self._process is not None and self._process.poll() is None

    def workers(self) -> list[int]:
        """Process ids of the workers."""
        assert self._process is not None
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(word) for word in path.read_text().split()]

    def log(self) -> str:
        """What all that were started have logged so far."""
        return self.log_file.read_text(errors="backslashreplace") if self.log_file.exists() else ""


def environment() -> dict[str, str]:
    """Of a respool that tests run: it leaves nothing in the checkout."""
    return {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
