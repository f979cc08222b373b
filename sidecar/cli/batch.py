"""``respool batch``: an archive reprocessed.

Diagnostics: ConfigError for directories or a configuration that can't be used,
TemporaryError where a worker process died; exit code 1 where a message failed.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from typing import IO, Final

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from ...errors import ConfigError
from ...spool.directory import Found
from .. import batch as archive
from .. import batch_destination, batch_workers, difference, log
from ..config import BatchConfig, errors_of, load
from ..pipeline_setup import build_steps, make_resolver
from ..retrace import open_recipients, retrace, step_document
from .extras import need
from .step_text import step_line
from .terminal import escape, output

_FAILED: Final = frozenset({"deferred", "held", "corrupt", "failed"})
_STYLES: Final = {"written": "green", "discarded": "yellow", "deferred": "yellow", "held": "yellow"}


class _Told(msgspec.Struct):
    """What a line of --report is looked at for."""

    id: str
    state: str


_TOLD: Final = msgspec.json.Decoder(_Told)


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(exists=True, file_okay=False))
@click.argument("destination", metavar="DEST", type=click.Path(file_okay=False), required=False)
@click.option("-c", "--config", "config_file", metavar="FILE", help="The processors; without it pairs are copied.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; default: what FILE says, else one a core.")
@click.option("--dask", "address", metavar="ADDR", help="Work on the Dask cluster whose scheduler is at ADDR.")
@click.option("--dry-run", is_flag=True, help="Write nothing; show what would become of each message.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line for each message on standard output.")
@click.option(
    "--report",
    "report_file",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="One JSON line for each message into FILE; with --resume at its end.",
)
def batch(
    source: str,
    destination: str | None,
    *,
    config_file: str | None,
    workers: int | None,
    address: str | None,
    dry_run: bool,
    resume: bool,
    as_json: bool,
    report_file: str | None,
) -> None:
    r"""Reprocess the archive of spool files in SRC into DEST.

    SRC is only read. DEST is made, with the names and the layout of SRC. Without
    processors the pairs come out byte for byte. DEST may be left out with --dry-run.

    What processors do besides, such as lines of a DMARC history, is done for each message
    once it is written, as by the sidecar. After an interruption it may be done twice.

    \b
    Exit codes: 0 all written or discarded; 1 some deferred, held, corrupt or failed;
    75 no worker could be started, or the cluster was lost: go on with --resume.
    A message whose worker dies of it twice, or hangs, is one of those that failed.
    """
    if destination is None and not dry_run:
        raise click.UsageError("Missing argument 'DEST'.")
    if address is not None:
        if dry_run or workers is not None:
            raise click.UsageError("--dask goes neither with --dry-run nor with --workers: the cluster has its own")
        need("dask", "distributed")
    config = load(config_file, BatchConfig) if config_file else BatchConfig()
    log.configure()
    with errors_of(config_file or ""):
        build_steps(config.processor)
        make_resolver(config.dns)
    # The report is begun when nothing is in the way any more: a refused run leaves that of the one before as it is.
    if dry_run:
        work = batch_destination.survey(source, "", resume=False, dry_run=True).left
        with _lines_to(report_file, as_json=as_json, resume=resume) as write:
            counts = _dry_run(source, config, work, write, as_json=as_json)
    else:
        place = destination or ""
        with batch_destination.own(place):
            found = batch_destination.survey(source, place, resume=resume, dry_run=False, shared=address is not None)
            with _lines_to(report_file, as_json=as_json, resume=resume) as write:
                if resume and report_file is not None:
                    _report_earlier(found.done, report_file, write)
                counts = _run(source, place, config, found.left, workers or config.workers, address, write)
    sys.exit(1 if any(counts[state] for state in _FAILED) else 0)


def _run(
    source: str,
    destination: str,
    config: BatchConfig,
    work: list[Found],
    workers: int,
    address: str | None,
    write: Callable[[bytes], None],
) -> Counter[str]:
    console = Console(stderr=True, highlight=False)
    counts: Counter[str] = Counter()
    size = 0
    started = time.monotonic()
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    reports = _reports(source, destination, config, work, workers, address)
    with progress, contextlib.closing(reports):
        task = progress.add_task("messages", total=len(work))
        for report in reports:
            counts[report.state] += 1
            size += report.bytes
            progress.advance(task)
            write(msgspec.json.encode(report) + b"\n")
            if report.state in _FAILED:
                line = f"{report.id}: {report.state}: {escape(report.reason)}"
                progress.console.print(line, markup=False, soft_wrap=True)
    batch_destination.finish(destination)
    seconds = time.monotonic() - started
    console.print(
        f"{_summary(counts)}; {size} bytes in {escape(destination)}, {seconds:.1f} s", markup=False, soft_wrap=True
    )
    return counts


def _reports(
    source: str, destination: str, config: BatchConfig, work: list[Found], workers: int, address: str | None
) -> Generator[archive.Report]:
    if address is None:
        return batch_workers.run(source, destination, config, work, workers)
    from ..cluster import run

    # The workers have their own idea of where they are.
    return run(address, os.path.abspath(source), os.path.abspath(destination), config, work)


class _Rate(ProgressColumn):
    """Messages a second."""

    def render(self, task: Task) -> Text:
        """See ProgressColumn."""
        return Text(f"{task.speed:.0f}/s" if task.speed else "", "dim")


@contextlib.contextmanager
def _lines_to(report_file: str | None, *, as_json: bool, resume: bool) -> Generator[Callable[[bytes], None]]:
    """Where JSON lines go: standard output, the file of --report, both, or nowhere. Raises ConfigError."""
    with contextlib.ExitStack() as opened:
        files: list[IO[bytes]] = [sys.stdout.buffer] if as_json else []
        if report_file is not None:
            try:
                # A line at a time: after a kill the file holds whole lines, but perhaps for the last.
                files.append(opened.enter_context(open(report_file, "ab" if resume else "wb", buffering=0)))
                if resume:
                    _end_line(report_file, files[-1])
            except OSError as error:
                raise ConfigError(f"{report_file}: {error.strerror}") from error

        def write(line: bytes) -> None:
            for file in files:
                file.write(line)

        yield write


def _report_earlier(done: list[Found], report_file: str, write: Callable[[bytes], None]) -> None:
    """Report what earlier runs have written and, since they were killed, not reported."""
    told: set[str] = set()
    with open(report_file, "rb") as lines:
        for line in lines:
            with contextlib.suppress(msgspec.MsgspecError):  # what a kill has torn
                one = _TOLD.decode(line)
                # What was deferred, say, by one run may have been written by the next.
                if one.state == "written":
                    told.add(one.id)
    for found in done:
        if found.id not in told:
            write(msgspec.json.encode(archive.earlier_report(found)) + b"\n")


def _end_line(path: str, file: IO[bytes]) -> None:
    """End the line that a kill has torn, so that the next one is whole."""
    with open(path, "rb") as reading:
        size = reading.seek(0, os.SEEK_END)
        if size and os.pread(reading.fileno(), 1, size - 1) != b"\n":
            file.write(b"\n")


def _dry_run(
    source: str, config: BatchConfig, work: list[Found], write: Callable[[bytes], None], *, as_json: bool
) -> Counter[str]:
    """Show what would become of each message, one after the other."""
    counts: Counter[str] = Counter()
    console = output()
    run = archive.Batch(source, "", config, dry_run=True)
    with contextlib.closing(run):
        for found in work:
            handled = run.process(found)
            counts[handled.report.state] += 1
            write(_document(handled, run.step_count) + b"\n")
            if not as_json:
                for line in _lines(handled, run.step_count):
                    console.print(line)
    sys.stdout.flush()
    click.echo(f"{_summary(counts)}; nothing was written: this was a dry run", err=True)
    return counts


def _summary(counts: Counter[str]) -> str:
    return ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing to do"


def _lines(handled: archive.Handled, step_count: int) -> Iterator[Text]:
    """The diff of one message, under what each processor said."""
    report = handled.report
    line = Text().append(report.id, "bold").append(" ").append(report.state, _STYLES.get(report.state, "bold red"))
    yield line.append(f": {escape(report.reason)}" if report.reason else "")
    if handled.before is None:
        return
    for step in retrace(handled.before, handled.trace, step_count):
        yield step_line(step)
    for number, made in enumerate(handled.after, 1):
        if len(handled.after) > 1:
            recipients = escape(", ".join(open_recipients(made.message)))
            yield Text().append(f"  message {number} of {len(handled.after)}", "bold").append(f" for {recipients}")
        changes = difference.compare(handled.before, made.message, queue=made.queue)
        if not changes:
            yield Text("    unchanged", "dim")
        for text in difference.render(changes):
            yield Text("    ").append_text(text)
    for effect in handled.effects:
        yield Text(f"  afterwards {escape(effect.processor)}: {escape(effect.kind)}", "dim")
    yield Text()


def _document(handled: archive.Handled, step_count: int) -> bytes:
    """One JSON line: the report, what each processor did, and what would be written."""
    before = handled.before
    return msgspec.json.encode(
        {
            "id": handled.report.id,
            "state": handled.report.state,
            "reason": handled.report.reason,
            "processors": []
            if before is None
            else [step_document(step) for step in retrace(before, handled.trace, step_count)],
            "outputs": []
            if before is None
            else [
                {
                    "queue": made.queue,
                    "recipients": list(open_recipients(made.message)),
                    "changes": difference.document(difference.compare(before, made.message, queue=made.queue)),
                }
                for made in handled.after
            ],
            "effects": [{"processor": effect.processor, "kind": effect.kind} for effect in handled.effects],
        }
    )
