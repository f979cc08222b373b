"""``respool status``: queues, rates and the last errors, once or for as long as one looks.

Diagnostics: ConfigError for the configuration; exit code 75 where a directory can't be
read.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import termios
import time
import tty
from collections.abc import Generator
from typing import Final

import click
import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ...errors import TemporaryError
from ..config import Config, load
from ..obstacles import Obstacle
from ..overview import Condition, Overview, ProcessorFigures, look
from . import terminal

_STEPS: Final = "·▁▂▃▄▅▆▇█"
_COLOURS: Final[dict[Condition, str]] = {
    "working": "green", "paused": "bold yellow", "silent": "bold red", "not running": "bold red",
}  # fmt: skip
#: Queues whose messages want a person, and the colour that says so.
_QUEUES: Final = {"source": "cyan", "work": "cyan", "deferred": "yellow", "held": "magenta", "corrupt": "red"}
_BAR: Final = 24


@click.command()
@click.option("-c", "--config", "config_file", required=True, metavar="FILE", help="The sidecar's configuration.")
@click.option("--watch", is_flag=True, help="Stay, and look again every other second; q ends it.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document; with --watch one a line.")
@click.option("--prometheus", is_flag=True, help="The metrics, as /metrics has them, for a textfile collector.")
def status(config_file: str, *, watch: bool, as_json: bool, prometheus: bool) -> None:
    """Show how the sidecar is doing: lengths and ages of its queues, rates, last errors.

    All of it is read from the directories that FILE names: the sidecar is not asked, and
    may be stopped.
    """
    config = load(config_file, Config)
    if prometheus:
        from ..metrics import exposition

        sys.stdout.buffer.write(exposition(config))
        return
    if as_json:
        while True:
            sys.stdout.buffer.write(msgspec.json.encode(_look(config)) + b"\n")
            sys.stdout.buffer.flush()
            if not watch:
                return
            time.sleep(2)
    if watch and sys.stdout.isatty():
        _stay(config)
        return
    console = terminal.output()
    if not sys.stdout.isatty():
        console = Console(highlight=False, markup=False, emoji=False, width=110)
    console.print(_view(_look(config), framed=False))


def _look(config: Config) -> Overview:
    try:
        return look(config)
    except OSError as error:
        raise TemporaryError(f"{error.filename or config.state_directory}: {error.strerror}") from error


def _stay(config: Config) -> None:
    console = Console(highlight=False, markup=False, emoji=False)
    view = _watched(config)
    with _keys() as quit_wanted, Live(view, console=console, screen=True, auto_refresh=False) as live:
        while not quit_wanted(2.0):
            live.update(_watched(config), refresh=True)


def _watched(config: Config) -> RenderableType:
    try:
        return _view(look(config), framed=True)
    except OSError as error:
        # It may come back; whoever watches wants to see when.
        return Panel(terminal.plain(f"{error.filename}: {error.strerror}", "bold red"), title="respool")


@contextlib.contextmanager
def _keys() -> Generator[_Wait]:
    """A wait that a key ends: True for q, or after Ctrl-C."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    tty.setcbreak(descriptor)
    try:
        yield _wait_for_key
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


class _Wait:
    """Wait for so many seconds; whether to end."""

    def __call__(self, seconds: float) -> bool:
        try:
            return self._wait(seconds)
        except KeyboardInterrupt:
            return True

    def _wait(self, seconds: float) -> bool:
        time.sleep(seconds)
        return False


class _WaitForKey(_Wait):
    def _wait(self, seconds: float) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], seconds)
        return bool(readable) and os.read(sys.stdin.fileno(), 64)[:1] in {b"q", b"Q", b"\x1b", b""}


_sleep, _wait_for_key = _Wait(), _WaitForKey()


def _view(overview: Overview, *, framed: bool) -> RenderableType:
    parts: list[RenderableType] = [_queues(overview)]
    if overview.obstacles:
        parts = [*map(_obstacle, overview.obstacles), Text(), *parts]
    if overview.workers:
        parts += [Text(), _throughput(overview), Text(), _workers(overview)]
    if overview.processors:
        parts += [Text(), _processors(overview)]
    if overview.troubles:
        parts += [Text(), _troubles(overview)]
    if not framed:
        return Group(_headline(overview), Text(), *parts)
    hint = Text("q ends", style="dim")
    return Panel(Group(Text(), *parts), title=_headline(overview), subtitle=hint, border_style="dim", padding=(0, 2))


def _headline(overview: Overview) -> Text:
    line = Text.assemble(("respool  ", "bold"))
    line.append(f"● {overview.condition}", style=_COLOURS[overview.condition])
    if overview.paused_since:
        line.append(f" for {duration(overview.time - overview.paused_since)}")
    # What a worker ran into is shown below as it is now, if it still is.
    shown = {"", "; ".join(map(str, overview.obstacles))}
    for reason in sorted({report.paused for report in overview.workers} - shown):
        line.append(" (").append_text(terminal.plain(reason)).append(")")
    line.append(f"  {time.strftime('%H:%M:%S', time.localtime(overview.time))}", style="dim")
    return line


def _obstacle(obstacle: Obstacle) -> Text:
    return terminal.plain(str(obstacle), "red").append(f": {terminal.escape(obstacle.advice)}", style="")


def _queues(overview: Overview) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("queue", style="bold", header_style="dim")
    table.add_column("messages", justify="right", header_style="dim")
    table.add_column("", width=_BAR)
    table.add_column("in it for", justify="right", header_style="dim")
    table.add_column("received ago", justify="right", header_style="dim")
    most = max(queue.length for queue in overview.queues.values()) or 1
    for name, queue in overview.queues.items():
        colour = _QUEUES[name] if queue.length else "dim"
        filled = -(-queue.length * _BAR // most)
        bar = Text("█" * filled, style=colour).append("·" * (_BAR - filled), style="dim")
        ages = [duration(queue.oldest_seconds), duration(queue.received_seconds)] if queue.length else ["", ""]
        table.add_row(Text(name, style=colour), Text(f"{queue.length:,}", style=colour), bar, *ages)
    return table


def _throughput(overview: Overview) -> Text:
    line = Text.assemble((f"{overview.per_second:.1f} messages/s", "bold"))
    line.append(f"   the last hour, {sum(overview.minutes):,} messages:\n", style="dim")
    line.append(sparkline(overview.minutes), style="cyan").append("\n")
    shown = "   ".join(f"{count:,} {state}" for state, count in sorted(overview.ended.items())) or "no message yet"
    line.append(f"since the start: {shown}", style="dim")
    if not overview.message_mean_seconds:
        return line
    line.append(
        f"\na message takes {seconds(overview.message_mean_seconds)}, "
        f"of that the requeue {seconds(overview.requeue_mean_seconds)}",
        style="dim",
    )
    if overview.dns_questions:
        share = 100 * overview.dns_hits // overview.dns_questions
        line.append(f"; DNS: {share}% from the cache, {overview.dns_failures:,} failures", style="dim")
    return line


def _workers(overview: Overview) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for name in ("worker", "waiting", "in hand", "stuck", "up", "report"):
        table.add_column(name, justify="right", header_style="dim")
    for report in overview.workers:
        style = "bold red" if report.worker in overview.silent else "yellow" if report.paused else ""
        table.add_row(
            str(report.worker), f"{report.waiting:,}", str(report.in_hand), str(report.stuck),
            duration(overview.time - report.started), duration(overview.time - report.written), style=style,
        )  # fmt: skip
    return table


def _processors(overview: Overview) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    table.add_column("processor", header_style="dim")
    for name in ("runs", "mean", "95% within"):
        table.add_column(name, justify="right", header_style="dim")
    table.add_column("answers", header_style="dim")
    for figures in overview.processors:
        usual = f"{figures.usual_seconds:g} s" if figures.usual_seconds is not None else "longer"
        table.add_row(
            terminal.plain(figures.short_name),
            f"{figures.number:,}",
            seconds(figures.mean_seconds),
            usual,
            _answers(figures),
        )
    return table


def _answers(figures: ProcessorFigures) -> Text:
    text = Text()
    for answer, count in sorted(figures.answers.items(), key=lambda item: -item[1]):
        style = {"proceed": "dim", "passed over": "dim", "failed": "red"}.get(answer, "yellow")
        text.append(f"{count:,} {answer}  ", style=style)
    return text


def _troubles(overview: Overview) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=True)
    table.add_column("last errors", style="dim", header_style="dim", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("", style="red", overflow="ellipsis", no_wrap=True)
    for trouble in overview.troubles[:5]:
        when = duration(overview.time - trouble.time) + " ago"
        table.add_row(when, terminal.plain(trouble.id), terminal.plain(trouble.error))
    return table


def sparkline(counts: tuple[int, ...]) -> str:
    """The counts as a row of bars; any count but 0 can be seen."""
    most = max(counts, default=0) or 1
    return "".join(_STEPS[-(-count * (len(_STEPS) - 1) // most)] for count in counts)


def duration(length: float) -> str:
    """Seconds in words short enough for a column: ``8 s``, ``3 min``, ``5 h``, ``4 d``."""
    length = max(0.0, length)
    for unit, size, until in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if length < until:
            return f"{int(length / size)} {unit}"
    return f"{int(length / 86400)} d"


def seconds(length: float) -> str:
    """A short time with three digits: ``29.5 µs``, ``2.41 ms``, ``1.2 s``."""
    if 0 < length < 0.0001:
        return f"{length * 1e6:.3g} µs"
    return f"{length * 1000:.3g} ms" if length < 1 else f"{length:.3g} s"
