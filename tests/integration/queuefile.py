"""A stand-in for Exim's queuefile transport, and for the delivery process around it.

Debian's Exim is built without the transport. What it does is little: link ``-H``, then ``-D``, from
the spool into the export directory, and take the ``-H`` away again if the ``-D`` fails
(transports/queuefile.c). What makes an export hard to consume is the process around it (deliver.c):
it holds the message lock for the whole attempt, journals what it has delivered, and then either
removes the original by name, in its own order, or rewrites ``-H`` and leaves the original queued.
Both are here. Nothing of respool is imported: the stand-in must not share its mistakes.

As a function: export() links and does nothing else. As a process, so that the lock is another's::

    with ExportingExim(exim.spool, message_id, export, pause=["exported"]) as attempt:
        attempt.wait_for("exported")    # both links are there, the lock is held
        attempt.go_on()
        assert attempt.wait() == 0

Steps, in order; each is printed, may be paused at, and may be crashed after (SIGKILL): ``locked``,
``journal-created``, per export ``header-linked``, ``exported`` (or ``file-exists``) and ``journalled``;
then if nobody is left ``msglog-unlinked``, ``data-unlinked``, ``header-unlinked``, ``journal-unlinked``,
else ``header-rewritten``, ``journal-unlinked``; last ``closed``.

Diagnostics: export() raises FileExistsError for what Exim would call a defer, other OSErrors as they
come. The process exits 0 after a whole attempt, 3 if the message was locked by somebody else.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

LOCKED_BY_ANOTHER: Final = 3


def input_directory(spool: Path, message_id: str, queue: str = "") -> Path:
    """Where the pair lies: the plain layout is looked at first, then the split one."""
    plain = (spool / queue if queue else spool) / "input"
    split = plain / message_id[5]
    return plain if not (split / f"{message_id}-D").exists() else split


def export(spool: Path, message_id: str, directory: Path, *, queue: str = "", copy: bool = False) -> None:
    """Put ``-H``, then ``-D`` into directory, as the transport does; the original stays as it is.

    By hard links, or (copy) under the final names and visible while incomplete, as across
    filesystems. FileExistsError if either name is taken: an older ``-H`` is left untouched; where
    only ``-D`` fails, ``-H`` is removed again.
    """
    for _ in export_in_steps(spool, message_id, directory, queue=queue, copy=copy):
        pass


def export_in_steps(
    spool: Path, message_id: str, directory: Path, *, queue: str = "", copy: bool = False
) -> Iterable[str]:
    """export(), yielding the name of each step when it is done."""
    source = input_directory(spool, message_id, queue)
    transfer = _copy if copy else os.link
    transfer(source / f"{message_id}-H", directory / f"{message_id}-H")
    yield "header-linked"
    try:
        transfer(source / f"{message_id}-D", directory / f"{message_id}-D")
    except OSError:
        (directory / f"{message_id}-H").unlink()
        raise
    yield "exported"


def _copy(source: Path, target: Path) -> None:
    # No fsync, no temporary name, no chown: so does the transport.
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640)
    with os.fdopen(descriptor, "wb") as output, source.open("rb") as original:
        shutil.copyfileobj(original, output)


# -- the -H of a message that stays queued


class HeaderFile:
    """A ``-H`` as far as a delivery attempt changes it: its tree, its recipients, its first-time mark."""

    def __init__(self, content: bytes) -> None:
        lines = content.split(b"\n")
        position = 4
        while lines[position].startswith(b"-"):
            position += 1
            # -aclm NAME LENGTH: the value has LENGTH bytes and may hold LF.
            counted = re.fullmatch(rb"--?(?:\([^)]*\))?acl[cm] \S+ (\d+)", lines[position - 1])
            length = int(counted[1]) + 1 if counted else 0
            while length > 0:
                length -= len(lines[position]) + 1
                position += 1
        self._lead = lines[:position]
        self.done: set[bytes] = set()
        if lines[position] == b"XX":
            position += 1
        else:
            announced = 1
            while announced:
                announced += lines[position][:2].count(b"Y") - 1
                self.done.add(lines[position][3:])
                position += 1
        count = int(lines[position])
        self.recipients = [line.split(b" ")[0] for line in lines[position + 1 : position + 1 + count]]
        self._rest = lines[position:]

    def undelivered(self) -> list[bytes]:
        """The recipients that are not in the tree."""
        return [address for address in self.recipients if address not in self.done]

    def render(self) -> bytes:
        """The file as Exim leaves it after an attempt: the tree grown, -deliver_firsttime gone."""
        lead = [line for line in self._lead if line != b"-deliver_firsttime"]
        return b"\n".join([*lead, *_tree(sorted(self.done)), *self._rest])


def _tree(names: Sequence[bytes]) -> list[bytes]:
    if not names:
        return [b"XX"]
    middle = len(names) // 2
    left, right = names[:middle], names[middle + 1 :]
    flags = (b"Y" if left else b"N") + (b"Y" if right else b"N")
    return [flags + b" " + names[middle], *(_tree(left) if left else ()), *(_tree(right) if right else ())]


# -- the delivery process


class Attempt:
    """One delivery attempt of one message by a process that acts as Exim."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.spool, self.directory = Path(arguments.spool), Path(arguments.export)
        self.message_id, self.queue, self.copy = arguments.message_id, arguments.queue, arguments.copy
        self.naive, self.deferring = arguments.naive, [name.encode() for name in arguments.deferring]
        self.pause, self.crash = arguments.pause, arguments.crash
        self.input = input_directory(self.spool, self.message_id, self.queue)

    def step(self, name: str) -> None:
        print(name, flush=True)
        if name in self.crash:
            os.kill(os.getpid(), signal.SIGKILL)
        if name in self.pause:
            sys.stdin.readline()

    def run(self) -> int:
        data = os.open(self.input / f"{self.message_id}-D", os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            fcntl.lockf(data, fcntl.LOCK_EX | fcntl.LOCK_NB, len(self.message_id) + 3, 0, os.SEEK_SET)
        except BlockingIOError:
            print("Spool file is locked (another process is handling this message)", flush=True)
            return LOCKED_BY_ANOTHER
        self.owner = os.fstat(data)
        self.step("locked")
        header_file = HeaderFile((self.input / f"{self.message_id}-H").read_bytes())
        self.journal = self._open_journal(header_file)
        self.step("journal-created")
        if self.naive:
            for address in header_file.undelivered():
                if address not in self.deferring and self._transport():
                    self._note(header_file, [address], [address])
        elif self._transport():
            # All recipients redirected to one address: one call, whose success is everybody's.
            addresses = [address for address in header_file.undelivered() if address not in self.deferring]
            self._note(header_file, [b"all@scanner.invalid"], [b"all@scanner.invalid", *addresses])
        if header_file.undelivered():
            self._leave_queued(header_file)
        else:
            self._complete()
        os.close(self.journal)
        os.close(data)
        self.step("closed")
        return 0

    def _create(self, path: Path, flags: int) -> int:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o640)
        os.fchown(descriptor, self.owner.st_uid, self.owner.st_gid)
        os.fchmod(descriptor, 0o640)
        return descriptor

    def _open_journal(self, header_file: HeaderFile) -> int:
        path = self.input / f"{self.message_id}-J"
        if path.exists():
            # What an attempt that crashed has delivered (deliver.c, recovery).
            header_file.done.update(path.read_bytes().split(b"\n")[:-1])
            self._write_header_file(header_file)
        return self._create(path, os.O_APPEND)

    def _transport(self) -> bool:
        try:
            for name in export_in_steps(self.spool, self.message_id, self.directory, queue=self.queue, copy=self.copy):
                self.step(name)
        except FileExistsError:
            self.step("file-exists")
            return False
        return True

    def _note(self, header_file: HeaderFile, journalled: list[bytes], done: list[bytes]) -> None:
        header_file.done.update(done)
        os.write(self.journal, b"".join(name + b"\n" for name in journalled))
        os.fsync(self.journal)
        self.step("journalled")

    def _write_header_file(self, header_file: HeaderFile) -> None:
        temporary = self.input / f"hdr.{self.message_id}"
        with os.fdopen(self._create(temporary, os.O_EXCL), "wb") as output:
            output.write(header_file.render())
            output.flush()
            os.fsync(output.fileno())
        temporary.rename(self.input / f"{self.message_id}-H")

    def _leave_queued(self, header_file: HeaderFile) -> None:
        self._write_header_file(header_file)
        self.step("header-rewritten")
        (self.input / f"{self.message_id}-J").unlink()
        self.step("journal-unlinked")

    def _complete(self) -> None:
        message_log = self.input.parent / "msglog" / self.message_id
        if self.input.name != "input":
            message_log = self.input.parent.parent / "msglog" / self.input.name / self.message_id
        message_log.unlink(missing_ok=True)
        self.step("msglog-unlinked")
        for suffix, step in (("-D", "data-unlinked"), ("-H", "header-unlinked"), ("-J", "journal-unlinked")):
            # By name, whatever is there by now: so does Exim.
            (self.input / f"{self.message_id}{suffix}").unlink()
            self.step(step)


class ExportingExim:
    """An Attempt in a process of its own.

    naive calls the transport once for each recipient, as a plain accept router does; else once
    for all. deferring names recipients that another router defers, so that the original stays
    queued. pause and crash name steps (see the module).
    """

    def __init__(
        self,
        spool: Path,
        message_id: str,
        directory: Path,
        *,
        queue: str = "",
        naive: bool = False,
        copy: bool = False,
        deferring: Sequence[str] = (),
        pause: Sequence[str] = (),
        crash: Sequence[str] = (),
    ) -> None:
        flags = [*(["--naive"] if naive else ()), *(["--copy"] if copy else ())]
        for option, values in (("deferring", deferring), ("pause", pause), ("crash", crash)):
            flags += [f"--{option}={value}" for value in values]
        self.steps: list[str] = []
        self._process = subprocess.Popen(
            [sys.executable, __file__, *flags, f"--queue={queue}", str(spool), str(directory), message_id],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    def wait_for(self, step: str) -> None:
        """Read on until the process reports step; AssertionError if it ends before."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.steps.append(line.decode().rstrip("\n"))
            if self.steps[-1] == step:
                return
        raise AssertionError(f"ended before {step}: {self.steps}")

    def go_on(self) -> None:
        """Let a paused process go on."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()

    def wait(self) -> int:
        """Read the remaining steps and wait for the end; the exit status, negative for a signal."""
        assert self._process.stdout is not None
        self.steps += self._process.stdout.read().decode().splitlines()
        return self._process.wait(60)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def run_attempt(
    spool: Path,
    message_id: str,
    directory: Path,
    *,
    queue: str = "",
    naive: bool = False,
    copy: bool = False,
    deferring: Sequence[str] = (),
    crash: Sequence[str] = (),
) -> list[str]:
    """One whole attempt in a process of its own; the steps that it went through."""
    with ExportingExim(
        spool, message_id, directory, queue=queue, naive=naive, copy=copy, deferring=deferring, crash=crash
    ) as attempt:
        status = attempt.wait()
        assert status == (-signal.SIGKILL if crash else 0), (status, attempt.steps)
        return attempt.steps


def main() -> int:
    """One attempt, from the command line."""
    parser = argparse.ArgumentParser(description="One delivery attempt through a stand-in for queuefile")
    parser.add_argument("spool")
    parser.add_argument("export")
    parser.add_argument("message_id")
    parser.add_argument("--queue", default="")
    parser.add_argument("--naive", action="store_true")
    parser.add_argument("--copy", action="store_true")
    parser.add_argument("--deferring", action="append", default=[])
    parser.add_argument("--pause", action="append", default=[])
    parser.add_argument("--crash", action="append", default=[])
    return Attempt(parser.parse_args()).run()


if __name__ == "__main__":
    sys.exit(main())
