"""Faults at the real boundary: strace kills the sidecar at, or fails, the n-th system call of a kind.

The sidecar's child stops itself when it has imported everything, strace attaches, and only
then it goes on: so the counts begin with its first own call. It works in one thread (strace
counts by thread), with the same code as the program.

Diagnostics: StraceError when strace can't attach; RuntimeError for a run that ends in an exception.
"""

from __future__ import annotations

import codecs
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from pathlib import Path
from typing import Any

import lmdb
from msgspec import Struct

from respool import ConfigError, TemporaryError
from respool.requeue import durable
from respool.sidecar import log, pause
from respool.sidecar.pipeline_setup import build_steps
from respool.sidecar.preparation import prepare
from respool.sidecar.worker_setup import make_worker

from .harness import Setup

#: Whatever changes a file system, or makes a change durable. openat counts where it creates.
CALLS = (
    "openat", "mkdirat", "mkdir", "linkat", "renameat2", "renameat", "rename", "unlinkat", "unlink", "rmdir", "write",
    "writev", "pwrite64", "pwritev", "lchown", "fchown", "fchmod", "fsync", "fdatasync", "msync", "syncfs",
    "fallocate", "ftruncate", "copy_file_range", "ioctl",
)  # fmt: skip
_CREATING = re.compile(rb"^\d*\s*openat\(.*O_CREAT")


class StraceError(Exception):
    """strace is not there, or may not attach."""


class CallFault(Struct, frozen=True):
    """At the number-th call (from 1) of this name: SIGKILL, or this error in its place."""

    call: str
    number: int
    error: str = ""

    def expression(self) -> str:
        what = f"error={self.error}" if self.error else "signal=KILL"
        return f"inject={self.call}:{what}:when={self.number}"


def warm(setup: Setup) -> None:
    """Import here what each child would import anew: what fails there shall be a call of respool's own."""
    build_steps(setup.config.processor)
    with tempfile.TemporaryDirectory() as directory:
        lmdb.open(directory).close()
    codecs.lookup("ascii")


def run(setup: Setup, *arguments: str) -> int:
    """Run the sidecar once in one thread, with strace attached if it gets arguments; the exit code."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            if arguments:
                os.kill(os.getpid(), signal.SIGSTOP)
            code = _drain(setup)
        except ConfigError:
            code = 78
        except TemporaryError:
            code = 75
        except BaseException:  # noqa: BLE001 a child of the test must say what it died of, and never return
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)
    tracer: subprocess.Popen[bytes] | None = None
    if arguments:
        os.waitpid(child, os.WUNTRACED)
        tracer = subprocess.Popen(["strace", "-qq", "-f", "-p", str(child), *arguments], stderr=subprocess.DEVNULL)
        _wait_until_traced(child, tracer)
        os.kill(child, signal.SIGCONT)
    _, status = os.waitpid(child, 0)
    if tracer is not None:
        tracer.wait()
    return os.waitstatus_to_exitcode(status)


def _wait_until_traced(child: int, tracer: subprocess.Popen[bytes]) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end and tracer.poll() is None:
        if not re.search(r"TracerPid:\t0\n", Path(f"/proc/{child}/status").read_text()):
            return
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    raise StraceError("strace does not attach")


def _drain(setup: Setup) -> int:
    """What Worker.run(once) does, in this thread alone."""
    log.configure(level=50, terminal=False)
    pause.SECONDS = 0.01
    if not setup.ordered:
        setattr(durable, "keeps_metadata_in_order", lambda _descriptor: False)  # noqa: B010 typed otherwise
    prepared = prepare(setup.config)
    try:
        one: Any = make_worker(prepared, log.get(), once=True, trace=False)
    except OSError:
        return 75  # as the supervisor's child ends
    runner, carrier = one._runner, one._carrier
    for look in (runner._recover_all, runner._scan, runner._retry_deferred):
        runner._attempt(look)
    end = time.monotonic() + 2
    while (one._intake.waiting() or carrier.kept()) and time.monotonic() < end:
        if one._intake.waiting():
            item, wait = one._intake.take()
            one._take_up(item, wait)
        carrier.go_on(time.monotonic() + 1)
    return 75 if carrier.kept() else 0


def count(setup: Setup, trace: Path) -> dict[str, list[int]]:
    """The numbers of the calls by name that a run without faults makes and that change something."""
    code = run(setup, "-o", str(trace), "-e", f"trace={','.join(CALLS)}")
    assert code == 0, code
    seen: Counter[str] = Counter()
    numbers: dict[str, list[int]] = {}
    for line in trace.read_bytes().splitlines():
        match = re.match(rb"^\d*\s*([a-z0-9]+)\(", line)
        if match is None:
            continue
        name = match[1].decode()
        seen[name] += 1
        if name == "openat" and not _CREATING.match(line):
            continue
        if name == "ioctl" and b"FICLONE" not in line:
            continue
        numbers.setdefault(name, []).append(seen[name])
    return numbers
