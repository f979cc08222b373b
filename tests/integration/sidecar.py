"""``respool run`` as a process of its own beside a private Exim."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from respool.requeue.state import GONE

from ..sidecar_process import SidecarProcess, environment
from .exim import Exim


class Sidecar(SidecarProcess):
    """A configured respool; nothing runs until once() or start()."""

    def __init__(
        self,
        exim: Exim,
        *,
        processors: str = "",
        source: str = "export",
        queue: str = "scan",
        requeue: str = "",
        workers: int = 2,
        extra: str = "",
    ) -> None:
        self.export = exim.make_directory("export")
        self.state = exim.directory / "respool"
        super().__init__(exim.directory / "respool.toml", exim.directory / "respool.log")
        place = (
            f'kind = "queue"\nspool_directory = "{exim.spool}"\nqueue = "{queue}"'
            if source == "queue"
            else f'kind = "export"\ndirectory = "{self.export}"'
        )
        self.configuration.write_text(
            f"""
hostname = "mx.example.org"
authserv_id = "example.org"
state_directory = "{self.state}"
workers = {workers}
scan_seconds = 0.5
{extra}
[source]
{place}
[requeue]
kind = "spool"
spool_directory = "{exim.spool}"
{requeue}
[dns]
zone_file = "{self._zone(exim)}"
{processors}
"""
        )

    @staticmethod
    def _zone(exim: Exim) -> Path:
        path = exim.directory / "dns.zone"
        if not path.exists():
            path.write_text("")
        return path

    def respool(self, *arguments: str) -> subprocess.CompletedProcess[bytes]:
        """``respool ARGUMENTS -c CONFIGURATION``, run to its end; its log is in stderr."""
        return subprocess.run(
            [sys.executable, "-m", "respool", *arguments, "-c", str(self.configuration)],
            capture_output=True, check=False, timeout=120, env=environment(),
        )  # fmt: skip

    def once(self) -> subprocess.CompletedProcess[bytes]:
        """``respool run --once``."""
        return self.respool("run", "--once")

    def in_state(self, state: str) -> list[str]:
        """The names in a state directory, but for directories that a worker has emptied and keeps, or removes."""
        return sorted(path.name for path in (self.state / state).glob("*") if not path.name.startswith(GONE))

    def wait_until_idle(self, timeout_seconds: float = 60) -> None:
        """Until nothing is in the source nor in ``work/``."""
        end = time.monotonic() + timeout_seconds
        while time.monotonic() < end:
            if not any(self.export.iterdir()) and not self.in_state("work"):
                return
            time.sleep(0.05)
        raise AssertionError(
            f"not idle: {sorted(self.export.iterdir())[:5]} {self.in_state('work')[:5]}\n{self.log()[-3000:]}"
        )
