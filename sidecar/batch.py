"""Reprocessing an archive of pairs: SRC is only read, DEST gets the results.

Outputs are staged in ``DEST/.respool/`` and renamed, ``-H`` last: a message whose ``-H``
is in DEST is done, which is all that a resumed run has to know.

Diagnostics: ConfigError for directories that can't be used; what goes wrong with one
message is in its Report and never stops the rest.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
from collections.abc import Generator, Iterable, Iterator
from itertools import islice
from typing import Final, Literal

from msgspec import Struct

from ..errors import ConfigError, SpoolFormatError
from ..requeue import durable
from ..requeue.plan import Defer, Hold, Output, Requeue
from ..requeue.reading import check_first_line, read_file
from ..spool.body import FileBody
from ..spool.directory import Found, MessageDirectory
from ..spool.editing import with_id
from ..spool.header_file import parse_header_file, render_header_file
from ..spool.ids import IdMinter, MessageId
from ..spool.journal import merge_journal
from ..spool.message import Message
from . import log
from .config import BatchConfig
from .pipeline import Pipeline, Traced
from .pipeline_setup import build_steps, make_pipeline

STAGING: Final = ".respool"
_CHUNK: Final = 32

State = Literal["written", "discarded", "deferred", "held", "corrupt", "failed"]


class Report(Struct, frozen=True, kw_only=True):
    """What became of one message of the archive.

    outputs are paths below DEST of the ``-H`` files written; changes what the processors
    did, as text, only where asked for.
    """

    id: str
    state: State
    reason: str = ""
    outputs: tuple[str, ...] = ()
    bytes: int = 0


class Batch:
    """One archive being reprocessed in one process."""

    def __init__(self, source: str, destination: str, config: BatchConfig, *, dry_run: bool = False) -> None:
        self._dry_run = dry_run
        self._source = MessageDirectory(source)
        self._steps = build_steps(config.processor)
        self._pipeline: Pipeline = make_pipeline(config, self._steps)
        self._log = log.get()
        self._minters = {is_long: IdMinter(long=is_long) for is_long in (True, False)}
        if not dry_run:
            self._destination = MessageDirectory(destination)
            self._staging = durable.open_directory(STAGING, at=self._destination.descriptor)

    def close(self) -> None:
        """Close all directories."""
        self._source.close()
        if not self._dry_run:
            self._destination.close()
            os.close(self._staging)

    def process(self, found: Found) -> tuple[Report, tuple[Traced, ...], Message | None, tuple[Message, ...]]:
        """Process one message: the report, and for a dry run what led to it, the message before and after."""
        place = self._source.open_subdirectory(found.subdirectory)
        try:
            data = durable.open_file(found.id.data_name, at=place)
            try:
                return self._process(found, place, data)
            finally:
                os.close(data)
        except SpoolFormatError as error:
            return Report(id=found.id, state="corrupt", reason=str(error)), (), None, ()
        except OSError as error:
            return Report(id=found.id, state="failed", reason=str(error)), (), None, ()
        finally:
            os.close(place)

    def _process(
        self, found: Found, place: int, data: int
    ) -> tuple[Report, tuple[Traced, ...], Message | None, tuple[Message, ...]]:
        check_first_line(data, found.id)
        header = read_file(found.id.header_name, at=place)
        journal: bytes | None = None
        with contextlib.suppress(FileNotFoundError):
            journal = read_file(found.id.journal_name, at=place)
        envelope = parse_header_file(header, file=found.id.header_name)
        merged = envelope if journal is None else merge_journal(envelope, journal)
        message = Message(merged, FileBody(data, found.id.body_offset, wireformat=envelope.is_wireformat))
        outcome = self._pipeline.run(message, log=self._log)
        match outcome.plan:
            case Requeue(outputs=()):
                report = Report(id=found.id, state="discarded", reason=outcome.plan.reason)
                return report, outcome.trace, message, ()
            case Requeue():
                after = tuple(output.message for output in outcome.plan.outputs)
            case Defer():
                report = Report(id=found.id, state="deferred", reason=outcome.plan.reason)
                return report, outcome.trace, message, ()
            case Hold():
                report = Report(id=found.id, state="held", reason=outcome.plan.reason)
                return report, outcome.trace, message, ()
            case _:
                raise AssertionError("the pipeline makes no other plan")
        if self._dry_run:
            return Report(id=found.id, state="written", reason=outcome.plan.reason), outcome.trace, message, after
        paths: list[str] = []
        size = 0
        for number, output in enumerate(outcome.plan.outputs):
            message_id = found.id if number == 0 else self._minters[found.id.is_long].mint()
            # Untouched headers go over as they are, with the journal beside them; rewritten ones have it merged.
            untouched = output.message.envelope is merged and number == 0
            content = header if untouched else render_header_file(with_id(output.message.envelope, message_id))
            size += self._write(found, data, output, message_id, content, journal if untouched else None)
            prefix = f"{message_id.split_directory}/" if found.subdirectory else ""
            paths.append(f"{prefix}{message_id.header_name}")
        report = Report(id=found.id, state="written", reason=outcome.plan.reason, outputs=tuple(paths), bytes=size)
        return report, outcome.trace, message, after

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


def survey(source: str, destination: str, *, resume: bool, dry_run: bool) -> list[Found]:
    """What is left to do, oldest first; makes DEST. Raises ConfigError.

    Without resume DEST must not hold messages yet: which of them are results nobody could say.
    """
    try:
        directory = MessageDirectory(source)
    except OSError as error:
        raise ConfigError(f"{source}: {error.strerror}") from error
    try:
        pairs = directory.list().pairs
    finally:
        directory.close()
    if dry_run:
        return list(pairs)
    try:
        os.makedirs(os.path.join(destination, STAGING), mode=durable.DIRECTORY_MODE, exist_ok=True)
        target = MessageDirectory(destination)
    except OSError as error:
        raise ConfigError(f"{destination}: {error.strerror}") from error
    try:
        done = {found.id for found in target.list().pairs}
    finally:
        target.close()
    if done and not resume:
        raise ConfigError(f"{destination} holds {len(done)} messages already: give --resume, or another directory")
    return [found for found in pairs if found.id not in done]


def run(
    source: str, destination: str, config: BatchConfig, work: list[Found], workers: int
) -> Generator[Report, None, None]:
    """Process work in that many processes; reports come as they are done."""
    context = multiprocessing.get_context("fork")
    with concurrent.futures.ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start, initargs=(source, destination, config)
    ) as pool:
        pending: set[concurrent.futures.Future[list[Report]]] = set()
        chunks = _chunks(work)
        for chunk in islice(chunks, workers * 4):
            pending.add(pool.submit(_process_chunk, chunk))
        while pending:
            done, pending = concurrent.futures.wait(pending, return_when=concurrent.futures.FIRST_COMPLETED)
            for chunk in islice(chunks, len(done)):
                pending.add(pool.submit(_process_chunk, chunk))
            for future in done:
                yield from future.result()


def finish(destination: str) -> None:
    """Make everything durable and remove the empty staging directory."""
    descriptor = durable.open_directory(destination)
    try:
        durable.sync_file_system(descriptor)
        with contextlib.suppress(OSError):
            durable.remove_directory(STAGING, at=descriptor)
    finally:
        os.close(descriptor)


def _chunks(work: Iterable[Found]) -> Iterator[list[Found]]:
    iterator = iter(work)
    while chunk := list(islice(iterator, _CHUNK)):
        yield chunk


_batch: Batch | None = None


def _start(source: str, destination: str, config: BatchConfig) -> None:
    global _batch  # noqa: PLW0603 one per worker process
    log.configure()
    _batch = Batch(source, destination, config)


def _process_chunk(chunk: list[Found]) -> list[Report]:
    if _batch is None:
        raise RuntimeError("the worker process was not started")
    return [_batch.process(found)[0] for found in chunk]
