"""``respool batch``: an archive reprocessed.

Diagnostics: ConfigError for directories or a configuration that can't be used; exit code
1 where a message failed.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections import Counter

import click
import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .. import batch as archive
from .. import log
from ..config import BatchConfig, load
from ..pipeline_setup import build_steps
from .terminal import escape

_FAILED = frozenset({"deferred", "held", "corrupt", "failed"})


@click.command()
@click.argument("source", metavar="SRC", type=click.Path(exists=True, file_okay=False))
@click.argument("destination", metavar="DEST", type=click.Path(file_okay=False))
@click.option("-c", "--config", "config_file", metavar="FILE", help="The processors; without it pairs are copied.")
@click.option("--workers", type=click.IntRange(1, 256), help="Processes; default: one a core.")
@click.option("--resume", is_flag=True, help="Go on where an interrupted run stopped.")
@click.option("--json", "as_json", is_flag=True, help="One JSON line for each message on standard output.")
def batch(
    source: str, destination: str, *, config_file: str | None, workers: int | None, resume: bool, as_json: bool
) -> None:
    """Reprocess the archive of spool files in SRC into DEST.

    SRC is only read. DEST is made, with the names and the layout of SRC. Without
    processors the pairs come out byte for byte.
    """
    config = load(config_file, BatchConfig) if config_file else BatchConfig()
    log.configure()
    build_steps(config.processor)
    work = archive.survey(source, destination, resume=resume, dry_run=False)
    console = Console(stderr=True, highlight=False)
    counts: Counter[str] = Counter()
    size = 0
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    reports = archive.run(source, destination, config, work, workers or os.cpu_count() or 1)
    with progress, contextlib.closing(reports):
        task = progress.add_task("messages", total=len(work))
        for report in reports:
            counts[report.state] += 1
            size += report.bytes
            progress.advance(task)
            if as_json:
                sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
            if report.state in _FAILED:
                progress.console.print(f"{report.id}: {report.state}: {escape(report.reason)}", markup=False)
    archive.finish(destination)
    summary = ", ".join(f"{count} {state}" for state, count in sorted(counts.items())) or "nothing to do"
    console.print(f"{summary}; {size} bytes in {destination}", markup=False)
    sys.exit(1 if any(counts[state] for state in _FAILED) else 0)
