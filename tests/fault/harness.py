"""A sidecar in a child process that is killed, or whose system call fails, at a chosen point.

All changes to the file system go through requeue/durable.py, so that wrapping its
functions puts a fault at the real boundary: before the call, after it, or in its place.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lmdb
from msgspec import Struct

from respool import ConfigError, TemporaryError
from respool.requeue import durable, ledger_file
from respool.requeue.state import STATES
from respool.sidecar import log, pause
from respool.sidecar.config import Config, decode
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker

#: Every function of durable that changes something, or makes a change durable.
POINTS = (
    "create_file", "write", "copy_tail", "clone", "give", "make_directory", "link", "rename", "replace", "unlink",
    "remove_directory", "sync",
)  # fmt: skip

Mode = Literal["kill-before", "kill-after", "fail"]


class Fault(Struct, frozen=True):
    """What happens at the number-th durable call, counted from 0."""

    number: int
    mode: Mode
    errno: int = 0


class Setup:
    """A source, a target and a state directory below one root, and what was put into the source."""

    def __init__(
        self,
        root: Path,
        *,
        source: str,
        processors: str = "",
        extra: str = "",
        orphan_seconds: float = 0,
        workers: int = 1,
        threads: int = 1,
        ordered: bool = True,
    ) -> None:
        self.root = root
        self.ordered = ordered
        self.export = root / "export"
        self.spool = root / "spool"
        self.queue = self.spool / "in" / "input"
        self.state = root / "state"
        for directory in (self.export, self.spool / "input", self.queue, self.spool / "in" / "msglog"):
            directory.mkdir(parents=True, exist_ok=True, mode=0o750)
        self.input = self.spool / "input"
        section = (
            f'kind = "queue"\nspool_directory = "{self.spool}"\nqueue = "in"'
            if source == "queue"
            else f'kind = "{source}"\ndirectory = "{self.export}"'
        )
        self.place = self.queue if source == "queue" else self.export
        text = f"""
hostname = "mx.example.org"
state_directory = "{self.state}"
workers = {workers}
threads = {threads}
orphan_seconds = {orphan_seconds}
{extra}
[source]
{section}
[requeue]
kind = "spool"
spool_directory = "{self.spool}"
notify = "none"
quoters = []
[dns]
zone_file = "/dev/null"
{processors}
"""
        self.config = decode(text.encode(), Config, file="test.toml")

    def put(self, message: Path, *, keep_original: bool = False) -> str:
        """Copy a pair (path of its -H) into the source; with keep_original Exim still queues it."""
        message_id = message.name.removesuffix("-H")
        for suffix in ("-D", "-H", "-J"):
            path = message.with_name(message_id + suffix)
            if not path.exists():
                continue
            copy = self.root / "copies" / path.name
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(path, copy)
            copy.chmod(0o640)
            os.link(copy, self.place / path.name)
            if not keep_original:
                copy.unlink()
        return message_id

    def deliver(self) -> Counter[bytes]:
        """Take away all that is published, as Exim would deliver it: how often each message, by its body."""
        delivered: Counter[bytes] = Counter()
        for header in [*self.input.glob("*-H"), *self.input.glob("?/*-H")]:
            data = header.with_name(header.name[:-1] + "D")
            first, _, body = data.read_bytes().partition(b"\n")
            assert first.decode() == data.name
            assert header.read_bytes().startswith(header.name.encode() + b"\n")
            delivered[body] += 1
            data.unlink()
            header.unlink()
        return delivered

    def states(self) -> dict[str, list[str]]:
        """What is in each state of respool."""
        return {
            state: sorted(p.name for p in (self.state / state).iterdir()) if (self.state / state).exists() else []
            for state in STATES
        }


def run(setup: Setup, fault: Fault | None = None, *, synced: bool = False) -> tuple[int, int]:
    """Run the sidecar once in a child, with a fault: exit code (negative: signal), durable calls made.

    synced lets it wait for the disk: nothing else here cuts the power.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.close(reader)
            calls = _install(fault, writer)
            code = _sidecar(setup, synced=synced)
            os.write(writer, b"%d" % calls())
        except ConfigError:
            code = 78
        except TemporaryError:
            code = 75
        except BaseException:  # noqa: BLE001 a child of the test must say what it died of, and never return
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status), int(text or b"0")


def _sidecar(setup: Setup, *, synced: bool) -> int:
    log.configure(level=50, terminal=False)
    pause.SECONDS = 0.02
    if not synced:
        # What the file system below the tests is like is not what is tested.
        setattr(durable, "keeps_metadata_in_order", lambda _descriptor: setup.ordered)  # noqa: B010
        setattr(os, "fsync", _no_sync)  # noqa: B010 typed otherwise
        setattr(durable, "sync_file_system", _no_sync)  # noqa: B010
        setattr(lmdb, "open", partial(_open_unsynced, lmdb.open))  # noqa: B010
    prepared = prepare(setup.config)
    return make_worker(prepared, log.get(), once=True, trace=False).run()


def _no_sync(_descriptor: int) -> None:
    """In the place of fsync."""


def _open_unsynced(real: Callable[..., Any], *arguments: Any, **keywords: Any) -> Any:
    return real(*arguments, **{**keywords, "sync": False})


def _install(fault: Fault | None, writer: int) -> Callable[[], int]:
    count = 0

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            number, count = count, count + 1
            if fault is None or number != fault.number:
                return function(*arguments, **keywords)
            os.write(writer, b"%d" % count)
            if fault.mode == "fail":
                raise OSError(fault.errno, os.strerror(fault.errno))
            if fault.mode == "kill-after":
                function(*arguments, **keywords)
            os.kill(os.getpid(), signal.SIGKILL)

        return wrapped

    for name in POINTS:
        setattr(durable, name, wrap(getattr(durable, name)))
    ledger_file.commit = wrap(ledger_file.commit)
    return lambda: count
