"""Staging: everything that will be published, written and synced before the commit.

``out.tmp`` becomes ``out`` by one rename; from there the message only goes forward.

Diagnostics: OSError from the system, after which the originals are untouched and the
next attempt begins anew; ConflictError where Exim's lock is needed and taken.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from ..spool.editing import modern_recipients, with_id
from ..spool.header_file import render_header_file
from ..spool.ids import MessageId
from . import durable
from .bounce import with_own_id
from .effects import Effect, render_plan
from .job import OUT, PLAN, STAGING, Job, OutputName, Staged
from .plan import Output

if TYPE_CHECKING:
    from .destination import Destination


def stage(
    job: Job, outputs: tuple[Output, ...], target: Destination, *, keep_id: bool, effects: tuple[Effect, ...] = ()
) -> None:
    """Write outputs, and effects if there are any, into ``out.tmp/`` and commit them as ``out/``.

    keep_id lets the first output have the claimed id, if Exim is done with it and the
    target queue has nothing of that name (design: *Ids*).
    """
    staging = _open_staging(job)
    staged: list[Staged] = []
    for number, output in enumerate(outputs):
        may_keep = number == 0 and keep_id and not output.is_notice and target.accepts(job.id)
        kept = may_keep and target.may_keep_id(job, output.queue)
        message_id = job.id if kept else target.mint(job.id)
        _write_data(job, staging, message_id, output, target)
        named = with_own_id if output.is_notice else with_id
        # Of #1 and #2 recipients a modern Exim loses a byte or the flags (spool_in.c).
        content = render_header_file(modern_recipients(named(output.message.envelope, message_id)))
        name = OutputName(number, output.queue)
        write_new(name.name, content, at=staging, target=target)
        staged.append(Staged(name, message_id))
    if effects:
        write_new(PLAN, render_plan(effects), at=staging, target=target)
    durable.rename(STAGING, OUT, at=job.descriptor, to=job.descriptor)
    job.staged, job.effects = tuple(staged), effects


def _open_staging(job: Job) -> int:
    """The empty ``out.tmp/``: nothing of an attempt that was cut short may get into ``out/``."""
    if job.staging is not None:
        if not job.is_fresh:
            durable.remove_files(job.staging)
        return job.staging
    if not job.is_fresh and durable.exists(STAGING, at=job.descriptor) is not None:
        durable.remove_tree(STAGING, at=job.descriptor)
    durable.make_directory(STAGING, at=job.descriptor)
    job.staging = durable.open_directory(STAGING, at=job.descriptor)
    return job.staging


def _write_data(job: Job, staging: int, message_id: MessageId, output: Output, target: Destination) -> None:
    if output.original_body and message_id == job.id:
        # The claimed inode itself: no copy, and its contents are durable since reception.
        durable.link(job.id.data_name, message_id.data_name, at=job.descriptor, to=staging)
        return
    descriptor = durable.create_file(message_id.data_name, at=staging)
    try:
        if output.original_body:
            copy_data(job.open_data(), job.id, descriptor, message_id)
        else:
            durable.write(descriptor, b"%b\n" % message_id.data_name.encode())
            for chunk in output.message.body.chunks():
                durable.write(descriptor, chunk)
        target.give(descriptor)
        durable.sync(descriptor)
    finally:
        os.close(descriptor)


def copy_data(source: int, source_id: MessageId, target: int, target_id: MessageId) -> None:
    """Fill the empty target with the body of source under another first line."""
    first_line = b"%b\n" % target_id.data_name.encode()
    if source_id.body_offset == target_id.body_offset and durable.clone(source, target):
        os.pwrite(target, first_line, 0)
        return
    durable.write(target, first_line)
    durable.copy_tail(source, target, source_id.body_offset)


def write_new(name: str, content: bytes, *, at: int, target: Destination) -> None:
    """A new file of the spool's, synced."""
    descriptor = durable.create_file(name, at=at)
    try:
        durable.write(descriptor, content)
        target.give(descriptor)
        durable.sync(descriptor)
    finally:
        os.close(descriptor)
