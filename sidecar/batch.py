"""Reprocessing an archive of pairs: SRC is only read, DEST gets the results.

Outputs are staged in ``DEST/.respool/`` and renamed, ``-H`` last: a message whose ``-H``
is in DEST is done, which is all that a resumed run has to know. Effects that processors
declared run then, at least once: owed_effects.py.

Diagnostics: ConfigError for directories that can't be used; what goes wrong with one
message is in its Report and never stops the rest.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final, Literal

import msgspec
from msgspec import Struct

from ..errors import SpoolFormatError, TemporaryError
from ..requeue import durable
from ..requeue.effects import Effect, render_plan
from ..requeue.plan import Defer, Hold, Output, Requeue
from ..requeue.reading import check_first_line, read_file
from ..spool.body import FileBody
from ..spool.directory import Found, MessageDirectory
from ..spool.editing import with_id
from ..spool.header_file import parse_header_file, render_header_file
from ..spool.ids import IdMinter, MessageId
from ..spool.journal import merge_journal
from ..spool.locks import lock_number
from ..spool.message import Message
from . import log, owed_effects
from .batch_destination import LOCKS, PARTS, STAGING, remove_parts
from .config import BatchConfig
from .pipeline import Pipeline
from .pipeline_setup import build_steps, make_pipeline
from .step import Traced

_CHUNK: Final = 32

State = Literal["written", "discarded", "deferred", "held", "corrupt", "failed"]


class Report(Struct, frozen=True, kw_only=True):
    """What became of one message of the archive.

    outputs are paths below DEST of the ``-H`` files written, bytes the size of all files of theirs.
    """

    id: str
    state: State
    reason: str = ""
    outputs: tuple[str, ...] = ()
    bytes: int = 0


class Handled(Struct, frozen=True, kw_only=True):
    """One message after process(): the report, what each processor said, the message before and after.

    Bodies are closed by then: their size is known, their bytes can't be read. before is
    None where the message could not be read.
    """

    report: Report
    trace: tuple[Traced, ...] = ()
    before: Message | None = None
    after: tuple[Output, ...] = ()
    effects: tuple[Effect, ...] = ()


class Batch:
    """One archive being reprocessed in one process."""

    def __init__(
        self,
        source: str,
        destination: str,
        config: BatchConfig,
        *,
        dry_run: bool = False,
        entering: Callable[[str], None] | None = None,
    ) -> None:
        self._entering = entering
        self._dry_run = dry_run
        self._patience_seconds = config.deadline_seconds * 2
        self._locks: int | None = None
        self._source = MessageDirectory(source)
        self._steps = build_steps(config.processor)
        self._pipeline: Pipeline = make_pipeline(config, self._steps)
        self._log = log.get()
        self._minters = {is_long: IdMinter(long=is_long) for is_long in (True, False)}
        if not dry_run:
            self._destination = MessageDirectory(destination)
            self._staging = durable.open_directory(STAGING, at=self._destination.descriptor)

    @property
    def step_count(self) -> int:
        """How many processors there are."""
        return len(self._steps)

    def close(self) -> None:
        """Close all directories."""
        self._source.close()
        if not self._dry_run:
            self._destination.close()
            os.close(self._staging)
        if self._locks is not None:
            os.close(self._locks)

    def process_once(self, found: Found) -> Report:
        """Process a message that another machine may have begun, finished, or even have in hand.

        One at a time, by a lock that ends with its holder; what is in DEST is done. Whoever was
        stopped with a message in hand may go on with it at any time, so nobody else may: that
        message fails here, after twice the deadline, and the others get through.
        """
        try:
            if self._locks is None:
                flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
                self._locks = os.open(LOCKS, flags, durable.FILE_MODE, dir_fd=self._staging)
            # A descriptor of its own: two threads share the locks of one.
            descriptor = os.open(LOCKS, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._staging)
            try:
                if not lock_number(descriptor, zlib.crc32(found.id.encode()), self._patience_seconds):
                    reason = f"another worker has had it in hand for {self._patience_seconds:.0f} s: resume later"
                    return Report(id=str(found.id), state="failed", reason=reason)
                path = _header_path(found)
                if durable.exists(path, at=self._destination.descriptor) is not None:
                    return self._settle(found, Report(id=str(found.id), state="written", outputs=(path,)))
                note = found.id + PARTS
                if durable.exists(note, at=self._staging) is not None:
                    remove_parts(self._staging, note, self._destination.descriptor)
                    durable.unlink(note, at=self._staging)
                return self.process(found).report
            finally:
                os.close(descriptor)
        except OSError as error:
            return Report(id=str(found.id), state="failed", reason=str(error))

    def process(self, found: Found) -> Handled:
        """Process one message, and write the result unless this is a dry run.

        Of one that is done only the effects that it owes are run.
        """
        path = _header_path(found)
        if not self._dry_run and durable.exists(path, at=self._destination.descriptor) is not None:
            return Handled(report=self._settle(found, Report(id=str(found.id), state="written", outputs=(path,))))
        try:
            place = self._source.open_subdirectory(found.subdirectory)
        except OSError as error:
            return Handled(report=Report(id=str(found.id), state="failed", reason=str(error)))
        try:
            data = durable.open_file(found.id.data_name, at=place)
            try:
                return self._process(found, place, data)
            finally:
                os.close(data)
        except SpoolFormatError as error:
            return Handled(report=Report(id=str(found.id), state="corrupt", reason=str(error)))
        except OSError as error:
            return Handled(report=Report(id=str(found.id), state="failed", reason=str(error)))
        finally:
            os.close(place)

    def _settle(self, found: Found, report: Report) -> Report:
        """Run the effects of a message that is done; the report, with what is still owed."""
        try:
            owed_effects.run(self._staging, found.id, self._pipeline, self._log)
        except (TemporaryError, OSError) as error:
            reason = f"{report.state}, but its effects wait (run again with --resume): {error}"
            return msgspec.structs.replace(report, state="failed", reason=reason)
        return report

    def _process(self, found: Found, place: int, data: int) -> Handled:
        check_first_line(data, found.id)
        header = read_file(found.id.header_name, at=place)
        journal: bytes | None = None
        with contextlib.suppress(FileNotFoundError):
            journal = read_file(found.id.journal_name, at=place)
        envelope = parse_header_file(header, file=found.id.header_name)
        merged = envelope if journal is None else merge_journal(envelope, journal)
        message = Message(merged, FileBody(data, found.id.body_offset, wireformat=envelope.is_wireformat))
        outcome = self._pipeline.run(message, log=self._log, entering=self._entering)
        outputs: tuple[Output, ...] = ()
        effects: tuple[Effect, ...] = ()
        state: State
        match outcome.plan:
            case Requeue():
                outputs, effects = outcome.plan.outputs, outcome.plan.effects
                state = "written" if outputs else "discarded"
            case Defer():
                state = "deferred"
            case Hold():
                state = "held"
            case _:
                raise AssertionError("the pipeline makes no other plan")
        paths: tuple[str, ...] = ()
        size = 0
        if effects and not self._dry_run:
            self._stage(owed_effects.note_name(found.id), render_plan(effects))
        if outputs and not self._dry_run:
            # Untouched headers go over as they are, with the journal beside them; rewritten ones have it merged.
            untouched = len(outputs) == 1 and outputs[0].message.envelope is merged
            paths, size = self._write_all(found, data, outputs, (header, journal) if untouched else None)
        report = Report(id=str(found.id), state=state, reason=outcome.plan.reason, outputs=paths, bytes=size)
        if effects and not self._dry_run:
            report = self._settle(found, report)
        return Handled(report=report, trace=outcome.trace, before=message, after=outputs, effects=effects)

    def _write_all(
        self, found: Found, data: int, outputs: tuple[Output, ...], original: tuple[bytes, bytes | None] | None
    ) -> tuple[tuple[str, ...], int]:
        """Write the outputs; the first, under the id of the original, comes last, as it says that all is done.

        Of the others a note is left while they are being written: an interrupted message is
        processed again, and they with it, so resuming has to remove them.
        """
        ids = [found.id, *(self._minters[found.id.is_long].mint() for _ in outputs[1:])]
        note = found.id + PARTS
        if len(ids) > 1:
            self._stage(note, "\n".join(ids[1:]).encode())
        size = 0
        for message_id, output in reversed(list(zip(ids, outputs, strict=True))):
            header, journal = original or (render_header_file(with_id(output.message.envelope, message_id)), None)
            size += self._write(found, data, output, message_id, header, journal)
        if len(ids) > 1:
            durable.unlink(note, at=self._staging)
        prefixes = [f"{message_id.split_directory}/" if found.subdirectory else "" for message_id in ids]
        return tuple(prefix + message_id.header_name for prefix, message_id in zip(prefixes, ids, strict=True)), size

    def _write(
        self, found: Found, data: int, output: Output, message_id: MessageId, content: bytes, journal: bytes | None
    ) -> int:
        subdirectory = message_id.split_directory if found.subdirectory else ""
        if subdirectory:
            with contextlib.suppress(FileExistsError):
                durable.make_directory(subdirectory, at=self._destination.descriptor)
        self._stage_data(data, found.id, output, message_id)
        names = [message_id.data_name]
        if journal is not None:
            self._stage(message_id.journal_name, journal)
            names.append(message_id.journal_name)
        self._stage(message_id.header_name, content)
        place = self._destination.open_subdirectory(subdirectory)
        try:
            for name in (*names, message_id.header_name):
                # What an interrupted run left without its -H is not done: it is written anew.
                if name != message_id.header_name and durable.exists(name, at=place) is not None:
                    durable.unlink(name, at=place)
                durable.rename(name, name, at=self._staging, to=place)
            return os.stat(message_id.data_name, dir_fd=place).st_size + len(content)
        finally:
            os.close(place)

    def _stage_data(self, data: int, source_id: MessageId, output: Output, message_id: MessageId) -> None:
        descriptor = self._new(message_id.data_name)
        try:
            durable.write(descriptor, message_id.data_name.encode() + b"\n")
            if output.original_body:
                durable.copy_tail(data, descriptor, source_id.body_offset)
            else:
                for chunk in output.message.body.chunks():
                    durable.write(descriptor, chunk)
            durable.sync(descriptor)
        finally:
            os.close(descriptor)

    def _stage(self, name: str, content: bytes) -> None:
        descriptor = self._new(name)
        try:
            durable.write(descriptor, content)
            durable.sync(descriptor)
        finally:
            os.close(descriptor)

    def _new(self, name: str) -> int:
        with contextlib.suppress(FileNotFoundError):
            durable.unlink(name, at=self._staging)
        return durable.create_file(name, at=self._staging)


def earlier_report(found: Found) -> Report:
    """Of a message that a run before this one has written and had no time to report.

    What else it wrote of one that it had divided, and how much, nobody can say any more.
    """
    reason = "by an earlier run that did not report it"
    return Report(id=str(found.id), state="written", reason=reason, outputs=(_header_path(found),))


def _header_path(found: Found) -> str:
    prefix = f"{found.id.split_directory}/" if found.subdirectory else ""
    return prefix + found.id.header_name


def chunks(work: Iterable[Found]) -> Iterator[list[Found]]:
    """The work in pieces that are worth sending to another process."""
    iterator = iter(work)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk
