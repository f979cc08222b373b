"""A claimed message, and the spool that its outputs go to: what the tests of staging and of publishing begin with."""

from __future__ import annotations

import os
from pathlib import Path

from respool.requeue.claim import take
from respool.requeue.group_sync import GroupSync
from respool.requeue.job import Job
from respool.requeue.plan import Output
from respool.requeue.publish import Published
from respool.requeue.reading import read_message
from respool.requeue.stage import stage
from respool.requeue.state import StateDirectory
from respool.requeue.target import Target
from respool.spool.body import BytesBody
from respool.spool.directory import Found
from respool.spool.ids import MessageId
from respool.spool.locks import lock_message
from respool.spool.message import Message
from respool.spool.sources import Source

ID = MessageId("1xV9DW-000000007cS-1lp7")
BODY = b"the body\n"
HEADER = (
    ID.encode() + b"-H\nroot 0 0\n<a@b.example>\n1795360258 0\n-local\nXX\n2\nr@x.example\ns@x.example o 1,2#2\n\n"
    b"026I Message-Id: <1@b.example>\n015  Subject: hello\n"
)


class Claimed:
    """A job in ``work/`` that Exim is done with; out is where its outputs are once they are staged."""

    def __init__(self, root: Path, *, split: bool | None = None) -> None:
        self.source_directory, self.spool = root / "source", root / "spool"
        self.input = self.spool / "input"
        for directory in (self.source_directory, self.input, root / "state"):
            directory.mkdir(parents=True, mode=0o750)
        if os.geteuid() == 0:
            os.chown(self.input, 65534, 65533)  # whose files Exim's user can remove again
        (self.source_directory / ID.data_name).write_bytes(ID.data_name.encode() + b"\n" + BODY)
        (self.source_directory / ID.header_name).write_bytes(HEADER)
        self.state = StateDirectory(str(root / "state"))
        self.source = Source("directory", str(self.source_directory))
        self.target = Target("spool", str(self.spool), split=split)
        self.job = take(self.state, self.source, Found(ID))
        self.work = root / "state/work" / self.job.claim.name
        self.out = self.work / "out"
        self.syncs = GroupSync()

    @property
    def message(self) -> Message:
        """The message as it was claimed."""
        return read_message(self.job)

    def output(self, queue: str = "", body: bytes | None = None) -> Output:
        """The message to a queue, with another body if there is one."""
        message = self.message
        if body is None:
            return Output(message=message, queue=queue)
        return Output(message=Message(message.envelope, BytesBody(body)), original_body=False, queue=queue)

    def stage(self, *outputs: Output, keep_id: bool = True) -> None:
        """Stage and commit; without outputs, the message as it is."""
        stage(self.job, outputs or (self.output(),), self.target, keep_id=keep_id)

    def publish(self) -> tuple[Published, ...]:
        """What the hand-back does with what is staged."""
        return self.target.publish(self.job, self.syncs)

    def take_again(self) -> None:
        """Another process finds the claim: nothing is known but what is on disk."""
        self.job.close()
        job = Job.take(self.state, "work", self.job.claim)
        assert job is not None
        self.job = job

    def close(self) -> None:
        """Close all of it."""
        self.job.close()
        self.target.close()
        self.source.close()
        self.state.close()


def is_locked(path: Path) -> bool:
    """Whether an Exim that opens this ``-D`` now gets no lock on it."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        return not lock_message(descriptor, MessageId(path.name[:-2]))
    finally:
        os.close(descriptor)


def open_descriptors() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))
