"""Disks that really get full or read-only, and a sidecar that works on one while a stream of messages comes.

Nothing is injected here: a small file system is mounted (ext4 on a loop device, or a tmpfs),
and what happens to it happens to everything that uses it. Only root may mount, so the tests
run as root; the sidecar need not.

Diagnostics: mounted() skips where the kernel does not let us; AssertionError with the log of
the sidecar where it does not do what is waited for.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, Final

import pytest

from respool.errors import RespoolError, TemporaryError
from respool.requeue.state import GONE
from respool.sidecar import log, pause, worker
from respool.sidecar.preparation import prepare
from respool.sidecar.supervisor import Supervisor
from respool.spool.ids import IdMinter
from tests.process_group import kill_group

from .harness import Setup

NOBODY: Final = 65534
_MIB: Final = 24
_PAUSE: Final = 0.2

#: So that a stream of messages is still under way when something happens to the disk.
SLOW = """
import time
from respool import Processor, ProcessorConfig, add_header, proceed

class Config(ProcessorConfig):
    pass

class Slow(Processor[Config]):
    def process(self, message, context):
        time.sleep(0.05)
        return proceed(add_header("X-Slow", "yes"))
"""


def may_mount() -> bool:
    """Whether this process may mount (CAP_SYS_ADMIN): root in a container often may not."""
    (effective,) = re.findall(r"^CapEff:\s*([0-9a-f]+)$", Path("/proc/self/status").read_text(), re.MULTILINE)
    return bool(int(effective, 16) >> 21 & 1)


class Disk:
    """A mounted file system. kind is ext4 or tmpfs, or "" for a directory of what is there; files limits its inodes."""

    def __init__(self, root: Path, kind: str, *, files: int = 0) -> None:
        self.place = root / "disk"
        self.place.mkdir()
        self._mount: list[str] = []
        if not kind:
            return
        if kind == "tmpfs":
            size = f"size={_MIB}m" + (f",nr_inodes={files}" if files else "")
            self._mount = ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(self.place)]
        else:
            image = root / "disk.img"
            with image.open("wb") as file:
                file.truncate(_MIB << 20)
            number = ["-N", str(files)] if files else []
            subprocess.run(["mkfs.ext4", "-q", "-m", "0", *number, image], check=True, capture_output=True)
            self._mount = ["mount", "-o", "loop", str(image), str(self.place)]

    def mount(self) -> bool:
        return not self._mount or subprocess.run(self._mount, check=False, capture_output=True).returncode == 0

    def unmount(self) -> None:
        if not self._mount:
            return
        end = time.monotonic() + 60
        # Whoever was killed may take a moment.
        while subprocess.run(["umount", self.place], check=False, capture_output=True).returncode:
            assert time.monotonic() < end, "it can't be unmounted"
            time.sleep(0.02)

    def fill(self) -> None:
        """Use every block up."""
        with (self.place / "ballast").open("ab", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"\0" * 65536):
                pass
        # What fits in smaller pieces, names included.
        with contextlib.suppress(OSError):
            for number in range(100_000):
                (self.place / f"ballast.{number}").write_bytes(b"\0" * 4096)

    def use_all_files(self) -> None:
        """Use every inode up."""
        with contextlib.suppress(OSError):
            for number in range(100_000):
                (self.place / f"ballast.{number}").touch()

    def relieve(self) -> None:
        """Take it all away again."""
        for path in self.place.glob("ballast*"):
            path.unlink()

    def abort(self) -> None:
        """What ext4 does with a disk that fails it: not a byte more is written."""
        subprocess.run(["mount", "-o", "remount,abort", self.place], check=True)


@contextlib.contextmanager
def mounted(root: Path, kind: str, *, files: int = 0) -> Generator[Disk]:
    """A disk, for as long as it takes."""
    disk = Disk(root, kind, files=files)
    if not disk.mount():
        pytest.skip(f"NEEDED AND ABSENT: a kernel that lets us mount {kind}")
    try:
        yield disk
    finally:
        disk.unmount()


class House:
    """A sidecar as a process group on a disk, the messages of a stream, and the Exim that takes them away."""

    def __init__(self, root: Path, disk: Path, *, user: int = 0, source: str = "export", processors: str = "") -> None:
        slow = root / "slow.py"
        slow.write_text(SLOW)
        slow.chmod(0o644)
        self.setup = Setup(
            disk / "house", source=source, processors=processors or f'[[processor]]\nuse = "{slow}:Slow"\n',
            extra="scan_seconds = 0.5", orphan_seconds=600, workers=2, threads=4,
        )  # fmt: skip
        self.user = user
        self.log_file = root / "log"
        self.delivered: Counter[bytes] = Counter()
        self.expected: Counter[bytes] = Counter()
        self._minter = IdMinter(long=True)
        self._process = 0
        for path in (disk / "house", *(disk / "house").rglob("*")):
            os.chown(path, user, user)

    def put(self, number: int) -> None:
        """New messages in the source, as an Exim puts them: -H last, by a rename."""
        for _ in range(number):
            message_id = self._minter.mint()
            body = b"body of %b\n" % message_id.encode()
            lines = (
                message_id.header_name, "mail 8 8", "<a@example.test>", "1795000000 0", "-received_time_usec .5",
                "-body_linecount 1", "-max_received_linelength 50", "XX", "1", "bob@example.test", "",
                "011  Subject: x", "",
            )  # fmt: skip
            place = self.setup.place
            for name, content in (
                (message_id.data_name, message_id.data_name.encode() + b"\n" + body),
                (".new", "\n".join(lines).encode()),
            ):
                (place / name).write_bytes(content)
                (place / name).chmod(0o640)
                os.chown(place / name, self.user, self.user)
            (place / ".new").rename(place / message_id.header_name)
            self.expected[body] += 1

    def start(self, *, log_to: str = "") -> None:
        """The sidecar in a process group of its own, as the user."""
        self._process = os.fork()
        if self._process:
            return
        code = 99
        try:
            os.setsid()
            descriptor = os.open(log_to or self.log_file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stderr = os.fdopen(2, "w", buffering=1)
            if self.user:
                # Python itself may be where this user may not look: what it imports late comes now.
                codecs.lookup("ascii")
                os.setgroups([])
                os.setgid(self.user)
                os.setuid(self.user)
            code = _run(self.setup)
        except BaseException:  # noqa: BLE001 a child of the test must say what it died of, and never return
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)

    @contextlib.contextmanager
    def standing_still(self) -> Generator[None]:
        """All of its processes stopped wherever they are; at the end they go on."""
        os.killpg(self._process, signal.SIGSTOP)
        try:
            yield
        finally:
            os.killpg(self._process, signal.SIGCONT)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        os.kill(self._process, signal.SIGTERM)
        return self.wait()

    def wait(self) -> int:
        """The exit code, once it has ended."""
        ended: tuple[int] = self.until(self._reap)
        return ended[0]

    def _reap(self) -> tuple[int] | None:
        process, status = os.waitpid(self._process, os.WNOHANG)
        if not process:
            return None
        self._process = 0
        return (os.waitstatus_to_exitcode(status),)

    def kill(self) -> None:
        """SIGKILL for all of it, if it still runs."""
        if self._process:
            kill_group(self._process)
            os.waitpid(self._process, 0)
            self._process = 0

    def deliver(self) -> None:
        """Take away what is published and not locked, as Exim does."""
        for header in [*self.setup.input.glob("*-H"), *self.setup.input.glob("?/*-H")]:
            data = header.with_name(header.name[:-1] + "D")
            with data.open("r+b") as file:
                try:
                    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, len(data.name) + 1)
                except OSError:
                    continue
                first, _, body = file.read().partition(b"\n")
                assert first.decode() == data.name
                assert header.read_bytes().startswith(header.name.encode() + b"\n")
                data.unlink()
                header.unlink()
                self.delivered[body] += 1

    def events(self, name: str) -> list[dict[str, Any]]:
        """What it has logged under a name."""
        lines = self.log_file.read_text().splitlines() if self.log_file.exists() else []
        events = [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]
        return [event for event in events if event["event"] == name]

    def tail(self) -> str:
        return self.log_file.read_text()[-3000:] if self.log_file.exists() else ""

    def until(self, what: Callable[[], Any], *, seconds: float = 60, delivering: bool = False) -> Any:
        """The first true answer."""
        end = time.monotonic() + seconds
        while True:
            if delivering:
                self.deliver()
            answer = what()
            if answer:
                return answer
            assert time.monotonic() < end, f"waited for nothing: {self.setup.states()}\n{self.tail()}"
            time.sleep(0.02)

    def is_done(self) -> bool:
        """Whether all is delivered and no message kept; where job directories are kept for the next, those may be."""
        kept = [name for names in self.setup.states().values() for name in names if not name.startswith(GONE)]
        return sum(self.delivered.values()) >= sum(self.expected.values()) and not kept


def _run(setup: Setup) -> int:
    log.configure(terminal=False)
    pause.SECONDS = _PAUSE
    worker._REPORT_SECONDS = _PAUSE  # type: ignore[misc]
    try:
        prepared = prepare(setup.config)
    except RespoolError as error:
        sys.stderr.write(f"{error}\n")
        return 75 if isinstance(error, TemporaryError) else 78
    return Supervisor(prepared, log.get(), once=False, trace=False, config_file="").run()
